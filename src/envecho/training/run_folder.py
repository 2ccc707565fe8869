"""The run folder that training writes: `config.toml`, `metrics.jsonl`, `checkpoints/`; and what stands in its way.

Not here: the trajectories and reports that other rooms keep in the same folder.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path

from envecho.errors import ConfigError
from envecho.training.config import RunConfig, differing_keys

_OURS = ("config.toml", "metrics.jsonl", "checkpoints")
_PICTURES = ("chart.png", "course.png", "attribution.png", "classes.png", "controls.png", "operations.png")
_MADE_FROM_OURS = ("summary.json", "evaluation.json", "sums.parquet", "report.html", *_PICTURES, "pushed")
_PLACES = {"model.server", "sampler.url", "sampler.folder", "sampler.server_folder", "sampler.api_key_env"}
"""Where a server is found: it may be elsewhere when a run goes on."""


def require_usable(out: Path, config: RunConfig, *, resume: bool, overwrite: bool) -> None:
    """Check, before anything slow happens, that a run may be written into the folder. Nothing is changed.

    Raises:
        ConfigError: both flags are given; there is a run and no flag; or `resume` and the run there is another one.
    """
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: continue the run in the folder, or replace it")
    if overwrite or not any((out / name).exists() for name in _OURS):
        return
    if not resume:
        raise ConfigError(
            f"{out} holds a run; pass --resume to continue it, --overwrite to replace it, or another --out"
        )
    path = out / "config.toml"
    if not path.is_file():
        raise ConfigError(f"{out} holds parts of a run but no config.toml; it cannot be resumed, pass --overwrite")
    stored = RunConfig.from_document(tomllib.loads(path.read_text(encoding="utf-8")))
    differing = [key for key in differing_keys(stored, config) if key not in _PLACES]
    if differing:
        raise ConfigError(
            f"{path} is another run: {', '.join(differing)} differ; resume with {path} itself, or choose another --out"
        )


def open_run_folder(out: Path, config: RunConfig, *, overwrite: bool) -> None:
    """Make the folder, without an earlier run if `overwrite`, and write the resolved `config.toml`."""
    if overwrite:
        for name in (*_OURS, *_MADE_FROM_OURS):
            path = out / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    temporary = out / ".config.toml.tmp"
    with temporary.open("w", encoding="utf-8") as file:
        file.write(config.to_toml())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(out / "config.toml")
