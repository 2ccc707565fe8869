"""The environment term inside TRL's own training step: exact, at T = 1, in the same pass, and never silently absent."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from transformers import Qwen3ForCausalLM
from trl import GRPOTrainer
from trl_material import ECHO, QUIET, random_rows, reward_of_row, rows_trainer, tiny_qwen3

from envecho.errors import EngineError
from envecho.objective import EchoConfig
from envecho.objective.config import NoiseConfig, ScheduleConfig
from envecho.plugins.trl.body_reader import BodyReader
from envecho.recipes.agreement.case import settings
from envecho.recipes.agreement.compare import Measured, compare
from envecho.recipes.agreement.reference import reference
from envecho.recipes.agreement.subjects.trl import step_trainer

SETTINGS = {setting.name: setting for setting in settings()}

pytestmark = QUIET


@pytest.mark.parametrize("name", ["global_token_mean", "reference_sequence_mean", "constant_length", "temperature_0.8"])
@pytest.mark.parametrize("accumulation", [1, 4])
def test_the_gradient_that_trl_applies_is_the_references(
    tmp_path: Path, agreement_model: Path, name: str, accumulation: int
):
    """Catches a term that is divided by micro-batches, read at the sampling temperature, or weighed by TRL's counts."""
    setting = SETTINGS[name]
    trainer, gradient = step_trainer(agreement_model, setting, tmp_path, accumulation=accumulation)
    trainer.train()
    logged = trainer.state.log_history[0]
    found = Measured(
        loss=logged["loss"],
        env_ce=logged["env_ce"],
        effective_lambda=logged["effective_lambda"],
        gradient=gradient,
        accumulation=accumulation,
    )
    row = compare("trl", setting, reference(agreement_model, setting), found, {})
    assert row.gradient_difference is not None
    assert row.gradient_difference < 1e-5
    assert row.loss_difference is not None
    assert row.loss_difference < 1e-5
    assert row.env_ce_difference is not None
    assert row.env_ce_difference < 1e-6
    assert row.lambda_difference is not None
    assert row.lambda_difference < 1e-6


def test_observing_alone_leaves_every_bit_of_trls_gradient(tmp_path: Path, word_tokenizer: Any):
    """Catches a lambda of 0 that still rounds the gradient, or that stops logging."""
    rows = random_rows(4)
    plain, expected = rows_trainer(tmp_path, word_tokenizer, rows, trainer_class=GRPOTrainer, max_steps=2)
    plain.train()
    observed, found = rows_trainer(
        tmp_path, word_tokenizer, rows, max_steps=2, echo=ECHO.model_copy(update={"world_model_coeff": 0.0})
    )
    observed.train()
    trained, _ = rows_trainer(tmp_path, word_tokenizer, rows, echo=ECHO)
    trained.train()
    for one, other in zip(found.steps, expected.steps, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in other)
    assert observed.state.log_history[0]["env_ce"] == trained.state.log_history[0]["env_ce"]
    assert observed.state.log_history[0]["effective_lambda"] == 0
    assert observed.state.log_history[0]["num_env_tokens"] == sum(map(sum, rows["obs_mask"]))
    assert observed.state.log_history[0]["loss"] == plain.state.log_history[0]["loss"]


def test_groups_without_advantage_keep_their_environment_term(tmp_path: Path, word_tokenizer: Any):
    """Catches a trainer that skips what has no policy gradient: ECHO's signal would be gone exactly there."""
    rows = random_rows(4)
    rows["env_reward"] = [1.0] * 4
    trainer, found = rows_trainer(tmp_path, word_tokenizer, rows, echo=ECHO)
    trainer.train()
    alone, expected = rows_trainer(tmp_path, word_tokenizer, rows, echo=ECHO.model_copy(update={"use_rl": False}))
    alone.train()
    name = "model.layers.0.mlp.up_proj.weight"
    assert trainer.state.log_history[0]["frac_reward_zero_std"] == 1
    assert expected.steps[0][name].norm() > 0
    assert torch.allclose(found.steps[0][name], expected.steps[0][name], rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("rule", ["global_token_mean", "reference_sequence_mean"])
def test_each_optimiser_step_of_a_generation_is_counted_by_itself(tmp_path: Path, word_tokenizer: Any, rule: Any):
    """Catches totals of the generation, which is longer here, and of the micro-batch, which is shorter."""
    rows = random_rows(8)
    echo = EchoConfig(world_model_coeff=0.5, normalizer=rule, use_rl=False)
    trainer, _ = rows_trainer(
        tmp_path,
        word_tokenizer,
        rows,
        echo=echo,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        steps_per_generation=4,
        max_steps=2,
        learning_rate=0.0,
    )
    trainer.train()
    steps = trainer.state.log_history[:2]
    assert sum(step["num_env_tokens"] for step in steps) == sum(map(sum, rows["obs_mask"]))
    assert steps[0]["num_env_tokens"] != steps[1]["num_env_tokens"]
    for step in steps:
        assert step["loss"] == pytest.approx(step["env_loss"], rel=1e-5)
        if rule == "global_token_mean":
            assert step["env_loss"] == pytest.approx(0.5 * step["env_ce"], rel=1e-5)


def test_a_generation_that_is_used_twice_is_counted_twice(tmp_path: Path, word_tokenizer: Any):
    """Catches a place in the generation that runs on where TRL starts over: totals would be of other rows."""
    rows = random_rows(4)
    trainer, _ = rows_trainer(
        tmp_path,
        word_tokenizer,
        rows,
        echo=ECHO,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        num_iterations=2,
        max_steps=4,
    )
    trainer.train()
    lines = trainer.state.log_history[:4]
    assert [line["num_env_tokens"] for line in lines] == 4 * [sum(map(sum, rows["obs_mask"]))]
    assert lines[3]["env_ce"] < lines[0]["env_ce"]


def test_evaluation_logs_the_same_and_changes_nothing(tmp_path: Path, word_tokenizer: Any):
    """Catches an evaluation that counts into the training step, trains, or needs what only training has."""
    from datasets import Dataset

    rows = random_rows(4)
    settings = {"echo": ECHO, "max_steps": 2, "per_device_eval_batch_size": 4}
    plain, expected = rows_trainer(tmp_path, word_tokenizer, rows, **settings)
    plain.train()
    trainer, found = rows_trainer(
        tmp_path,
        word_tokenizer,
        rows,
        eval_dataset=Dataset.from_dict({"prompt": ["task 0", "task 1"]}),
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        **settings,
    )
    trainer.train()
    before = next(line for line in trainer.state.log_history if "eval_env_ce" in line)
    first = next(line for line in trainer.state.log_history if "env_ce" in line)
    assert before["eval_env_ce"] == pytest.approx(first["env_ce"], rel=1e-6)
    assert before["eval_num_env_tokens"] == first["num_env_tokens"]
    assert before["eval_loss"] == pytest.approx(first["loss"], rel=1e-4, abs=1e-6)
    for one, other in zip(found.steps, expected.steps, strict=True):
        assert all(torch.allclose(one[name], other[name], rtol=1e-4, atol=1e-8) for name in other)


def test_adapters_of_peft_get_the_environments_gradient(tmp_path: Path, word_tokenizer: Any):
    """Catches a hook that peft's wrapper bypasses, and checkpointing that reads hidden states without a graph."""
    rows = random_rows(4)
    found: list[dict[str, Any]] = []
    for checkpointing in (False, True):
        trainer, gradients = rows_trainer(
            tmp_path,
            word_tokenizer,
            rows,
            echo=ECHO.model_copy(update={"use_rl": False}),
            peft_config=LoraConfig(r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False),
            activation_checkpointing=checkpointing,
        )
        trainer.train()
        found.append(gradients.steps[0])
        assert trainer.state.log_history[0]["env_ce"] == pytest.approx(math.log(320), rel=0.2)
    assert found[0]
    assert all("lora" in name and value.norm() > 0 for name, value in found[0].items())
    assert all(torch.allclose(value, found[1][name], rtol=1e-4, atol=1e-8) for name, value in found[0].items())


class _Fused(Qwen3ForCausalLM):
    """A model whose body runs without being called as a module, as a fused forward may do it."""

    @property
    def base_model(self) -> Any:  # type: ignore[override]
        body = self.model
        outside: Any = lambda *args, **kwargs: type(body).forward(body, *args, **kwargs)  # noqa: E731
        outside.register_forward_hook = body.register_forward_hook
        return outside


def test_a_forward_that_hides_its_hidden_states_is_an_error(tmp_path: Path, word_tokenizer: Any):
    """Catches ECHO that is inert: configured, logged as zero, and absent from the gradient."""
    model = tiny_qwen3(len(word_tokenizer), model_class=_Fused)
    trainer, _ = rows_trainer(tmp_path, word_tokenizer, random_rows(4), echo=ECHO, model=model)
    with pytest.raises(EngineError, match="0 calls of the model's body"):
        trainer.train()


class _Scaled(Qwen3ForCausalLM):
    """A model with a factor between its hidden states and its logits."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = 3 * output.logits
        return output


def test_a_model_with_something_behind_its_head_is_refused(tmp_path: Path, word_tokenizer: Any):
    """Catches a cross-entropy of other logits than the model's."""
    model = tiny_qwen3(len(word_tokenizer), model_class=_Scaled)
    with pytest.raises(EngineError, match="not its output embedding"):
        rows_trainer(tmp_path, word_tokenizer, random_rows(4), echo=ECHO, model=model)


def test_a_head_that_is_sharded_by_itself_is_refused(tmp_path: Path, word_tokenizer: Any):
    """Catches a gradient of the head that is one process's alone, since gathering a weight does not add gradients."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    model = tiny_qwen3(len(word_tokenizer))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        sharded = distribute_tensor(model.lm_head.weight.detach(), init_device_mesh("cpu", (1,)), [Shard(0)])
        model.lm_head.weight = torch.nn.Parameter(sharded)
        with pytest.raises(EngineError, match="still sharded"):
            BodyReader(model, head_in_float32=False)
    finally:
        dist.destroy_process_group()


def test_lambda_follows_its_schedule_over_optimiser_steps(tmp_path: Path, word_tokenizer: Any):
    """Catches a schedule that counts micro-batches, or that is accepted and ignored."""
    echo = ECHO.model_copy(update={"schedule": ScheduleConfig(kind="linear", end_coeff=0.0)})
    trainer, _ = rows_trainer(
        tmp_path,
        word_tokenizer,
        random_rows(4),
        echo=echo,
        max_steps=3,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    told = [line["world_model_coeff"] for line in trainer.state.log_history[:3]]
    assert told == pytest.approx([0.05, 0.025, 0.0])


def test_clipped_tokens_get_no_gradient_and_stay_in_the_log(tmp_path: Path, word_tokenizer: Any):
    """Catches a clip that is ignored, and one that also changes what is logged."""
    rows = random_rows(4)
    lines: list[dict[str, Any]] = []
    norms: list[float] = []
    for clip in (None, 0.01):
        echo = EchoConfig(use_rl=False, normalizer="global_token_mean", noise=NoiseConfig(nll_clip=clip))
        trainer, gradients = rows_trainer(tmp_path, word_tokenizer, rows, echo=echo)
        trainer.train()
        lines.append(trainer.state.log_history[0])
        norms.append(float(torch.stack([value.norm() for value in gradients.steps[0].values()]).norm()))
    assert norms[0] > 0
    assert norms[1] == 0
    assert lines[0]["env_ce"] == lines[1]["env_ce"]


def test_completions_that_trl_masks_out_as_truncated_are_counted_as_dropped(tmp_path: Path, word_tokenizer: Any):
    """Catches targets that are read behind a context that TRL hides from the model."""
    rows = random_rows(4)
    rows["completion_ids"][0][-1] = word_tokenizer.eos_token_id
    trainer, _ = rows_trainer(tmp_path, word_tokenizer, rows, echo=ECHO, mask_truncated_completions=True)
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["num_env_tokens"] == sum(rows["obs_mask"][0])
    assert line["num_env_tokens_dropped"] == sum(map(sum, rows["obs_mask"][1:]))


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [("grpo", 1.0), ("bnpo", 1.0), ("dapo", 1.0), ("sapo", 1.0), ("cispo", 1.0), ("dr_grpo", None), ("luspo", None)],
)
def test_the_effective_lambda_is_relative_to_trls_own_weights(
    tmp_path: Path, word_tokenizer: Any, loss_type: str, expected: float | None
):
    """Catches a lambda that is reported as configured where TRL weighs its policy term by length."""
    rows = random_rows(4)
    trainer, _ = rows_trainer(
        tmp_path,
        word_tokenizer,
        rows,
        echo=ECHO,
        loss_type=loss_type,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    trainer.train()
    actions = sum(map(sum, rows["env_mask"]))
    by_length = {"dr_grpo": actions / (4 * 64), "luspo": actions / 4}
    weight = by_length[loss_type] if expected is None else expected
    assert trainer.state.log_history[0]["effective_lambda"] == pytest.approx(0.05 / weight, rel=1e-5)


def test_a_micro_batch_that_was_not_expected_is_an_error(tmp_path: Path, word_tokenizer: Any):
    """Catches a TRL that cuts a generation otherwise: totals would silently be those of other rows."""
    trainer, _ = rows_trainer(tmp_path, word_tokenizer, random_rows(4), echo=ECHO)
    trainer._buffered_inputs = [{}]
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    with pytest.raises(EngineError, match="another micro-batch"):
        trainer.compute_loss(trainer.model, {"prompt_ids": torch.zeros(1, 1)})


def test_rows_reach_reward_functions_as_trl_hands_them_over(tmp_path: Path, word_tokenizer: Any):
    """Catches a plug-in that takes the masks away from whoever looks at rows by TRL's own path."""
    seen = SimpleNamespace(fields={})

    def reward(completions: Any, **fields: Any) -> list[float]:
        seen.fields = fields
        return reward_of_row(completions, **fields)

    rows = random_rows(4)
    trainer, _ = rows_trainer(tmp_path, word_tokenizer, rows, echo=ECHO, reward_funcs=reward)
    trainer.train()
    assert seen.fields["obs_mask"] == rows["obs_mask"]
    assert np.isfinite(trainer.state.log_history[0]["reward"])
