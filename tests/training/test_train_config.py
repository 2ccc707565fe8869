"""The TOML of a run: every mistake is named by table and key."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from envecho.errors import ConfigError
from envecho.training.config import OptimizerConfig, RunConfig, load_config
from envecho.training.schedules import learning_rate

MINIMAL = {"data": {"train": "a.parquet"}, "run": {"steps": 3}}
EXAMPLE = Path(__file__).parents[2] / "configs" / "terminal-worldmodel.toml"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimiser": {}}, r"unknown table \[optimiser\].*Did you mean 'optimizer'\?"),
        ({"optimizer": {"learning_rat": 1}}, r"\[optimizer\] .*unknown key 'learning_rat'.*mean 'learning_rate'\?"),
        (
            {"run": {"steps": 3, "chekpoint_every": 1}},
            r"\[run\] .*'chekpoint_every'.*Did you mean 'checkpoint_every'\?",
        ),
        ({"objective": {"world_model_coef": 1}}, r"\[objective\].*'world_model_coef'.*mean 'world_model_coeff'\?"),
        ({"run": {"steps": 0}}, r"\[run\] steps: .*greater than or equal to 1 \(found 0\)"),
        ({"run": {}}, r"\[run\] needs steps"),
        ({"data": {}}, r"\[data\] train .* or on \[rollout\] .*found neither"),
        ({"rollout": {}}, r"\[data\] train .* or on \[rollout\] .*found both"),
        ({"data": {}, "rollout": {"rollouts_per_task": 1}}, r"a group of one has no advantage"),
        ({"evaluation": {"every": 5}}, r"there is no \[rollout\]"),
        (
            {"objective": {"noise": {"shuffle_observations": True}, "use_rl": False}},
            r"a control of runs with \[rollout\]",
        ),
        ({"objective": {"policy": {"los": "grpo"}}}, r"\[objective.policy\] has an unknown key 'los'"),
        ({"health": {"windows": 3}}, r"\[health\] has an unknown key 'windows'"),
        ({"optimizer": {"schedule": "cosine"}}, r"\[optimizer\] schedule: .*'constant' or 'linear'.*found 'cosine'"),
        ({"model": {"trainable": "lora"}}, r"\[model\] trainable: .*found 'lora'"),
        ({"model": "smollm2-135m"}, r"model is a value, expected a table \[model\]"),
        ({"objective": {"world_model_coeff": 0}}, r"world_model_coeff is 0 .* nothing would be trained"),
    ],
)
def test_a_mistake_is_named_by_its_table_and_key(changes: dict[str, Any], message: str):
    """Catches a key that is ignored, and an error from which nobody finds the line to change."""
    with pytest.raises(ConfigError, match=message):
        RunConfig.from_document({**MINIMAL, **changes})


def test_the_resolved_toml_reads_back_as_the_same_run():
    """Catches a saved config.toml that is not the run: a rounded number, a lost default, a table out of place."""
    document = {**MINIMAL, "objective": {"source_coeffs": {"stderr": 0.5}}, "optimizer": {"learning_rate": 1e-5}}
    config = RunConfig.from_document(document)
    assert RunConfig.from_document(tomllib.loads(config.to_toml())) == config
    assert config.objective.use_rl is False
    assert config.data.train == ("a.parquet",)


def test_the_example_configuration_is_valid():
    """Catches an example that a change of the configuration left behind."""
    assert load_config(EXAMPLE).run.steps == 40


def test_overrides_are_toml_values_and_reach_every_table(tmp_path: Path):
    """Catches an override that arrives as text, or silently makes a key that nobody reads."""
    overrides = ["optimizer.learning_rate=1e-4", "run.seed=7", "model.name=runs/x", 'data.held_out=["b", "c"]']
    config = load_config(EXAMPLE, overrides)
    assert (config.optimizer.learning_rate, config.run.seed, config.model.name) == (1e-4, 7, "runs/x")
    assert config.data.held_out == ("b", "c")
    with pytest.raises(ConfigError, match=r"unknown key 'sed'.*Did you mean 'seed'\?"):
        load_config(EXAMPLE, ["run.sed=7"])
    for wrong in ("seed=7", "run.seed", "run.=3", ".run=1"):
        with pytest.raises(ConfigError, match=r"is not TABLE\.KEY=VALUE"):
            load_config(EXAMPLE, [wrong])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "absent.toml")
    (tmp_path / "broken.toml").write_text("[run\n")
    with pytest.raises(ConfigError, match="is no TOML"):
        load_config(tmp_path / "broken.toml")


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def test_no_table_has_more_than_twelve_fields():
    """Catches a configuration that grows a knob at a time until nobody knows it."""
    for name, field in RunConfig.model_fields.items():
        (table,) = [kind for kind in (field.annotation, *get_args(field.annotation)) if _is_table(kind)]
        assert len(table.model_fields) <= 12, name


def test_the_learning_rate_warms_up_and_falls_to_zero():
    """Catches a schedule that starts at zero, or ends above it by a step."""
    linear = OptimizerConfig(learning_rate=1.0, schedule="linear", warmup_steps=2)
    assert [learning_rate(linear, step, 4) for step in (1, 2, 3, 4)] == pytest.approx([0.5, 0.75, 0.5, 0.25])
    constant = OptimizerConfig(learning_rate=1.0, schedule="constant", warmup_steps=4)
    assert [learning_rate(constant, step, 9) for step in (1, 4, 9)] == pytest.approx([0.25, 1, 1])
    assert learning_rate(OptimizerConfig(learning_rate=2.0), 1, 10) == 2.0
