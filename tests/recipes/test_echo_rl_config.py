"""Configurations with echo-rl's keys, as ours: every key has a place or a reason, and defaults are theirs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from envecho.errors import ConfigError
from envecho.objective import lambda_at
from envecho.recipes.echo_rl import echo_rl_config, read_echo_rl
from envecho.recipes.echo_rl_keys import KEYS, SUBTREES
from envecho.training.config import RunConfig

ECHO: dict[str, Any] = {
    "data": {"train_data": [{"name": "mine", "path": "train.parquet"}], "val_data": []},
    "tokenizer_path": "org/model",
    "trainer": {
        "placement": {"colocate_all": True, "policy_num_gpus_per_node": 8},
        "policy": {
            "model": {"path": "org/model"},
            "optimizer_config": {"lr": 2e-6, "adam_betas": [0.9, 0.95], "max_grad_norm": 0.2, "num_warmup_steps": 20},
        },
        "algorithm": {
            "use_kl_loss": False, "loss_reduction": "sequence_mean", "world_model_coeff": 0.05,
            "world_loss_normalization": "full_observation_tokens", "eps_clip_low": 0.2, "eps_clip_high": 0.3,
            "wm_filter_min_valid_tool_call_pct": 0.5, "wm_filter_min_parse_clean_pct": 0.25,
            "wm_filter_min_correct_pct": 0.5, "max_seq_len": 4096,
        },
        "train_batch_size": 16, "policy_mini_batch_size": 16, "eval_interval": -1, "ckpt_interval": 20,
        "ckpt_path": "${oc.env:OUTPUT_DIR}/ckpts",
    },
    "generator": {
        "n_samples_per_prompt": 8, "max_turns": 12, "max_tokens_per_generation": 512, "world_loss_target": "env_only",
        "correct_threshold": 0.5, "sampling_params": {"temperature": 0.8, "logprobs": 0},
        "eval_sampling_params": {"temperature": 0.6, "max_generate_length": 512},
        "inference_engine": {"backend": "vllm", "engine_init_kwargs": {"swap_space": 4}},
    },
}  # fmt: skip
SETS = ("rollout.world=terminal", "run.steps=500")


def write(folder: Path, **changes: Any) -> Path:
    """Write the configuration above with `table__key=value` changes; None of a change removes the key."""
    document = copy.deepcopy(ECHO)
    for place, value in changes.items():
        *tables, name = place.split("__")
        section = document
        for table in tables:
            section = section.setdefault(table, {})
        if value is None:
            section.pop(name, None)
        else:
            section[name] = value
    path = folder / "echo.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def test_a_configuration_of_the_paper_becomes_a_run_of_ours(tmp_path: Path):
    """Catches a key that lands in another place, or a value of ours that stands where theirs was stated."""
    config = echo_rl_config(write(tmp_path), SETS)
    objective, policy = config.objective, config.objective.policy
    assert (objective.world_model_coeff, objective.world_loss_target) == (0.05, "reference")
    assert objective.preset.normalizer == "reference_sequence_mean"
    assert (policy.clip_low, policy.clip_high, policy.kl_coeff, policy.advantage) == (0.2, 0.3, 0.0, "group_std")
    filters = objective.filters
    assert (filters.min_valid_call_fraction, filters.min_parse_clean_fraction) == (0.5, 0.25)
    assert (filters.correct_fraction, filters.correct_reward) == (0.5, 0.5)
    optimizer = config.optimizer
    assert (optimizer.learning_rate, optimizer.beta2, optimizer.grad_clip_norm) == (2e-6, 0.95, 0.2)
    assert (optimizer.warmup_steps, optimizer.schedule, optimizer.weight_decay) == (20, "constant", 0.01)
    rollout = config.rollout
    assert rollout is not None
    assert (rollout.tasks_per_step, rollout.rollouts_per_task, rollout.temperature) == (16, 8, 0.8)
    assert (rollout.max_turns, rollout.max_tokens_per_turn) == (12, 512)
    assert (config.evaluation.every, config.evaluation.temperature, config.run.checkpoint_every) == (0, 0.6, 20)
    assert RunConfig.from_document(read_toml(config)) == config


def read_toml(config: RunConfig) -> dict[str, Any]:
    import tomllib

    return tomllib.loads(config.to_toml())


def test_what_their_file_leaves_out_is_their_default(tmp_path: Path):
    """Catches defaults of ours that change a run nobody stated: lambda 0.05 instead of 0, no KL instead of 0.001."""
    generator = {"world_loss_target": "env_only"}
    path = write(tmp_path, trainer__algorithm={}, trainer__policy__optimizer_config={}, generator=generator)
    config = echo_rl_config(path, SETS)
    assert config.objective.world_model_coeff == 0.0
    assert config.objective.policy.kl_coeff == 0.001
    assert config.objective.preset.normalizer == "global_token_mean"
    assert (config.optimizer.learning_rate, config.optimizer.grad_clip_norm) == (1e-6, 1.0)
    assert config.rollout is not None
    assert (config.rollout.rollouts_per_task, config.rollout.temperature) == (5, 1.0)


def test_every_key_of_the_file_has_a_note(tmp_path: Path):
    """Catches a key that is dropped without a word."""
    notes = {note.key: note for note in read_echo_rl(write(tmp_path)).notes}
    assert notes["trainer.policy.optimizer_config.lr"].to == "optimizer.learning_rate"
    assert notes["trainer.placement"].to is None
    assert "->  objective.world_model_coeff" in str(notes["trainer.algorithm.world_model_coeff"])

    def leaves(prefix: str, value: Any) -> set[str]:
        if isinstance(value, dict) and prefix not in SUBTREES:
            return set().union(*(leaves(f"{prefix}.{k}" if prefix else k, v) for k, v in value.items()))
        return {prefix}

    noted = {key for key in notes if key not in SUBTREES} | SUBTREES.keys()
    assert leaves("", ECHO) <= noted
    assert all(note.remark or note.to for note in notes.values())


@pytest.mark.parametrize(
    ("reduction", "over", "rule", "length"),
    [
        ("sequence_mean", "selected_tokens", "sequence_mean_selected", None),
        ("token_mean", "full_observation_tokens", "global_token_mean", None),
        ("seq_mean_token_sum_norm", "selected_tokens", "constant_length", 4096),
    ],
)
def test_two_keys_decide_the_normalizer(tmp_path: Path, reduction: str, over: str, rule: str, length: int | None):
    """Catches world_loss_normalization read alone: it says nothing outside of sequence_mean."""
    path = write(
        tmp_path, trainer__algorithm__loss_reduction=reduction, trainer__algorithm__world_loss_normalization=over
    )
    objective = echo_rl_config(path, SETS).objective
    assert (objective.preset.normalizer, objective.constant_length) == (rule, length)


def their_lambda(step: int, steps: int, schedule: str, transition: int) -> float:
    """echo-rl's coefficient, from its definition; `step` counts from 0."""
    if schedule == "linear_decay":
        return 0.05 + (0.01 - 0.05) * min(step / steps, 1.0)
    return 0.05 if step < transition else 0.01


@pytest.mark.parametrize("schedule", ["linear_decay", "step_decay"])
def test_a_schedule_has_their_lambda_at_every_step(tmp_path: Path, schedule: str):
    """Catches a count from 0 read as one from 1, and a decay that arrives a step early."""
    path = write(
        tmp_path,
        trainer__algorithm__world_model_coeff_schedule=schedule,
        trainer__algorithm__world_model_coeff_end=0.01,
        trainer__algorithm__world_model_coeff_transition_step=7,
    )
    objective = echo_rl_config(path, ["rollout.world=terminal", "run.steps=20"]).objective
    for step in range(20):
        assert lambda_at(objective, step + 1, 20) == pytest.approx(their_lambda(step, 20, schedule, 7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trainer__algorithm__world_model_coef": 0.05}, "Did you mean 'trainer.algorithm.world_model_coeff'"),
        ({"trainer__algorithm__wm_filter_parse_clean_pct": 0.5}, "Did you mean 'trainer.algorithm.wm_filter_min_parse"),
        ({"trainer__policy_mini_batch_size": 4}, "one optimiser step per batch"),
        ({"trainer__update_epochs_per_batch": 2}, "update_epochs_per_batch is 2"),
        ({"generator__world_loss_target": "full_observation"}, "template's own tokens"),
        ({"generator__world_loss_target": None}, "full_observation"),
        ({"generator__max_world_model_tokens": 64}, "whole observations"),
        ({"generator__world_model_only_paths": ["a"]}, "objective.use_rl=false"),
        ({"generator__sampling_params__top_p": 0.9}, "whole distribution"),
        ({"trainer__algorithm__use_kl_in_reward": True}, "never of the reward"),
        ({"trainer__algorithm__loss_reduction": "prompt_mean"}, "no rule of ours"),
        ({"trainer__policy__optimizer_config__scheduler": "cosine"}, "constant or linear"),
        ({"trainer__algorithm__advantage_estimator": "gae"}, "grpo or rloo"),
        ({"trainer__policy__model": {}}, "trainer.policy.model.path is missing"),
    ],
)
def test_what_ours_cannot_do_is_an_error_with_its_reason(tmp_path: Path, changes: dict[str, Any], message: str):
    """Catches a run that is called a reproduction and silently trains something else."""
    with pytest.raises(ConfigError, match=message):
        read_echo_rl(write(tmp_path, **changes))


def test_what_their_file_cannot_say_is_asked_for(tmp_path: Path):
    """Catches a run in our terminal world that nobody chose, and a number of steps out of thin air."""
    path = write(tmp_path)
    with pytest.raises(ConfigError, match=r"rollout\.world"):
        echo_rl_config(path, ["run.steps=5"])
    with pytest.raises(ConfigError, match=r"run\.steps"):
        echo_rl_config(path, ["rollout.world=terminal"])
    stored = echo_rl_config(path, ['data.train="runs/pool.parquet"', "run.steps=5"])
    assert stored.rollout is None
    assert stored.data.train == ("runs/pool.parquet",)


def test_the_table_of_keys_names_real_places_of_ours():
    """Catches a key of ours that was renamed: the mapping would build a document that nothing accepts."""
    for name, key in KEYS.items():
        if key.to is None:
            continue
        table, *rest = key.to.split(".")
        fields = RunConfig.model_fields[table].annotation
        section: Any = fields if hasattr(fields, "model_fields") else fields.__args__[0]
        for part in rest:
            assert part in section.model_fields, f"{name} -> {key.to}"
            section = section.model_fields[part].annotation


def test_the_document_is_printed_without_training(tmp_path: Path):
    """Catches notes that break the TOML, and a key that is said to be mapped and does not stand there."""
    import tomllib

    from click.testing import CliRunner

    from envecho.recipes.echo_rl import main

    path = write(tmp_path)
    sets = [option for one in SETS for option in ("--set", one)]
    result = CliRunner().invoke(main, [str(path), *sets])
    assert RunConfig.from_document(tomllib.loads(result.stdout)) == echo_rl_config(path, SETS)
    assert "# trainer.algorithm.world_model_coeff = 0.05  ->  objective.world_model_coeff" in result.stdout
    failed = CliRunner().invoke(main, [str(path)])
    assert failed.exit_code == 1
    assert "rollout.world" in failed.output
