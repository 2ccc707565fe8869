"""The SkyRL plug-in without SkyRL: marks, weights, refusals, and a generator whose observations are found."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import ConfigError, DataError, EngineError
from envecho.losses import TokenCounts, normalizer_weights
from envecho.objective import EchoConfig, FilterConfig, PolicyConfig
from envecho.plugins.skyrl import EchoGenerator, with_env_masks
from envecho.plugins.skyrl.channel import read_marks, split_weights, with_weights
from envecho.plugins.skyrl.entrypoint import read_objective
from envecho.plugins.skyrl.generator import RowMarks, template_marks
from envecho.plugins.skyrl.loss import echo_policy_loss
from envecho.plugins.skyrl.trainer import check_config
from envecho.plugins.skyrl.weights import RULES, check_objective, step_weights


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Kinds `[row token]` (0 pad, 1 action, 2 target, 3 harness, 4 scaffold), log-probs, and the mini-batch's rows."""
    rows, width = draw(st.sampled_from([2, 4])), draw(st.integers(1, 6))
    kinds = draw(st.lists(st.integers(0, 4), min_size=rows * width, max_size=rows * width))
    logprobs = draw(st.lists(st.floats(-5, 0, width=32), min_size=rows * width, max_size=rows * width))
    return torch.tensor(kinds).reshape(rows, width), torch.tensor(logprobs).reshape(rows, width), torch.tensor(rows)


@settings(deadline=None, max_examples=50)
@given(batches(), st.booleans())
def test_marks_and_weights_arrive_where_they_were_set(batch: Any, filtered: bool):
    """Catches a log-prob that is read as a mark, and a mark that is lost when SkyRL's filter clears a row's mask."""
    kinds, logprobs, _ = batch
    action, target, said = kinds == 1, kinds == 2, (kinds == 2) | (kinds == 3)
    output = {
        "rollout_logprobs": torch.where(action, logprobs, 0.0).tolist(),
        "loss_masks": action.long().tolist(),
        "response_ids": kinds.tolist(),
    }
    marked = with_env_masks(output, target.long().tolist(), said.long().tolist())
    assert marked["loss_masks"] == output["loss_masks"]
    carried, mask = torch.tensor(marked["rollout_logprobs"]), action.float()
    if filtered:
        mask[0] = 0.0
    marks = read_marks(carried, mask)
    assert torch.equal(marks.targets, target)
    assert torch.equal(marks.observations, said)
    weights = torch.where(target, 0.125, 0.0)
    kept, found = split_weights(with_weights(carried, mask, weights), mask)
    assert torch.equal(found, weights * (mask == 0))
    assert torch.equal(kept, torch.where(mask > 0, logprobs, 0.0))


@pytest.mark.parametrize("rule", [rule for rules in RULES.values() for rule in rules])
@settings(deadline=None, max_examples=25)
@given(batches())
def test_each_mini_batch_is_weighed_as_an_optimiser_step(rule: Any, batch: Any):
    """Catches a denominator over the whole batch of rollouts where SkyRL steps once per mini-batch."""
    kinds, _, rows = batch
    half = int(rows) // 2
    objective = EchoConfig(normalizer=rule, constant_length=9 if rule == "constant_length" else None)
    marks = read_marks(torch.where(kinds == 2, 1.0, torch.where(kinds == 3, 2.0, 0.0)), (kinds == 1).float())
    found = step_weights(marks, (kinds == 1).float(), [(0, half), (half, int(rows))], objective, world_model_coeff=0.25)
    for start in (0, half):
        part = kinds[start : start + half]
        counts = TokenCounts(
            action_mask=(part == 1).flatten(),
            obs_mask=((part == 2) | (part == 3)).flatten(),
            env_mask=(part == 2).flatten(),
            sequence_index=torch.arange(half).repeat_interleave(part.shape[1]),
            num_sequences=half,
            constant_length=objective.constant_length,
        )
        expected = 0.25 * normalizer_weights(rule, counts)[1].reshape(part.shape)
        torch.testing.assert_close(found.weights[start : start + half], expected)
    assert found.num_targets == int((kinds == 2).sum())


@dataclass
class Algorithm:
    """The one field of SkyRL's that the loss changes."""

    policy_loss_type: str = "echo_regular"


def base_loss(log_probs: torch.Tensor, *rest: Any, config: Any, loss_mask: torch.Tensor, rollout_logprobs: Any) -> Any:
    """A policy loss that says what it was handed."""
    assert config.policy_loss_type == "regular"
    return -(log_probs * loss_mask).sum(), {"seen": rollout_logprobs}


def test_the_loss_is_the_base_plus_a_sum_of_products():
    """Catches weights that reach SkyRL's own loss as log-probs, and an environment term that touches actions."""
    algorithm = Algorithm()
    log_probs = torch.tensor([[-1.0, -2.0, -3.0, -4.0]], requires_grad=True)
    mask, carried = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[-0.5, 0.25, 0.0, 0.5]])
    loss, metrics = echo_policy_loss(
        log_probs, log_probs, mask, algorithm, mask, carried, base=base_loss, base_name="regular"
    )
    assert float(loss.detach()) == pytest.approx(1.0 + 0.25 * 2 + 0.5 * 4)
    assert metrics["env_loss"] == pytest.approx(2.5)
    assert metrics["seen"].tolist() == [[-0.5, 0.0, 0.0, 0.0]]
    loss.backward()
    assert log_probs.grad is not None
    assert log_probs.grad.tolist() == [[-1.0, -0.25, 0.0, -0.5]]
    with pytest.raises(EngineError, match="logprobs=1"):
        echo_policy_loss(log_probs, log_probs, mask, algorithm, mask, None, base=base_loss, base_name="regular")


@pytest.mark.parametrize(
    ("targets", "message"),
    [([[0, 1]], "as long as the response"), ([[1, 0, 0]], "at once")],
)
def test_masks_that_do_not_fit_are_refused(targets: list[list[int]], message: str):
    """Catches masks of prompt and response together, and an action that becomes a target of the world's term."""
    output = {"rollout_logprobs": [[-0.1, 0.0, 0.0]], "loss_masks": [[1, 0, 0]]}
    with pytest.raises(DataError, match=message):
        with_env_masks(output, targets)
    with pytest.raises(DataError, match="logprobs=1"):
        with_env_masks(output | {"rollout_logprobs": None}, [[0, 1, 1]])


def config(**changes: Any) -> Any:
    """The part of SkyRL's configuration that is checked, with `path__key=value` changes."""
    algorithm = {
        "policy_loss_type": "echo_regular", "temperature": 1.0, "loss_reduction": "sequence_mean", "max_seq_len": None
    }  # fmt: skip
    generator = {"step_wise_trajectories": False, "sampling_params": SimpleNamespace(logprobs=1)}
    for name, value in changes.items():
        (algorithm if name in algorithm else generator)[name] = value
    trainer = SimpleNamespace(algorithm=SimpleNamespace(**algorithm))
    return SimpleNamespace(trainer=trainer, generator=SimpleNamespace(**generator))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_loss_type": "regular"}, "no environment term"),
        ({"temperature": 0.8}, r"temperature=1\.0"),
        ({"step_wise_trajectories": True}, "never scores"),
        ({"sampling_params": SimpleNamespace(logprobs=None)}, "set it to 1"),
        ({"loss_reduction": "token_mean"}, "global_token_mean, verl_token_mean"),
        ({"loss_reduction": "prompt_mean"}, "no rule here"),
    ],
)
def test_a_setting_that_makes_echo_wrong_or_inert_is_refused(changes: dict[str, Any], message: str):
    """Catches a run whose environment term is absent, at the sampling temperature, or divided by another rule."""
    check_config(config(), EchoConfig())
    with pytest.raises(ConfigError, match=message):
        check_config(config(**changes), EchoConfig())


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (EchoConfig(policy=PolicyConfig(kl_coeff=0.1)), "policy has no effect"),
        (EchoConfig(tool_coeffs={"search": 0.5}), "tool_coeffs has no effect"),
        (EchoConfig(grader_is_target=True), "grader_is_target has no effect"),
        (EchoConfig(filters=FilterConfig(min_valid_call_fraction=0.5)), "not applied in SkyRL"),
        (EchoConfig(normalizer="constant_length", constant_length=8), "make them equal"),
    ],
)
def test_an_objective_beyond_skyrl_is_refused(objective: EchoConfig, message: str):
    """Catches a key of the objective that is read and then ignored."""
    reduction = "seq_mean_token_sum_norm" if objective.constant_length else "sequence_mean"
    with pytest.raises(ConfigError, match=message):
        check_objective(objective, loss_reduction=reduction, max_seq_len=4)


def test_an_objective_is_read_from_a_toml_file(tmp_path: Path):
    """Catches a misspelt key that becomes a default."""
    path = tmp_path / "echo.toml"
    path.write_text('[objective]\nworld_model_coeff = 0.02\nnormalizer = "sequence_mean_selected"\n')
    assert read_objective(path).world_model_coeff == 0.02
    path.write_text("[objective]\nworld_model_coef = 0.02\n")
    with pytest.raises(ConfigError, match="Did you mean"):
        read_objective(path)
    path.write_text("world_model_coeff = 0.02\n")
    with pytest.raises(ConfigError, match=r"table \[objective\]"):
        read_objective(path)


class Rollouts:
    """One rollout of two answers as SkyRL's own generator returns it: template and output have loss mask 0."""

    def __init__(self, tokenizer: Any) -> None:
        def ids(text: str) -> list[int]:
            return tokenizer.encode(text, add_special_tokens=False)

        task = [{"role": "user", "content": "Look."}]
        prompt = tokenizer.apply_chat_template(task, tokenize=False, add_generation_prompt=True)
        runs = [
            (ids("ls<|im_end|>"), 1),
            (ids("\n<|im_start|>user\n"), 0),
            (ids("a.log b.log"), 2),
            (ids("<|im_end|>\n<|im_start|>assistant\n"), 0),
            (ids("done<|im_end|>"), 1),
        ]
        self.kinds = [kind for run, kind in runs for _ in run]
        self.output = {
            "prompt_token_ids": [ids(prompt)],
            "response_ids": [[token for run, _ in runs for token in run]],
            "rewards": [1.0],
            "loss_masks": [[int(kind == 1) for kind in self.kinds]],
            "rollout_logprobs": [[-0.5 if kind == 1 else 0.0 for kind in self.kinds]],
            "rollout_metrics": {"generate/x": 1.0},
        }

    async def generate(self, input_batch: Any) -> Any:
        return self.output


def test_a_generators_observations_are_marked_to_the_token(smollm2_dir: Path, smollm2_tokenizer: Any):
    """Catches template tokens, or the turn end that the loss mask leaves out, among the targets."""
    inner = Rollouts(smollm2_tokenizer)
    generator = EchoGenerator(inner, template_marks(smollm2_dir))
    output = asyncio.run(generator.generate({"prompts": []}))
    expected = [{0: 0.0, 1: -0.5, 2: 1.0}[kind] for kind in inner.kinds]
    assert output["rollout_logprobs"] == [expected]
    assert output["loss_masks"] == inner.output["loss_masks"]
    assert output["rollout_metrics"] == {"generate/x": 1.0, "generate/num_rollouts_without_marks": 0.0}
    evaluation = {"batch_metadata": SimpleNamespace(training_phase="eval")}
    assert asyncio.run(generator.generate(evaluation)) is inner.output


def test_a_rollout_that_cannot_be_read_is_counted(smollm2_dir: Path, smollm2_tokenizer: Any):
    """Catches a guess where the template proves nothing: such a rollout has no targets, and is counted."""
    inner = Rollouts(smollm2_tokenizer)
    inner.output["loss_masks"] = [[0] * len(inner.kinds)]
    output = asyncio.run(EchoGenerator(inner, template_marks(smollm2_dir)).generate({}))
    assert output["rollout_metrics"]["generate/num_rollouts_without_marks"] == 1.0
    assert output["rollout_logprobs"] == [[0.0] * len(inner.kinds)]
    given = EchoGenerator(inner, lambda prompt, response, mask: RowMarks([1] * len(mask), [1] * len(mask)))
    assert asyncio.run(given.generate({}))["rollout_logprobs"] == [[1.0] * len(inner.kinds)]
