"""The local engine in one process: micro-batches of different sizes, and float64."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from envecho.engines.local import LocalEngine
from envecho.objective import compile_batch
from envecho.recipes.agreement.case import Setting
from envecho.recipes.agreement.compare import Measured

PACKAGES: Final = ("torch", "transformers")
MICRO_BATCHES: Final = {1: 4096, 4: 128}
"""Tokens per micro-batch by how many micro-batches they make of the committed batch."""


def measure(model: Path, setting: Setting, work: Path) -> list[Measured]:
    """Measure the engine in float32, whole and cut in four."""
    return [_measure(model, setting, tokens=t, count=n) for n, t in MICRO_BATCHES.items()]


def _measure(model: Path, setting: Setting, *, tokens: int, count: int) -> Measured:
    engine = LocalEngine(model, device="cpu", compute_dtype="float32", tokens_per_micro_batch=tokens)
    compiled = compile_batch(setting.sequences(), setting.objective)
    out = engine.forward_backward(compiled.batch)
    targets = compiled.selected.numpy()
    return Measured(
        loss=out.loss,
        env_ce=float(-out.env_logprobs[targets].astype(np.float64).mean()),
        effective_lambda=compiled.effective_lambda,
        gradient=engine.gradients(),
        accumulation=count,
    )
