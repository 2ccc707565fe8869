"""Text exports: an import of an export is the trajectory that was exported, whatever it holds."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trajectory_strategies import trajectories

from envecho.formats import ImportReport, atif_export, chat_export, import_traces, openenv_export
from envecho.trajectory import Trajectory

Write = Callable[[Trajectory, Counter[str]], dict[str, Any]]
WRITERS: dict[str, Write] = {
    "messages": chat_export.write,
    "atif": atif_export.write,
    "openenv": openenv_export.write,
}


def imported(lines: list[dict[str, Any]]) -> tuple[list[Trajectory], ImportReport]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export"
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        path.write_bytes(text.encode())
        report = ImportReport()
        return list(import_traces([path], report)), report


def without_origin(trajectory: Trajectory) -> Trajectory:
    kept = {name: value for name, value in trajectory.metadata.items() if name != "import"}
    return trajectory.model_copy(update={"metadata": kept})


@pytest.mark.parametrize("target", WRITERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trajectories(), min_size=1, max_size=2))
def test_an_import_of_an_export_is_the_same_trajectory(target: str, exported: list[Trajectory]):
    """Catches anything that a target loses, joins, reorders or guesses: segments, empty ones, ids, exact arguments."""
    found, report = imported([WRITERS[target](trajectory, Counter()) for trajectory in exported])
    assert report.problems == []
    assert report.formats == {target: len(exported)}
    assert [without_origin(trajectory) for trajectory in found] == exported
