"""The engine that `[model]` and `[sampler]` name.

    engine = "local"      this machine: one device, or all ranks of torchrun
    engine = "tinker"     a server behind the Tinker API
    [sampler]             turns come from a model server, to which the weights are pushed

Not here: the engines (`envecho.engines`, `envecho.rollout.served`), and what they are asked to do.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from envecho.engines.distributed import open_local
from envecho.engines.lora import LoraOptions
from envecho.engines.tinker import open_tinker
from envecho.errors import ConfigError
from envecho.rollout.served import ServedEngine, ServedSampler, SharedFolder, WireOptions
from envecho.seam import Engine
from envecho.training.config import LoraConfig, ModelConfig, RunConfig, SamplerConfig


@contextmanager
def open_run_engine(config: RunConfig, folder: Path, out: Path) -> Generator[Engine]:
    """Open the engine of a run: that of `[model]`, sampling as `[sampler]` says; its connections end with the block.

    Args:
        folder: the model's files.
        out: the run folder; weights on their way to a sampler lie in `OUT/pushed` where `[sampler] folder` is not set.

    Raises:
        ConfigError: a package is absent, or the key's environment variable is not set.
        EngineError: the model cannot be loaded, or a server does not answer as training needs.
    """
    engine = open_engine(config.model, folder, seed=config.run.seed)
    if config.sampler is None:
        yield engine
        return
    settings = config.sampler
    shared = settings.folder or out / "pushed"
    with _sampler(settings, shared) as sampler:
        yield ServedEngine(engine, sampler, folder=shared, most_mismatch=settings.most_mismatch, pushes=settings.pushes)


def open_engine(model: ModelConfig, folder: Path, *, seed: int) -> Engine:
    """Return an engine that trains, with the weights of the model in `folder`."""
    if model.engine == "local":
        return _local(model, folder, seed=seed, trains=True)
    assert model.lora is not None
    return open_tinker(model.base_model or model.name, server=model.server, rank=model.lora.rank, seed=seed)


def open_reference(model: ModelConfig, folder: Path, *, seed: int) -> Engine:
    """Return a frozen engine with the starting weights, which scores and stays as it is."""
    return _local(model, folder, seed=seed, trains=False)


def _local(model: ModelConfig, folder: Path, *, seed: int, trains: bool) -> Engine:
    return open_local(
        folder,
        device=model.device,
        compute_dtype=model.compute_dtype,
        tokens_per_micro_batch=model.tokens_per_micro_batch,
        seed=seed,
        gradient_checkpointing=model.gradient_checkpointing and trains,
        activation_memory_mb=model.activation_memory_mb if trains else None,
        packing=model.packing and trains,
        trains=trains,
        trainable=model.trainable,
        lora=_lora(model.lora) if trains else None,
    )


def _lora(table: LoraConfig | None) -> LoraOptions | None:
    return None if table is None else LoraOptions(rank=table.rank, alpha=table.alpha, targets=table.targets)


def _sampler(settings: SamplerConfig, shared: Path) -> ServedSampler:
    key = None
    if settings.api_key_env is not None:
        key = os.environ.get(settings.api_key_env)
        if key is None:
            raise ConfigError(f"[sampler] api_key_env names {settings.api_key_env}, which is not set")
    return ServedSampler(
        settings.url,
        kind=settings.kind,
        model=settings.model,
        options=WireOptions(seconds=settings.request_seconds, max_concurrent=settings.max_concurrent, api_key=key),
        folder=SharedFolder(here=shared, there=settings.server_folder),
    )
