"""What is asked of a server in the recorded exchange: every verb of the engine once, on two short sequences.

`python tinker_scenario.py ADDRESS FOLDER` asks it in a process of its own, because the tinker package leaves threads
and sockets behind; it prints what was told, and the messages of two mistakes.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch
from batches import random_batch

from envecho.engines.tinker import TinkerEngine, open_tinker
from envecho.errors import EnvechoError
from envecho.losses import PolicyLossSpec, WeightedBatch
from envecho.seam import AdamParams, SamplingParams, ScoreRequest

BASE_MODEL, RANK, SEED, CONTEXT = "tiny", 2, 1, 64
ADAM = AdamParams(learning_rate=1e-2, beta2=0.99, weight_decay=0.01, grad_clip_norm=None)


def scenario_batch(denominator: str = "sampling") -> WeightedBatch:
    """Actions and observations at T = 1."""
    batch = random_batch([7, 5], seed=3, vocab_size=300, policy=True)
    spec = PolicyLossSpec(ratio_denominator=denominator)
    return dataclasses.replace(
        batch, temperature=1.0, policy_loss=spec, sampling_logprobs=torch.full((12,), -5.5), advantages=torch.ones(12)
    )


def run_scenario(engine: TinkerEngine, folder: Path, *, restores: bool = True) -> dict:
    """Drive the engine and return what it told, as JSON."""
    out = [engine.forward_backward(scenario_batch("current"))]
    norms = [engine.optim_step(ADAM)]
    out.append(engine.forward_backward(scenario_batch("sampling")))
    norms.append(engine.optim_step(ADAM))
    prompt = np.array([5, 6, 7], dtype=np.int32)
    (sample,) = engine.sample([prompt], SamplingParams(max_tokens=4, seed=2, stop_token_ids=(1,)))
    (folder / "state").mkdir()
    engine.save_state(folder / "state")
    read = [engine.logprobs([ScoreRequest(token_ids=np.arange(2, 8, dtype=np.int32), read=np.arange(6) > 0)])]
    if restores:
        engine.load_state(folder / "state")
        read.append(engine.logprobs([ScoreRequest(token_ids=np.arange(2, 8, dtype=np.int32), read=np.arange(6) > 0)]))
    return {
        "losses": [one.loss for one in out],
        "env_losses": [one.env_loss for one in out],
        "norms": norms,
        "sample": sample.token_ids.tolist(),
        "sample_logprobs": [float(value) for value in sample.logprobs],
        "logprobs": [[float(value) for value in scores[0].logprobs[1:]] for scores in read],
    }


def connect(address: str, base_model: str = BASE_MODEL) -> TinkerEngine:
    """Open the engine of the scenario."""
    return open_tinker(base_model, server=address, rank=RANK, seed=SEED, max_context_tokens=CONTEXT)


def main(address: str, folder: Path) -> None:
    """Drive the scenario, then a base model that is not there, and a request that nobody recorded."""
    engine = connect(address)
    told, mistakes = run_scenario(engine, folder), []
    for mistake in (lambda: connect(address, "tinny"), lambda: engine.forward_backward(scenario_batch("current"))):
        try:
            mistake()
        except EnvechoError as error:
            mistakes.append(f"{type(error).__name__}: {error}")
    print(json.dumps({"told": told, "mistakes": mistakes}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
