"""The findings page and the README say what the kept figures say."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("findings_table", ROOT / "results" / "findings" / "make_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_and_the_readme_are_made_of_the_kept_figures(tables: ModuleType):
    """Catches a table or a sentence that was edited by hand, or made of another run."""
    page, readme = (ROOT / "docs" / "findings.md").read_text(), (ROOT / "README.md").read_text()
    assert tables.filled(page) == page
    assert tables.filled_readme(readme) == readme


def test_both_masks_were_measured_on_the_same_tokens(tables: ModuleType):
    """Catches two masks that are compared on different pools, base models or tokens."""
    found = [tables.kept(name) for name in tables.MASKS]
    assert all(found)
    one, other = (evaluation.pools["new_boxes"]["base"] for evaluation in found)
    assert one.ce_per_token == other.ce_per_token
    assert one.ce_boilerplate == other.ce_boilerplate
    assert one.num_tokens == other.num_tokens


def test_the_parts_of_a_saving_add_up_to_it(tables: ModuleType):
    """Catches an attribution that leaves tokens out."""
    for name in tables.MASKS:
        for attribution in tables.kept(name).attributions:
            parts = sum(part.saved.value for part in attribution.parts.values())
            assert parts == pytest.approx(attribution.saved.value, abs=1e-9)
            assert sum(part.tokens for part in attribution.parts.values()) == pytest.approx(1)
