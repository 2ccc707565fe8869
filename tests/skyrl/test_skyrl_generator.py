"""SkyRL's own generator and an environment of its kind, scripted, with its observations marked (`make test-skyrl`)."""

from __future__ import annotations

import asyncio
import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("skyrl.backends", reason="SkyRL's training stack has an environment of its own: make test-skyrl")

import skyrl_gym
from skyrl_gym.envs.base_text_env import BaseTextEnv

from envecho.plugins.skyrl import EchoGenerator
from envecho.plugins.skyrl.generator import template_marks

QWEN3 = Path(__file__).parents[3] / "shared" / "tokenizers" / "qwen3"
SAID = ("total 2\na.log  b.log\n", "<tool_response> 3 errors <|im_end|> and more")
"""What the world says: an ordinary output, and one that spells the template's own tokens."""


class Shell(BaseTextEnv):
    """A text environment of skyrl_gym that answers each turn, and is done after the last."""

    def __init__(self, env_config: Any = None, extras: Any = None) -> None:
        super().__init__()

    def step(self, action: str) -> dict[str, Any]:
        self.turns += 1
        done = self.turns > len(SAID)
        said = [] if done else [{"role": "user", "content": SAID[self.turns - 1]}]
        return {"observations": said, "reward": float(done), "done": done, "metadata": {}}


skyrl_gym.register(id="shell_of_a_test", entry_point=Shell)


class Client:
    """An inference engine that always answers the same command, with its log-probs."""

    def __init__(self, tokenizer: Any) -> None:
        self.ids = tokenizer.encode("ls<|im_end|>", add_special_tokens=False)

    async def generate(self, engine_input: Any, model: str | None = None) -> dict[str, Any]:
        return {
            "responses": ["ls"],
            "response_ids": [list(self.ids)],
            "stop_reasons": ["stop"],
            "response_logprobs": [[-0.5] * len(self.ids)],
        }

    async def finish_session(self, session_id: str) -> None:
        return None


def test_skyrls_own_rollouts_are_marked_to_the_token():
    """Catches a chat layout of SkyRL's generator that our reader takes for something else, or marks by guessing."""
    if not QWEN3.is_dir():
        pytest.skip("Qwen3's tokenizer lies beside the project in development and CI only; it is absent here")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(QWEN3)
    module: Any = importlib.import_module("skyrl.train.generators.skyrl_gym_generator")
    config: Any = importlib.import_module("skyrl.train.config").SkyRLTrainConfig.from_cli_overrides(
        {"generator.max_turns": 4, "generator.sampling_params.logprobs": 1}
    )
    inner = module.SkyRLGymGenerator(
        generator_cfg=config.generator,
        skyrl_gym_cfg=config.environment.skyrl_gym,
        inference_engine_client=Client(tokenizer),
        tokenizer=tokenizer,
    )
    batch = {
        "prompts": [[{"role": "user", "content": "Look."}]],
        "env_classes": ["shell_of_a_test"],
        "env_extras": [{}],
        "sampling_params": None,
        "trajectory_ids": None,
        "batch_metadata": SimpleNamespace(training_phase="train", global_step=1),
    }
    output = asyncio.run(EchoGenerator(inner, template_marks(QWEN3)).generate(batch))
    (ids,), (carried,), (mask,) = output["response_ids"], output["rollout_logprobs"], output["loss_masks"]
    marked = [token for token, value in zip(ids, carried, strict=True) if value > 0]
    assert output["rollout_metrics"]["generate/num_rollouts_without_marks"] == 0.0
    assert sum(mask) == 3 * len(Client(tokenizer).ids)
    assert tokenizer.decode(marked) == SAID[0] + SAID[1]
