"""The committed batch, its reference, and the local engine against it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from envecho import extras
from envecho.cli.bench import command
from envecho.engines.micro_batches import split_batch
from envecho.errors import ConfigError, DataError
from envecho.objective import compile_batch
from envecho.recipes.agreement.case import load_sequences, settings, write_batch, write_model
from envecho.recipes.agreement.compare import Measured, compare
from envecho.recipes.agreement.reference import reference
from envecho.recipes.agreement.run import TOLERANCE, failures, measure_agreement, rows_of, summary, table
from envecho.recipes.agreement.subjects import local
from envecho.trajectory import SOURCES, Role

SETTINGS = {setting.name: setting for setting in settings()}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement")
    write_model(folder)
    return folder


@pytest.mark.parametrize("name", SETTINGS)
def test_the_local_engine_has_the_gradient_of_the_definition(model: Path, tmp_path: Path, name: str):
    """Catches a wrong weight, temperature, advantage or reading place, by a reference that shares no code with us."""
    setting = SETTINGS[name]
    expected = reference(model, setting)
    for found in local.measure(model, setting, tmp_path):
        row = compare("local", setting, expected, found, {})
        assert row.gradient_difference is not None
        assert row.gradient_difference <= TOLERANCE
        assert row.loss_difference is not None
        assert row.loss_difference <= TOLERANCE
        assert row.env_ce_difference is not None
        assert row.env_ce_difference <= TOLERANCE
        assert (row.lambda_difference or 0.0) <= TOLERANCE


def test_the_cuts_are_what_the_table_says():
    """Catches a row of four micro-batches that was measured with one."""
    batch = compile_batch(load_sequences(), SETTINGS["global_token_mean"].objective).batch
    assert [len(split_batch(batch, tokens)) for tokens in local.MICRO_BATCHES.values()] == list(local.MICRO_BATCHES)


def test_the_batch_holds_what_the_traps_need(tmp_path: Path):
    """Catches a committed batch that was made anew without its hard cases, or that does not survive its file."""
    sequences = load_sequences()
    roles = [{SOURCES[code].role for code in s.sources} for s in sequences]
    assert any(Role.ENV_OUTPUT not in found for found in roles)
    assert any(Role.WARNING in found for found in roles)
    assert all(0 in s.token_ids[s.obs_mask] for s in sequences if s.obs_mask.any())
    rewards = [[s.reward for s in sequences if s.group_id == group] for group in ("task-0", "task-1")]
    assert len(set(rewards[0])) > 1
    assert len(set(rewards[1])) == 1
    write_batch(sequences, tmp_path / "again.json")
    for one, other in zip(sequences, load_sequences(tmp_path / "again.json"), strict=True):
        np.testing.assert_equal(dataclasses.asdict(one), dataclasses.asdict(other))


def test_the_sampling_log_probs_are_those_of_the_model(model: Path):
    """Catches a batch that is not on policy: ratios other than 1 would make every trainer's gradient another."""
    sequences = load_sequences()
    found = reference(model, SETTINGS["global_token_mean"]).policy_logprobs
    stated = np.concatenate([s.sampling_logprobs[s.action_mask] for s in sequences])
    np.testing.assert_allclose(found, stated, atol=2e-6)


def test_the_model_does_not_depend_on_torch(model: Path):
    """Catches weights drawn by a generator that another version of torch draws otherwise."""
    from safetensors.torch import load_file

    weights = load_file(model / "model.safetensors")
    total = sum(float(value.double().sum()) for value in weights.values())
    assert total == pytest.approx(309.0712, abs=1e-3), "the committed batch was sampled from another model"
    assert torch.get_default_dtype() is torch.float32


def test_a_difference_is_seen_and_reported(model: Path):
    """Catches a comparison that finds everything equal."""
    setting = SETTINGS["global_token_mean"]
    expected = reference(model, setting)
    wrong = {name: value * 1.001 for name, value in expected.gradient.items()}
    found = Measured(loss=expected.loss * 2, env_ce=None, effective_lambda=0.1, gradient=wrong)
    row = compare("local", setting, expected, found, {"torch": "1"})
    assert row.gradient_difference == pytest.approx(1e-3, rel=1e-6)
    assert row.loss_difference == pytest.approx(1.0)
    assert row.lambda_difference == pytest.approx(1.0)
    assert failures([row]) == [row]
    assert failures(
        [dataclasses.replace(row, note="explained"), dataclasses.replace(row, gradient_difference=1e-6)]
    ) == [dataclasses.replace(row, note="explained")]
    assert len(failures([dataclasses.replace(row, gradient_difference=float("nan"))])) == 1
    assert "| local | 1 | 1 | global_token_mean |" in table([row])
    assert "| `local` | 1 | 1 | 1 | 1e+00 |  | 1e+00 | 1e-3 |" in summary([row])


def test_a_gradient_of_unknown_parameters_is_refused(model: Path):
    """Catches a subject whose names do not fit, which would be compared with nothing."""
    setting = SETTINGS["env_only"]
    expected = reference(model, setting)
    found = Measured(loss=None, env_ce=None, effective_lambda=None, gradient={"module.x": np.zeros(1)})
    with pytest.raises(DataError, match=r"module\.x"):
        compare("local", setting, expected, found, {})


def test_a_subject_outside_its_tested_range_is_refused_at_once(monkeypatch: pytest.MonkeyPatch):
    """Catches a comparison that starts processes and drowns the reason in their tracebacks."""
    monkeypatch.setattr(extras, "version", lambda name: "1.15.0")
    with pytest.raises(ConfigError, match=r"trl is 1\.15\.0, expected"):
        measure_agreement(["trl"])


def test_the_command_measures_and_names_what_it_does_not_know():
    """Catches a command that measures nothing and succeeds."""
    done = CliRunner().invoke(command, ["agreement", "--setting", "env_only"])
    assert done.exit_code == 0, done.output
    assert "| local | 1 | 4 | env_only |" in done.output
    with pytest.raises(ConfigError, match=r"lokal.*Did you mean"):
        measure_agreement(["lokal"])
    with pytest.raises(ConfigError, match="env_onli"):
        measure_agreement(["local"], ["env_onli"])
    with pytest.raises(DataError, match="format"):
        rows_of({"format": "else"})
