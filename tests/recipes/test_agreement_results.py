"""The committed agreement figures, and the page that shows them."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from envecho.recipes.agreement.run import failures

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "agreement.md"


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("agreement_table", ROOT / "results" / "agreement" / "make_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_the_committed_figures(maker: ModuleType):
    """Catches a table that was edited by hand, or figures that were renewed without it."""
    for path, made in ((PAGE, maker.block(maker.rows())), (ROOT / "README.md", maker.sentence(maker.rows()))):
        text = path.read_text()
        assert maker.page(text, made) == text


def test_no_committed_gradient_is_further_off_than_the_bound(maker: ModuleType):
    """Catches a committed row beyond 1e-5, and a subject that was left out."""
    rows = maker.rows()
    assert failures(rows) == []
    cuts = {(row.subject, row.processes, row.accumulation) for row in rows if row.gradient_difference is not None}
    assert {("local", 1, 1), ("local_distributed", 2, 1), ("local_distributed", 4, 1)} <= cuts
    assert {("trl", processes, parts) for processes in (1, 2) for parts in (1, 4)} <= cuts
    assert {("verl", processes, parts) for processes in (1, 2) for parts in (1, 4)} <= cuts
    assert ("skyrl", 1, 4) in cuts
    assert "tinker" in {row.subject for row in rows}
