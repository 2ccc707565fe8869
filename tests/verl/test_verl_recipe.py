"""The recipe of examples/verl, as far as it goes without a GPU: dataset, hydra, dataclasses, refusals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from verl_present import has_verl

if not has_verl():
    pytest.skip("needs verl: make test-verl", allow_module_level=True)

import datasets

pytestmark = pytest.mark.timeout(240)

RECIPE = Path(__file__).parents[2] / "examples" / "verl" / "run.sh"


def dry_run(model: Path, data: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    names = {"MODEL": str(model), "WORLD": "depot", "DATA": str(data), "HELD_OUT": "held_out", "DRY": "1"}
    sizes = {"NUM_TASKS": "12", "NUM_HELD_OUT": "4", "COEFF": "0.07", "PYTHON": sys.executable}
    return subprocess.run(
        ["bash", str(RECIPE), *overrides], env=os.environ | names | sizes, capture_output=True, text=True, check=False
    )


def test_the_recipe_makes_its_dataset_and_composes_verls_configuration(depot_model: Path, tmp_path: Path) -> None:
    """Catches an override that verl does not know, and a dataset whose rows name no task or another agent loop."""
    done = dry_run(depot_model, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "envecho.plugins.verl.EchoFSDPEngineConfig" in done.stdout
    assert '"world_model_coeff": 0.07' in done.stdout
    rows = datasets.load_dataset("parquet", data_files=str(tmp_path / "train.parquet"), split="train")
    assert len(rows) == 12
    assert {row["agent_name"] for row in rows} == {"envecho_world"}
    assert [row["extra_info"]["task"] for row in rows] == list(range(12))


def test_an_override_that_makes_echo_inert_is_refused_before_anything_starts(depot_model: Path, tmp_path: Path) -> None:
    """Catches a dry run that accepts what the agent loop refuses hours later."""
    done = dry_run(depot_model, tmp_path, "algorithm.filter_groups.enable=True")
    assert done.returncode == 1
    assert "allow_filter_groups" in done.stderr
