"""Events of OpenHands: V0 (a list of `{"id", "action" or "observation"}`) and V1 (one `{"kind": ...}` per line).

What an event is follows from its having an action or an observation, never from its `source`. Events that share one
answer of the model are one turn. An observation whose action is not in the file answers nobody and is left out. Not
here: the words that OpenHands writes around an output (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats import token_fields
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, assemble_with_calls
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS, split
from envecho.formats.token_fields import COMPLETION, PROMPT, has_call
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "openhands"
_KINDS: Final = ("SystemPromptEvent", "MessageEvent", "ActionEvent", "ObservationEvent", "AgentErrorEvent",
                 "UserRejectObservation", "Condensation", "ConversationStateUpdateEvent", "TokenEvent")  # fmt: skip
_SILENT: Final = ("recall", "system", "change_agent_state", "agent_state_changed", "null")


def recognises(data: Any) -> bool:
    """Whether this is a list of V0 events, or the first of a file of V1 events."""
    if isinstance(data, list):
        events = [event for event in data if isinstance(event, Mapping)]
        return bool(events) and len(events) == len(data) and all(_is_v0(event) for event in events)
    return isinstance(data, Mapping) and data.get("kind") in _KINDS


def recognises_line(data: Any) -> bool:
    """Whether a line is a V1 event."""
    return isinstance(data, Mapping) and isinstance(data.get("kind"), str) and "id" in data


def _is_v0(event: Mapping[str, Any]) -> bool:
    return "id" in event and ("action" in event or "observation" in event) and "source" in event


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode of a V0 list, or of one V1 event.

    Raises:
        DataError: an event has no text where one is needed.
    """
    if isinstance(document.data, Mapping):
        yield from read_lines([document], options)
        return
    yield from _episode(document, _v0(document.data), options, version="0", number=number)


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory]:
    """Yield the episodes of V1 events; a condensation begins a new one.

    Raises:
        DataError: an event has no text where one is needed.
    """
    parts: list[list[Mapping[str, Any]]] = [[]]
    first: Document | None = None
    for document in documents:
        first = first or document
        if document.data.get("kind") == "Condensation":
            parts.append([])
        else:
            parts[-1].append(document.data)
    assert first is not None
    whole = Document(file=first.file, data=None)
    for number, events in enumerate(parts):
        turns, segments, orphans, calls = _v1(events)
        yield from _episode(whole, (turns, segments, orphans), options, version="1", number=number, calls=calls)


_Read = tuple[list[Turn], dict[int, tuple[Segment, ...]], int]


def _episode(
    document: Document,
    found: _Read,
    options: ImportOptions,
    *,
    version: str,
    number: int | None,
    calls: Mapping[int, Call] | None = None,
) -> Iterator[Trajectory]:
    turns, segments, orphans = found
    if not any(turn.kind == "assistant" for turn in turns):
        return
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        pack="openhands",
        action_provenance="proved",
        context_incomplete=not any(turn.kind == "system" for turn in turns),
        segments=segments,
        facts={"format_version": version, "num_orphan_observations": orphans},
    )
    yield assemble_with_calls(turns, calls or {}, origin, options)


def _v0(events: Sequence[Mapping[str, Any]]) -> _Read:
    turns: list[Turn] = []
    segments: dict[int, tuple[Segment, ...]] = {}
    answered: set[Any] = set()
    orphans = 0
    actions = {event["id"] for event in events if "action" in event}
    for event in events:
        call = event["tool_call_metadata"] if isinstance(event.get("tool_call_metadata"), Mapping) else {}
        if "action" in event:
            turn = _v0_action(event, call, answered)
            turns += [turn] if turn else []
        elif event["observation"] not in _SILENT:
            if event.get("cause") not in actions:
                orphans += 1
                continue
            segments[len(turns)] = _v0_segments(event)
            text = "".join(segment.text for segment in segments[len(turns)])
            turns.append(
                Turn(kind="tool", text=text, tool_call_id=call.get("tool_call_id"), name=call.get("function_name"))
            )
    return turns, segments, orphans


def _v0_action(event: Mapping[str, Any], call: Mapping[str, Any], answered: set[Any]) -> Turn | None:
    response = call.get("model_response")
    args = event["args"] if isinstance(event.get("args"), Mapping) else {}
    if isinstance(response, Mapping) and response.get("choices"):
        if response.get("id") in answered:
            return None
        answered.add(response.get("id"))
        (turn,) = turns_of([{"role": "assistant", **response["choices"][0]["message"]}])
        return turn
    if event["action"] in _SILENT:
        return None
    text = str(args.get("content") or args.get("thought") or event.get("message") or "")
    return Turn(kind="assistant" if event.get("source") == "agent" else "user", text=text, is_lossy=True)


def _v0_segments(event: Mapping[str, Any]) -> tuple[Segment, ...]:
    content = event.get("content")
    if not isinstance(content, str):
        raise DataError(f"expected text as the content of event {event['id']}, found {type(content).__name__}")
    extras = event["extras"] if isinstance(event.get("extras"), Mapping) else {}
    metadata = extras["metadata"] if isinstance(extras.get("metadata"), Mapping) else {}
    before, after = (str(metadata.get(name) or "") for name in ("prefix", "suffix"))
    is_run = event["observation"] == "run"
    body = Source.STDOUT if is_run else Source.TOOL_ERROR if event["observation"] == "error" else Source.TOOL_RESULT
    cut = split(content, PACKS["openhands"], body=body)
    around = [(Segment(source=Source.STATUS, text=text),) if text else () for text in (before, after)]
    return (*around[0], *cut, *around[1])


def _v1(events: Sequence[Mapping[str, Any]]) -> tuple[list[Turn], dict[int, tuple[Segment, ...]], int, dict[int, Call]]:
    turns: list[Turn] = []
    calls: dict[int, Call] = {}
    segments: dict[int, tuple[Segment, ...]] = {}
    orphans = 0
    actions = {event["id"] for event in events if event.get("kind") == "ActionEvent"}
    last_response: Any = None
    for event in events:
        kind = event.get("kind")
        if kind == "ActionEvent":
            turn = _v1_action(event)
            if turns and last_response is not None and event.get("llm_response_id") == last_response:
                turns[-1] = replace(turns[-1], tool_calls=turns[-1].tool_calls + turn.tool_calls)
            else:
                turns.append(turn)
            last_response = event.get("llm_response_id")
        elif kind == "TokenEvent":
            # It follows the events of the answer whose ids it holds.
            answer = next((k for k in range(len(turns) - 1, -1, -1) if turns[k].kind == "assistant"), None)
            if answer is not None and answer not in calls and has_call(event):
                calls[answer] = _ids(event, answer)
        elif kind in ("ObservationEvent", "AgentErrorEvent", "UserRejectObservation"):
            if event.get("action_id", event.get("tool_call_id")) is None or (
                kind != "AgentErrorEvent" and event.get("action_id") not in actions
            ):
                orphans += 1
                continue
            cut = _v1_segments(event, kind)
            segments[len(turns)] = cut
            text = "".join(segment.text for segment in cut)
            turns.append(
                Turn(kind="tool", text=text, tool_call_id=event.get("tool_call_id"), name=event.get("tool_name"))
            )
            last_response = None
        elif kind in ("MessageEvent", "SystemPromptEvent"):
            turns.append(_v1_message(event, kind))
            last_response = None
    return turns, segments, orphans, calls


def _ids(event: Mapping[str, Any], place: int) -> Call:
    return Call(
        prompt_ids=token_fields.ids(event, PROMPT, place), completion_ids=token_fields.ids(event, COMPLETION, place)
    )


def _v1_action(event: Mapping[str, Any]) -> Turn:
    call = event["tool_call"] if isinstance(event.get("tool_call"), Mapping) else {}
    stored = ToolCall(
        name=str(call.get("name") or event.get("tool_name")),
        arguments=str(call.get("arguments", "")),
        id=call.get("id"),
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


def _v1_segments(event: Mapping[str, Any], kind: str) -> tuple[Segment, ...]:
    if kind == "AgentErrorEvent":
        return (Segment(source=Source.FORMAT_WARNING, text=str(event.get("error", ""))),)
    if kind == "UserRejectObservation":
        return (Segment(source=Source.HARNESS_NOTICE, text=str(event.get("rejection_reason", ""))),)
    observation = event["observation"] if isinstance(event.get("observation"), Mapping) else {}
    metadata = observation["metadata"] if isinstance(observation.get("metadata"), Mapping) else {}
    body = Source.TOOL_ERROR if observation.get("is_error") else Source.TOOL_RESULT
    content = _parts(observation.get("content"))
    before, after = (str(metadata.get(name) or "") for name in ("prefix", "suffix"))
    around = [(Segment(source=Source.STATUS, text=text),) if text else () for text in (before, after)]
    return (*around[0], *split(content, PACKS["openhands"], body=body, tool=event.get("tool_name")), *around[1])


def _parts(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise DataError(f"expected text or parts, found {type(content).__name__}")
    return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
