"""Turns from a server in every dialect: ids and log-probs of the engine behind it, and what goes wrong on the way."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from loopback import LoopbackServer
from numpy.typing import NDArray
from served_material import scores

from envecho.engines.local import LocalEngine
from envecho.errors import ConfigError, EngineError
from envecho.rollout import RolloutJob, RolloutParams, rollout
from envecho.rollout.exchange import TurnsFailedError
from envecho.rollout.served import ServedSampler, ServerLostError, WireOptions, request_seed
from envecho.rollout.served.answers import to_sample
from envecho.rollout.served.dialect import Answer, AnswerError, Turn
from envecho.seam import Sample, Sampler, SamplingParams, TurnRequest
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import StopReason
from envecho.worlds.depot.suite import DepotSuite

KINDS = ("vllm", "sglang", "openai", "llama_cpp")
QUICK = WireOptions(seconds=5, attempts=3, backoff_seconds=0.01)


def prompts() -> list[NDArray[np.int32]]:
    draw = np.random.default_rng(2)
    return [draw.integers(4, 250, size).astype(np.int32) for size in (3, 17, 40)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_is_what_the_engine_behind_the_server_draws(kind, small_dir: Path) -> None:
    """Catches ids of the prompt, a shifted log-prob, one of another temperature, and seeds that are not sent."""
    engine = LocalEngine(small_dir, device="cpu", compute_dtype="float32", trains=False)
    params = SamplingParams(max_tokens=9, temperature=0.7, seed=4)
    with LoopbackServer(small_dir, kind) as server, ServedSampler(server.url, kind=kind) as sampler:
        assert isinstance(sampler, Sampler)
        with sampler.sampling_session() as session:
            requests = [TurnRequest(row=row, prompt=prompt, key=(row, 1)) for row, prompt in enumerate(prompts())]
            drawn = session.sample(requests, params)
    for request, sample, score in zip(requests, drawn, scores(engine, prompts(), drawn, 0.7), strict=True):
        with engine.sampling_session() as own:
            key = (request_seed(4, request.key),)
            (expected,) = own.sample(
                [TurnRequest(row=0, prompt=request.prompt, key=key)], SamplingParams(max_tokens=9, temperature=0.7)
            )
        assert np.array_equal(sample.token_ids, expected.token_ids)
        np.testing.assert_allclose(sample.logprobs, expected.logprobs, atol=1e-6)
        np.testing.assert_allclose(sample.logprobs, score, atol=1e-5)
        assert not sample.stopped
        assert sample.entropies is None


def test_draws_are_a_function_of_seed_and_key_and_not_of_company(small_dir: Path) -> None:
    """Catches requests that share a seed, and answers that are handed to another episode."""
    asked = [TurnRequest(row=row, prompt=prompts()[0], key=(5, row)) for row in range(12)]
    params = SamplingParams(max_tokens=6, seed=1)
    with LoopbackServer(small_dir, "vllm") as server, ServedSampler(server.url, kind="vllm") as sampler:
        together = sampler.sample_turns(asked, params)
        alone = [sampler.sample_turns([request], params)[0] for request in reversed(asked)][::-1]
        equal_prompts = sampler.sample([prompts()[0]] * 2, params)
    assert [s.token_ids.tolist() for s in together] == [s.token_ids.tolist() for s in alone]
    assert len({tuple(s.token_ids.tolist()) for s in together}) == 12
    assert equal_prompts[0].token_ids.tolist() != equal_prompts[1].token_ids.tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_a_turn_ends_at_its_stop_token_which_has_a_log_prob(kind, small_dir: Path) -> None:
    """Catches an end of turn that is cut off, and with it the token that a policy must learn to say."""
    free, stop = SamplingParams(max_tokens=8, temperature=1.0), 0
    end_tokens = list(range(4, 260, 3)) if kind == "llama_cpp" else None
    with (
        LoopbackServer(small_dir, kind, end_tokens=end_tokens) as server,
        ServedSampler(server.url, kind=kind) as sampler,
    ):
        whole = sampler.sample(prompts()[:1], free)[0]
        stop = int(whole.token_ids[-1])
        ended = sampler.sample(prompts()[:1], SamplingParams(max_tokens=8, temperature=1.0, stop_token_ids=(stop,)))[0]
    place = whole.token_ids.tolist().index(stop)
    assert ended.token_ids.tolist() == whole.token_ids.tolist()[: place + 1]
    assert len(ended.logprobs) == place + 1
    assert ended.stopped


def test_a_greedy_turn_has_log_probs_of_zero(small_dir: Path) -> None:
    """Catches log-probs of another distribution than the one drawn from, which at temperature 0 is one token."""
    with LoopbackServer(small_dir, "vllm") as server, ServedSampler(server.url, kind="vllm") as sampler:
        (sample,) = sampler.sample(prompts()[:1], SamplingParams(max_tokens=4, temperature=0.0))
    assert sample.logprobs.tolist() == [0.0] * 4


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Answer(token_ids=(1, 2), logprobs=(-1.0,), is_cut=True), "2 token ids and 1 log-probs"),
        (Answer(token_ids=(), logprobs=(), is_cut=True), "0 token ids"),
        (Answer(token_ids=(1, 2, 3, 4, 5), logprobs=(-1.0,) * 5, is_cut=True), "at most 4 were asked for"),
        (Answer(token_ids=(1,), logprobs=(float("nan"),), is_cut=True), "log-probs that are none"),
        (Answer(token_ids=(1,), logprobs=(0.3,), is_cut=True), "log-probs that are none"),
        (Answer(token_ids=(1, 2), logprobs=(-1.0, -1.0), is_cut=False), "the token that ended it was not returned"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_is_an_error(answer: Answer, reason: str) -> None:
    """Catches a turn that is half, longer than asked for, or has log-probs that no distribution gives."""
    turn = Turn(prompt=(1,), max_tokens=4, temperature=1.0, seed=0, stop_token_ids=(9,))
    with pytest.raises(AnswerError, match=reason):
        to_sample(answer, turn)


@pytest.mark.parametrize("trouble", [{"drop_first": 2}, {"busy_first": 2}])
def test_a_broken_connection_and_a_busy_server_are_asked_again(trouble, small_dir: Path) -> None:
    """Catches a run that ends at the first hiccup, and a second try with another seed."""
    params = SamplingParams(max_tokens=5)
    with LoopbackServer(small_dir, "vllm") as calm, ServedSampler(calm.url, kind="vllm") as sampler:
        expected = sampler.sample(prompts(), params)
    with LoopbackServer(small_dir, "vllm") as server, ServedSampler(server.url, kind="vllm", options=QUICK) as sampler:
        server.paths.clear()
        server.options |= trouble
        drawn = sampler.sample(prompts(), params)
    assert [s.token_ids.tolist() for s in drawn] == [s.token_ids.tolist() for s in expected]


def test_a_server_that_is_gone_ends_the_run_with_its_address_and_what_to_do(small_dir: Path) -> None:
    """Catches a run that turns a dead server into a step of failed episodes."""
    with LoopbackServer(small_dir, "vllm") as server:
        sampler = ServedSampler(server.url, kind="vllm", options=QUICK)
    with (
        sampler,
        pytest.raises(
            ServerLostError, match=rf"{server.url}/v1/completions: .* after 3 attempts; is the server running"
        ),
    ):
        sampler.sample(prompts(), SamplingParams(max_tokens=2))
    with pytest.raises(ServerLostError, match="is the server running"):
        ServedSampler(server.url, kind="vllm", options=QUICK)


def test_a_late_answer_is_an_error_after_its_deadline(small_dir: Path) -> None:
    """Catches a run that waits for ever for a server that hangs."""
    options = WireOptions(seconds=0.2, attempts=2, backoff_seconds=0.01)
    with LoopbackServer(small_dir, "openai") as server:
        with ServedSampler(server.url, kind="openai", options=WireOptions()) as sampler:
            facts = sampler.facts
        assert facts.repeats_draws
        server.options["seconds"] = 1.0
        started = time.monotonic()
        with pytest.raises(ServerLostError, match=r"no answer in 0\.2 s"):
            ServedSampler(server.url, kind="openai", options=options)
        assert time.monotonic() - started < 5


def test_one_refused_turn_ends_its_episode_alone_and_keeps_what_was_said(small_dir: Path) -> None:
    """Catches a batch that is lost because the server refused one prompt, and a transcript that goes with it."""
    tokenizer, suite = ChatTokenizer.from_pretrained(small_dir), DepotSuite()
    jobs = [
        RolloutJob(
            id=f"e{n}", task_id=suite.task_id("train", n), make_world=lambda n=n: suite.make_world("train", n), key=(n,)
        )
        for n in range(4)
    ]
    params = RolloutParams(max_turns=2, max_tokens_per_turn=4, max_context_tokens=900)
    with (
        LoopbackServer(small_dir, "vllm", max_context=1024) as server,
        ServedSampler(server.url, kind="vllm") as sampler,
    ):
        whole = rollout(jobs, sampler, tokenizer, params)
        asked = [body["prompt"] for path, body in server.calls if path == "/v1/completions"]
        long = [prompt for prompt in asked if len(prompt) > 20]
        rare = next(token for token in long[-1] if sum(token in prompt for prompt in long) < len(long) / 2)
        server.options["refuse_prompts"] = rare
        partly = rollout(jobs, sampler, tokenizer, params)
        server.options["refuse_prompts"] = long[0][0]
        with pytest.raises(EngineError, match=r"all of 4 turns failed; the first: .*status 400"):
            rollout(jobs, sampler, tokenizer, params)
    failed = [record for record in partly if record.stop_reason is StopReason.POLICY_ERROR]
    assert 0 < len(failed) < 4
    assert all(record.messages for record in failed)
    assert len(partly) == 4
    others = {record.id: record for record in partly if record.stop_reason is not StopReason.POLICY_ERROR}
    assert all(record.messages == others[record.id].messages for record in whole if record.id in others)
    for record in others.values():
        for sequence in tokenize_trajectory(record, tokenizer):
            assert np.isfinite(sequence.sampling_logprobs[sequence.action_mask]).all()


def test_failures_of_some_turns_carry_the_samples_of_the_others(small_dir: Path) -> None:
    """Catches a session that drops the turns which came back when one did not."""
    with LoopbackServer(small_dir, "vllm", refuse_prompts=251) as server:
        sampler = ServedSampler(server.url, kind="vllm")
        requests = [
            TurnRequest(row=row, prompt=np.array([5, last], dtype=np.int32), key=(row,))
            for row, last in enumerate((6, 251, 7))
        ]
        with (
            sampler,
            pytest.raises(TurnsFailedError, match=r"1 of 3 turns failed; the first: .*no such prompt") as caught,
        ):
            sampler.sample_turns(requests, SamplingParams(max_tokens=2))
    kinds = [isinstance(outcome, Sample) for outcome in caught.value.outcomes]
    assert kinds == [True, False, True]


def test_a_prompt_beyond_the_servers_context_is_never_sent(small_dir: Path) -> None:
    """Catches a server that cuts a prompt silently, so that ids and log-probs belong to another history."""
    with (
        LoopbackServer(small_dir, "vllm", max_context=64) as server,
        ServedSampler(server.url, kind="vllm") as sampler,
        pytest.raises(EngineError, match="a prompt of 60 tokens and 5 new ones do not fit in the context of 64"),
    ):
        sampler.sample([np.full(60, 7, dtype=np.int32)], SamplingParams(max_tokens=5))


def test_wrong_names_and_addresses_are_refused_before_anything_is_asked() -> None:
    """Catches a misspelt kind that falls back to another dialect, and a URL without a scheme."""
    with pytest.raises(ConfigError, match=r"no kind of server is called 'vlm'; .*Did you mean 'vllm'\?"):
        ServedSampler("http://127.0.0.1:1", kind="vlm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="expected such as http"):
        ServedSampler("127.0.0.1:8000", kind="vllm")
    with pytest.raises(ConfigError, match="attempts 0"):
        WireOptions(attempts=0)


def test_two_runs_on_one_server_never_share_a_cache_of_prompts(small_dir: Path) -> None:
    """Catches the first push of a run that is resumed, read with keys and values of the run before it."""
    with LoopbackServer(small_dir, "vllm") as server:
        for _ in range(2):
            with ServedSampler(server.url, kind="vllm") as sampler:
                sampler.sample(prompts()[:1], SamplingParams(max_tokens=2))
        salts = {body["cache_salt"] for path, body in server.calls if path == "/v1/completions"}
    assert len(salts - {"probe"}) == 2
