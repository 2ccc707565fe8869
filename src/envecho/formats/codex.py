"""Sessions of Codex: rollout files and streams of `codex exec --json`.

    {"type": "session_meta" | "response_item" | "compacted" | ..., "payload": {...}}    rollout files
    {"id", "timestamp", "instructions"}, then items alone                               their older layout
    {"type": "thread.started" | "item.completed" | ..., "item": {...}}                   streams

In a rollout file `event_msg` repeats what `response_item` says. In a stream a command's output is all that is known of
its result, and of the reasoning there is a summary alone: all have an incomplete context. Not here: the items of the
Responses API themselves (`turns`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.rules import PACKS, split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "codex"
_ROLLOUT: Final = ("session_meta", "turn_context", "response_item", "event_msg", "compacted")
_STREAM: Final = ("thread.", "turn.", "item.")
_ITEMS: Final = ("message", "reasoning", "function_call", "function_call_output", "local_shell_call",
                 "custom_tool_call", "custom_tool_call_output", "web_search_call")  # fmt: skip
_WRAPPED = re.compile(r'\A(\{"output": ?")((?:[^"\\]|\\.)*)("(?:, ?"metadata": ?\{[^{}]*\})?\})\s*\Z', re.DOTALL)


def recognises(data: Any) -> bool:
    """Whether a line is the first of a session, or, where a head was cut off, one of its own lines."""
    if not isinstance(data, Mapping):
        return False
    if data.get("type") in _ROLLOUT:
        return isinstance(data.get("payload"), Mapping)
    return (data.get("type") == "thread.started" and "thread_id" in data) or _is_old_head(data)


def _is_old_head(data: Mapping[str, Any]) -> bool:
    return "type" not in data and {"id", "timestamp", "instructions"} <= set(data) and "messages" not in data


def recognises_line(data: Any) -> bool:
    """Whether a line belongs to a session that has begun."""
    if not isinstance(data, Mapping):
        return False
    kind = data.get("type")
    if isinstance(kind, str):
        return kind in _ROLLOUT or kind in _ITEMS or kind.startswith(_STREAM) or kind == "error"
    return "record_type" in data


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of a session; a compaction begins a new one. One that cannot be read is refused."""
    lines = list(documents)
    first = lines[0]
    if first.data.get("type") == "thread.started":
        yield from _guarded(
            0, first, lambda: list(_stream(lines)), options, {"session_id": str(first.data.get("thread_id"))}
        )
        return
    episodes: list[list[Any]] = [[]]
    for line in lines:
        payload = line.data.get("payload")
        if line.data.get("type") == "compacted":
            summary = payload.get("message") if isinstance(payload, Mapping) else None
            episodes.append([{"role": "user", "content": summary}] if isinstance(summary, str) else [])
        elif line.data.get("type") == "response_item":
            episodes[-1].append(payload)
        elif line.data.get("type") in _ITEMS:
            episodes[-1].append(line.data)
    meta = first.data.get("payload")
    head = meta if isinstance(meta, Mapping) else first.data
    git = head.get("git")
    remote = git.get("repository_url") if isinstance(git, Mapping) else None
    facts = {"session_id": str(head.get("id")), "repository_url": remote if isinstance(remote, str) else None}
    for number, items in enumerate(episodes):
        yield from _guarded(number, first, lambda items=items: _rollout(items), options, facts)


def _rollout(items: Sequence[Any]) -> list[Turn]:
    known = [item for item in items if not isinstance(item, Mapping) or item.get("type", "message") in _ITEMS]
    return turns_of(known)


def _stream(lines: Iterable[Document]) -> Iterator[Turn]:
    thought: str | None = None
    for line in lines:
        item = line.data.get("item")
        if line.data.get("type") != "item.completed" or not isinstance(item, Mapping):
            continue
        kind, identity = item.get("type", item.get("item_type")), str(item.get("id"))
        if kind == "reasoning":
            thought = "\n".join(filter(None, (thought, str(item.get("text", "")))))
            continue
        if kind in ("agent_message", "assistant_message"):
            yield Turn(kind="assistant", text=str(item.get("text", "")), reasoning=thought, is_lossy=True)
        elif kind in ("command_execution", "mcp_tool_call", "file_change", "web_search"):
            call, text, is_error = _call(kind, item, identity)
            yield Turn(kind="assistant", text="", reasoning=thought, tool_calls=(call,), is_lossy=True)
            if text is not None:
                yield Turn(kind="tool", text=text, tool_call_id=identity, name=call.name, is_error=is_error)
        else:
            continue
        thought = None


def _call(kind: str, item: Mapping[str, Any], identity: str) -> tuple[ToolCall, str | None, bool]:
    """A call of the stream, what it printed (None: not in the file), and whether it failed."""
    if kind == "command_execution":
        call = ToolCall(name="shell", arguments=str(item.get("command", "")), id=identity)
        return call, str(item.get("aggregated_output", "")), bool(item.get("exit_code"))
    if kind == "mcp_tool_call":
        name = ".".join(str(item[key]) for key in ("server", "tool") if item.get(key))
        result, error = item.get("result"), item.get("error")
        content = result.get("content") if isinstance(result, Mapping) else result
        text = None if content is None else "".join(t.text for t in turns_of([{"role": "user", "content": content}]))
        said = str(error.get("message", "")) if isinstance(error, Mapping) else text
        return ToolCall(name=name, arguments=json.dumps(item.get("arguments")), id=identity), said, bool(error)
    arguments = item.get("changes") if kind == "file_change" else item.get("query")
    return ToolCall(name=kind, arguments=json.dumps(arguments, ensure_ascii=False), id=identity), None, False


def _guarded(
    number: int, first: Document, read: Any, options: ImportOptions, facts: dict[str, Any]
) -> Iterator[Trajectory | Refused]:
    try:
        turns: list[Turn] = read()
        if any(turn.kind == "assistant" for turn in turns):
            yield _episode(number, first, turns, options, facts)
    except MALFORMED as error:
        yield refuse(first, error, place=f"part {number} of the session")


def _episode(
    number: int, first: Document, turns: list[Turn], options: ImportOptions, facts: dict[str, Any]
) -> Trajectory:
    origin = Origin(
        format=NAME,
        document=Document(file=first.file, data=None),
        number=number,
        pack="codex",
        action_provenance="proved",
        action_text_lossy=True,
        context_incomplete=True,
        segments={place: cut for place, turn in enumerate(turns) if (cut := _unwrapped(turn, options)) is not None},
        facts=facts,
    )
    return assemble(turns, origin, options)


def _unwrapped(turn: Turn, options: ImportOptions) -> tuple[Segment, ...] | None:
    """Cut `{"output": "...", "metadata": {"exit_code": 0}}`, which the model saw as JSON: the body stays escaped."""
    found = _WRAPPED.match(turn.text) if turn.kind == "tool" else None
    if found is None:
        return None
    start, end = found.span(2)
    body = split(turn.text[start:end], options.rules + PACKS["codex"], body=Source.STDOUT, tool=turn.name)
    return (
        Segment(source=Source.WRAPPER, text=turn.text[:start]),
        *body,
        Segment(source=Source.STATUS, text=turn.text[end:]),
    )
