"""What cannot be followed inside TRL is refused by name, and TRL is what it was when the plug-in was tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl_material import ECHO, QUIET, grpo_config, random_rows, reward_of_row, rows_trainer, tiny_qwen3

from envecho.errors import ConfigError
from envecho.objective import EchoConfig, PolicyConfig
from envecho.objective.config import FilterConfig, NoiseConfig, ScheduleConfig
from envecho.plugins.trl import EchoGRPOTrainer
from envecho.plugins.trl.settings import refuse_options
from envecho.plugins.trl.surface import SURFACE, changed_names

pytestmark = QUIET


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"policy": PolicyConfig(loss="cispo")}, "loss_type"),
        ({"policy": PolicyConfig(advantage="group_mean")}, "scale_rewards"),
        ({"policy": PolicyConfig(clip_low=0.1)}, "epsilon and"),
        ({"policy": PolicyConfig(clip_high=0.3)}, "epsilon_high"),
        ({"policy": PolicyConfig(kl_coeff=0.1)}, "beta"),
        ({"policy": PolicyConfig(entropy_coeff=0.1)}, "entropy_coef"),
        ({"policy": PolicyConfig(ratio_denominator="current")}, "num_iterations"),
        ({"policy": PolicyConfig(ratio_denominator="proximal", importance_cap=2.0)}, "num_iterations"),
        ({"filters": FilterConfig(correct_fraction=0.5)}, "filters"),
        ({"noise": NoiseConfig(after_entropy_quantile=0.5)}, "noise.after_entropy_quantile"),
        ({"noise": NoiseConfig(disagreement_weight=0.5)}, "noise.disagreement_weight"),
        ({"noise": NoiseConfig(shuffle_observations=True)}, "noise.shuffle_observations"),
        ({"schedule": ScheduleConfig(target_ratio=0.5, measure_every=1)}, "schedule.target_ratio"),
        ({"schedule": ScheduleConfig(guard=True)}, "schedule.guard"),
        ({"source_coeffs": {"stderr": 0.5}}, "source_coeffs"),
        ({"grader_is_target": True}, "grader_is_target"),
        ({"world_loss_target": "reference"}, "'env_only' or 'all'"),
        ({"normalizer": "trl_token_mean"}, "global_token_mean"),
        ({"use_rl": False, "world_model_coeff": 0.0}, "nothing would be trained"),
    ],
)
def test_an_option_that_trl_cannot_follow_is_refused_by_name(options: dict[str, Any], match: str):
    """Catches an option that is accepted and does nothing."""
    with pytest.raises(ConfigError, match=match):
        refuse_options(EchoConfig(**options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"world_model_coeff": 0.0},
        {"use_rl": False},
        {"world_loss_target": "all", "normalizer": "verl_token_mean"},
        {"normalizer": "constant_length", "constant_length": 8},
        {"tool_coeffs": {"look": 0.5}, "noise": NoiseConfig(nll_clip=3.0)},
        {"schedule": ScheduleConfig(kind="step", steps=3)},
    ],
)
def test_an_option_that_trl_can_follow_is_accepted(options: dict[str, Any]):
    """Catches a refusal that goes too far."""
    refuse_options(EchoConfig(**options))


def test_a_trainer_without_observations_is_refused(tmp_path: Path, word_tokenizer: Any):
    """Catches ECHO over plain completions, in which nobody but the model says anything."""
    with pytest.raises(ConfigError, match="nothing of a completion is an observation"):
        EchoGRPOTrainer(
            model=tiny_qwen3(len(word_tokenizer)),
            reward_funcs=reward_of_row,
            args=grpo_config(tmp_path),
            train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
            processing_class=word_tokenizer,
            echo=ECHO,
        )


def test_a_step_over_several_generations_is_refused(tmp_path: Path, word_tokenizer: Any):
    """Catches totals that are not known when the first micro-batch of a step is weighed."""
    with pytest.raises(ConfigError, match="would mix generations"):
        rows_trainer(
            tmp_path,
            word_tokenizer,
            random_rows(4),
            echo=ECHO,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=4,
            steps_per_generation=2,
        )


def test_tool_coefficients_without_tools_are_refused(tmp_path: Path, word_tokenizer: Any):
    """Catches coefficients that no row can be matched with."""
    with pytest.raises(ConfigError, match="tool_coeffs needs tools"):
        rows_trainer(tmp_path, word_tokenizer, random_rows(4), echo=EchoConfig(tool_coeffs={"look": 0.5}))


def test_a_compiled_model_is_refused(tmp_path: Path, word_tokenizer: Any):
    """Catches a graph that was compiled without what is read from it."""
    with pytest.raises(ConfigError, match="torch_compile"):
        rows_trainer(tmp_path, word_tokenizer, random_rows(4), echo=ECHO, torch_compile=True)


def test_trl_is_what_it_was_when_the_plug_in_was_tested():
    """Catches a release of TRL in which a private name that is used has changed: read it, then record it again."""
    assert changed_names() == []


def test_no_other_private_name_of_trl_is_used():
    """Catches a use of TRL's private surface that nobody guards."""
    import ast

    from trl import GRPOTrainer

    import envecho.plugins.trl.trainer as home

    tree = ast.parse(Path(home.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    used |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    private = {name for name in used if name.startswith("_") and hasattr(GRPOTrainer, name) and "__" not in name}
    assert private == {known.name for known in SURFACE if known.is_overridden}
    assert {name for name in used if name.startswith("_") and "__" not in name} - private <= {
        "_buffered_inputs",
        *(name for name in used if name.startswith("_echo")),
        *vars(EchoGRPOTrainer),
    }
