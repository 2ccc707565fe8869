"""`EchoConfig`: what a TOML table may say, and how it is told that it may not."""

from __future__ import annotations

import tomllib

import pytest

from envecho.errors import ConfigError
from envecho.objective import EchoConfig
from envecho.trajectory import Source


def test_an_empty_table_is_the_vetted_setting():
    """Catches a default that drifts from the paper's and RFC 010's: lambda 0.05, env_only, clip 0.2."""
    config = EchoConfig.from_table({})
    assert (config.world_model_coeff, config.world_loss_target, config.use_rl) == (0.05, "env_only", True)
    assert (config.normalizer, config.clip_low, config.clip_high) == ("reference_sequence_mean", 0.2, 0.2)


def test_a_full_table_survives_toml_and_back():
    """Catches a field that a run folder's config.toml cannot carry."""
    text = """
        world_model_coeff = 0.01
        world_loss_target = "all"
        use_rl = false
        normalizer = "constant_length"
        constant_length = 4096
        grader_is_target = true
        advantage_std = false
        clip_low = 0.1
        clip_high = 0.28
        ratio_denominator = "current"
        [source_coeffs]
        stderr = 0.5
    """
    table = tomllib.loads(text)
    config = EchoConfig.from_table(table)
    assert config.source_coeffs == {Source.STDERR: 0.5}
    assert config.model_dump(mode="json") == table


def test_there_are_at_most_twelve_fields():
    """Catches a config that grows knobs without an ablation or a user (STYLE 23)."""
    assert len(EchoConfig.model_fields) <= 12


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"world_model_coef": 0.1}, "unknown key 'world_model_coef'. Did you mean 'world_model_coeff'"),
        ({"tool_coeffs": {}}, "unknown key 'tool_coeffs'"),
        ({"normalizer": "global_token_means"}, "normalizer: .* Did you mean 'global_token_mean'"),
        ({"world_loss_target": "env-only"}, "Did you mean 'env_only'"),
        ({"source_coeffs": {"stdot": 1.0}}, "source_coeffs.stdot: .* Did you mean 'stdout'"),
        ({"source_coeffs": {"policy": 1.0}}, "names policy, which is no target"),
        ({"source_coeffs": {"stdout": -1.0}}, "expected a number from 0"),
        ({"world_model_coeff": -0.1}, "world_model_coeff: .*found -0.1"),
        ({"world_model_coeff": float("nan")}, "world_model_coeff"),
        ({"clip_low": 1.5}, "clip_low"),
        ({"normalizer": "constant_length"}, "constant_length is None"),
        ({"constant_length": 8}, "no other takes it"),
    ],
)
def test_a_wrong_table_is_a_config_error_that_helps(table, message):
    """Catches an unknown key that is ignored, and an error that does not name the key, the value, or the way out."""
    with pytest.raises(ConfigError, match=message):
        EchoConfig.from_table(table)
