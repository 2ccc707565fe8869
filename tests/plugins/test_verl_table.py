"""The table of docs/verl.md, against the file that its command wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODES = json.loads((ROOT / "results" / "verl" / "modes.json").read_text())


def test_the_page_shows_the_measured_lambdas() -> None:
    """Catches a table that is edited by hand, or was not made again."""
    page = (ROOT / "docs" / "verl.md").read_text()
    for mode, found in MODES["modes"].items():
        line = f"| `{mode}` | " + " | ".join(f"{value:.4f}" for value in found.values()) + " |"
        assert line in page


@pytest.mark.parametrize("rule", ["global_token_mean", "sequence_mean_selected", "verl_token_mean"])
def test_lambda_is_the_rules_under_every_mode(rule: str) -> None:
    """Catches a mode that changes what lambda is worth."""
    values = [found[rule] for found in MODES["modes"].values()]
    assert values == pytest.approx([values[0]] * len(values), rel=1e-9)
    plain = MODES["world_model_coeff"] * MODES["targets"] / MODES["actions"]
    assert MODES["modes"]["token-mean"]["verl_token_mean"] == pytest.approx(plain)
    assert MODES["modes"]["token-mean"]["global_token_mean"] == pytest.approx(MODES["world_model_coeff"])
