"""Role spans as data: who wrote which characters of a message, in the places that other formats leave free.

OpenEnv's RFC 010 gives text four roles and no place in a file. This is the place that we write and read, described for
others in docs/rfc010.md: a block `{"version": 1, "spans": [...]}` under the key `rfc010`. What only our own record
knows stands beside it under `envecho`, so that an import of an export gives the same trajectory. Not here: where each
format keeps the two keys (the writers and readers of the formats).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeGuard, get_args

from pydantic import ValidationError

from envecho.errors import DataError, did_you_mean
from envecho.formats.assemble import ImportOptions, message_as_text
from envecho.formats.reading import Document
from envecho.formats.turns import Turn
from envecho.trajectory import ChatRole, Message, Role, Segment, Source, ToolCall, Trajectory

KEY: Final = "rfc010"
OURS: Final = "envecho"
VERSION: Final = 1

_FIELDS: Final = ("id", "task_id", "group_id", "reward", "stop_reason", "tools")
_SOURCE_OF_ROLE: Final = {
    Role.CONTEXT: Source.TASK,
    Role.ACTION: Source.POLICY,
    Role.ENV_OUTPUT: Source.TOOL_RESULT,
    Role.WARNING: Source.HARNESS_NOTICE,
}
"""The source of a span whose writer states a role alone."""


def span_list(segments: Sequence[Segment], **more: Any) -> list[dict[str, Any]]:
    """Return one span per segment: half-open `[start, end)` in code points of the joined text; `more` goes into each.

    Example:
        >>> span_list([Segment(source=Source.STDOUT, text="a\\n"), Segment(source=Source.STATUS, text="[0]")])[1]
        {'start': 2, 'end': 5, 'role': 'warning', 'source': 'status', 'tool': None}
    """
    spans: list[dict[str, Any]] = []
    start = 0
    for segment in segments:
        end = start + len(segment.text)
        role, source = segment.source.role.value, segment.source.value
        spans.append({**more, "start": start, "end": end, "role": role, "source": source, "tool": segment.tool})
        start = end
    return spans


def span_block(segments: Sequence[Segment]) -> dict[str, Any]:
    """Return the block for one message: `{"version": 1, "spans": [...]}`."""
    return {"version": VERSION, "spans": span_list(segments)}


def spans_of(block: Any) -> list[Any]:
    """Return the spans of a block.

    Raises:
        DataError: it is no block, or of a version that this library does not know.
    """
    if not isinstance(block, Mapping) or not isinstance(block.get("spans"), list):
        raise DataError(f"expected {KEY} to be an object with a list of spans, found {block!r:.80}")
    if block.get("version") != VERSION:
        raise DataError(f"expected {KEY} version {VERSION}, found {block.get('version')!r}; upgrade envecho to read it")
    return block["spans"]


def cut(content: str, spans: Sequence[Any], *, role: ChatRole) -> tuple[Segment, ...]:
    """Cut a message's content as its spans say; characters outside them are context.

    A message without any span is an action where it is an assistant's, else context.

    Raises:
        DataError: a span is malformed, overlaps the one before, or reaches past the content, as after an edit.
    """
    if content and not spans and role == "assistant":
        return (Segment(source=Source.POLICY, text=content),)
    segments: list[Segment] = []
    done = 0
    for span in spans:
        start, end = (span.get("start"), span.get("end")) if isinstance(span, Mapping) else (None, None)
        if not isinstance(start, int) or not isinstance(end, int):
            raise DataError(f"expected a span with start and end, found {span!r:.80}")
        if not done <= start <= end <= len(content):
            raise DataError(
                f"expected a span within {done} to {len(content)}, found {start} to {end}; the text was changed after "
                f"its spans were written: remove the key {KEY} to import it by its structure"
            )
        if start > done:
            segments.append(_uncovered(content[done:start], role))
        tool = span.get("tool")
        segments.append(Segment(source=_source(span, role), text=content[start:end], tool=tool))
        done = end
    if done < len(content):
        segments.append(_uncovered(content[done:], role))
    return tuple(segments)


def _uncovered(text: str, role: ChatRole) -> Segment:
    return Segment(source=Source.SYSTEM if role == "system" else Source.TASK, text=text)


def _source(span: Mapping[str, Any], message_role: ChatRole) -> Source:
    """The span's source; where its writer knows others than ours, the one that stands for its role."""
    stated, role = span.get("source"), span.get("role")
    if role not in set(Role):
        known = [member.value for member in Role]
        raise DataError(f"expected a role of {', '.join(known)}, found {role!r}.{did_you_mean(str(role), known)}")
    if stated not in set(Source):
        is_system = role == Role.CONTEXT and message_role == "system"
        return Source.SYSTEM if is_system else _SOURCE_OF_ROLE[Role(role)]
    source = Source(stated)
    if source.role != role:
        raise DataError(f"a span has source {source.value}, whose role is {source.role.value}, and says role {role}")
    return source


def chat_message(message: Message) -> dict[str, Any]:
    """Return a message as OpenAI's chat takes it, with nothing of ours; what is unknown is left out."""
    chat: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None:
        chat["reasoning_content"] = message.reasoning
    if message.tool_calls:
        chat["tool_calls"] = [
            ({} if call.id is None else {"id": call.id})
            | {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    for name in ("tool_call_id", "name"):
        if (value := getattr(message, name)) is not None:
            chat[name] = value
    return chat


def is_chat_role(role: Any) -> TypeGuard[ChatRole]:
    """Whether a value is one of the four roles of a message."""
    return role in get_args(ChatRole)


def read_chat_message(chat: Mapping[str, Any], spans: Sequence[Any], aside: Any) -> Message:
    """Return the message that `chat_message`, its spans and `message_aside` were written from.

    Raises:
        DataError: a field is missing or of another type.
    """
    role, content = chat.get("role"), chat.get("content") or ""
    if not is_chat_role(role) or not isinstance(content, str):
        raise DataError(f"expected a role and text as content, found {role!r} and {type(content).__name__}")
    calls: list[ToolCall] = []
    for call in chat.get("tool_calls") or ():
        function = call["function"]
        calls.append(ToolCall(name=function["name"], arguments=function["arguments"], id=call.get("id")))
    return build_message(
        {
            "role": role,
            "segments": cut(content, spans, role=role),
            "reasoning": chat.get("reasoning_content"),
            "tool_calls": tuple(calls),
            "tool_call_id": chat.get("tool_call_id"),
            "name": chat.get("name"),
        },
        aside,
    )


def json_text(value: Any) -> str:
    """Return a value as JSON text of characters, not escapes."""
    return json.dumps(value, ensure_ascii=False)


def arguments_object(call: ToolCall) -> dict[str, Any] | None:
    """Return a call's arguments as the object that they spell, or None where they spell none that JSON can write."""
    try:
        value = json.loads(call.arguments)
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def message_aside(message: Message, **more: Any) -> dict[str, Any]:
    """Return what only our record knows of a message: sampled ids and labels; `more` where it is not None."""
    aside = {name: value for name, value in more.items() if value is not None}
    if message.sampled is not None:
        aside["sampled"] = message.sampled.model_dump(mode="json")
    if message.labels:
        aside["labels"] = json_text(message.labels)
    return aside


def build_message(fields: Mapping[str, Any], aside: Any) -> Message:
    """Return a message from a format's own fields and what `message_aside` kept.

    Raises:
        DataError: the two do not make a message.
    """
    kept = dict(aside) if isinstance(aside, Mapping) else {}
    if isinstance(kept.get("labels"), str):
        kept["labels"] = json.loads(kept["labels"])
    try:
        return Message.model_validate({**fields, **kept})
    except ValidationError as error:
        raise DataError(f"the message does not fit the record: {_first(error)}") from None


def trajectory_aside(trajectory: Trajectory, *, without: Sequence[str] = ()) -> dict[str, Any]:
    """Return what a format has no place for; `without` names the fields that it has. Metadata is JSON text."""
    dumped = trajectory.model_dump(mode="json", include={name for name in _FIELDS if name not in without})
    aside: dict[str, Any] = {"version": VERSION, **dumped}
    if "tools" in aside:
        aside["tools"] = json_text(aside["tools"])
    aside["metadata"] = json_text(trajectory.metadata)
    if trajectory.branches:
        aside["branches"] = [branch.model_dump(mode="json") for branch in trajectory.branches]
    return aside


def natural_fields(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the fields that a row states under these names; ids that are numbers become text."""
    found = {name: row[name] for name in names if row.get(name) is not None}
    return {name: str(value) if name in ("id", "task_id") else value for name, value in found.items()}


def build_trajectory(
    document: Document,
    *,
    format: str,
    number: int | None,
    fields: Mapping[str, Any],
    aside: Any,
    messages: Sequence[Message],
    options: ImportOptions,
) -> Trajectory:
    """Return the trajectory that was exported; `fields` are those that the format has a place for.

    A file that somebody else wrote with spans has no `envecho` key: its place then names the episode.

    Raises:
        DataError: there is no message, or the fields do not fit the record.
    """
    kept: dict[str, Any] = dict(aside) if isinstance(aside, Mapping) else {}
    if kept.pop("version", VERSION) != VERSION:
        raise DataError(f"expected {OURS} version {VERSION}, found {aside['version']!r}; upgrade envecho to read it")
    if not messages:
        raise DataError("expected messages, found none")
    for name in ("metadata", "tools"):
        if isinstance(kept.get(name), str):
            kept[name] = json.loads(kept[name])
    place = document.place if number is None else f"{document.place}#{number}"
    stated: dict[str, Any] = {"id": place, "task_id": place, **kept, **fields}
    if options.calls_as_text:
        messages = [_as_text(message) for message in messages]
        stated.pop("branches", None)
    if options.text_only:
        messages = [message.model_copy(update={"sampled": None}) for message in messages]
        stated.pop("branches", None)
    metadata: dict[str, Any] = stated.pop("metadata", {})
    metadata["import"] = _facts(document, format, number, metadata.get("import"), messages)
    try:
        return Trajectory.model_validate({**stated, "messages": tuple(messages), "metadata": metadata})
    except ValidationError as error:
        raise DataError(f"the episode does not fit the record: {_first(error)}") from None


def _facts(
    document: Document, format: str, number: int | None, before: Any, messages: Sequence[Message]
) -> dict[str, Any]:
    """What is known of the origin: of the first import where there was one, and of this file."""
    sampled = [m.sampled for m in messages if m.role == "assistant"]
    exact = bool(sampled) and all(sampled)
    facts: dict[str, Any] = {
        "token_exact": exact,
        "has_logprobs": exact and all(s is not None and s.logprobs is not None for s in sampled),
        "action_provenance": "proved" if exact else "assumed",
        "environment_simulated": False,
        "context_incomplete": False,
        "action_text_lossy": False,
        "rule_pack": None,
        "num_parts_dropped": 0,
        "num_observations_with_rule": 0,
        "num_observations_without_rule": 0,
        "num_turns_of_a_person": 0,
    }
    if isinstance(before, Mapping):
        facts |= {"first_format": before.get("format"), **before}
    facts |= {"format": format, "file": document.file, "line": document.line, "number": number, KEY: VERSION}
    facts["grader_in_text"] = any(s.source is Source.GRADER for m in messages for s in m.segments)
    return {name: value for name, value in facts.items() if value is not None or name == "rule_pack"}


def _as_text(message: Message) -> Message:
    if not message.tool_calls and message.role != "tool":
        return message
    turn = Turn(
        kind=message.role,
        text=message.content,
        reasoning=message.reasoning,
        tool_calls=message.tool_calls,
        sampled=not message.segments or any(s.source is Source.POLICY for s in message.segments),
    )
    return message_as_text(turn, message.segments).model_copy(update={"labels": message.labels})


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(map(str, found['loc']))}: {found['msg']}"
