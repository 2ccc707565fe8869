"""Events of OpenHands: V0 (a list, a folder or a result row of them, `openhands_v0`) and V1 (one `{"kind": ...}` each).

Events of V1 that share one answer of the model are one turn. An observation whose action is not in the file answers
nobody and is left out. A condensation begins a new episode. Not here: the words that OpenHands writes around an output
(`rules`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from envecho.formats import openhands_v0, token_fields
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, assemble_with_calls
from envecho.formats.openhands_v0 import Events, around
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.rules import PACKS, Rule, split
from envecho.formats.token_fields import COMPLETION, PROMPT, has_call
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "openhands"
_KINDS: Final = ("SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent", "AgentErrorEvent",
                 "UserRejectObservation", "Condensation", "ConversationStateUpdateEvent", "TokenEvent")  # fmt: skip


def recognises(data: Any) -> bool:
    """Whether this is a list of V0 events, a row that holds one, or the first of a file of events."""
    if isinstance(data, list):
        return bool(data) and all(openhands_v0.is_event(event) for event in data)
    if not isinstance(data, Mapping):
        return False
    return data.get("kind") in _KINDS or openhands_v0.is_event(data) or _history(data) is not None


def recognises_line(data: Any) -> bool:
    """Whether a line is an event."""
    if not isinstance(data, Mapping):
        return False
    if isinstance(data.get("kind"), str) and "id" in data:
        return True
    return openhands_v0.is_event(data) or _history(data) is not None


def _history(row: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    history = row.get("history")
    found = list(openhands_v0.flattened(history)) if isinstance(history, list) else []
    return found or None


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of a V0 list or row.

    Raises:
        DataError: an event has no text where one is needed.
    """
    data = document.data
    if isinstance(data, Mapping):
        events, row = _history(data) or [data], data
    else:
        events, row = list(data), {}
    yield from _episodes(document, events, options, row=row, number=number)


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of events, or of rows that hold some each; one that cannot be read is refused."""
    first: Document | None = None
    events: list[Mapping[str, Any]] = []
    for document in documents:
        if (history := _history(document.data)) is not None:
            yield from _episodes(document, history, options, row=document.data, number=None)
        else:
            first = first or document
            events.append(document.data)
    if first is not None:
        yield from _episodes(Document(file=first.file, data=None), events, options, row={}, number=0)


def _episodes(
    document: Document,
    events: Sequence[Mapping[str, Any]],
    options: ImportOptions,
    *,
    row: Mapping[str, Any],
    number: int | None,
) -> Iterator[Trajectory | Refused]:
    """Cut the events where their history is rewritten, and read each part."""
    is_v1 = any("kind" in event for event in events)
    parts: list[list[Mapping[str, Any]]] = [[]]
    for event in events:
        if event.get("kind") == "Condensation" or openhands_v0.is_break(event):
            parts.append([])
        else:
            parts[-1].append(event)
    rules = options.rules + PACKS["openhands"]
    for place, part in enumerate(parts):
        try:
            found = _v1(part, rules) if is_v1 else _EventsAndCalls(events=openhands_v0.read_events(part, rules))
            turns = found.events.turns
            if not any(turn.kind == "assistant" for turn in turns):
                continue
            index = number if len(parts) == 1 else 1000 * (number or 0) + place
            origin = _origin(document, found.events, row, is_v1=is_v1, number=index)
            if place:
                origin = replace(origin, context_incomplete=True)
            yield assemble_with_calls(turns, found.calls, origin, options)
        except MALFORMED as error:
            yield refuse(document, error)


def _origin(document: Document, events: Events, row: Mapping[str, Any], *, is_v1: bool, number: int | None) -> Origin:
    answers = [turn for turn in events.turns if turn.kind == "assistant"]
    resolved = next((row[key] for key in ("resolved", "success", "reward") if key in row), None)
    return Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(row["instance_id"]) if isinstance(row.get("instance_id"), str) else None,
        reward=float(resolved) if isinstance(resolved, bool | int | float) else None,
        pack="openhands",
        action_provenance="proved" if answers and events.all_answered else "assumed",
        context_incomplete=not any(turn.kind == "system" for turn in events.turns),
        segments=events.segments,
        facts={"format_version": "1" if is_v1 else "0", "num_orphan_observations": events.num_orphans},
    )


@dataclass(kw_only=True)
class _EventsAndCalls:
    """What the events say, with the ids of the calls that have some."""

    events: Events = field(default_factory=Events)
    calls: dict[int, Call] = field(default_factory=dict[int, Call])


def _v1(events: Sequence[Mapping[str, Any]], rules: Sequence[Rule]) -> _EventsAndCalls:
    found = _EventsAndCalls()
    turns = found.events.turns
    actions = {event.get("id") for event in events if event.get("kind") == "ActionEvent"}
    calls = {_call_of(event).get("id") for event in events if event.get("kind") == "ActionEvent"}
    place_of: dict[Any, int] = {}
    for event in events:
        kind, response = event.get("kind"), event.get("llm_response_id")
        if kind == "ActionEvent":
            turn = _v1_action(event)
            if response is not None and response in place_of:
                before = turns[place_of[response]]
                turns[place_of[response]] = replace(before, tool_calls=before.tool_calls + turn.tool_calls)
                continue
            if response is not None:
                place_of[response] = len(turns)
            found.events.all_answered = found.events.all_answered and response is not None
            turns.append(turn)
        elif kind == "TokenEvent":
            # It follows the events of the answer whose ids it holds.
            answer = next((k for k in range(len(turns) - 1, -1, -1) if turns[k].kind == "assistant"), None)
            if answer is not None and answer not in found.calls and has_call(event):
                found.calls[answer] = _ids(event, answer)
        elif kind in ("ObservationEvent", "AgentErrorEvent", "UserRejectObservation"):
            is_known = event.get("action_id") in actions or (
                kind == "AgentErrorEvent" and event.get("tool_call_id") in calls
            )
            if not is_known:
                found.events.num_orphans += 1
                continue
            cut = _v1_segments(event, kind, rules)
            found.events.observe(cut, call_id=event.get("tool_call_id"), tool=event.get("tool_name"))
        elif kind in ("MessageEvent", "SystemPromptEvent"):
            turns.append(_v1_message(event, kind))
    return found


def _call_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    return event["tool_call"] if isinstance(event.get("tool_call"), Mapping) else {}


def _ids(event: Mapping[str, Any], place: int) -> Call:
    return Call(
        prompt_ids=token_fields.ids(event, PROMPT, place), completion_ids=token_fields.ids(event, COMPLETION, place)
    )


def _v1_action(event: Mapping[str, Any]) -> Turn:
    call = _call_of(event)
    stored = ToolCall(
        name=str(call.get("name") or event.get("tool_name")),
        arguments=str(call.get("arguments", "")),
        id=call["id"] if isinstance(call.get("id"), str) else None,
    )
    reasoning = event.get("reasoning_content")
    return Turn(
        kind="assistant",
        text=_parts(event.get("thought")),
        reasoning=reasoning if isinstance(reasoning, str) and reasoning else None,
        tool_calls=(stored,),
    )


def _v1_message(event: Mapping[str, Any], kind: str) -> Turn:
    if kind == "SystemPromptEvent":
        prompt = event.get("system_prompt")
        return Turn(kind="system", text=_parts([prompt] if isinstance(prompt, Mapping) else prompt))
    message = event["llm_message"] if isinstance(event.get("llm_message"), Mapping) else {}
    is_agent = event.get("source") == "agent"
    return Turn(kind="assistant" if is_agent else "user", text=_parts(message.get("content")))


def _v1_segments(event: Mapping[str, Any], kind: str, rules: Sequence[Rule]) -> tuple[Segment, ...]:
    if kind == "AgentErrorEvent":
        return (Segment(source=Source.FORMAT_WARNING, text=str(event.get("error", ""))),)
    if kind == "UserRejectObservation":
        return (Segment(source=Source.HARNESS_NOTICE, text=str(event.get("rejection_reason", ""))),)
    observation = event["observation"] if isinstance(event.get("observation"), Mapping) else {}
    body = Source.TOOL_ERROR if observation.get("is_error") else Source.TOOL_RESULT
    return around(split(_parts(observation.get("content")), rules, body=body), observation.get("metadata"))


def _parts(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(turn.text for turn in turns_of([{"role": "user", "content": content}]))
