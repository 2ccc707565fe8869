"""Two processes, whole and in four micro-batches, give the gradient of the float64 reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.recipes.agreement.case import settings
from envecho.recipes.agreement.compare import compare
from envecho.recipes.agreement.reference import reference
from envecho.recipes.agreement.subjects import trl


@pytest.mark.timeout(300)
def test_two_processes_and_four_micro_batches_give_the_references_gradient(tmp_path: Path, agreement_model: Path):
    """Catches a term that is averaged over processes, counted per rank, or waits for a rank without observations."""
    (setting,) = [s for s in settings() if s.name == "reference_sequence_mean"]
    trl.launch(agreement_model, setting, tmp_path, processes=2)
    expected = reference(agreement_model, setting)
    for accumulation in (1, 4):
        found = trl.read(tmp_path, setting, processes=2, accumulation=accumulation)
        row = compare("trl", setting, expected, found, {})
        assert row.gradient_difference is not None
        assert row.gradient_difference < 1e-5
        assert row.lambda_difference is not None
        assert row.lambda_difference < 1e-6
        assert row.env_ce_difference is not None
        assert row.env_ce_difference < 1e-6
