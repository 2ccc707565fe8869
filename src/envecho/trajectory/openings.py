"""How an episode begins, as words to compare: the task without a harness's common lines, and the first observations.

Read from columns, so that no message is decoded. Not here: how words are compared (`near_duplicates`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa

from envecho.trajectory.columns import segments_of
from envecho.trajectory.roles import Role, Source

OPENING_COLUMNS: Final = (
    "messages.list.element.segments.list.element.source",
    "messages.list.element.segments.list.element.text",
)
NUM_OBSERVATIONS: Final = 2
COMMON_SHARE: Final = 0.02
COMMON_TASKS: Final = 20
_TASK_CHARACTERS: Final = 4000
_OBSERVATION_CHARACTERS: Final = 1000
_FEWEST_WORDS: Final = 5
_CELLS: Final = 2**22
_OBSERVED: Final = {source.value for source in Source if source.role is Role.ENV_OUTPUT}


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The task as lines, and the texts of the first observations."""

    task: list[str]
    observations: list[str]


def openings(rows: pa.RecordBatch) -> Iterator[Opening]:
    """Yield the opening of each row of a batch that holds `OPENING_COLUMNS`."""
    segments = segments_of(rows)
    sources, texts = segments.field("source").to_pylist(), segments.field("text").to_pylist()
    bounds = np.searchsorted(segments.rows, np.arange(rows.num_rows + 1))
    for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
        task: list[str] = []
        observations: list[str] = []
        seen: list[int] = []
        acted = False
        for place in range(start, end):
            acted = acted or sources[place] == Source.POLICY.value
            if sources[place] == Source.TASK.value and not acted:
                task.append(texts[place][:_TASK_CHARACTERS])
            elif sources[place] in _OBSERVED:
                message = int(segments.messages[place])
                if not seen or seen[-1] != message:
                    if len(seen) == NUM_OBSERVATIONS:
                        break
                    seen.append(message)
                observations.append(texts[place][:_OBSERVATION_CHARACTERS])
        yield Opening(task="\n".join(task)[:_TASK_CHARACTERS].splitlines(), observations=observations)


class CommonLines:
    """Which lines stand in the openings of many tasks, and so are a harness's words rather than a task's.

    A line counts once per task. Counts are kept by hash in 16 MiB, however many lines there are.
    """

    def __init__(self) -> None:
        self._counts = np.zeros(_CELLS, dtype=np.uint32)
        self._tasks: set[int] = set()

    def add(self, task: int, lines: list[str]) -> None:
        """Count the lines of a task (by its hash) unless that task was counted."""
        if task not in self._tasks:
            self._tasks.add(task)
            self._counts[list({_cell(line) for line in lines})] += 1

    def _is_common(self, line: str) -> bool:
        count = int(self._counts[_cell(line)])
        return count >= COMMON_TASKS and count > COMMON_SHARE * len(self._tasks)

    def own_words(self, lines: list[str]) -> list[str]:
        """Return the words of a task without common lines; with them where next to nothing would be left."""
        own = _words([line for line in lines if not self._is_common(line)])
        return own if len(own) >= _FEWEST_WORDS else _words(lines)


def observed_words(opening: Opening) -> list[str]:
    """Return the words of the first observations."""
    return _words(opening.observations)


def _words(texts: list[str]) -> list[str]:
    return [word for text in texts for word in text.lower().split()]


def _cell(line: str) -> int:
    return zlib.crc32(line.strip().encode("utf-8", "replace")) % _CELLS
