"""The engine that `[model]` names: local on one device, local on several under torchrun, or a service.

Not here: the engines (`envecho.engines`), and what they are asked to do.
"""

from __future__ import annotations

from pathlib import Path

from envecho.engines.distributed import open_local
from envecho.engines.lora import LoraOptions
from envecho.seam import Engine
from envecho.training.config import LoraConfig, ModelConfig


def open_engine(model: ModelConfig, folder: Path, *, seed: int) -> Engine:
    """Return an engine that trains, with the weights of the model in `folder`."""
    return _local(model, folder, seed=seed, trains=True)


def open_reference(model: ModelConfig, folder: Path, *, seed: int) -> Engine:
    """Return a frozen engine with the same weights, which scores and stays as it is."""
    return _local(model, folder, seed=seed, trains=False)


def _local(model: ModelConfig, folder: Path, *, seed: int, trains: bool) -> Engine:
    return open_local(
        folder,
        device=model.device,
        compute_dtype=model.compute_dtype,
        tokens_per_micro_batch=model.tokens_per_micro_batch,
        seed=seed,
        gradient_checkpointing=model.gradient_checkpointing and trains,
        trains=trains,
        trainable=model.trainable,
        lora=_lora(model.lora) if trains else None,
    )


def _lora(table: LoraConfig | None) -> LoraOptions | None:
    return None if table is None else LoraOptions(rank=table.rank, alpha=table.alpha, targets=table.targets)
