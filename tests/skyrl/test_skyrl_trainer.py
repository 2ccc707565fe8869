"""The plug-in inside the installed SkyRL: its trainer, worker and losses on a CPU (`make test-skyrl`)."""

from __future__ import annotations

import importlib
import inspect
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip(
    "skyrl.backends", reason="the training stack of SkyRL has an environment of its own: make test-skyrl"
)

from envecho.errors import DataError
from envecho.objective import EchoConfig
from envecho.plugins.skyrl import register_echo_losses, with_env_masks
from envecho.plugins.skyrl.loss import BASES
from envecho.recipes.agreement.case import PAD_ID, Setting, load_sequences, settings, write_model
from envecho.recipes.agreement.compare import compare
from envecho.recipes.agreement.reference import reference
from envecho.recipes.agreement.subjects import skyrl as subject
from envecho.recipes.agreement.subjects.skyrl_cpu import import_model_wrapper, train_once, trainer_on_cpu
from envecho.tokens.trainers import skyrl as rows


@pytest.fixture(scope="module", autouse=True)
def skyrl_with_losses() -> None:
    import_model_wrapper()
    register_echo_losses()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("agreement")
    write_model(folder)
    return folder


def module(name: str) -> Any:
    return importlib.import_module(name)


def ppo_utils() -> Any:
    return module("skyrl.backends.skyrl_train.utils.ppo_utils")


@pytest.mark.parametrize("setting", [s for s in settings() if s.temperature == 1.0], ids=lambda s: s.name)
def test_the_gradient_of_skyrls_training_step_is_that_of_the_reference(model: Path, setting: Setting, tmp_path: Path):
    """Catches a factor of SkyRL's (ranks, micro-batches, reduction) that meets one of the two terms only."""
    expected = reference(model, setting)
    measured = subject.measure(model, setting, tmp_path)
    assert [row.accumulation for row in measured] == [1, 4, 2]
    for row in measured:
        found = compare("skyrl", setting, expected, row, {})
        assert found.gradient_difference is not None
        assert found.gradient_difference < 1e-5
        assert found.loss_difference is not None
        assert found.loss_difference < 1e-5
        assert found.env_ce_difference is not None
        assert found.env_ce_difference < 1e-5
        assert (found.lambda_difference or 0.0) < 1e-9


def test_the_setting_that_skyrl_cannot_express_is_not_measured(model: Path, tmp_path: Path):
    """Catches a cross-entropy at the sampling temperature that passes for one at 1."""
    (cold,) = [s for s in settings() if s.temperature != 1.0]
    assert subject.measure(model, cold, tmp_path) == []


def gradients(model: Path, objective: EchoConfig, *, loss: str | None = None, marked: bool = True) -> tuple[Any, Any]:
    """The gradient of one step, and the trainer; `loss` is another of SkyRL's policy losses."""
    from transformers import AutoModelForCausalLM

    setting = Setting(name="x", objective=objective)
    output, uids = subject.generator_output(setting)
    if not marked:
        output["rollout_logprobs"] = [[min(v, 0.0) for v in row] for row in output["rollout_logprobs"]]
    cfg = subject.skyrl_config(objective, num_groups=2, rows=4)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if loss is not None:
        cfg.trainer.algorithm.policy_loss_type = loss
    trainer = trainer_on_cpu(cfg, objective, network, pad_id=PAD_ID)
    if not marked:
        trainer.weigh_observations = lambda data: {}
    train_once(trainer, output, uids)
    return {n: v.grad.clone() for n, v in network.named_parameters() if v.grad is not None}, trainer


@pytest.mark.parametrize("base", BASES)
def test_observing_leaves_every_bit_of_skyrls_gradient(model: Path, base: str):
    """Catches marks that SkyRL's own loss reads as log-probs, and a zero that is added to the gradient."""
    objective = EchoConfig(world_model_coeff=0.0, normalizer="sequence_mean_selected")
    plain, _ = gradients(model, objective, loss=base, marked=False)
    observed, trainer = gradients(model, objective, loss=f"echo_{base}")
    assert plain.keys() == observed.keys()
    assert all(torch.equal(plain[name], observed[name]) for name in plain)
    assert trainer.all_metrics["policy/env_ce"] > 1
    assert trainer.all_metrics["policy/effective_lambda"] == 0.0
    assert trainer.all_metrics["policy/loss_metrics/env_loss"] == 0.0


def test_what_is_logged_is_the_step(model: Path):
    """Catches a metric per micro-batch: SkyRL averages what it does not know to be a sum."""
    objective = EchoConfig(world_model_coeff=0.5, normalizer="global_token_mean")
    _, trainer = gradients(model, objective)
    metrics = trainer.all_metrics
    assert metrics["policy/loss_metrics/env_loss"] == pytest.approx(0.5 * metrics["policy/env_ce"], rel=1e-5)
    assert metrics["policy/effective_lambda"] == pytest.approx(0.5)
    targets = sum(int(s.obs_mask.sum()) for s in load_sequences())
    assert metrics["policy/num_env_tokens"] == targets


def test_groups_that_skyrl_filters_keep_their_observations(model: Path):
    """Catches the zero-variance filter that clears a row's mask, and with it ECHO's signal where it matters most."""
    from transformers import AutoModelForCausalLM

    objective = EchoConfig(world_model_coeff=0.5, normalizer="global_token_mean")
    output, uids = subject.generator_output(Setting(name="x", objective=objective))
    output["rewards"] = [1.0] * len(uids)
    cfg = subject.skyrl_config(objective, num_groups=2, rows=4)
    cfg.trainer.algorithm.zero_variance_filter = True
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trainer = trainer_on_cpu(cfg, objective, network, pad_id=PAD_ID)
    train_once(trainer, output, uids)
    assert trainer.all_metrics["reward/num_zero_variance_filtered"] == 2
    assert max(float(v.grad.abs().max()) for v in network.parameters() if v.grad is not None) > 0
    assert "policy/effective_lambda" not in trainer.all_metrics


def test_marks_survive_the_functions_that_skyrl_puts_between(model: Path):
    """Catches a field that dynamic sampling or the concatenation of outputs leaves behind."""
    objective = EchoConfig()
    output, _ = subject.generator_output(Setting(name="x", objective=objective))
    utils = module("skyrl.train.utils.trainer_utils")
    kept = utils.filter_generator_output(output, [1, 3])
    assert kept["rollout_logprobs"] == [output["rollout_logprobs"][1], output["rollout_logprobs"][3]]
    joined = module("skyrl.train.generators.utils").concatenate_generator_outputs([output, output])
    assert joined["rollout_logprobs"] == output["rollout_logprobs"] * 2


def test_copies_of_a_row_are_refused(model: Path):
    """Catches SkyRL's padding, a copy of a row without its mask: the copy's observations would be trained again."""
    from transformers import AutoModelForCausalLM

    objective = EchoConfig()
    output, uids = subject.generator_output(Setting(name="x", objective=objective))
    cfg = subject.skyrl_config(objective, num_groups=2, rows=1, ranks=3)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trainer = trainer_on_cpu(cfg, objective, network, pad_id=PAD_ID, ranks=3)
    data = trainer.convert_to_training_input(*trainer.postprocess_generator_output(output, uids))
    with pytest.raises(DataError, match="multiple of 3"):
        trainer.weigh_observations(data)


def test_a_run_whose_observations_nobody_marked_is_refused(model: Path):
    """Catches ECHO configured and the generator not wrapped: a run that learns nothing from the world."""
    from transformers import AutoModelForCausalLM

    objective = EchoConfig()
    output, uids = subject.generator_output(Setting(name="x", objective=objective))
    output["rollout_logprobs"] = [[min(v, 0.0) for v in row] for row in output["rollout_logprobs"]]
    cfg = subject.skyrl_config(objective, num_groups=2, rows=4)
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    trainer = trainer_on_cpu(cfg, objective, network, pad_id=PAD_ID)
    with pytest.raises(DataError, match="EchoGenerator"):
        train_once(trainer, output, uids)


def test_what_the_plug_in_takes_for_granted_still_holds():
    """Catches a release of SkyRL in which a method is no longer called, or the loss gets other arguments."""
    trainer = module("skyrl.train.trainer").RayPPOTrainer
    assert "self.train_critic_and_policy(training_input)" in inspect.getsource(trainer.train)
    assert "policy_mini_batch_boundaries" in inspect.getsource(trainer.convert_to_training_input)
    worker = inspect.getsource(module("skyrl.backends.skyrl_train.workers.worker").PolicyWorkerBase)
    assert "rollout_logprobs=rollout_action_logprobs" in worker
    assert "grad_sum_correction_factor = self.mesh_rank.dp_size" in worker
    for name in BASES:
        parameters = list(inspect.signature(ppo_utils().PolicyLossRegistry.get(name)).parameters)
        assert parameters[:6] == [
            "log_probs", "old_log_probs", "advantages", "config", "loss_mask", "rollout_logprobs"
        ]  # fmt: skip
    register_echo_losses()  # twice is once: SkyRL refuses a name that it knows


def test_a_registered_loss_travels_to_another_process():
    """Catches a loss that Ray cannot send to the workers."""
    cloudpickle = module("ray.cloudpickle")
    loss = cloudpickle.loads(cloudpickle.dumps(ppo_utils().PolicyLossRegistry.get("echo_regular")))
    cfg = subject.skyrl_config(EchoConfig(), num_groups=2, rows=4).trainer.algorithm
    values = torch.tensor([[-1.0, -2.0]])
    mask, carried = torch.tensor([[1.0, 0.0]]), torch.tensor([[-0.5, 0.25]])
    _, metrics = loss(values, values, mask, config=cfg, loss_mask=mask, rollout_logprobs=carried)
    assert metrics["env_loss"] == pytest.approx(0.5)


def test_exported_rows_are_a_generators_output():
    """Catches rows that SkyRL's own check refuses, and marks that do not fit them."""
    found = [rows.row(sequence, Counter()) for sequence in load_sequences()]
    exported = json.loads(json.dumps([row for row in found if row is not None]))
    output = {name: [row[name] for row in exported] for name in exported[0]}
    marked = with_env_masks(output, output["world_loss_masks"])
    module("skyrl.train.utils.trainer_utils").validate_generator_output(len(exported), marked)
    np.testing.assert_array_equal(
        [sum(v > 0 for v in row) for row in marked["rollout_logprobs"]], [sum(m) for m in output["world_loss_masks"]]
    )


def test_the_entry_point_asks_for_an_objective_and_builds_our_trainer(monkeypatch: pytest.MonkeyPatch):
    """Catches a run of SkyRL's own trainer under our entry point, and an objective that nobody gave."""
    from envecho.errors import ConfigError
    from envecho.plugins.skyrl.entrypoint import experiment_class, main

    monkeypatch.setattr("sys.argv", ["main_base", "trainer.override_entrypoint=envecho.plugins.skyrl.entrypoint"])
    with pytest.raises(ConfigError, match=r"objective=FILE\.toml once, found 0"):
        main()
    experiment = experiment_class(EchoConfig())
    assert issubclass(experiment, module("skyrl.train.entrypoints.main_base").BasePPOExp)
    cfg = subject.skyrl_config(EchoConfig(), num_groups=2, rows=4)
    cfg.trainer.algorithm.policy_loss_type = "regular"
    with pytest.raises(ConfigError, match="no environment term"):
        experiment.get_trainer(object.__new__(experiment), cfg=cfg)
