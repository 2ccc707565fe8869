"""OpenEnv training traces of our own episodes: exact calls, role spans over ids, and back to the same trajectory."""

from __future__ import annotations

import json
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from envecho.formats import ImportReport, import_traces, training_trace_export
from envecho.recipes.traced_calls import traced_calls
from envecho.tokens import ChatTokenizer, render_prompt, tokenize_trajectory
from envecho.trajectory import (
    ExactBranch,
    Message,
    SampledTokens,
    Segment,
    Source,
    SpanKind,
    StopReason,
    TokenSpan,
    Trajectory,
)


@pytest.fixture(scope="module")
def smol(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


def episode(tokenizer: ChatTokenizer, *, logprobs: bool = True) -> Trajectory:
    """Two sampled turns, the second unfinished, with an answer behind each."""

    def said(text: str, *, closed: bool) -> Message:
        ids = (*tokenizer.hf.encode(text, add_special_tokens=False), *([tokenizer.end_of_turn_id] if closed else []))
        sampled = SampledTokens(
            token_ids=ids,
            logprobs=tuple(-0.5 - k for k in range(len(ids))) if logprobs else None,
            temperature=0.8,
            entropies=(1.5,) * len(ids),
        )
        segments = (Segment(source=Source.POLICY, text=text),)
        return Message(role="assistant", segments=segments, sampled=sampled, labels={"k": "é"})

    def answer(text: str) -> Message:
        return Message(
            role="user",
            segments=(
                Segment(source=Source.STDOUT, text=text, tool="bash"),
                Segment(source=Source.STATUS, text="[exit status 0]"),
            ),
        )

    task = Message(role="user", segments=(Segment(source=Source.TASK, text="How many?"),))
    return Trajectory(
        id="e/1",
        task_id="count",
        group_id="g",
        reward=1.0,
        stop_reason=StopReason.COMPLETED,
        messages=(task, said("ls -1", closed=True), answer("a.log\n"), said("wc -l", closed=False), answer("3\n")),
        metadata={"seed": 1},
    )


def exported(tokenizer: ChatTokenizer, trajectory: Trajectory) -> dict[str, Any]:
    calls = traced_calls(trajectory, tokenize_trajectory(trajectory, tokenizer))
    return json.loads(json.dumps(training_trace_export.write(trajectory, calls, Counter())))


def test_each_call_has_the_prompt_that_it_was_sampled_from(smol: ChatTokenizer):
    """Catches prompts cut at the wrong token, and calls whose ids are not those of the sampler."""
    trajectory = episode(smol)
    first, second = exported(smol, trajectory)["turns"]
    for turn, place in ((first, 1), (second, 3)):
        sampled = trajectory.messages[place].sampled
        assert sampled is not None
        assert turn["prompt_token_ids"] == render_prompt(trajectory.messages[:place], smol).tolist()
        assert turn["completion_token_ids"] == list(sampled.token_ids)
        assert turn["per_token_logps"] == list(sampled.logprobs or ())
        assert turn["loss_mask"] == [0] * len(turn["prompt_token_ids"]) + [1] * len(sampled.token_ids)
        assert len(turn["request"]["messages"]) == place
        assert turn["metadata"]["sampling_params"] == {"temperature": 0.8}


def test_token_spans_tile_the_call_and_name_the_worlds_words(smol: ChatTokenizer):
    """Catches spans shifted by a token: the ids of `env_output` must decode to what the shell printed."""
    turn = exported(smol, episode(smol))["turns"][1]
    ids = [*turn["prompt_token_ids"], *turn["completion_token_ids"]]
    spans = turn["metadata"]["rfc010"]["token_spans"]
    assert [span["start"] for span in spans] == [0, *(span["end"] for span in spans[:-1])]
    assert spans[-1]["end"] == len(ids)
    said = dict.fromkeys(("context", "action", "env_output", "warning"), "")
    for span in spans:
        said[span["role"]] += smol.hf.decode(ids[span["start"] : span["end"]])
    assert said["env_output"] == "a.log\n"
    assert said["warning"] == "[exit status 0]"
    assert said["action"].replace("<|im_end|>", "") == "ls -1wc -l"


def test_an_import_of_an_exported_trace_is_the_same_trajectory(smol: ChatTokenizer, tmp_path: Path):
    """Catches the last answer, which no prompt shows, entropies, labels and names that a trace has no place for."""
    trajectory = episode(smol)
    (tmp_path / "trace.json").write_text(json.dumps(exported(smol, trajectory)))
    report = ImportReport()
    (found,) = import_traces([tmp_path / "trace.json"], report)
    assert report.formats == {"openenv-trace": 1}
    assert found.metadata.pop("import")["has_logprobs"] is True
    assert found == trajectory


def test_the_trace_without_our_keys_still_gives_the_same_ids(smol: ChatTokenizer, tmp_path: Path):
    """Catches an export that only we can read: OpenEnv's own fields must hold every id, in one branch."""
    trajectory = episode(smol)
    document = exported(smol, trajectory)
    for turn in document["turns"]:
        del turn["metadata"]["rfc010"], turn["metadata"]["envecho"]
    (tmp_path / "trace.json").write_text(json.dumps(document))
    (found,) = import_traces([tmp_path / "trace.json"], ImportReport())
    (branch,) = found.branches
    last = document["turns"][-1]
    assert list(branch.token_ids) == [*last["prompt_token_ids"], *last["completion_token_ids"]]
    assert [m.content for m in found.messages] == [m.content for m in trajectory.messages[:4]]


def test_a_forked_history_shows_each_call_once(smol: ChatTokenizer):
    """Catches a call that is trained in every branch that repeats it: the fork owns what is new alone."""
    trajectory = episode(smol)
    first, second = (trajectory.messages[place].sampled for place in (1, 3))
    assert first is not None
    assert second is not None
    prompt = tuple(render_prompt(trajectory.messages[:1], smol).tolist())
    told = tuple(smol.hf.encode("a.log\n", add_special_tokens=False))
    opening = (
        TokenSpan(end=len(prompt), kind=SpanKind.MIXED, turn=0, num_turns=1),
        TokenSpan(end=len(prompt) + len(first.token_ids), kind=SpanKind.SAMPLED, turn=1, num_turns=1),
    )
    shared = (*prompt, *first.token_ids)
    behind = (
        TokenSpan(end=len(shared) + len(told), kind=SpanKind.CONTENT, turn=2, num_turns=1),
        TokenSpan(end=len(shared) + len(told) + len(second.token_ids), kind=SpanKind.SAMPLED, turn=3, num_turns=1),
    )
    branches = (
        ExactBranch(token_ids=shared, spans=opening),
        ExactBranch(token_ids=(*shared, *told, *second.token_ids), spans=(*opening, *behind), owned_from=len(shared)),
    )
    forked = trajectory.model_copy(update={"branches": branches})
    calls = traced_calls(forked, tokenize_trajectory(forked, smol))
    assert [(call.answer, call.shown) for call in calls] == [(1, (0,)), (3, (0, 1, 2))]
    assert [call.prompt_ids for call in calls] == [prompt, (*shared, *told)]


def test_turns_without_log_probs_are_no_calls(smol: ChatTokenizer):
    """Catches invented log-probs: OpenEnv requires one for every id of a completion."""
    trajectory = episode(smol, logprobs=False)
    assert traced_calls(trajectory, tokenize_trajectory(trajectory, smol)) == []


def test_the_strict_models_of_openenv_take_the_trace_and_keep_our_keys(smol: ChatTokenizer):
    """Catches fields that the schema forbids, masks of another length, log-probs that its validation refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training = pytest.importorskip(
            "openenv.core.harness.training", reason="needs openenv: pip install 'envecho[openenv]'"
        )
    document = exported(smol, episode(smol))
    trace = training.TrainingTrace.model_validate(document)
    assert trace.model_dump() == document
    again = training.TrainingTrace.from_entries(trace.to_trace_entries())
    assert [turn.metadata["rfc010"] for turn in again.turns] == [t["metadata"]["rfc010"] for t in document["turns"]]
