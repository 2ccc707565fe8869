"""The committed configurations of on-policy runs are valid and say what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.recipes.study_config import load_study
from envecho.recipes.study_start import require_start
from envecho.training.config import load_config, read_document

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_every_committed_configuration_is_valid(path: Path):
    """Catches an example, or a study that was run, that a change of the configuration left behind."""
    if path.stem.startswith("study-"):
        study = load_study(path)
        assert study.study.name == path.stem.removeprefix("study-")
        require_start(study.start)
    else:
        is_for_a_live_world = not {"data", "rollout"} & set(read_document(path))  # `--world` collects its pools
        load_config(path, ['data.train="pool.parquet"'] if is_for_a_live_world else [])


@pytest.mark.parametrize("name", ["terminal-echo", "smoke-echo"])
def test_an_on_policy_configuration_is_valid_in_both_arms(name: str):
    """Catches an example that a change of the configuration left behind."""
    echo = load_config(CONFIGS / f"{name}.toml")
    grpo = load_config(CONFIGS / f"{name}.toml", ["objective.world_model_coeff=0"])
    assert echo.rollout is not None
    assert (echo.objective.use_rl, echo.objective.world_model_coeff) == (True, 0.05)
    assert grpo.objective.world_model_coeff == 0
    assert (CONFIGS / f"{name}.toml").read_text().count("world_model_coeff = 0.05") == 1
