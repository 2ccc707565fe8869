"""The main job: a pretrained model learns what a real bash answers, and controls show what was learnt.

    boxes -> episodes in the sandbox -> copy baselines and base model on held-out pools -> verifier-free training
          -> the trained model on the same pools -> readouts, summary.json, evaluation.json, report.html

Every phase is timed and held against `BUDGETS`. Not here: any of the work itself; this file puts the rooms in order.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from envecho.collector import paused_collector
from envecho.engines.local import LocalEngine
from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError
from envecho.evaluation import write_evaluation, write_sums
from envecho.recipes.demo_data import Pools, collect_pools, demo_jobs, write_pools
from envecho.recipes.demo_evaluation import DemoEvaluation
from envecho.recipes.phases import PhaseBudget, PhaseClock, peak_memory_bytes
from envecho.recipes.progress import progress_bar, say, working
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer
from envecho.training.config import RunConfig
from envecho.training.loop import train
from envecho.training.progress import show_progress

GB = 10**9
BUDGETS: dict[str, PhaseBudget] = {
    "model": PhaseBudget(seconds=15, peak_memory_bytes=2 * GB),
    "collect": PhaseBudget(seconds=25, peak_memory_bytes=2 * GB),
    "baselines": PhaseBudget(seconds=25, peak_memory_bytes=2 * GB),
    "evaluate_base": PhaseBudget(seconds=50, peak_memory_bytes=4 * GB),
    "train": PhaseBudget(seconds=180, peak_memory_bytes=4 * GB),
    "evaluate_trained": PhaseBudget(seconds=50, peak_memory_bytes=4 * GB),
    "report": PhaseBudget(seconds=15, peak_memory_bytes=4 * GB),
}
"""What each phase may cost on two cores that compute in bf16: six minutes and 4 GB in all."""

EXPECTED_MINUTES_WITHOUT_BF16 = 11


class DemoConfig(BaseModel):
    """The demo's numbers; the defaults are the vetted ones that `results/demo/` was made with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = "smollm2-135m"
    seed: int = 0
    steps: int = Field(default=120, ge=1)
    episodes_per_step: int = Field(default=1, ge=1)
    num_validation: int = Field(default=6, ge=1)
    num_held_out: int = Field(default=12, ge=1)
    num_readouts: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=4e-4, gt=0)
    beta2: float = Field(default=0.98, ge=0, lt=1)
    trainable: Literal["all", "attention"] = "attention"

    @classmethod
    def short(cls, *, seed: int, model: str) -> DemoConfig:
        """Return a run of a minute that exercises every phase and proves nothing about learning."""
        return cls(
            model=model, seed=seed, steps=2, episodes_per_step=2, num_validation=2, num_held_out=2, num_readouts=2
        )


def run_demo(config: DemoConfig, out: Path, *, overwrite: bool = False) -> dict[str, Any]:
    """Run the demo into the folder `out` and return what `summary.json` holds.

    Raises:
        ConfigError: `out` exists and `overwrite` is false.
        EngineError: the model cannot be found or loaded.
        WorldError: the sandbox cannot start.
    """
    _prepare(out, overwrite=overwrite)
    clock = PhaseClock()
    with clock.phase("model"), working(f"loading {config.model}"), paused_collector():
        folder = resolve_model(config.model)
        engine = LocalEngine(folder, seed=config.seed, trainable=config.trainable)
        tokenizer = ChatTokenizer.from_pretrained(folder)
    _announce(config, engine)
    with clock.phase("collect"):
        pools = _collect(config)
        paths = write_pools(pools, out / "trajectories")
    evaluation = DemoEvaluation(
        pools,
        tokenizer,
        max_tokens=engine.capabilities.max_context_tokens,
        seed=config.seed,
        num_readouts=config.num_readouts,
    )
    with clock.phase("baselines"), working("n-gram and copier on the same tokens"):
        evaluation.add_baselines()
    with clock.phase("evaluate_base"), working("the base model on the held-out pools"):
        evaluation.add_model("base", engine)
    with clock.phase("train"), show_progress() as on_event:
        train(_run_config(config, folder, paths), out, engine=engine, overwrite=True, on_event=on_event)
    with clock.phase("evaluate_trained"), working("the trained model on the held-out pools"):
        evaluation.add_model("trained", engine)
    with clock.phase("report"), working("writing the report"):
        write_sums(out / "sums.parquet", evaluation.sums())
        write_evaluation(out / "evaluation.json", evaluation.evaluation())
        tokens = evaluation.train_tokens
        _write_summary(_summary(config, clock, evaluation, tokens), out)
        # Here, because drawing takes a moment to load, which nobody should wait for before the model.
        from envecho.reports import write_report

        write_report(out)
    summary = _summary(config, clock, evaluation, tokens)
    _write_summary(summary, out)
    for line in clock.over_budget(BUDGETS):
        say(f"over budget: {line}")
    return summary


def _prepare(out: Path, *, overwrite: bool) -> None:
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise ConfigError(f"{out} exists and is not empty; pass --overwrite to replace it, or another --out")
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)


def _announce(config: DemoConfig, engine: Engine) -> None:
    able = engine.capabilities
    say(f"{config.model}, {able.compute_dtype} on {able.devices}; {config.steps} steps, seed {config.seed}")
    if able.compute_dtype == "float32" and config.steps == DemoConfig.model_fields["steps"].default:
        say(f"This processor does not compute in bf16: expect about {EXPECTED_MINUTES_WITHOUT_BF16} minutes, not six.")


def _collect(config: DemoConfig) -> Pools:
    jobs = demo_jobs(
        num_train=max(config.steps * config.episodes_per_step, config.num_held_out),
        num_validation=config.num_validation,
        num_held_out=config.num_held_out,
        seed=config.seed,
    )
    with progress_bar("a real bash answers", total=sum(map(len, jobs.values()))) as advance:
        return collect_pools(jobs, advance)


def _run_config(config: DemoConfig, folder: Path, paths: Mapping[str, Path]) -> RunConfig:
    return RunConfig.from_document(
        {
            "model": {"name": config.model, "trainable": config.trainable},
            "data": {
                "train": str(paths["train"]),
                "validation": str(paths["validation"]),
                "held_out": [str(paths["new_boxes"])],
            },
            "objective": {"world_model_coeff": 1.0, "use_rl": False, "normalizer": "global_token_mean"},
            "optimizer": {"learning_rate": config.learning_rate, "warmup_steps": 4, "beta2": config.beta2},
            "run": {
                "steps": config.steps,
                "trajectories_per_step": config.episodes_per_step,
                "seed": config.seed,
                "validate_every": -(-config.steps // 3),
                "checkpoint_every": 0,
            },
        }
    )


def _summary(
    config: DemoConfig, clock: PhaseClock, evaluation: DemoEvaluation, tokens: Mapping[str, int]
) -> dict[str, Any]:
    return {
        "format": "envecho.summary",
        "version": 1,
        "model": config.model,
        "seed": config.seed,
        "steps": config.steps,
        "wall_seconds": clock.wall_seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "tokens": dict(tokens),
        "pools": evaluation.summary_pools(),
        "command": f"envecho demo --seed {config.seed} --steps {config.steps}",
        "phases": [{"name": name, **asdict(cost)} for name, cost in clock.costs.items()],
    }


def _write_summary(summary: Mapping[str, Any], out: Path) -> None:
    (out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
