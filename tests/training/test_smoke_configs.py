"""The committed configurations of on-policy runs are valid and say what their comments say."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.training.config import load_config

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("name", ["terminal-echo", "smoke-echo"])
def test_an_on_policy_configuration_is_valid_in_both_arms(name: str):
    """Catches an example that a change of the configuration left behind."""
    echo = load_config(CONFIGS / f"{name}.toml")
    grpo = load_config(CONFIGS / f"{name}.toml", ["objective.world_model_coeff=0"])
    assert echo.rollout is not None
    assert (echo.objective.use_rl, echo.objective.world_model_coeff) == (True, 0.05)
    assert grpo.objective.world_model_coeff == 0
    assert (CONFIGS / f"{name}.toml").read_text().count("world_model_coeff = 0.05") == 1
