"""What tests of several processes do under torchrun, and in one process to compare with: the same functions.

python -m torch.distributed.run --standalone --nproc-per-node 2 distributed_jobs.py MODEL OUT
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from envecho.engines.check import check_engine
from envecho.engines.distributed import DistributedEngine, open_local, rank_zero
from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.losses import WeightedBatch
from envecho.objective import compile_batch
from envecho.recipes.agreement.case import VOCAB_SIZE, load_sequences, settings
from envecho.seam import AdamParams, SamplingParams, ScoreRequest, TurnRequest

ENGINES: dict[str, dict[str, Any]] = {
    "float64": {"compute_dtype": "float64", "tokens_per_micro_batch": 96},
    "float32": {"compute_dtype": "float32", "tokens_per_micro_batch": 96},
    "checkpointed": {"compute_dtype": "float32", "gradient_checkpointing": True},
    "packed": {"compute_dtype": "float32", "packing": True, "tokens_per_micro_batch": 96},
    "attention": {"compute_dtype": "float32", "trainable": "attention"},
    "lora": {"compute_dtype": "float32", "lora": LoraOptions(rank=2)},
    "bfloat16": {"compute_dtype": "bfloat16", "tokens_per_micro_batch": 96},
}
RULES = ("global_token_mean", "sequence_mean_selected", "reference_sequence_mean", "constant_length", "env_only")
STEP = AdamParams(learning_rate=1e-2, grad_clip_norm=0.5)


def batches() -> dict[str, WeightedBatch]:
    """The committed batch under several rules, and batches that leave ranks with nothing to do."""
    made = {s.name: compile_batch(s.sequences(), s.objective).batch for s in settings() if s.name in RULES}
    whole = made["global_token_mean"]
    made["one_sequence"] = whole.select([0])
    observed = (whole.sequence_index == 2).float()
    made["one_observation"] = dataclasses.replace(
        whole, policy_weights=torch.zeros_like(observed), env_weights=whole.env_weights * observed
    )
    made["nothing_weighed"] = dataclasses.replace(made["env_only"], env_weights=torch.zeros_like(observed))
    return made


def gradients(engine: LocalEngine | DistributedEngine, names: tuple[str, ...], out: Path, tag: str) -> None:
    """Write loss, log-probs and gradient of some batches, each from no gradient."""
    told: dict[str, Any] = {}
    for name in names:
        batch = batches()[name]
        found = engine.forward_backward(batch)
        save_file(engine.gradients(), out / f"{tag}-{name}.safetensors")
        terms = engine.term_gradients(batch)
        norm = engine.optim_step(dataclasses.replace(STEP, learning_rate=0.0))
        told[name] = {
            "loss": found.loss,
            "env_loss": found.env_loss,
            "policy_loss": found.policy_loss,
            "env_logprobs": np.nan_to_num(found.env_logprobs).tolist(),
            "policy_logprobs": np.nan_to_num(found.policy_logprobs).tolist(),
            "num_clipped": int(found.clipped.sum()),
            "norm": norm,
            "terms": [terms.policy_norm, terms.env_norm, terms.cosine],
        }
    (out / f"{tag}.json").write_text(json.dumps(told))


def steps(engine: LocalEngine | DistributedEngine, count: int, out: Path) -> None:
    """Train some steps on the committed batch and save the state."""
    for _ in range(count):
        engine.forward_backward(batches()["global_token_mean"])
        engine.optim_step(STEP)
    out.mkdir()
    engine.save_state(out)


def samples(engine: LocalEngine | DistributedEngine) -> dict[str, Any]:
    """Draw from prompts, some of them equal, and two turns of five episodes; score what was drawn."""
    prompts = [sequence.token_ids[:n] for sequence in load_sequences()[::3] for n in (6, 9, 6)]
    drawn = engine.sample(prompts, SamplingParams(max_tokens=8, seed=3))
    params = SamplingParams(max_tokens=5, temperature=0.8, seed=4)
    turns: list[list[int]] = []
    with engine.sampling_session() as session:
        first = session.sample([TurnRequest(row=n, prompt=p, key=(n, 0)) for n, p in enumerate(prompts[:5])], params)
        session.drop(1)
        again = [
            TurnRequest(row=n, prompt=np.concatenate([prompts[n], first[n].token_ids, prompts[0][:2]]), key=(n, 1))
            for n in (4, 0, 2)
        ]
        turns = [sample.token_ids.tolist() for sample in (*first, *session.sample(again, params))]
    requests = [ScoreRequest(token_ids=s.token_ids, read=np.arange(len(s)) > 3) for s in load_sequences()]
    scores = engine.logprobs(requests, temperature=0.7, with_entropies=True)
    return {
        "sample": [sample.token_ids.tolist() for sample in drawn],
        "turns": turns,
        "logprobs": [np.nan_to_num(score.logprobs).tolist() for score in scores],
        "entropies": [np.nan_to_num(score.entropies).tolist() for score in scores],
    }


def measure(model: Path, out: Path) -> None:
    """Measure every batch in two precisions."""
    for tag in ("float64", "float32"):
        gradients(open_local(model, device="cpu", **ENGINES[tag]), tuple(batches()), out, tag)


def run_all(model: Path, out: Path) -> None:
    """Do every job with engines of this many processes."""
    measure(model, out)
    for tag in ENGINES.keys() - {"float64", "float32"}:
        gradients(open_local(model, device="cpu", **ENGINES[tag]), ("global_token_mean",), out, tag)
    engine = open_local(model, device="cpu", **ENGINES["float32"])
    (out / "samples.json").write_text(json.dumps(samples(engine)))
    steps(engine, 3, out / "three_steps")
    steps(engine, 2, out / "five_steps")
    engine.load_state(out / "three_steps")
    steps(engine, 2, out / "three_and_two_steps")
    reader = open_local(model, device="cpu", compute_dtype="float32", trains=False)
    (out / "read.json").write_text(json.dumps(samples(reader)))
    steps(open_local(model, device="cpu", **ENGINES["lora"]), 2, out / "lora_steps")
    steps(open_local(model, device="cpu", **ENGINES["bfloat16"]), 2, out / "bfloat16_steps")


def kit(model: Path, out: Path) -> None:
    """Run the conformance kit."""
    engine = open_local(model, device="cpu", compute_dtype="float32", tokens_per_micro_batch=16)
    (out / "kit").mkdir()
    (out / "kit.txt").write_text(str(check_engine(engine, out / "kit", vocab_size=VOCAB_SIZE)))


def torchrun(processes: int, *arguments: str | Path, timeout: float = 120, **options: Any) -> Any:
    """Run a command line under torchrun on the loopback, on a port that is free."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment: Mapping[str, str] = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=timeout, env=environment, **options
    )


if __name__ == "__main__":
    with rank_zero() as is_rank_zero:
        if is_rank_zero:
            {"all": run_all, "measure": measure, "kit": kit}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
