"""`TrajectoryFilter`: which rows of a store are read, decided before their messages are decoded.

Not here: reading (`store`), and filters of training, which look at what a rollout did (`envecho.objective`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray

from envecho.errors import ConfigError, did_you_mean
from envecho.trajectory.columns import segments_of
from envecho.trajectory.roles import Source

pc: Any = pyarrow.compute  # its functions are made at run time, unknown to type checkers
_SOURCE_COLUMN = "messages.list.element.segments.list.element.source"


@dataclass(frozen=True, kw_only=True)
class TrajectoryFilter:
    """Keeps the trajectories that pass every condition that is not None.

    `task_ids`: the task is one of these. `min_reward`, `max_reward`: graded, and within these bounds (inclusive).
    `sources`: some segment has one of these. `formats`: imported from one of these (`metadata["import"]["format"]`).

    Example:
        read_trajectories("store/", where=TrajectoryFilter(min_reward=1.0, sources={Source.STDERR}))

    Raises:
        ConfigError: an unknown source, bounds that nothing passes, or a text where several values are expected.
    """

    task_ids: Collection[str] | None = None
    min_reward: float | None = None
    max_reward: float | None = None
    sources: Collection[Source | str] | None = None
    formats: Collection[str] | None = None

    def __post_init__(self) -> None:
        for name in ("task_ids", "sources", "formats"):
            if isinstance(getattr(self, name), str):
                raise ConfigError(f"{name} is the text {getattr(self, name)!r}, expected several values: [...]")
        known = [source.value for source in Source]
        for source in self.sources or ():
            if str(source) not in known:
                raise ConfigError(f"no source {str(source)!r}; known: {', '.join(known)}.{did_you_mean(source, known)}")
        low, high = self._bounds()
        if not low <= high:
            raise ConfigError(f"min_reward is {self.min_reward} and max_reward {self.max_reward}: no reward passes")

    def _bounds(self) -> tuple[float, float]:
        low = -math.inf if self.min_reward is None else self.min_reward
        return low, math.inf if self.max_reward is None else self.max_reward

    @property
    def _rewarded(self) -> bool:
        return self.min_reward is not None or self.max_reward is not None

    @property
    def columns(self) -> list[str]:
        """The columns that `mask` reads."""
        needed = {
            "task_id": self.task_ids is not None,
            "reward": self._rewarded,
            _SOURCE_COLUMN: self.sources is not None,
            "metadata": self.formats is not None,
        }
        return [column for column, reads in needed.items() if reads]

    def may_match(self, group: Any) -> bool:
        """Whether a row group can hold a match, by the smallest and largest values that its footer states."""
        places = {group.column(k).path_in_schema: k for k in range(group.num_columns)}

        def limits(column: str) -> tuple[Any, Any] | None:
            statistics = group.column(places[column]).statistics
            return (statistics.min, statistics.max) if statistics is not None and statistics.has_min_max else None

        tasks = limits("task_id")
        if self.task_ids is not None and tasks and not any(tasks[0] <= task <= tasks[1] for task in self.task_ids):
            return False
        if self._rewarded and (found := limits("reward")):
            low, high = self._bounds()
            return found[0] <= high and found[1] >= low
        return True

    def mask(self, rows: pa.RecordBatch | pa.Table) -> NDArray[np.bool_]:
        """Mask `[row]` of the rows that pass; `rows` holds at least `columns`."""
        mask = np.ones(rows.num_rows, dtype=np.bool_)
        if self.task_ids is not None:
            mask &= _array(pc.is_in(rows.column("task_id"), value_set=pa.array(list(self.task_ids), pa.string())))
        if self._rewarded:
            low, high = self._bounds()
            reward = rows.column("reward")
            within = pc.and_(pc.greater_equal(reward, low), pc.less_equal(reward, high))
            mask &= _array(pc.fill_null(within, False))
        if self.sources is not None:
            names = pa.array([str(source) for source in self.sources], pa.string())
            segments = segments_of(rows)
            hits = _array(pc.is_in(segments.field("source"), value_set=names))
            mask &= np.bincount(segments.rows[hits], minlength=rows.num_rows) > 0
        if self.formats is not None:
            wanted = set(self.formats)
            mask &= np.array([_format(text) in wanted for text in rows.column("metadata").to_pylist()], dtype=np.bool_)
        return mask


def _array(values: Any) -> NDArray[np.bool_]:
    return np.asarray(values.to_numpy(zero_copy_only=False), dtype=np.bool_)


def _format(metadata: str) -> str | None:
    if '"import"' not in metadata:
        return None
    facts = json.loads(metadata).get("import")
    return facts.get("format") if isinstance(facts, dict) else None
