"""The probe: what a server does is measured, and what cannot be trained on is refused with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from loopback import LoopbackServer

from envecho.errors import EngineError
from envecho.rollout.served import ServedSampler, ServerRefusedError, WireOptions
from envecho.seam import SamplingParams

KINDS = ("vllm", "sglang", "openai", "llama_cpp")


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_server_is_measured_as_one(kind, small_dir: Path) -> None:
    """Catches a probe that refuses what is right, or that says yes without having asked."""
    with LoopbackServer(small_dir, kind) as server, ServedSampler(server.url, kind=kind) as sampler:
        facts = sampler.facts
    assert facts.problems == ()
    assert facts.logprob_temperature == "sampling"
    assert facts.add_up_difference is not None
    assert facts.add_up_difference < 1e-4
    assert facts.repeats_draws
    assert facts.ends_whole
    assert facts.num_draws == 64
    assert abs(facts.num_outside - facts.expected_outside) < 16
    assert facts.expected_outside > 10


@pytest.mark.parametrize(
    ("flaw", "reason"),
    [
        ("no_ids", "has no token ids"),
        ("no_logprobs", "has no logprobs"),
        ("top_k", "the server cuts the distribution"),
        ("strips_stop", "the token that ends a turn is not returned"),
        ("text_only", "has not this route or this model"),
    ],
)
def test_a_server_that_cannot_be_trained_on_is_refused_with_the_reason(flaw: str, reason: str, small_dir: Path) -> None:
    """Catches samples whose ids or log-probs are not those of what was drawn."""
    server = LoopbackServer(small_dir, "openai", flaws=frozenset({flaw}))
    told = rf"cannot be sampled for training: .*{reason}.*ChatPolicy"
    with server, pytest.raises(EngineError, match=told):
        ServedSampler(server.url, kind="openai")


def test_log_probs_at_temperature_one_are_found_by_measuring(small_dir: Path) -> None:
    """Catches vLLM's default, whose log-probs look right and are those of another distribution than the draws'."""
    server = LoopbackServer(small_dir, "vllm", flaws=frozenset({"raw_logprobs"}))
    prompt = [np.arange(4, 9, dtype=np.int32)]
    with server, ServedSampler(server.url, kind="vllm") as sampler:
        assert sampler.facts.logprob_temperature == "one"
        assert len(sampler.sample(prompt, SamplingParams(max_tokens=3, temperature=1.0))) == 1
        with pytest.raises(EngineError, match=r"at temperature 0\.8: .* --logprobs-mode processed_logprobs"):
            sampler.sample(prompt, SamplingParams(max_tokens=3, temperature=0.8))


def test_a_model_that_is_not_served_is_named(small_dir: Path) -> None:
    """Catches a wrong served name that reads as a server without token ids."""
    with (
        LoopbackServer(small_dir, "vllm") as server,
        pytest.raises(EngineError, match="model `other` does not"),
    ):
        ServedSampler(server.url, kind="vllm", model="other")


def test_a_key_is_sent_and_a_missing_one_is_asked_for(small_dir: Path) -> None:
    """Catches a key that is dropped, and a refusal that does not say what is missing."""
    with LoopbackServer(small_dir, "vllm") as server:
        respond, seen = server.respond, []
        server.respond = lambda path, body: (401, {"error": "no key"})  # type: ignore[method-assign]
        with pytest.raises(ServerRefusedError, match=r"does not let us in .*api_key"):
            ServedSampler(server.url, kind="vllm", options=WireOptions(attempts=1))
        server.respond = respond  # type: ignore[method-assign]
        server.on_headers = seen.append
        with ServedSampler(server.url, kind="vllm", options=WireOptions(api_key="secret")):
            pass
    assert {headers["Authorization"] for headers in seen} == {"Bearer secret"}
