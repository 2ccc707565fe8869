"""Several runs side by side."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median

import pytest
from synthetic_run import write_synthetic_run

from envecho.errors import DataError
from envecho.reports import write_comparison
from envecho.reports.comparison import compare_runs


def trained_cost(run: Path) -> float:
    return json.loads((run / "summary.json").read_text())["pools"]["new_boxes"]["trained"]["ce_derivable"]


def test_each_seed_is_shown_with_the_mean_and_the_median(tmp_path: Path):
    """Catches a comparison that hides the spread, or averages another figure."""
    runs = [write_synthetic_run(tmp_path / f"run-{seed}", seed=seed) for seed in range(3)]
    (group,) = compare_runs(runs)
    boxes = group.table.groups[0]
    assert boxes.label == "Boxes never seen"
    assert [row.label for row in boxes.rows[:3]] == [f"seed {seed} (run-{seed})" for seed in range(3)]
    costs = [trained_cost(run) for run in runs]
    expected = [*costs, mean(costs), median(costs)]
    assert [row.cells[1].text for row in boxes.rows] == [f"{cost:.3f}" for cost in expected]


def test_unlike_runs_are_not_averaged(tmp_path: Path):
    """Catches a mean over runs of another length, which means nothing."""
    runs = [write_synthetic_run(tmp_path / str(steps), steps=steps) for steps in (20, 40)]
    assert [len(group.table.groups[0].rows) for group in compare_runs(runs)] == [1, 1]


def test_a_run_without_a_summary_is_named(tmp_path: Path):
    """Catches a comparison that leaves a run out in silence."""
    runs = [write_synthetic_run(tmp_path / "a"), tmp_path / "b"]
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match=r"b: expected summary\.json"):
        write_comparison(runs, tmp_path / "out.html")


def test_the_page_is_written(tmp_path: Path):
    """Catches a comparison page that does not render."""
    runs = [write_synthetic_run(tmp_path / f"run-{seed}", seed=seed) for seed in range(2)]
    text = write_comparison(runs, tmp_path / "out.html").read_text()
    assert "median of 2" in text
    assert "Runs side by side" in text
