"""The dialects against what real servers said: recorded answers are read, and the loopback server says no more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackServer

from envecho.rollout.served.completions import read_completion
from envecho.rollout.served.dialect import AnswerError, Dialect, Turn
from envecho.rollout.served.llama_cpp import LlamaCppDialect
from envecho.rollout.served.sglang import SGLangDialect
from envecho.rollout.served.vllm import VllmDialect
from envecho.rollout.served.wire import Wire, WireOptions

RESULTS = Path(__file__).parents[2] / "results" / "serving"
TURN = Turn(prompt=(5, 6, 7, 8), max_tokens=3, temperature=0.7, seed=7, stop_token_ids=(2,), num_top=2, salt="s")
RECORDED = (("vllm", VllmDialect()), ("llama-cpp", LlamaCppDialect()))


def recorded(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"recorded-{name}.json").read_text())


def what_the_real_one_lacks(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Keys and kinds of value in our server's answer that are not in the real one."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict):
            return [where]
        return [
            missing
            for key, value in ours.items()
            # Names of tokens are data and not fields.
            if not key.startswith("token_id:")
            for missing in (
                what_the_real_one_lacks(value, theirs[key], f"{where}.{key}") if key in theirs else [f"{where}.{key}"]
            )
        ]
    if isinstance(ours, list):
        if not isinstance(theirs, list):
            return [where]
        return what_the_real_one_lacks(ours[0], theirs[0], f"{where}.0") if ours and theirs else []
    kinds = {bool: "bool", int: "number", float: "number", str: "text", type(None): "null"}
    return [] if kinds[type(ours)] == kinds[type(theirs)] else [where]


@pytest.mark.parametrize(("name", "dialect"), RECORDED)
def test_the_recorded_answer_of_a_real_server_is_read(name: str, dialect: Dialect) -> None:
    """Catches a reader that knows the loopback server alone."""
    answer = dialect.read(recorded(name)["reply"])
    assert len(answer.token_ids) == len(answer.logprobs) == len(answer.top) == 3
    assert all(value < 0 for value in answer.logprobs)
    assert answer.is_cut
    for logprob, top in zip(answer.logprobs, answer.top, strict=True):
        assert len(top) >= 2
        assert max(top.values()) >= logprob - 1e-6


@pytest.mark.parametrize(("name", "dialect"), RECORDED)
def test_the_request_is_still_the_one_that_the_real_server_answered(name: str, dialect: Dialect) -> None:
    """Catches a field that was added, renamed or dropped since a real server was asked; record the exchange again."""
    exchange = recorded(name)
    call = dialect.call(TURN, "policy")
    assert call.path == exchange["path"]
    assert call.body.keys() == exchange["body"].keys()
    same = {key for key in call.body if key not in ("prompt", "stop_token_ids", "cache_salt")}
    assert {key: call.body[key] for key in same} == {key: exchange["body"][key] for key in same}


@pytest.mark.parametrize(("name", "dialect"), RECORDED)
def test_the_loopback_server_answers_in_the_shape_of_the_real_one(name: str, dialect: Dialect, small_dir: Path) -> None:
    """Catches default tests against a server that no real one is like."""
    kind = name.replace("-", "_")
    with LoopbackServer(small_dir, kind) as server, Wire(server.url, WireOptions()) as wire:
        call = dialect.call(TURN, "policy")
        reply = wire.post(call.path, call.body)
    assert what_the_real_one_lacks(reply, recorded(name)["reply"]) == []


def test_completions_without_ids_are_told_from_those_with_them() -> None:
    """Catches text that is tokenised again: ids that are guessed are not those that were drawn."""
    reply = recorded("vllm")["reply"]
    choice = reply["choices"][0]
    ids = choice.pop("token_ids")
    assert list(read_completion(reply).token_ids) == ids
    choice["logprobs"]["tokens"] = [" a", " b", " c"]
    with pytest.raises(AnswerError, match=r"has no token ids: .*the text alone does not say"):
        read_completion(reply)
    choice["logprobs"] = None
    with pytest.raises(AnswerError, match="has no logprobs"):
        read_completion(reply)


def test_every_sampler_of_a_server_but_the_temperature_is_off() -> None:
    """Catches a default of a server or of a model's generation_config.json that cuts or bends the distribution."""
    off = {"top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
    vllm = VllmDialect().call(TURN, "policy").body
    sglang = SGLangDialect().call(TURN, "policy").body["sampling_params"]
    assert vllm.items() >= (off | {"top_k": 0, "temperature": 0.7, "ignore_eos": True, "min_tokens": 0}).items()
    assert sglang.items() >= (off | {"top_k": -1, "temperature": 0.7, "ignore_eos": True, "min_new_tokens": 0}).items()
    llama = LlamaCppDialect().call(TURN, None).body
    assert llama["samplers"] == ["temperature"]
    assert llama["post_sampling_probs"]
    assert "ignore_eos" not in llama


def test_sglang_ids_that_disagree_with_its_log_probs_are_refused() -> None:
    """Catches log-probs of a prompt that are taken for those of the turn."""
    meta = {"finish_reason": {"type": "length"}, "output_token_logprobs": [[-1.0, 4, None], [-2.0, 5, None]]}
    assert SGLangDialect().read({"output_ids": [4, 5], "meta_info": meta}).token_ids == (4, 5)
    with pytest.raises(AnswerError, match="has other output_ids"):
        SGLangDialect().read({"output_ids": [5, 6], "meta_info": meta})
    with pytest.raises(AnswerError, match=r"has no output_token_logprobs"):
        SGLangDialect().read({"output_ids": [5, 6], "meta_info": {"finish_reason": {"type": "length"}}})
