"""Sessions of Codex: rollout files (`session_meta`, `response_item`) and streams of `codex exec --json`.

In a rollout file `event_msg` repeats what `response_item` says. In a stream a command's output is all that is known of
its result, and of the reasoning there is a summary alone: both kinds have an incomplete context. Not here: the items of
the Responses API themselves (`turns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import ToolCall, Trajectory

NAME = "codex"
_ROLLOUT = ("session_meta", "turn_context", "response_item", "event_msg", "compacted")
_STREAM = ("thread.", "turn.", "item.")


def recognises(data: Any) -> bool:
    """Whether a line is the first of a session."""
    return isinstance(data, Mapping) and (
        (data.get("type") == "session_meta" and isinstance(data.get("payload"), Mapping))
        or (data.get("type") == "thread.started" and "thread_id" in data)
    )


def recognises_line(data: Any) -> bool:
    """Whether a line belongs to a session that has begun."""
    kind = data.get("type") if isinstance(data, Mapping) else None
    return isinstance(kind, str) and (kind in _ROLLOUT or kind.startswith(_STREAM) or kind == "error")


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory]:
    """Yield the episodes of a session; a compaction begins a new one.

    Raises:
        DataError: an item cannot be read.
    """
    lines = list(documents)
    if lines and lines[0].data.get("type") == "thread.started":
        yield from _episode(0, lines[0], list(_stream(lines)), options, str(lines[0].data.get("thread_id")))
        return
    episodes: list[list[Any]] = [[]]
    for line in lines:
        payload = line.data.get("payload")
        if line.data.get("type") == "compacted":
            episodes.append([])
        elif line.data.get("type") == "response_item" and isinstance(payload, Mapping):
            episodes[-1].append(payload)
    session = str((lines[0].data.get("payload") or {}).get("id"))
    for number, items in enumerate(episodes):
        yield from _episode(number, lines[0], turns_of(items), options, session)


def _stream(lines: Iterable[Document]) -> Iterator[Turn]:
    for line in lines:
        item = line.data.get("item")
        if line.data.get("type") != "item.completed" or not isinstance(item, Mapping):
            continue
        kind, identity = item.get("type"), str(item.get("id"))
        if kind == "agent_message":
            yield Turn(kind="assistant", text=str(item.get("text", "")), is_lossy=True)
        elif kind == "command_execution":
            call = ToolCall(name="shell", arguments=str(item.get("command", "")), id=identity)
            yield Turn(kind="assistant", text="", tool_calls=(call,), is_lossy=True)
            text = str(item.get("aggregated_output", ""))
            yield Turn(
                kind="tool", text=text, tool_call_id=identity, name="shell", is_error=bool(item.get("exit_code"))
            )


def _episode(
    number: int, first: Document, turns: list[Turn], options: ImportOptions, session: str
) -> Iterator[Trajectory]:
    if not any(turn.kind == "assistant" for turn in turns):
        return
    origin = Origin(
        format=NAME,
        document=Document(file=first.file, data=None),
        number=number,
        action_provenance="proved",
        action_text_lossy=True,
        context_incomplete=True,
        facts={"session_id": session},
    )
    yield assemble(turns, origin, options)
