"""The committed figures of training in the tool world and on tasks, and the page that tells them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "worlds"
_spec = importlib.util.spec_from_file_location("worlds_tables", RESULTS / "make_table.py")
assert _spec is not None
assert _spec.loader is not None
make_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_table)


def test_the_page_of_worlds_holds_the_tables_of_the_committed_figures():
    """Catches a figure in the docs that no file of the repository holds."""
    results = json.loads((RESULTS / "results.json").read_text())
    for name, text in (("docs/worlds.md", make_table.table(results)), ("README.md", make_table.sentence(results))):
        assert text in (ROOT / name).read_text(encoding="utf-8")


def test_the_figures_are_of_held_out_episodes_with_controls():
    """Catches figures without a base model, copiers or a swap, and a pool of one task."""
    results = json.loads((RESULTS / "results.json").read_text())
    for world, pool in make_table.POOLS:
        found = results["worlds"][world]
        assert found["steps"] > 0
        assert found["num_env_targets"] > 0
        predictors = found["pools"][pool]
        assert set(predictors) >= set(make_table.PREDICTORS)
        assert predictors["trained"]["ce_per_token"]["num_tasks"] >= 2
        assert predictors["trained"]["action_swap_gap"] is not None
