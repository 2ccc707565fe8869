"""docs/tinker.md shows the figures that the run against a real server left in results/tinker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tinker.md").read_text(encoding="utf-8")
FOUND = json.loads((ROOT / "results" / "tinker" / "skyrl.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", FOUND["agreement"], ids=lambda row: row["setting"])
def test_the_page_has_each_setting_as_it_was_measured(row: dict[str, float]):
    """Catches figures that were renewed without the page, or a page that was edited by hand."""
    figures = (row[f"{name}_difference"] for name in ("loss", "largest_logprob", "first_update"))
    assert f"| `{row['setting']}` | {' | '.join(f'{figure:.1e}' for figure in figures)} |" in PAGE


def test_the_page_has_the_norms_and_the_runs():
    """Catches a table of traps or a training run that is of another measurement than the rest of the page."""
    for asked, norm in FOUND["traps"].items():
        assert f"| {asked} | {norm:.3f} |" in PAGE
    stored = [row for row in FOUND["stored"] if "env_ce" in row]
    for remote, local in zip(stored, FOUND["stored_local"], strict=True):
        assert f"| {remote['step']} | {remote['env_ce']:.3f} | {local['env_ce']:.3f} |" in PAGE
    assert ", ".join(f"{row['env_ce']:.3f}" for row in FOUND["grpo"] if "env_ce" in row) in PAGE
