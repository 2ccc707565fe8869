"""Checkpoint folders that are whole or absent, whatever kills the process.

    checkpoints/step-000040/    a plain Hugging Face model folder; a resumable one also has the engine's and run's state
    checkpoints/.tmp-...        being written or deleted; ignored and removed by the next run

A folder is written under a temporary name, every file and the folder are synced, and it is renamed. Not here: what an
engine writes (`envecho.engines.state`).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

from pydantic import BaseModel, ConfigDict, ValidationError

from envecho.errors import DataError

_FORMAT = "envecho.training-state"
_STATE_FILE = "training_state.json"
_NAME = re.compile(r"step-(\d{6,})")
_TEMPORARY = ".tmp-"
_NUM_KEPT = 2


class TrainingState(BaseModel):
    """Where a run stands after `step` optimiser steps; everything that the loop remembers between two steps."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = _FORMAT
    version: int = 1
    step: int = 0
    best_step: int | None = None
    best_env_ce: float | None = None
    base_env_ce: float | None = None
    gradient_seen: bool = False
    terms_seen: tuple[str, ...] = ()
    lambda_scale: float = 1.0
    alarms: dict[str, Any] = {}
    machine: dict[str, str] = {}
    num_steps_without_signal: int = 0
    num_tokens: dict[str, int] = {}
    wall_seconds: float = 0.0
    data_fingerprint: str = ""


@final
class Checkpoints:
    """The folder `checkpoints/` of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Where the checkpoint of that step is."""
        return self.folder / f"step-{step:06d}"

    def steps(self, *, resumable: bool) -> list[int]:
        """Return the steps of all whole checkpoints, or of those that a run can continue from, ascending."""
        if not self.folder.is_dir():
            return []
        names = [(_NAME.fullmatch(entry.name), entry) for entry in self.folder.iterdir()]
        found = [(int(match[1]), entry) for match, entry in names if match]
        return sorted(step for step, entry in found if not resumable or (entry / _STATE_FILE).is_file())

    def clean(self, *, after: int) -> None:
        """Remove what a killed run left half done, and checkpoints of steps after `after`, which will be made again."""
        if not self.folder.is_dir():
            return
        for entry in list(self.folder.iterdir()):
            match = _NAME.fullmatch(entry.name)
            if entry.name.startswith(_TEMPORARY):
                shutil.rmtree(entry)
            elif match and int(match[1]) > after:
                self._remove(entry)

    def write(self, step: int, fill: Callable[[Path], None], *, state: TrainingState | None = None) -> Path:
        """Write a checkpoint, replacing one of its step: `fill` gets an empty folder; `state` makes it resumable."""
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = self.folder / f"{_TEMPORARY}{step:06d}"
        temporary.mkdir()
        fill(temporary)
        if state is not None:
            (temporary / _STATE_FILE).write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
        _sync_tree(temporary)
        final_path = self.path(step)
        if final_path.exists():
            self._remove(final_path)
        temporary.rename(final_path)
        _sync(self.folder)
        return final_path

    def read_state(self, step: int) -> TrainingState:
        """Read the run's state at a checkpoint.

        Raises:
            DataError: the file is of another format or version, or has other keys.
        """
        path = self.path(step) / _STATE_FILE
        try:
            state = TrainingState.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise DataError(f"expected a state of format {_FORMAT}: {error}", file=path) from error
        if state.format != _FORMAT or state.version != 1:
            raise DataError(f"expected format {_FORMAT} version 1, found {state.format} {state.version}", file=path)
        return state

    def prune(self, *, best: int | None) -> None:
        """Keep the best, the last two resumable ones, and those that were the best when these two were written."""
        resumable = self.steps(resumable=True)[-_NUM_KEPT:]
        kept = {best, *resumable, *(self.read_state(step).best_step for step in resumable)}
        for step in self.steps(resumable=False):
            if step not in kept:
                self._remove(self.path(step))

    def _remove(self, path: Path) -> None:
        # Renamed first: a folder under its own name is always whole.
        doomed = path.with_name(f"{_TEMPORARY}{path.name}")
        path.rename(doomed)
        shutil.rmtree(doomed)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
