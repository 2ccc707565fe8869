"""`python -m envecho.recipes.trl_curves --model MODEL --out DIR`: the same steps by the local engine and by TRL.

Stored episodes of the depot, walked by chance, in one order: each step trains one group. Both sides start from the same
weights and take AdamW, a constant rate and a clipped gradient norm; loss, environment CE and gradient norm of every
step are written side by side. The ratio of the policy term is over the current policy on both sides, as TRL has it
when a generation serves one step; so no sampling log-prob is read. Not here: one step against float64 (`agreement`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from envecho.engines.local import LocalEngine
from envecho.engines.pretrained import resolve_model
from envecho.objective import EchoConfig, PolicyConfig, compile_batch
from envecho.recipes.trl_stored import rows_with_advantages, stored_trainer
from envecho.rollout import EpisodeJob, run_episode
from envecho.seam import AdamParams
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory, with_closed_turns
from envecho.worlds.suites import open_suite

MEASURES: Final = ("loss", "env_ce", "grad_norm")
_ECHO: Final = EchoConfig(world_model_coeff=0.05, normalizer="global_token_mean")
_CLIP: Final = 1.0


def stored_groups(tokenizer: ChatTokenizer, *, num_groups: int, group_size: int) -> list[list[TokenizedTrajectory]]:
    """Walk `group_size` times by chance through each of the first tasks of the depot; moves and ends are closed turns.

    The walks' log-probs are unknown and nobody reads them; they are set to 0 because a step with a policy term is
    refused where they are missing.
    """
    suite = open_suite("depot", max_turns=3)
    groups: list[list[TokenizedTrajectory]] = []
    for number in range(num_groups):
        jobs = [
            EpisodeJob(
                id=f"walk-{number}-{walk}",
                task_id=suite.task_id("train", number),
                group_id=f"step-{number}",
                seed=number,
                make_world=partial(suite.make_world, "train", number),
                make_policy=partial(suite.scripted_policy, "train", number, policy="explore", seed=walk),
            )
            for walk in range(group_size)
        ]
        records = [with_closed_turns(run_episode(job, max_turns=3), tokenizer) for job in jobs]
        groups.append([_with_zero_logprobs(s) for r in records for s in tokenize_trajectory(r, tokenizer)])
    return groups


def local_curve(
    model: Path, groups: Sequence[Sequence[TokenizedTrajectory]], *, learning_rate: float
) -> list[dict[str, float]]:
    """Train one step per group with the local engine and return loss, environment CE and gradient norm of each."""
    engine = LocalEngine(model, device="cpu", compute_dtype="float32")
    echo = _ECHO.model_copy(update={"policy": PolicyConfig(ratio_denominator="current")})
    steps: list[dict[str, float]] = []
    for group in groups:
        compiled = compile_batch(group, echo)
        out = engine.forward_backward(compiled.batch)
        norm = engine.optim_step(AdamParams(learning_rate=learning_rate, grad_clip_norm=_CLIP))
        nats = -out.env_logprobs[compiled.selected.numpy()].astype(np.float64)
        steps.append({"loss": out.loss, "env_ce": float(nats.mean()), "grad_norm": float(norm or 0.0)})
    return steps


def trl_curve(
    model: Path, groups: Sequence[Sequence[TokenizedTrajectory]], *, learning_rate: float, out: Path
) -> list[dict[str, float]]:
    """Train one step per group with `EchoGRPOTrainer` and return the same numbers as it logs them."""
    trainer = stored_trainer(
        model,
        [row for group in groups for row in rows_with_advantages(group)],
        _ECHO,
        output_dir=str(out),
        per_device_train_batch_size=len(groups[0]),
        num_generations=len(groups[0]),
        max_completion_length=256,
        max_steps=len(groups),
        loss_type="dapo",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=_CLIP,
        weight_decay=0.0,
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "env_ce" in line]
    return [{name: float(line[name]) for name in MEASURES} for line in lines]


def largest_differences(one: Sequence[dict[str, float]], other: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the largest relative difference of each measure over the steps."""
    return {
        name: max(abs(a[name] - b[name]) / max(abs(a[name]), 1e-12) for a, b in zip(one, other, strict=True))
        for name in MEASURES
    }


def measure_curves(model: str, out: Path, *, num_steps: int, group_size: int, learning_rate: float) -> dict[str, Any]:
    """Run both sides and write `curves.json` and `curves.png` into `out`."""
    folder = resolve_model(model)
    groups = stored_groups(ChatTokenizer.from_pretrained(folder), num_groups=num_steps, group_size=group_size)
    local = local_curve(folder, groups, learning_rate=learning_rate)
    trl = trl_curve(folder, groups, learning_rate=learning_rate, out=out)
    document = {
        "format": "envecho.trl-curves",
        "version": 1,
        "model": model,
        "num_steps": num_steps,
        "rollouts_per_step": group_size,
        "learning_rate": learning_rate,
        "versions": {name: version(name) for name in ("torch", "transformers", "trl")},
        "largest_relative_difference": largest_differences(local, trl),
        "local": local,
        "trl": trl,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "curves.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    draw_curves(document, out / "curves.png")
    return document


def draw_curves(document: dict[str, Any], path: Path) -> None:
    """Draw the three measures over the steps, one line for each side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), layout="constrained")
    titles = {"loss": "loss", "env_ce": "environment CE (nats per token)", "grad_norm": "gradient norm before clipping"}
    for axes, (name, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        for side, style in (("local", {"linewidth": 5, "alpha": 0.35}), ("trl", {"linewidth": 1.2, "color": "black"})):
            values = [step[name] for step in document[side]]
            axes.plot(range(1, len(values) + 1), values, label=side, **style)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("step")
    figure.axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    """Measure and print the largest differences as JSON."""
    parser = argparse.ArgumentParser(description="The same steps by the local engine and by TRL.")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=Path("results/trl"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rollouts", type=int, default=2, help="rollouts of a step, which are one group")
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    asked = parser.parse_args()
    document = measure_curves(
        asked.model,
        asked.out,
        num_steps=asked.steps,
        group_size=asked.rollouts,
        learning_rate=asked.learning_rate,
    )
    print(json.dumps(document["largest_relative_difference"]))


def _with_zero_logprobs(sequence: TokenizedTrajectory) -> TokenizedTrajectory:
    unread = np.where(sequence.action_mask, 0.0, np.nan).astype(np.float32)
    return dataclasses.replace(sequence, sampling_logprobs=unread, sampling_temperature=1.0)


if __name__ == "__main__":
    main()
