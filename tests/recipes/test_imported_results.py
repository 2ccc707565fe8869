"""The committed figures of training on imported traces, and the page that tells them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "imported"
_spec = importlib.util.spec_from_file_location("imported_tables", RESULTS / "make_table.py")
assert _spec is not None
assert _spec.loader is not None
make_table = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(make_table)


def test_the_page_holds_the_table_of_the_committed_figures():
    """Catches a figure in the docs that no file of the repository holds."""
    page = (ROOT / "docs" / "imported.md").read_text(encoding="utf-8")
    assert page == make_table.filled(page, json.loads((RESULTS / "results.json").read_text()))


def test_the_figures_are_of_several_formats_and_of_files_that_can_be_checked():
    """Catches results of one pool, files that nobody can tell from others, and text of traces in the repository."""
    results = json.loads((RESULTS / "results.json").read_text())
    assert len(results["pools"]) >= 3
    assert results["steps"] > 0
    assert results["num_env_targets"] > 0
    assert {name.split("/")[0] for name in results["files"]} == set(results["pools"])
    assert all(len(digest) == 64 for digest in results["files"].values())
    assert set(results) == {
        "format", "version", "model", "steps", "num_tokens", "num_env_targets", "pools", "files",
    }  # fmt: skip
