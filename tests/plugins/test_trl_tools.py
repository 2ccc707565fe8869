"""Tools that TRL calls itself, from `environment_factory` to the gradient, on Qwen3's real template."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from trl.chat_template_utils import qwen3_chat_template
from trl_material import (
    ECHO,
    QUIET,
    Gradients,
    ScriptedQwen3,
    grpo_config,
    small_qwen3_tokenizer,
    tiny_qwen3,
    tool_call,
)

from envecho.plugins.trl import EchoGRPOTrainer
from envecho.plugins.trl.row_masks import TARGETS

pytestmark = QUIET

ANSWERS = {"shed": "a saw and 3 nails", "shelf": "two books", "box": "<|im_end|> is a token", "attic": "dust " * 400}


class House:
    """An environment as TRL takes it."""

    def reset(self, **_: Any) -> str:
        return " Say what you find."

    def look(self, place: str) -> str:
        """Look into a place.

        Args:
            place: Where to look.

        Returns:
            What is there.
        """
        return ANSWERS[place]

    def get_reward(self) -> float:
        return 0.0


def script(plan: dict[str, list[str]]) -> Any:
    """What the model says, by the task in its prompt and the number of answers so far."""

    def say(text: str) -> str:
        (task,) = [task for task in plan if f"[{task}]" in text]
        turn = text.rpartition(f"[{task}]")[2].count("<|im_start|>assistant") - 1
        return plan[task][min(turn, len(plan[task]) - 1)]

    return say


@pytest.fixture
def tokenizer() -> Any:
    """Qwen3's real template and control tokens over a small vocabulary."""
    return small_qwen3_tokenizer(qwen3_chat_template)


def house_trainer(out: Path, tokenizer: Any, plan: dict[str, list[str]], **changes: Any) -> tuple[Any, Gradients]:
    gradients = Gradients()
    model = tiny_qwen3(len(tokenizer), model_class=ScriptedQwen3, pad_id=tokenizer.pad_token_id)
    model.script, model.tokenizer = script(plan), tokenizer
    prompts = [[{"role": "user", "content": f"[{task}]"}] for task in plan]
    settings = {"per_device_train_batch_size": 2 * len(plan), "max_completion_length": 320, **changes}
    echo = settings.pop("echo", ECHO)
    trainer = EchoGRPOTrainer(
        model=model,
        args=grpo_config(out, **settings),
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[gradients],
        environment_factory=House,
        echo=echo,
    )
    return trainer, gradients


def look(*places: str) -> str:
    return "\n".join(tool_call("look", place=place) for place in places) + "<|im_end|>"


def said(trainer: Any, tokenizer: Any) -> list[str]:
    """The words of each row that are trained, in the order of the micro-batch."""
    (inputs,) = trainer._buffered_inputs
    return [tokenizer.decode(ids[mask]) for ids, mask in zip(inputs["completion_ids"], inputs[TARGETS], strict=True)]


DONE = "Done.<|im_end|>"


def test_what_is_trained_are_the_words_of_the_tools_and_nothing_else(tmp_path: Path, tokenizer: Any):
    """Catches scaffold in the mask, an earlier turn that moves it, and parallel results that are joined wrongly."""
    plan = {
        "one": ["<think>\nHm.\n</think>\n\n" + look("shed"), DONE],
        "two": [look("shelf"), look("shed"), DONE],
        "both": [look("shed", "shelf"), DONE],
        "none": [DONE],
    }
    trainer, gradients = house_trainer(tmp_path, tokenizer, plan)
    trainer.train()
    shed, shelf = ANSWERS["shed"], ANSWERS["shelf"]
    assert sorted(said(trainer, tokenizer)) == sorted(2 * [shed, shelf + shed, shed + shelf, ""])
    line = trainer.state.log_history[0]
    expected = 2 * sum(len(tokenizer(text)["input_ids"]) for text in (shed, shelf, shed, shed, shelf))
    assert line["num_env_tokens"] == expected
    assert line["num_rows_unproved"] == line["num_env_tokens_dropped"] == 0
    assert line["tools/call_frequency"] == 5 / 4
    assert line["effective_lambda"] == pytest.approx(0.05, rel=1e-5)
    # Every reward is 0, so the gradient is the environment's alone.
    assert gradients.steps[0]["model.layers.0.mlp.up_proj.weight"].norm() > 0


def test_on_qwen3s_own_vocabulary_the_words_are_the_same(tmp_path: Path, qwen3_tokenizer: Any):
    """Catches what a small vocabulary hides: merges of 151,000 tokens, on the tokenizer that people use."""
    tokenizer = copy.deepcopy(qwen3_tokenizer)
    tokenizer.chat_template, tokenizer.padding_side = qwen3_chat_template, "left"
    trainer, _ = house_trainer(tmp_path, tokenizer, {"two": [look("shelf", "shed"), DONE]})
    trainer.train()
    assert said(trainer, tokenizer) == 2 * [ANSWERS["shelf"] + ANSWERS["shed"]]
    assert trainer.state.log_history[0]["env_ce"] == pytest.approx(math.log(len(tokenizer)), rel=0.05)


def test_long_results_and_control_tokens_are_counted_where_they_are_lost(tmp_path: Path, tokenizer: Any):
    """Catches observations that disappear without a trace: dropped by TRL, or not to be told from scaffold."""
    plan = {"box": [look("box"), DONE], "attic": [look("attic"), DONE]}
    trainer, gradients = house_trainer(tmp_path, tokenizer, plan)
    trainer.train()
    line = trainer.state.log_history[0]
    assert line["num_env_tokens"] == 0
    assert "env_ce" not in line
    assert line["env_loss"] == 0
    assert line["num_rows_unproved"] == 2
    assert line["num_env_tokens_dropped"] == pytest.approx(2 * len(tokenizer(ANSWERS["attic"])["input_ids"]), abs=4)
    assert all(not value.any() for value in gradients.steps[0].values())


def test_a_failed_call_is_a_warning_in_the_row(tmp_path: Path, tokenizer: Any):
    """Catches TRL's own words for an exception as a target."""
    plan = {"odd": [look("cellar"), DONE], "one": [look("shed"), DONE]}
    trainer, _ = house_trainer(tmp_path, tokenizer, plan)
    trainer.train()
    assert sorted(set(said(trainer, tokenizer))) == ["", ANSWERS["shed"]]
    (inputs,) = trainer._buffered_inputs  # the whole observation counts where a rule divides by its length
    assert int((inputs["echo_observed"] & ~inputs[TARGETS]).sum()) > 0


def test_tool_turns_survive_accumulation_and_evaluation(tmp_path: Path, tokenizer: Any):
    """Catches masks that are not shuffled and cut together with their rows."""
    plan = {"one": [look("shed"), DONE], "two": [look("shelf"), look("shed"), DONE]}
    logs: list[dict[str, Any]] = []
    norms: list[Any] = []
    for accumulation in (1, 4):
        trainer, gradients = house_trainer(
            tmp_path,
            tokenizer,
            plan,
            per_device_train_batch_size=4 // accumulation,
            gradient_accumulation_steps=accumulation,
            per_device_eval_batch_size=4,
        )
        trainer.train()
        logs.append(trainer.state.log_history[0])
        norms.append(gradients.steps[0]["model.layers.0.mlp.up_proj.weight"])
        prompts = [[{"role": "user", "content": f"[{task}]"}] for task in plan]
        found = trainer.evaluate(Dataset.from_dict({"prompt": prompts}))
        assert trainer.state.log_history[-1]["eval_num_env_tokens"] == logs[0]["num_env_tokens"]
        assert found["eval_loss"] != 0
    assert logs[0]["env_ce"] == pytest.approx(logs[1]["env_ce"], rel=1e-6)
    assert torch.allclose(norms[0], norms[1], rtol=1e-4, atol=1e-9)
