"""Reading files with token ids, and their spans in short, for the tests of this room."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from envecho.formats import ImportOptions, ImportReport, import_traces
from envecho.trajectory import Trajectory


def load(tmp_path: Path, *rows: Any, **options: Any) -> tuple[list[Trajectory], ImportReport]:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = ImportReport()
    return list(import_traces([path], report, options=ImportOptions(**options))), report


def spans(trajectory: Trajectory, branch: int = 0) -> list[tuple[int, str, int, int]]:
    return [(s.end, s.kind.value, s.turn, s.num_turns) for s in trajectory.branches[branch].spans]
