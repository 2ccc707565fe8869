"""What is known of an import's origin, format by format, and what follows from it for the policy term."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from format_samples import SAMPLES
from secret_lookalikes import LOOKALIKES

from envecho.errors import DataError
from envecho.formats import ImportOptions, ImportReport, import_traces
from envecho.objective import EchoConfig, compile_batch
from envecho.tokens import ChatTokenizer, token_texts, tokenize_trajectory
from envecho.trajectory import Source, Trajectory

LINES = ("claude-code", "codex", "codex-stream", "openhands-1")
FLAGS = {
    "token_exact": bool,
    "has_logprobs": bool,
    "action_provenance": str,
    "action_text_lossy": bool,
    "environment_simulated": bool,
    "context_incomplete": bool,
    "grader_in_text": bool,
    "num_parts_dropped": int,
    "redacted": dict,
}
KNOWN = {
    # name: (action_provenance, action_text_lossy, environment_simulated, context_incomplete, grader_in_text)
    "mini": ("assumed", False, False, False, False),
    "mini-1.1": ("assumed", False, False, False, False),
    "swe-agent": ("assumed", False, False, False, False),
    "agent-world-model": ("assumed", True, False, False, True),
    "atif": ("assumed", True, False, False, False),
    "messages": ("assumed", False, False, False, False),
    "nebius": ("assumed", False, False, False, False),
    "verifiers": ("assumed", False, False, False, False),
    "sharegpt": ("assumed", True, True, False, False),
    "anthropic": ("assumed", True, False, False, False),
    "responses": ("assumed", True, False, False, False),
    "inspect": ("proved", True, False, False, False),
    "claude-code": ("proved", True, False, True, False),
    "codex": ("proved", True, False, True, False),
    "codex-stream": ("proved", True, False, True, False),
    "openhands-0": ("proved", False, False, True, False),
    "openhands-1": ("proved", False, False, True, False),
}


@pytest.fixture(scope="module")
def smol(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


def load(tmp_path: Path, name: str, **options: Any) -> list[Trajectory]:
    path = tmp_path / "trace"
    data = SAMPLES[name]
    path.write_text("\n".join(map(json.dumps, data)) if name in LINES else json.dumps(data))
    return list(import_traces([path], ImportReport(), options=ImportOptions(**options)))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_import_says_what_is_known_of_its_origin(tmp_path: Path, name: str):
    """Catches a format that leaves a flag out, or claims proof, exactness or a whole context that its files lack."""
    found = load(tmp_path, name)
    for trajectory in found:
        facts: dict[str, Any] = trajectory.metadata["import"]
        assert {flag: type(facts[flag]) for flag in FLAGS} == FLAGS
        assert (facts["token_exact"], facts["has_logprobs"], trajectory.branches) == (False, False, ())
        told = tuple(
            facts[flag]
            for flag in (
                "action_provenance",
                "action_text_lossy",
                "environment_simulated",
                "context_incomplete",
                "grader_in_text",
            )
        )
        assert told == KNOWN[name]


@pytest.mark.parametrize("name", ["messages", "verifiers", "claude-code"])
@pytest.mark.parametrize("reward", [None, 1.0])
def test_text_is_refused_for_the_policy_term_and_trains_without_it(
    tmp_path: Path, smol: ChatTokenizer, name: str, reward: float | None
):
    """Catches a policy gradient from text that the model did not sample, and a refusal that helps nobody further."""
    found = [
        trajectory.model_copy(update={"reward": reward, "group_id": "g"})
        for trajectory in load(tmp_path, name, calls_as_text=True, user_turns="world")
    ]
    sequences = [sequence for trajectory in found for sequence in tokenize_trajectory(trajectory, smol)]
    with pytest.raises(DataError) as refused:
        compile_batch(sequences, EchoConfig(use_rl=True))
    said = str(refused.value)
    assert "needs the exact ids and the sampling log-prob" in said
    assert f"in '{found[0].id}'" in said
    assert "imported as text have none" in said
    assert "docs/formats/calls.md" in said
    assert "use_rl = false" in said
    free = compile_batch(sequences, EchoConfig(use_rl=False)).batch
    assert free.env_weights.any()
    assert not free.policy_weights.any()


def calls(smol: ChatTokenizer, said: list[str], answers: list[str]) -> list[dict[str, Any]]:
    """A conversation as two calls of a sampler: exact ids, log-probs, a reward and a group."""
    messages = [{"role": "user", "content": "Go."}]
    ids: list[int] = []
    lines: list[dict[str, Any]] = []
    for text, answer in zip(said, answers, strict=True):
        prompt = smol.hf.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        completion = [*smol.encode_text(text)[0], smol.end_of_turn_id]
        assert list(prompt[: len(ids)]) == ids
        ids = [*prompt, *completion]
        lines.append(
            {
                "episode": "e",
                "group": "g",
                "reward": 1.0,
                "temperature": 1.0,
                "prompt_ids": list(prompt),
                "completion_ids": [int(i) for i in completion],
                "logprobs": [-0.5] * len(completion),
                "messages": list(messages),
                "response": {"role": "assistant", "content": text},
            }
        )
        messages += [{"role": "assistant", "content": text}, {"role": "user", "content": answer}]
    return lines


def test_exact_ids_train_the_policy_except_where_they_hold_a_secret(tmp_path: Path, smol: ChatTokenizer):
    """Catches a secret in exact ids with a weight, and a trajectory that is refused because it held one."""
    secret = LOOKALIKES["github"][1](random.Random(9))[1]
    path = tmp_path / "calls.jsonl"
    said, answers = [f"login {secret}", "cat rc", "done"], ["ok then", f"rc {secret} end", "bye"]
    path.write_text("\n".join(map(json.dumps, calls(smol, said, answers))))
    report = ImportReport()
    (trajectory,) = import_traces([path], report, options=ImportOptions(user_turns="world"))
    facts = trajectory.metadata["import"]
    assert (facts["token_exact"], facts["has_logprobs"], facts["action_text_lossy"]) == (True, True, False)
    assert (facts["redacted"], facts["num_redacted_in_ids"]) == ({"github-token": 2}, 2)
    assert report.num_redacted_in_ids == 2
    (sequence,) = tokenize_trajectory(trajectory, smol)
    batch = compile_batch([sequence], EchoConfig(use_rl=True)).batch
    trained = {
        weights: "".join(token_texts(smol, sequence.token_ids[np.asarray(getattr(batch, weights)) != 0]))
        for weights in ("policy_weights", "env_weights")
    }
    assert trained == {"policy_weights": "cat rc<|im_end|>done<|im_end|>", "env_weights": "ok thenrc end"}
    hidden = "".join(token_texts(smol, sequence.token_ids[sequence.source_mask(Source.REDACTED)]))
    assert hidden.count(secret) == 2
