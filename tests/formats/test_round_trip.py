"""Text exports: an import of an export is the trajectory that was exported, whatever it holds."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from trajectory_strategies import JSON, trajectories

from envecho.formats import (
    ImportReport,
    atif_export,
    chat_export,
    import_traces,
    openenv_export,
    training_trace_export,
)
from envecho.formats.training_trace_export import TracedCall
from envecho.trajectory import Message, Segment, Source, Trajectory

Write = Callable[[Trajectory, Counter[str]], dict[str, Any]]
WRITERS: dict[str, Write] = {
    "messages": chat_export.write,
    "atif": atif_export.write,
    "openenv": openenv_export.write,
}


def imported(lines: list[Any]) -> tuple[list[Trajectory], ImportReport]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "export"
        text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
        path.write_bytes(text.encode())
        report = ImportReport()
        return list(import_traces([path], report)), report


def without_origin(trajectory: Trajectory) -> Trajectory:
    kept = {name: value for name, value in trajectory.metadata.items() if name != "import"}
    return trajectory.model_copy(update={"metadata": kept})


@pytest.mark.parametrize("target", WRITERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(trajectories(), min_size=1, max_size=2))
def test_an_import_of_an_export_is_the_same_trajectory(target: str, exported: list[Trajectory]):
    """Catches anything that a target loses, joins, reorders or guesses: segments, empty ones, ids, exact arguments."""
    found, report = imported([WRITERS[target](trajectory, Counter()) for trajectory in exported])
    assert report.problems == []
    assert report.formats == {target: len(exported)}
    assert [without_origin(trajectory) for trajectory in found] == exported


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON document, from the root's fields on."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in inner for found in [(*path, key), *places(part, (*path, key))]]


@pytest.mark.parametrize("target", WRITERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(trajectories(), st.data())
def test_an_export_that_somebody_broke_is_read_or_refused_by_name(
    target: str, trajectory: Trajectory, data: st.DataObject
):
    """Catches a traceback for a field that is missing or of another type, and a file that vanishes without a word."""
    document = WRITERS[target](trajectory, Counter())
    *path, last = data.draw(st.sampled_from(places(document)))
    inner: Any = document
    for key in path:
        inner = inner[key]
    if data.draw(st.booleans()):
        del inner[last]
    else:
        inner[last] = data.draw(JSON)
    found, report = imported([document])
    assert len(found) + len(report.problems) >= 1


@pytest.mark.parametrize("target", WRITERS)
def test_a_text_that_was_edited_after_the_export_is_refused(target: str):
    """Catches roles that shift by some characters when somebody corrects a word."""
    answer = Message(role="tool", segments=(Segment(source=Source.STDOUT, text="3 files\n"),))
    said = Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls"),))
    line = WRITERS[target](Trajectory(id="e", task_id="t", messages=(said, answer)), Counter())
    edited = json.loads(json.dumps(line).replace("3 files\\n", "3\\n"))
    found, report = imported([edited])
    assert found == []
    assert "the text was changed after its spans were written" in report.problems[0].message


def test_messages_of_another_writer_need_no_key_of_ours():
    """Catches a reader of our own exports alone: a bare list, where an assistant's turn without spans is an action."""
    block = {"version": 1, "spans": [{"start": 0, "end": 2, "role": "env_output"}]}
    chats = [
        {"role": "user", "content": "Look."},
        {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "ls", "arguments": "{}"}}]},
        {"role": "tool", "content": "a\n[0]", "rfc010": block},
        {"role": "assistant", "content": "One."},
    ]
    for document in (chats, {"messages": chats}, {"messages": chats, "id": 7, "tools": None}):
        (found,), report = imported([document])
        assert report.problems == []
        assert [[s.source for s in m.segments] for m in found.messages] == [
            [Source.TASK],
            [],
            [Source.TOOL_RESULT, Source.TASK],
            [Source.POLICY],
        ]
        assert found.id == ("7" if "id" in document else "export")


def calls_of(trajectory: Trajectory) -> list[TracedCall]:
    """A call for every turn with log-probs; its prompt shows all messages before it."""
    found: list[TracedCall] = []
    for place, message in enumerate(trajectory.messages):
        sampled = message.sampled
        if sampled is not None and sampled.logprobs is not None and sampled.token_ids:
            found.append(
                TracedCall(
                    shown=tuple(range(place)),
                    answer=place,
                    prompt_ids=(1, 2),
                    completion_ids=sampled.token_ids,
                    logprobs=sampled.logprobs,
                    trains=True,
                    token_spans=(),
                )
            )
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(trajectories())
def test_an_import_of_an_exported_trace_is_the_same_trajectory(trajectory: Trajectory):
    """Catches messages that no call shows, turns without log-probs between calls, and names without a place."""
    calls = calls_of(trajectory)
    assume(calls)
    found, report = imported([training_trace_export.write(trajectory, calls, Counter())])
    assert report.problems == []
    assert report.formats == {"openenv-trace": 1}
    assert [without_origin(found) for found in found] == [trajectory]
