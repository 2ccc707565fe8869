"""Several runs and evaluations side by side."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import mean, median

import numpy as np
import pytest
from page_reader import Page
from scipy import stats
from synthetic_evaluation import planted_sums, write_synthetic_evaluation
from synthetic_run import HOSTILE, write_synthetic_run

from envecho.errors import DataError
from envecho.evaluation.sums import write_sums
from envecho.reports import write_comparison
from envecho.reports.comparison import compare_folders
from envecho.reports.comparison_charts import seed_band


def trained_cost(run: Path) -> float:
    return json.loads((run / "summary.json").read_text())["pools"]["new_boxes"]["trained"]["ce_derivable"]


def test_each_seed_is_shown_with_the_mean_and_the_median(tmp_path: Path):
    """Catches a comparison that hides the spread, or averages another figure."""
    runs = [write_synthetic_run(tmp_path / f"run-{seed}", seed=seed) for seed in range(3)]
    (group,) = compare_folders(runs).groups
    assert group.table is not None
    boxes = group.table.groups[0]
    assert boxes.label == "Boxes never seen"
    assert [row.label for row in boxes.rows[:3]] == [f"seed {seed} (run-{seed})" for seed in range(3)]
    costs = [trained_cost(run) for run in runs]
    expected = [*costs, mean(costs), median(costs)]
    assert [row.cells[1].text for row in boxes.rows] == [f"{cost:.3f}" for cost in expected]


def test_unlike_runs_are_not_averaged_and_their_difference_is_named(tmp_path: Path):
    """Catches a mean over runs of another length, which means nothing, and groups that nobody can tell apart."""
    runs = [write_synthetic_run(tmp_path / str(steps), steps=steps) for steps in (20, 40)]
    groups = compare_folders(runs).groups
    assert [group.label for group in groups] == ["training.steps = 20", "training.steps = 40"]
    assert [len(group.table.groups[0].rows) for group in groups if group.table] == [1, 1]


def test_a_folder_with_nothing_to_compare_is_named(tmp_path: Path):
    """Catches a comparison that leaves a run out in silence."""
    runs = [write_synthetic_run(tmp_path / "a"), tmp_path / "b"]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.toml").write_text("[run]\nsteps = 1\n")
    with pytest.raises(DataError, match=r"b: expected summary\.json, metrics\.jsonl or evaluation\.json"):
        write_comparison(runs, tmp_path / "out.html")


def test_the_band_is_students_interval_over_seeds_and_two_seeds_have_none():
    """Catches an interval over steps, one with the wrong degrees of freedom, and a band that two seeds cannot have."""
    rng = np.random.default_rng(0)
    curves = [[(step, float(rng.normal())) for step in range(4)] for _ in range(5)]
    band = seed_band([*curves[:4], curves[4][1:]])
    assert band.steps == [1, 2, 3]
    for place, step in enumerate(band.steps):
        values = [dict(points)[step] for points in curves]
        expected = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
        assert band.low is not None
        assert band.high is not None
        assert (band.low[place], band.high[place]) == pytest.approx(expected)
    assert seed_band(curves[:2]).low is None
    assert seed_band([]).steps == []


def test_runs_are_drawn_with_their_health_and_alarms(tmp_path: Path):
    """Catches a page without curves, and an alarm that is lost between two runs or runs as markup."""
    runs = [write_synthetic_run(tmp_path / f"run-{seed}", seed=seed, steps=30) for seed in range(3)]
    with (runs[1] / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "alarm", "step": 7, "name": "role_confusion", "reason": HOSTILE}) + "\n")
    out = write_comparison(runs, tmp_path / "out.html")
    page = Page(out)
    assert page.sections == ["curves", "evaluations", "health", "definitions"]
    assert "median of 3" in page.words
    assert "3 runs · 1 configuration · 3 evaluations" in page.words
    assert "run-1, step 7: role confusion" in page.words
    assert page.count("script") == 1
    assert (tmp_path / "out-curves.png").read_bytes().startswith(b"\x89PNG")


def test_evaluations_of_one_pool_are_compared_pairwise(tmp_path: Path):
    """Catches a difference of two unpaired means, of the wrong sign, or against another folder than the first."""
    folders = [
        write_synthetic_evaluation(tmp_path / name, scale=scale, hostile=False)
        for name, scale in (("a", 1.0), ("b", 0.8), ("c", 1.1))
    ]
    found = compare_folders(folders).evaluations
    assert found is not None
    assert found.paired is not None
    (group,) = found.paired.groups
    assert [row.label for row in group.rows] == ["b against a", "c against a"]
    assert [row.cells[3].text for row in group.rows] == ["0.800", "1.100"]
    assert (group.rows[0].cells[2].value or 0) < 0 < (group.rows[1].cells[2].value or 0)
    assert found.finding.startswith("On boxes never seen, nats per token of what the world answers: b against a −")
    assert [bar.pair for bar in found.bars] == ["b against a", "c against a"]
    words = Page(write_comparison(folders, tmp_path / "out.html")).words
    assert "Where the difference lies" in words
    assert (tmp_path / "out-pools.png").is_file()


def test_evaluations_without_sums_or_of_other_trajectories_say_so(tmp_path: Path):
    """Catches a paired interval over things that are no pairs, or a folder that drops out without a word."""
    folders = [
        write_synthetic_evaluation(tmp_path / name, hostile=False, sums=name != "bare")
        for name in ("a", "bare", "other")
    ]
    write_sums(tmp_path / "other" / "sums.parquet", {"new_boxes": {"trained": planted_sums(8, 1.0, num_tasks=5)}})
    found = compare_folders(folders).evaluations
    assert found is not None
    assert found.paired is None
    assert found.finding == ""
    bare, other = found.notes
    assert bare == "No paired difference without sums.parquet, which envecho eval --out writes: bare."
    assert other.startswith("other against a on boxes never seen: expected trained and trained on the same")


def test_classes_that_differ_cost_the_picture_and_not_the_difference(tmp_path: Path):
    """Catches a paired difference that is lost because one of two evaluations knew a floor."""
    folders = [write_synthetic_evaluation(tmp_path / name, hostile=False) for name in ("a", "b")]
    sums = planted_sums(8, 0.9)
    place = np.searchsorted(sums.slice_index, [2, 3])
    sums.num_tokens[place] += [1, -1]
    write_sums(tmp_path / "b" / "sums.parquet", {"new_boxes": {"trained": sums}})
    found = compare_folders(folders).evaluations
    assert found is not None
    assert found.paired is not None
    assert found.bars == ()
    (note,) = found.notes
    assert note.startswith("b against a on boxes never seen: expected trained and trained on the same tokens")


def test_folders_of_one_name_are_told_apart(tmp_path: Path):
    """Catches two rows of a table that read the same."""
    runs = [write_synthetic_run(tmp_path / name / "run", steps=20) for name in ("x", "y")]
    (group,) = compare_folders(runs).groups
    assert group.table is not None
    assert [row.label for row in group.table.groups[0].rows[:2]] == ["seed 0 (x/run)", "seed 0 (y/run)"]
