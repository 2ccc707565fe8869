"""Rollouts that are paid for are not lost: every whole decode batch in a file of its own, until a checkpoint covers it.

A file appears under its name only when it is whole, so a batch is there or is decoded again as a whole. Not here: the
files themselves (`envecho.trajectory.store`).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, final

from envecho.errors import DataError
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories

BatchName = Sequence[tuple[str, tuple[int, ...]]]
"""Id and key of every episode of a decode batch, in order."""


@final
class Journal:
    """The finished decode batches of one step, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, name: BatchName, params: Any) -> list[Trajectory] | None:
        """Return the episodes of a batch, or None where it is not there; a torn or foreign file is removed."""
        path = self._path(name, params)
        if not path.is_file():
            return None
        try:
            found = list(read_trajectories([path]))
        except DataError:
            found = []
        if [trajectory.id for trajectory in found] == [job for job, _ in name]:
            return found
        path.unlink()
        return None

    def write(self, name: BatchName, params: Any, trajectories: Sequence[Trajectory]) -> None:
        """Keep the episodes of a batch; they are on disk when this returns."""
        self._folder.mkdir(parents=True, exist_ok=True)
        write_trajectories(self._path(name, params), trajectories)

    def clear(self) -> None:
        """Remove all batches: a checkpoint covers their step."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, name: BatchName, params: Any) -> Path:
        settings = asdict(params) if is_dataclass(params) and not isinstance(params, type) else params
        digest = hashlib.sha256(repr(([(job, tuple(key)) for job, key in name], settings)).encode()).hexdigest()
        return self._folder / f"batch-{digest[:24]}.parquet"
