"""`metrics.jsonl`: one JSON object per line, appended and flushed; docs/metrics.md defines every key.

Not here: how a number is computed (`health`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

MetricsRow = Mapping[str, Any]
"""One line: `kind` (`train` or `validation`), `step`, and numbers; None where a number does not exist."""


@final
class MetricsLog:
    """The log of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, row: MetricsRow) -> None:
        """Add a line; it is in the file when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(dict(row), allow_nan=False) + "\n")

    def truncate(self, *, after: int) -> None:
        """Drop the rows of steps after `after`, and a last line that a killed run left half written.

        `after` -1 drops all. The new file replaces the old one in one step.
        """
        if not self._path.is_file():
            return
        kept = [line for line in self._path.read_text(encoding="utf-8").splitlines() if _step(line) <= after]
        temporary = self._path.with_name(f".{self._path.name}.tmp")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in kept)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:
        return float("inf")
