"""Golden ids, sources and turns per real tokenizer and template."""

from __future__ import annotations

import json

from make_golden import FOLDER, golden


def test_ids_and_sources_of_smollm2_are_the_pinned_ones(smol):
    """Catches any silent change of what is trained with the demo's tokenizer."""
    assert golden(smol, tools=False) == json.loads((FOLDER / "smollm2.json").read_text())


def test_ids_and_sources_of_qwen3_are_the_pinned_ones(qwen):
    """Catches any silent change under a template with tools, parallel results and stripped thinking."""
    assert golden(qwen, tools=True) == json.loads((FOLDER / "qwen3.json").read_text())
