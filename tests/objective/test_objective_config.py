"""`EchoConfig`: what a TOML table may say, and how it is told that it may not."""

from __future__ import annotations

import tomllib

import pytest

from envecho.errors import ConfigError
from envecho.objective import EchoConfig, FilterConfig, NoiseConfig, PolicyConfig, ScheduleConfig
from envecho.trajectory import Source


def test_an_empty_table_is_the_vetted_setting():
    """Catches a default that drifts from the paper's and RFC 010's: lambda 0.05, env_only, clip 0.2."""
    config = EchoConfig.from_table({})
    assert (config.world_model_coeff, config.world_loss_target, config.use_rl) == (0.05, "env_only", True)
    preset = config.preset
    assert (preset.normalizer, preset.clip_low, preset.clip_high) == ("reference_sequence_mean", 0.2, 0.2)
    assert (preset.spec_name, preset.advantage, config.policy.kl_coeff) == ("grpo", "group_std", 0.0)


def test_a_full_table_survives_toml_and_back():
    """Catches a field that a run folder's config.toml cannot carry."""
    text = """
        world_model_coeff = 0.01
        world_loss_target = "all"
        use_rl = false
        normalizer = "constant_length"
        constant_length = 4096
        grader_is_target = true
        [source_coeffs]
        stderr = 0.5
        [tool_coeffs]
        search = 0.25
        [policy]
        loss = "dr_grpo"
        advantage = "leave_one_out"
        clip_low = 0.1
        clip_high = 0.28
        ratio_denominator = "proximal"
        importance_cap = 2.0
        kl_coeff = 0.01
        entropy_coeff = 0.001
        [filters]
        min_valid_call_fraction = 0.5
        min_parse_clean_fraction = 1.0
        correct_fraction = 0.0
        correct_reward = 0.5
        seed = 3
        [noise]
        nll_clip = 5.0
        after_entropy_quantile = 0.8
        shuffle_observations = false
        [schedule]
        kind = "linear"
        end_coeff = 0.001
        steps = 100
        measure_every = 10
        guard = true
        guard_factor = 0.25
    """
    table = tomllib.loads(text)
    config = EchoConfig.from_table(table)
    assert config.source_coeffs == {Source.STDERR: 0.5}
    assert config.model_dump(mode="json", exclude_none=True) == table
    preset = config.preset
    assert (preset.advantage, preset.clip_low, preset.clip_high) == ("leave_one_out", 0.1, 0.28)


def test_there_are_at_most_twelve_fields():
    """Catches a config that grows knobs without an ablation or a user (STYLE 23)."""
    for table in (EchoConfig, PolicyConfig, FilterConfig, NoiseConfig, ScheduleConfig):
        assert len(table.model_fields) <= 12


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"world_model_coef": 0.1}, "unknown key 'world_model_coef'. Did you mean 'world_model_coeff'"),
        ({"policy": {"los": "grpo"}}, r"\[objective.policy\] has an unknown key 'los'. Did you mean 'loss'"),
        ({"policy": {"loss": "gpro"}}, "policy.loss: .* Did you mean 'gspo'"),
        ({"filters": {"correct": 1.0}}, r"\[objective.filters\] has an unknown key 'correct'"),
        ({"filters": {"correct_fraction": 1.5}}, "filters.correct_fraction"),
        ({"tool_coeffs": {"search": -1.0}}, "expected a number from 0"),
        ({"policy": {"loss": "sft", "clip_low": 0.1}}, "policy.clip_low has no meaning"),
        ({"policy": {"loss": "sft", "ratio_denominator": "proximal"}}, "policy.ratio_denominator has no meaning"),
        (
            {"policy": {"loss": "sft", "ratio_denominator": "proximal", "importance_cap": 2.0}},
            "policy.importance_cap has no meaning",
        ),
        ({"policy": {"importance_cap": 2.0}}, "ratio_denominator"),
        ({"policy": {"loss": "dr_grpo"}}, "constant_length is None"),
        ({"schedule": {"target_ratio": 0.1}}, "measure_every"),
        ({"schedule": {"target_ratio": 0.1, "measure_every": 5, "kind": "linear"}}, "excludes"),
        ({"schedule": {"target_ratio": 0.1, "measure_every": 5}, "use_rl": False}, "needs use_rl"),
        ({"schedule": {"kind": "step"}}, "schedule.steps"),
        ({"normalizer": "global_token_means"}, "normalizer: .* Did you mean 'global_token_mean'"),
        ({"world_loss_target": "env-only"}, "Did you mean 'env_only'"),
        ({"source_coeffs": {"stdot": 1.0}}, "source_coeffs.stdot: .* Did you mean 'stdout'"),
        ({"source_coeffs": {"policy": 1.0}}, "names policy, which is no target"),
        ({"source_coeffs": {"stdout": -1.0}}, "expected a number from 0"),
        ({"world_model_coeff": -0.1}, "world_model_coeff: .*found -0.1"),
        ({"world_model_coeff": float("nan")}, "world_model_coeff"),
        ({"policy": {"clip_low": 1.5}}, "policy.clip_low"),
        ({"clip_low": 0.2}, "unknown key 'clip_low'"),
        ({"normalizer": "constant_length"}, "constant_length is None"),
        ({"constant_length": 8}, "no other takes it"),
    ],
)
def test_a_wrong_table_is_a_config_error_that_helps(table, message):
    """Catches an unknown key that is ignored, and an error that does not name the key, the value, or the way out."""
    with pytest.raises(ConfigError, match=message):
        EchoConfig.from_table(table)
