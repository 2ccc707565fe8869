"""The remade demo of RFC 010: its pools are what the page says, and the page shows what the results hold."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envecho.recipes.demo_data import collect_pools
from envecho.recipes.rfc010_demo import BOX, NEW_BOX, demo_jobs, held_out_commands, small_box, table, training_commands
from envecho.trajectory import Source

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "rfc010" / "results.json"


def test_held_out_commands_print_only_what_training_showed():
    """Catches a held-out pool that asks for a file which training never showed, so that memory could not help."""
    pools = collect_pools(demo_jobs(BOX), lambda count: None)
    said = {
        name: ["".join(s.text for s in t.messages[3].segments if s.source is Source.STDOUT) for t in pool]
        for name, pool in pools.items()
    }
    assert [len(said[name]) for name in ("train", "held_out", "new_box")] == [12, 6, 6]
    shown = {line for text in said["train"] for line in text.splitlines()}
    counts = [text for text in said["held_out"] if text.splitlines()[0] not in shown]
    assert len(counts) == 2
    assert all(text.split()[0].isdecimal() for text in counts)
    assert not shown & {line for text in said["new_box"] for line in text.splitlines()}


def test_no_held_out_command_was_a_training_command():
    """Catches a leak: a command in both pools, on either box."""
    for seed in (BOX, NEW_BOX):
        box = small_box(seed)
        assert not set(training_commands(box)) & set(held_out_commands(box))
    commands = [*training_commands(small_box(BOX)), *held_out_commands(small_box(BOX))]
    assert len(set(commands)) == 18


def test_the_page_shows_the_table_of_the_results():
    """Catches a page whose figures are not those of the committed run."""
    if not RESULTS.is_file():
        pytest.fail("results/rfc010/results.json is missing; python -m envecho.recipes.rfc010_demo makes it")
    assert table(json.loads(RESULTS.read_text())) in (ROOT / "docs" / "rfc010-demo.md").read_text()
