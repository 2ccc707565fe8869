"""What goes wrong in tests of several processes, under torchrun: `distributed_accidents.py ACCIDENT MODEL OUT`."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from batches import random_batch

from envecho.engines.distributed import open_local, rank_zero
from envecho.engines.distributed_weights import LossModule
from envecho.errors import EngineError
from envecho.seam import AdamParams


def bad_data(model: Path, out: Path) -> None:
    """Rank 1 gets a sequence whose sampling log-probs are unknown; afterwards everything goes on."""
    engine = open_local(model, device="cpu", compute_dtype="float32")
    batch = random_batch([12, 9], policy=True)
    unknown = torch.where(batch.sequence_index == 1, torch.nan, batch.sampling_logprobs)
    try:
        engine.forward_backward(dataclasses.replace(batch, sampling_logprobs=unknown))
    except EngineError as error:
        (out / "error.txt").write_text(str(error))
    norm_of_nothing = engine.optim_step(AdamParams(learning_rate=1e-3))
    engine.forward_backward(batch)
    (out / "norms.txt").write_text(f"{norm_of_nothing} {engine.optim_step(AdamParams(learning_rate=1e-3))}")


def out_of_memory(model: Path, out: Path) -> None:
    """Rank 1 breaks in the midst of a forward pass."""
    engine = open_local(model, device="cpu", compute_dtype="float32")
    try:
        engine.forward_backward(random_batch([12, 9, 7, 8]))
    except EngineError as error:
        (out / "error.txt").write_text(str(error))
        try:
            engine.optim_step(AdamParams(learning_rate=1e-3))
        except EngineError as again:
            (out / "again.txt").write_text(str(again))
        raise


def killed(model: Path, out: Path) -> None:
    """Rank 1 is killed while rank 0 is elsewhere, and is asked for later."""
    engine = open_local(model, device="cpu", compute_dtype="float32")
    os.kill(int((out / "rank-1.pid").read_text()), signal.SIGKILL)
    time.sleep(60)
    engine.forward_backward(random_batch([12, 9]))


def rank_zero_killed(model: Path, out: Path) -> None:
    """Rank 0 is killed while the others wait for a verb."""
    open_local(model, device="cpu", compute_dtype="float32")
    os.kill(os.getpid(), signal.SIGKILL)


def breaks(*_: Any) -> Any:
    raise MemoryError("there is no room for the activations")


if __name__ == "__main__":
    accident, model, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    (out / f"rank-{os.environ['RANK']}.pid").write_text(str(os.getpid()))
    if accident == "out_of_memory" and os.environ["RANK"] == "1":
        LossModule.forward = breaks
    with rank_zero() as is_rank_zero:
        if is_rank_zero:
            accidents = (bad_data, out_of_memory, killed, rank_zero_killed)
            {job.__name__: job for job in accidents}[accident](model, out)
