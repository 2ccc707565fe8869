"""`rollout_in`: the worlds of envecho played by the trainer's own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trl.chat_template_utils import qwen3_chat_template
from trl_material import ECHO, QUIET, grpo_config, small_qwen3_tokenizer, tiny_qwen3

from envecho.errors import ConfigError, DataError
from envecho.plugins.trl import EchoGRPOTrainer, rollout_in
from envecho.recipes.depot_tokenizer import train_depot_tokenizer

pytestmark = QUIET


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    tokenizer = train_depot_tokenizer()
    tokenizer.padding_side = "left"
    return tokenizer


def depot_trainer(out: Path, tokenizer: Any, *, world: str = "depot", **changes: Any) -> Any:
    depot = rollout_in(world, max_turns=3, max_tokens_per_turn=24)
    model = tiny_qwen3(len(tokenizer), pad_id=tokenizer.pad_token_id)
    return EchoGRPOTrainer(
        model=model,
        reward_funcs=depot.reward,
        args=grpo_config(out, **changes),
        train_dataset=depot.dataset(4),
        processing_class=tokenizer,
        rollout_func=depot,
        echo=ECHO.model_copy(update={"world_loss_target": "all"}),
    )


def rows(trainer: Any, num: int = 4) -> dict[str, list[Any]]:
    trainer.model.train()
    return trainer.rollout_func(["depot train 0"] * num, trainer)


def test_a_world_is_trained_in_by_naming_it(tmp_path: Path, tokenizer: Any):
    """Catches a rollout_func whose rows the trainer cannot take, or in which nothing is trained."""
    trainer = depot_trainer(tmp_path, tokenizer, max_steps=2, per_device_train_batch_size=4)
    trainer.train()
    lines = trainer.state.log_history[:2]
    assert all(line["num_env_tokens"] > 0 for line in lines)
    assert all(np.isfinite(line["env_ce"]) and np.isfinite(line["reward"]) for line in lines)


def test_what_a_row_says_is_what_was_said(tmp_path: Path, tokenizer: Any):
    """Catches masks that are shifted against the ids, or harness text among the world's words."""
    made = rows(depot_trainer(tmp_path, tokenizer))
    for ids, action, obs, warning in zip(
        made["completion_ids"], made["env_mask"], made["obs_mask"], made["warning_mask"], strict=True
    ):
        assert len(ids) == len(action) == len(obs) == len(warning)
        warned = tokenizer.decode([token for token, on in zip(ids, warning, strict=True) if on])
        world = tokenizer.decode([token for token, on in zip(ids, obs, strict=True) if on])
        assert "reply was cut" not in world
        assert "no such door" in world or "cut after" in warned or "expected one line" in warned
        assert action[0] == 1


def test_log_probs_are_those_of_the_model_that_sampled(tmp_path: Path, tokenizer: Any):
    """Catches log-probs of another temperature or position: a ratio over them would be wrong everywhere."""
    trainer = depot_trainer(tmp_path, tokenizer, temperature=0.7)
    made = rows(trainer, num=2)
    trainer.model.eval()
    for prompt, ids, logprobs, action in zip(
        made["prompt_ids"], made["completion_ids"], made["logprobs"], made["env_mask"], strict=True
    ):
        whole = torch.tensor([prompt + ids])
        with torch.no_grad():
            scores = torch.log_softmax(trainer.model(whole).logits[0].float() / 0.7, dim=-1)
        read = scores[:-1].gather(-1, whole[0, 1:, None]).squeeze(-1)[len(prompt) - 1 :]
        mask = torch.tensor(action).bool()
        assert torch.allclose(read[mask], torch.tensor(logprobs)[mask], atol=1e-4)


def test_a_world_with_tools_is_played_through_the_chat_template(tmp_path: Path):
    """Catches tools that the model is not shown, and answers that are no tool messages, on Qwen3's real template."""
    tokenizer = small_qwen3_tokenizer(qwen3_chat_template)
    tools = rollout_in("tools", max_turns=2, max_tokens_per_turn=8, tool_protocol="template")
    model = tiny_qwen3(len(tokenizer), pad_id=tokenizer.pad_token_id)
    model.config.max_position_embeddings = 8192
    trainer = EchoGRPOTrainer(
        model=model,
        reward_funcs=tools.reward,
        args=grpo_config(tmp_path, per_device_train_batch_size=2),
        train_dataset=tools.dataset(2),
        processing_class=tokenizer,
        rollout_func=tools,
        echo=ECHO.model_copy(update={"world_loss_target": "all"}),
    )
    made = tools([tools.dataset(1)[0]["prompt"]], trainer)
    shown = tokenizer.decode(made["prompt_ids"][0])
    answered = tokenizer.decode(made["completion_ids"][0])
    assert "<tools>" in shown
    assert "<tool_response>" in answered
    assert sum(made["obs_mask"][0]) + sum(made["warning_mask"][0]) > 0


class Broken:
    """A world that does not start."""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **_: Any) -> Any:
        raise RuntimeError("no disk")

    def step(self, action: str, timeout_s: float | None = None) -> Any:
        raise RuntimeError("never started")

    @property
    def state(self) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        pass


def test_an_episode_whose_world_fails_is_a_row_without_a_target(tmp_path: Path, tokenizer: Any):
    """Catches a run that dies of one broken world, and a harness error that is trained as the world's words."""
    trainer = depot_trainer(tmp_path, tokenizer, world=f"{__name__}:Broken")
    trainer.echo = ECHO
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["num_env_tokens"] == 0
    assert line["loss"] == 0


def test_a_prompt_that_names_no_task_is_refused(tmp_path: Path, tokenizer: Any):
    """Catches a data set of chat prompts, which this rollout_func would silently not show to the model."""
    trainer = depot_trainer(tmp_path, tokenizer)
    with pytest.raises(DataError, match="names no task"):
        trainer.rollout_func([[{"role": "user", "content": "hi"}]], trainer)


@pytest.mark.parametrize("changes", [{"top_p": 0.9}, {"top_k": 5}, {"repetition_penalty": 1.1}])
def test_a_filtered_sampling_distribution_is_refused(tmp_path: Path, tokenizer: Any, changes: dict[str, Any]):
    """Catches samples of another distribution than the one whose log-probs TRL's policy term reads."""
    trainer = depot_trainer(tmp_path, tokenizer, **changes)
    with pytest.raises(ConfigError, match=next(iter(changes))):
        rows(trainer)


def test_an_unknown_world_is_refused_before_the_run():
    """Catches a typing error that shows up after the model was loaded."""
    with pytest.raises(ConfigError, match="Did you mean 'depot'"):
        rollout_in("depo")
