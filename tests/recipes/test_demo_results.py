"""The committed demo runs show what the project claims, and the README says what they say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "demo"
OPERATIONS = {"slice", "filter", "count", "sort", "field", "join"}

_spec = importlib.util.spec_from_file_location("make_table", RESULTS / "make_table.py")
assert _spec is not None
assert _spec.loader is not None
make_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_table)


def _median(pool: str, predictor: str, key: str) -> float:
    value = make_table.median_of(make_table.read_summaries(RESULTS), pool, predictor, key)
    assert value is not None
    return value


def test_three_seeds_are_committed_with_their_full_evaluations():
    """Catches a claim that rests on one seed (METHOD trap 26)."""
    assert [summary["seed"] for summary in make_table.read_summaries(RESULTS)] == [0, 1, 2]
    assert len(list(RESULTS.glob("seed-*/evaluation.json"))) == 3


def test_on_unseen_boxes_derivable_output_costs_a_quarter_of_the_base_models_and_half_of_the_copiers():
    """Catches a demo whose fall in cross-entropy is memory of lines."""
    trained = _median("new_boxes", "trained", "ce_derivable")
    assert trained <= 0.25 * _median("new_boxes", "base", "ce_derivable")
    assert trained <= 0.5 * _median("new_boxes", "ngram", "ce_derivable")


def test_on_unseen_boxes_the_command_matters_to_the_trained_model():
    """Catches a model that learnt the style of answers and does not read the command."""
    gap = _median("new_boxes", "trained", "action_swap_gap")
    assert gap >= 0.25
    assert gap >= 4 * _median("new_boxes", "base", "action_swap_gap")


def test_on_seen_boxes_the_trained_model_beats_the_adaptive_copier():
    """Catches a model that an n-gram over the same tokens would replace."""
    assert _median("new_commands", "trained", "ce_derivable") < _median("new_commands", "ngram", "ce_derivable")


@pytest.mark.parametrize("pool", ["new_boxes", "new_commands"])
def test_every_operation_is_reported_and_none_dominates(pool: str):
    """Catches a pool in which one easy operation makes the figure."""
    for path in RESULTS.glob("seed-*/evaluation.json"):
        operations = json.loads(path.read_text())["pools"][pool]["trained"]["by_operation"]
        assert set(operations) == OPERATIONS
        assert max(found["share"] for found in operations.values()) <= 0.3


def test_memory_stays_below_four_gigabytes():
    """Catches a phase that outgrows the laptop that the demo is for."""
    assert max(summary["peak_memory_bytes"] for summary in make_table.read_summaries(RESULTS)) <= 4e9


def test_the_readme_shows_the_table_that_the_results_make():
    """Catches figures in the README that no file holds."""
    assert make_table.table(make_table.read_summaries(RESULTS)).strip() in (ROOT / "README.md").read_text()
