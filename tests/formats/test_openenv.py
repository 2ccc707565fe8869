"""OpenEnv's records: envelopes cut to the character, spans of other writers, and calls with exact ids."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envecho.formats import ImportReport, import_traces, openenv_export
from envecho.formats.openenv_records import json_fields
from envecho.trajectory import Message, Segment, Source, StopReason, ToolCall, Trajectory


def load(tmp_path: Path, *lines: Any) -> tuple[list[Trajectory], ImportReport]:
    path = tmp_path / "results.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    report = ImportReport()
    return list(import_traces([path], report)), report


def one(tmp_path: Path, line: Any) -> Trajectory:
    (trajectory,), report = load(tmp_path, line)
    assert report.problems == []
    return trajectory


def words(message: Message) -> list[tuple[str, str]]:
    return [(segment.source.value, segment.text) for segment in message.segments]


def record(*contents: str, **fields: Any) -> dict[str, Any]:
    """A record as the collector of openenv 0.10 writes it: one call and one answer for each content."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "How many files?"}]
    for place, content in enumerate(contents):
        function = {"name": "run", "arguments": '{"command": "ls"}'}
        messages.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": f"c{place}", "type": "function", "function": function}],
            }
        )
        messages.append({"role": "tool", "tool_call_id": f"c{place}", "name": "run", "content": content})
    return {
        "episode_id": "ep-000000",
        "messages": messages,
        "reward": 1.0,
        "done": True,
        "tool_trace": [
            {
                "tool_name": "run",
                "arguments": {"command": "ls"},
                "result": {"data": None, "done": False, "metadata": {}, "error": None},
            }
            for _ in contents
        ],
        "metrics": {"turns": 1, "tool_calls": 1},
        "verify_metrics": {},
        "artifacts": {},
        "task": {"id": "files/3"},
        "extra": {},
    } | fields


def envelope(observation: Any, **fields: Any) -> str:
    data = {
        "tool_name": "run",
        "arguments": {"command": "ls"},
        "observation": observation,
        "reward": 0.5,
        "done": False,
    }
    return json.dumps(data | fields, sort_keys=True)


def test_of_an_envelope_the_observation_alone_is_the_worlds(tmp_path: Path):
    """Catches a reward that becomes a target, an echoed call that is learnt, and characters lost at the cuts."""
    trajectory = one(tmp_path, record(envelope('2 "files"\n')))
    assert words(trajectory.messages[2]) == [
        ("wrapper", "{"),
        ("command_echo", '"arguments": {"command": "ls"}'),
        ("wrapper", ", "),
        ("status", '"done": false'),
        ("wrapper", ', "observation": "'),
        ("tool_result", '2 \\"files\\"\\n'),
        ("wrapper", '", '),
        ("grader", '"reward": 0.5'),
        ("wrapper", ", "),
        ("command_echo", '"tool_name": "run"'),
        ("wrapper", "}"),
    ]
    assert (trajectory.task_id, trajectory.reward, trajectory.stop_reason) == ("files/3", 1.0, StopReason.COMPLETED)
    facts = trajectory.metadata["import"]
    assert (facts["format"], facts["episode_id"], facts["grader_in_text"]) == ("openenv", "ep-000000", True)


def test_an_observation_object_loses_its_reward_and_keeps_its_error(tmp_path: Path):
    """Catches a grade inside an observation, which a policy would learn to predict."""
    observation = {"done": True, "error": "no such table", "reward": 0.0, "rows": [1]}
    found = words(one(tmp_path, record(envelope(observation))).messages[2])
    assert ("grader", '"reward": 0.0') in found
    assert ("status", '"done": true') in found
    assert ("tool_error", '"error": "no such table"') in found
    assert "".join(text for source, text in found if source == "tool_result") == '{, , , "rows": [1]}'


@pytest.mark.parametrize("content", ["plain text", '{"observation": 1}', '{"a": 1', "", "[1, 2]", envelope("x") + "."])
def test_text_that_is_no_envelope_is_a_result_as_it_stands(tmp_path: Path, content: str):
    """Catches JSON that a tool printed, taken apart as if OpenEnv had written it."""
    found = words(one(tmp_path, record(content)).messages[2])
    assert found == ([("tool_result", content)] if content else [])


def test_an_error_of_the_trace_marks_the_result(tmp_path: Path):
    """Catches a failed call whose text counts as an answer of the world's own making."""
    line = record("boom", "fine")
    line["tool_trace"][0]["result"]["error"] = "boom"
    found = one(tmp_path, line)
    assert [s.source for m in found.messages[1:] for s in m.segments] == [Source.TOOL_ERROR, Source.TOOL_RESULT]


@given(st.dictionaries(st.text(max_size=4), st.recursive(st.none() | st.text(max_size=5), st.lists, max_leaves=4)))
def test_the_fields_of_json_text_are_found_where_they_stand(value: dict[str, Any]):
    """Catches an offset that is wrong for nested values, escapes or white space: each cut must decode to its field."""
    for text in (json.dumps(value), json.dumps(value, indent=2, ensure_ascii=False), f" {json.dumps(value)}\n"):
        fields = json_fields(text)
        assert fields is not None
        assert {name: json.loads(text[start:end]) for name, _, start, end in fields} == value
        assert all(text[key] == '"' for _, key, _, _ in fields)


@pytest.mark.parametrize(
    "text", ['{"a": 1,}', '{"a" 1}', '{"a": 1 "b": 2}', "{a: 1}", '{"a": }', '{"a": 1}}', "{", "x"]
)
def test_text_that_is_no_json_object_has_no_fields(text: str):
    """Catches a lenient reader, which would cut text that only begins like JSON."""
    assert json_fields(text) is None


def spanned(*spans: dict[str, Any], version: int = 1) -> dict[str, Any]:
    return record("ok\n[exit 0]") | {"extra": {"rfc010": {"version": version, "spans": list(spans)}}}


def test_spans_of_another_writer_are_believed_with_roles_alone(tmp_path: Path):
    """Catches a reader that knows only our own files: no source, no `envecho` key, unknown keys beside the span."""
    found = one(
        tmp_path,
        spanned(
            {"message": 2, "start": 0, "end": 3, "role": "env_output"},
            {"message": 2, "start": 3, "end": 9, "role": "warning", "source": "their_word", "note": 1},
        ),
    )
    assert words(found.messages[2]) == [("tool_result", "ok\n"), ("harness_notice", "[exit "), ("task", "0]")]
    assert words(found.messages[0]) == [("task", "How many files?")]
    assert (found.id, found.task_id) == ("ep-000000", "files/3")


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([{"message": 2, "start": 0, "end": 99, "role": "env_output"}], "the text was changed after its spans"),
        ([{"message": 9, "start": 0, "end": 1, "role": "env_output"}], "expected a span of message 0 to 2"),
        ([{"message": 2, "start": 0, "end": 1, "role": "enviroment"}], "expected a role"),
        ([{"message": 2, "start": 0, "end": 1, "role": "warning", "source": "stdout"}], "whose role is env_output"),
        ([{"message": 2, "end": 1, "role": "warning"}], "expected a span with start and end"),
        (
            [
                {"message": 2, "start": 0, "end": 3, "role": "warning"},
                {"message": 2, "start": 2, "end": 4, "role": "warning"},
            ],
            "expected a span within 3 to 11",
        ),
    ],
)
def test_malformed_spans_are_refused_by_name_and_the_other_lines_are_read(
    tmp_path: Path, spans: list[dict[str, Any]], said: str
):
    """Catches spans of an edited text, which would shift every role by some characters."""
    found, report = load(tmp_path, spanned(*spans), record("fine"))
    assert len(found) == 1
    assert [problem.line for problem in report.problems] == [1]
    assert said in report.problems[0].message


def test_spans_of_a_newer_version_are_refused(tmp_path: Path):
    """Catches a reader that guesses what a later version means."""
    _, report = load(tmp_path, spanned(version=2))
    assert "expected rfc010 version 1, found 2" in report.problems[0].message


def test_an_exported_record_pairs_calls_with_their_answers():
    """Catches a trace in which parallel answers, given out of order, are swapped, and losses that nobody counts."""
    calls = tuple(ToolCall(name=name, arguments=text, id=name) for name, text in (("a", '{"x": 1}'), ("b", "no json")))
    answers = [
        Message(role="tool", tool_call_id=name, segments=(Segment(source=Source.STDOUT, text=name),)) for name in "ba"
    ]
    stray = Message(role="tool", segments=(Segment(source=Source.STDOUT, text="?"),))
    said = Message(role="assistant", segments=(), tool_calls=calls)
    notes: Counter[str] = Counter()
    line = openenv_export.write(Trajectory(id="e", task_id="t", messages=(said, *answers, stray)), notes)
    assert [(entry["tool_name"], entry["arguments"], entry["result"]["data"]) for entry in line["tool_trace"]] == [
        ("b", {}, "b"),
        ("a", {"x": 1}, "a"),
    ]
    assert +notes == {
        "call arguments that are no JSON object: `{}` in `tool_trace`": 1,
        "tool results without a call: not in `tool_trace`": 1,
        "episodes without a reward: `reward` is null": 1,
    }


def trace(**metadata: Any) -> dict[str, Any]:
    """Two calls of one chain, as openenv's capture proxy exports them."""
    first = [{"role": "user", "content": "How many?"}]
    said = {"role": "assistant", "content": "ls"}
    tool = {"role": "tool", "content": envelope("a.log")}
    turns = [([1, 2], [3, 4], first, said), ([1, 2, 3, 4, 5, 6], [7], [*first, said, tool], {**said, "content": "1"})]
    return {
        "schema_version": 1,
        "turns": [
            {
                "node_id": f"n{place}",
                "prompt_token_ids": prompt,
                "completion_token_ids": completion,
                "per_token_logps": [-0.5] * len(completion),
                "loss_mask": [0] * len(prompt) + [1] * len(completion),
                "request": {"messages": messages, "tools": None},
                "response": {"choices": [{"message": answer, "finish_reason": "stop"}]},
                "metadata": {"model": "m", "sampling_params": {"temperature": 0.7}, **metadata},
            }
            for place, (prompt, completion, messages, answer) in enumerate(turns)
        ],
    }


def test_a_captured_trace_becomes_one_branch_of_exact_ids(tmp_path: Path):
    """Catches ids that are lost, prompts counted twice, and an envelope that is trained as it stands."""
    found = one(tmp_path, trace())
    assert [m.role for m in found.messages] == ["user", "assistant", "tool", "assistant"]
    (branch,) = found.branches
    assert branch.token_ids == (1, 2, 3, 4, 5, 6, 7)
    sampled = found.messages[1].sampled
    assert sampled is not None
    assert (sampled.token_ids, sampled.logprobs, sampled.temperature) == ((3, 4), (-0.5, -0.5), 0.7)
    assert ("tool_result", "a.log") in words(found.messages[2])
    facts = found.metadata["import"]
    assert (facts["format"], facts["token_exact"], facts["has_logprobs"]) == ("openenv-trace", True, True)


def test_role_spans_of_a_captured_trace_are_believed(tmp_path: Path):
    """Catches spans in a call's metadata that only our own exports could use."""
    spans = [
        {"message": 2, "start": 0, "end": 5, "role": "warning"},
        {"message": 2, "start": 5, "end": 9, "role": "env_output"},
    ]
    found = one(tmp_path, trace(rfc010={"version": 1, "spans": spans}))
    assert [source for source, _ in words(found.messages[2])] == ["harness_notice", "tool_result", "task"]


def test_a_call_that_its_producer_masked_is_context(tmp_path: Path):
    """Catches a completion that OpenEnv withheld from training, trained after all."""
    line = trace()
    line["turns"][0]["loss_mask"] = [0, 0, 0, 0]
    found = one(tmp_path, line)
    assert [m.sampled is not None for m in found.messages if m.role == "assistant"] == [False, True]
    assert [s.source for s in found.messages[1].segments] == [Source.TASK]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss_mask": [0]}, "loss_mask: expected one entry for each of 4 ids, found 1"),
        ({"prompt_token_ids": "12"}, "prompt_token_ids: expected a list of numbers"),
        ({"per_token_logps": [None, 1]}, "per_token_logps: expected a list of numbers"),
    ],
)
def test_malformed_turns_are_refused_by_name(tmp_path: Path, change: dict[str, Any], said: str):
    """Catches ids and masks that are not of one length, which shift every role by a token."""
    line = trace()
    line["turns"][0] |= change
    _, report = load(tmp_path, line, trace())
    assert [said in problem.message and "turn 0" in problem.message for problem in report.problems] == [True]
    assert report.num_trajectories == 1


def test_an_unknown_schema_version_is_refused(tmp_path: Path):
    """Catches a later schema that is read as the first one."""
    _, report = load(tmp_path, trace() | {"schema_version": 2})
    assert "expected schema_version 1, found 2" in report.problems[0].message
