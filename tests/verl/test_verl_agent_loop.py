"""The agent loop under verl's own AgentLoopBase and AgentLoopWorker; turns are sampled by an engine, not made up."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest
from verl_present import has_verl

if not has_verl():
    pytest.skip("needs verl: make test-verl", allow_module_level=True)

import numpy as np
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from envecho import LocalEngine
from envecho.errors import ConfigError, DataError
from envecho.plugins.verl.dataset import task_rows
from envecho.seam import SamplingParams, ScoreRequest
from envecho.trajectory import SOURCES, Role, StopReason
from envecho.worlds.suites import open_suite

pytestmark = pytest.mark.filterwarnings("ignore")

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "repetition_penalty": 1.0, "logprobs": True}
WORLD = "depot"


class EngineServer:
    """verl's server manager by its one method, behind which the local engine samples."""

    def __init__(self, folder: Path, *, pause: float = 0.0) -> None:
        from transformers import AutoTokenizer

        self.engine = LocalEngine(folder, device="cpu", compute_dtype="float32", trains=False)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.num_calls = self.num_waiting = self.most_waiting = 0
        self.pause = pause
        self.stop_reason = "completed"

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> Any:
        from verl.workers.rollout.replica import TokenOutput

        self.num_calls += 1
        self.num_waiting += 1
        self.most_waiting = max(self.most_waiting, self.num_waiting)
        await asyncio.sleep(self.pause)
        self.num_waiting -= 1
        ids, logprobs = self.turn(prompt_ids, sampling_params)
        return TokenOutput(
            token_ids=ids,
            log_probs=logprobs,
            stop_reason=self.stop_reason,
            num_preempted=0,
            extra_fields={"min_global_steps": self.num_calls, "max_global_steps": self.num_calls},
        )

    def turn(self, prompt_ids: list[int], sampling_params: dict[str, Any]) -> tuple[list[int], list[float]]:
        params = SamplingParams(
            max_tokens=sampling_params["max_tokens"],
            temperature=sampling_params["temperature"],
            seed=self.num_calls,
            stop_token_ids=(self.tokenizer.eos_token_id,),
        )
        (sample,) = self.engine.sample([np.array(prompt_ids, dtype=np.int32)], params)
        return sample.token_ids.tolist(), sample.logprobs.tolist()


class OracleServer(EngineServer):
    """Says what the task's script says, with the log-probs that the engine's model gives it."""

    def __init__(self, folder: Path, actions: list[str]) -> None:
        super().__init__(folder)
        self.actions = actions

    def turn(self, prompt_ids: list[int], sampling_params: dict[str, Any]) -> tuple[list[int], list[float]]:
        text = self.actions[self.num_calls - 1]
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        return ids, score(self.engine, [*prompt_ids, *ids])[len(prompt_ids) :].tolist()


def score(engine: LocalEngine, ids: list[int]) -> np.ndarray:
    read = np.arange(len(ids)) > 0
    return engine.logprobs([ScoreRequest(token_ids=np.array(ids, dtype=np.int32), read=read)])[0].logprobs


def loop_of(config: Any, server: Any, **options: Any) -> Any:
    """Make the agent loop as verl's worker makes it."""
    from verl.experimental.agent_loop.agent_loop import DictConfigWrap, ToolListWrap
    from verl.utils.dataset.rl_dataset import RLHFDataset

    return instantiate(
        OmegaConf.create({"name": "envecho_world", "_target_": "envecho.plugins.verl.WorldAgentLoop", **options}),
        trainer_config=DictConfigWrap(config),
        server_manager=server,
        tokenizer=server.tokenizer,
        processor=None,
        hf_model_type="llama",
        dataset_cls=RLHFDataset,
        data_config=DictConfigWrap(config.data),
        tools=ToolListWrap([]),
    )


def row(number: int) -> dict[str, Any]:
    one = task_rows(open_suite(WORLD), WORLD, "train", number + 1)[number]
    return {"extra_info": one["extra_info"], "raw_prompt": one["prompt"], "uid": f"group-{number}", "session_id": 1}


def play(config: Any, server: Any, number: int = 0, **options: Any) -> Any:
    options = {"max_turns": 3, "max_tokens_per_turn": 12, **options}

    async def run() -> Any:
        return await loop_of(config, server, **options).run(dict(SAMPLING), **row(number))

    return asyncio.run(run())


def test_what_was_sampled_stands_in_the_row_as_it_was_drawn(verl_config: Any, depot_model: Path) -> None:
    """Catches ids that are decoded and encoded again, log-probs at other tokens, and another context than was seen."""
    server = EngineServer(depot_model)
    output = play(verl_config, server)
    ids = [*output.prompt_ids, *output.response_ids]
    scored = score(server.engine, ids)[len(output.prompt_ids) :]
    acts = np.array(output.response_mask, dtype=bool)
    np.testing.assert_allclose(np.array(output.response_logprobs)[acts], scored[acts], atol=1e-4)
    assert server.num_calls == 3
    assert output.extra_fields["action_mask"] == output.response_mask
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (1, 3)
    assert output.metrics.generate_sequences > 0
    assert output.num_turns > 3


def test_the_observation_mask_holds_the_worlds_words_and_the_reward_is_the_worlds(
    verl_config: Any, depot_model: Path
) -> None:
    """Catches masks that hold scaffold or harness text, and a reward that verl would look for elsewhere."""
    suite = open_suite(WORLD, max_turns=8)
    world = suite.make_world("train", 0)
    world.reset()
    policy = suite.scripted_policy("train", 0, policy="oracle", seed=0)
    actions: list[str] = []
    words: list[str] = []
    reward = None
    while reward is None:
        action = policy.act([]).message.content
        actions.append(action)
        answer = world.step(action)
        words += [s.text for s in answer.segments if s.source.role is Role.ENV_OUTPUT]
        reward = answer.reward if answer.done else None
    output = play(verl_config, OracleServer(depot_model, actions), max_turns=8)
    masked = [t for t, m in zip(output.response_ids, output.extra_fields["obs_mask"], strict=True) if m]
    tokenizer = OracleServer(depot_model, []).tokenizer
    assert tokenizer.decode(masked) == "".join(words)
    assert output.reward_score == reward
    codes = np.array(output.extra_fields["sources"])
    assert {SOURCES[c].role for c in codes[np.array(output.extra_fields["obs_mask"], dtype=bool)]} == {Role.ENV_OUTPUT}


def test_verls_worker_plays_rows_with_what_its_file_says_every_time(
    verl_config: Any, depot_model: Path, tmp_path: Path
) -> None:
    """Catches a class that registers itself on import and thereby loses the options of the file, from episode 2 on."""
    from verl.experimental.agent_loop.agent_loop import AgentLoopWorker
    from verl.protocol import DataProto

    file = tmp_path / "agent_loops.yaml"
    loop = {"name": "envecho_world", "_target_": "envecho.plugins.verl.WorldAgentLoop"}
    OmegaConf.save(OmegaConf.create([{**loop, "max_turns": 2, "max_tokens_per_turn": 9}]), file)
    config = copy.deepcopy(verl_config)
    config.actor_rollout_ref.rollout.agent.agent_loop_config_path = str(file)
    server = EngineServer(depot_model)
    worker = AgentLoopWorker(config, server)
    rows = [row(number) for number in range(4)]

    def column(key: str) -> np.ndarray:
        made = np.empty(len(rows), dtype=object)
        made[:] = [one[key] for one in rows]
        return made

    batch = DataProto.from_dict(
        tensors={"none": torch.zeros(len(rows), 1)},
        non_tensors={
            "agent_name": np.array(["envecho_world"] * len(rows), dtype=object),
            "extra_info": column("extra_info"),
            "uid": column("uid"),
            "raw_prompt": np.array([one["raw_prompt"] for one in rows], dtype=object),
        },
    )
    found = asyncio.run(worker.generate_sequences(batch))
    assert server.num_calls == 2 * len(rows)
    masks = found.batch["response_mask"]
    for number, fields in enumerate(found.non_tensor_batch["action_mask"]):
        assert masks[number, : len(fields)].tolist() == fields
        assert sum(fields) <= 18
    assert found.batch["rm_scores"].shape == masks.shape


def test_episodes_wait_for_the_server_side_by_side(verl_config: Any, depot_model: Path) -> None:
    """Catches a loop that blocks verl's event loop while a world works or a turn is sampled."""
    server = EngineServer(depot_model, pause=0.2)

    async def run() -> None:
        loops = [loop_of(verl_config, server, max_turns=1, max_tokens_per_turn=4) for _ in range(6)]
        await asyncio.gather(*(one.run(dict(SAMPLING), **row(0)) for one in loops))

    asyncio.run(run())
    assert server.most_waiting == 6


def test_an_aborted_turn_ends_its_episode_and_trains_no_action(verl_config: Any, depot_model: Path) -> None:
    """Catches a half-sampled turn that is trained, and a group that loses a row."""
    server = EngineServer(depot_model)
    server.stop_reason = "aborted"
    output = play(verl_config, server, failed_reward=-1.0)
    assert output.extra_fields.get("stop_reason") in (None, StopReason.POLICY_ERROR.value)
    assert not any(output.response_mask)
    assert output.reward_score == -1.0


def test_a_row_that_names_no_task_is_refused(verl_config: Any, depot_model: Path) -> None:
    """Catches a dataset of another agent loop, which would be played as some task of ours."""
    server = EngineServer(depot_model)

    async def run() -> None:
        await loop_of(verl_config, server).run(dict(SAMPLING), extra_info={"index": 0}, raw_prompt=[], uid="u")

    with pytest.raises(DataError, match="world, split, task"):
        asyncio.run(run())


def test_a_configuration_without_echo_is_refused_before_an_episode(verl_config: Any, depot_model: Path) -> None:
    """Catches rollouts that are paid for and then trained by an engine that ignores their masks."""
    config = copy.deepcopy(verl_config)
    config.actor_rollout_ref.actor.fsdp_config._target_ = "verl.workers.config.FSDPEngineConfig"
    with pytest.raises(Exception, match="would train without ECHO") as caught:
        loop_of(config, EngineServer(depot_model))
    causes = [caught.value, caught.value.__cause__]
    assert any(isinstance(cause, ConfigError) for cause in causes)


def test_a_prompt_that_verl_has_no_room_for_is_refused(verl_config: Any, depot_model: Path) -> None:
    """Catches a task that is cut from the left, so that the policy never reads it."""
    config = copy.deepcopy(verl_config)
    config.actor_rollout_ref.rollout.prompt_length = 4
    with pytest.raises(ConfigError, match="max_prompt_length is 4"):
        play(config, EngineServer(depot_model))
