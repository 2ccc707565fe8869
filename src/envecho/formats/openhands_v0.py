"""Events of OpenHands V0: `{"id", "source", "action" + "args" or "observation" + "content" + "extras", "cause"}`.

What an event is follows from its having an action or an observation, never from its `source`. Events that share one
answer of the model are one turn. An observation whose action is not among the events answers nobody and is left out; in
the older shape, whose fields stand beside `action` and `observation` (resolver's output.jsonl), it answers the action
before it. Not here: files and folders of events (`openhands`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats.rules import Rule, split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, ToolCall

SILENT: Final = ("recall", "change_agent_state", "agent_state_changed", "null", "pause", "resume", "start", "stop")
_NO_CALL: Final = ("message", "finish", "think", "reject")
_NO_ARGUMENT: Final = (
    "thought", "is_confirmed", "confirmation_state", "keep_prompt", "action_risk", "hidden", "blocking", "is_static",
    "security_risk", "action", "id", "timestamp", "source", "message", "cause", "timeout", "tool_call_metadata",
)  # fmt: skip
_BODIES: Final = {
    "run": Source.STDOUT,
    "error": Source.HARNESS_ERROR,
    "user_rejected": Source.HARNESS_NOTICE,
}


@dataclass(kw_only=True)
class Events:
    """What the events of one episode say; `all_answered`: a raw answer of the model stands beside each turn."""

    turns: list[Turn] = field(default_factory=list[Turn])
    segments: dict[int, tuple[Segment, ...]] = field(default_factory=dict[int, tuple[Segment, ...]])
    num_orphans: int = 0
    all_answered: bool = True

    def observe(self, cut: tuple[Segment, ...], *, call_id: Any, tool: Any, is_error: bool = False) -> None:
        """Add a tool turn that is cut already."""
        name, identity = (value if isinstance(value, str) else None for value in (tool, call_id))
        cut = tuple(segment.model_copy(update={"tool": name}) for segment in cut if segment.text)
        self.segments[len(self.turns)] = cut
        text = "".join(segment.text for segment in cut)
        self.turns.append(Turn(kind="tool", text=text, tool_call_id=identity, name=name, is_error=is_error))


def is_event(data: Any) -> bool:
    """Whether this is one event, of the newer or the older shape."""
    if not isinstance(data, Mapping) or not any(isinstance(data.get(key), str) for key in ("action", "observation")):
        return False
    return "source" in data or ("observation" in data and "content" in data) or _is_old_action(data)


def _is_old_action(data: Mapping[str, Any]) -> bool:
    return "action" in data and any(key in data for key in ("thought", "is_confirmed", "wait_for_response"))


def is_break(event: Mapping[str, Any]) -> bool:
    """Whether the history is rewritten here: old events give way to a summary."""
    return event.get("action") in ("condensation", "condense")


def read_events(events: Sequence[Mapping[str, Any]], rules: Sequence[Rule]) -> Events:
    """Return what the events say.

    Raises:
        DataError: an observation has no text.
    """
    found = Events()
    places: dict[Any, int] = {}
    actions = {event.get("id") for event in events if "action" in event}
    num_actions = 0
    for number, event in enumerate(events):
        stored = event.get("tool_call_metadata")
        call: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
        extras = event["extras"] if isinstance(event.get("extras"), Mapping) else {}
        if extras.get("hidden") is True:
            continue
        if "action" in event:
            num_actions += event["action"] not in SILENT
            _act(found, event, call, places)
        elif event["observation"] not in SILENT:
            answers = event["cause"] in actions if "cause" in event else num_actions > 1 and "id" not in event
            if not answers:
                found.num_orphans += 1
                continue
            cut = _segments(event, number, rules)
            found.observe(cut, call_id=call.get("tool_call_id"), tool=call.get("function_name") or event["observation"])
    return found


def _act(found: Events, event: Mapping[str, Any], call: Mapping[str, Any], places: dict[Any, int]) -> None:
    """Add the turn of an action; those of one answer of the model are one turn."""
    response = call.get("model_response")
    choices = response.get("choices") if isinstance(response, Mapping) else None
    if isinstance(response, Mapping) and isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
        if response.get("id") in places:
            return
        message = choices[0].get("message")
        if not isinstance(message, Mapping):
            raise DataError(f"expected a message in the model_response of event {event.get('id')}, found none")
        places[response.get("id")] = len(found.turns)
        found.turns += turns_of([{"role": "assistant", **message}])
        return
    turn = _action(event, is_first=not found.turns)
    if turn is not None:
        found.all_answered = found.all_answered and turn.kind != "assistant"
        found.turns.append(turn)


def _action(event: Mapping[str, Any], *, is_first: bool) -> Turn | None:
    """The turn of an action that keeps no answer of the model: its words, and the call written out."""
    action = event["action"]
    args: Mapping[str, Any] = event["args"] if isinstance(event.get("args"), Mapping) else event
    text = next((str(args[key]) for key in ("content", "thought", "final_thought") if args.get(key)), "")
    if action == "system":
        return Turn(kind="system", text=text or str(event.get("message") or ""))
    if action in SILENT:
        return None
    text = text if action in _NO_CALL or "thought" not in args else str(args.get("thought") or "")
    if event.get("source") == "user" or ("source" not in event and action == "message" and is_first):
        return Turn(kind="user", text=text or str(event.get("message") or ""))
    calls: tuple[ToolCall, ...] = ()
    if action not in _NO_CALL:
        kept = {key: value for key, value in args.items() if key not in _NO_ARGUMENT and value not in (None, "")}
        calls = (ToolCall(name=action, arguments=json.dumps(kept, ensure_ascii=False)),)
    return Turn(kind="assistant", text=text, tool_calls=calls, is_lossy=True)


def _segments(event: Mapping[str, Any], number: int, rules: Sequence[Rule]) -> tuple[Segment, ...]:
    content = event.get("content")
    if not isinstance(content, str):
        raise DataError(f"expected text as the content of event {number}, found {type(content).__name__}")
    extras = event["extras"] if isinstance(event.get("extras"), Mapping) else {}
    body = _BODIES.get(str(event["observation"]), Source.TOOL_RESULT)
    return around(split(content, rules, body=body), extras.get("metadata"))


def around(cut: tuple[Segment, ...], metadata: Any) -> tuple[Segment, ...]:
    """Put around a command's output what OpenHands writes there for the model: prefix, suffix, folder, exit code."""
    facts: Mapping[str, Any] = metadata if isinstance(metadata, Mapping) else {}
    shown = "".join(segment.text for segment in cut) + str(facts.get("suffix") or "")
    lines = [
        ("working_dir", "\n[Current working directory: {}]"),
        ("py_interpreter_path", "\n[Python interpreter: {}]"),
        ("exit_code", "\n[Command finished with exit code {}]"),
    ]
    after = str(facts.get("suffix") or "")
    for key, line in lines:
        value = facts.get(key)
        if value not in (None, "", -1) and line[:12] not in shown:
            after += line.format(value)
    before = str(facts.get("prefix") or "")
    pieces = (Segment(source=Source.STATUS, text=text) if text else None for text in (before, after))
    first, last = pieces
    return (*([first] if first else []), *cut, *([last] if last else []))


def flattened(history: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the events of a history, which older files keep in pairs of action and observation."""
    for entry in history:
        for event in entry if isinstance(entry, list) else [entry]:
            if is_event(event):
                yield event
