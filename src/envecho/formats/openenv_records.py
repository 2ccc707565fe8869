"""OpenEnv 0.10 `EpisodeRecord` lines (`results.jsonl`): `{"episode_id", "messages", "tool_trace", "reward", ...}`.

Role spans in `extra["rfc010"]` are believed. Without them the record's structure says whose the words are: OpenEnv's
default adapter writes a tool message as JSON text `{"arguments", "done", "observation", "reward", "tool_name"}`, of
which the observation alone is the world's; reward is the grader's, done a status, and the call is echoed. Source:
openenv/core/harness/rollout.py and collect.py of openenv 0.10.0. Not here: writing (`openenv_export`), token ids
(`training_traces`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from json.decoder import JSONDecoder
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats import rfc010
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.rules import split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, StopReason, Trajectory

NAME = "openenv"
_SPACE: Final = " \t\n\r"
_ENVELOPE: Final = {"tool_name", "arguments", "observation", "reward", "done"}
_FIELD_SOURCES: Final = {
    "tool_name": Source.COMMAND_ECHO,
    "arguments": Source.COMMAND_ECHO,
    "reward": Source.GRADER,
    "reward_type": Source.GRADER,
    "verify_result": Source.GRADER,
    "done": Source.STATUS,
}
"""Fields of the envelope, and of an observation in it, that are not the world's words."""


def recognises(data: Any) -> bool:
    """Whether the document has the fields that OpenEnv's collector writes."""
    return isinstance(data, Mapping) and {"episode_id", "messages", "tool_trace"} <= set(data)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: the messages or their spans cannot be read; the error names the message.
    """
    data = document.data
    extra = data["extra"] if isinstance(data.get("extra"), Mapping) else {}
    yield (
        _with_spans(document, extra, options, number)
        if rfc010.KEY in extra
        else _by_structure(document, options, number)
    )


def _with_spans(document: Document, extra: Mapping[str, Any], options: ImportOptions, number: int | None) -> Trajectory:
    data = document.data
    ours = dict(extra[rfc010.OURS]) if isinstance(extra.get(rfc010.OURS), Mapping) else {}
    chats = data["messages"]
    spans: list[list[Any]] = [[] for _ in chats]
    for span in rfc010.spans_of(extra[rfc010.KEY]):
        place = span.get("message") if isinstance(span, Mapping) else None
        if not isinstance(place, int) or not 0 <= place < len(chats):
            raise DataError(f"expected a span of message 0 to {len(chats) - 1}, found {span!r:.80}")
        spans[place].append(span)
    asides = {aside["message"]: aside for aside in ours.pop("messages", None) or ()}
    messages = []
    for place, chat in enumerate(chats):
        aside = {name: value for name, value in asides.get(place, {}).items() if name != "message"}
        try:
            messages.append(rfc010.read_chat_message(chat, spans[place], aside))
        except DataError as error:
            raise DataError(str(error), turn=place) from None
    fields = {"id": data["episode_id"], **({} if data.get("reward") is None else {"reward": data["reward"]})}
    stated = {"task_id": _task(data.get("task")) or data["episode_id"], "stop_reason": _stop_reason(data)}
    return rfc010.build_trajectory(
        document, format=NAME, number=number, fields=fields, aside=stated | ours, messages=messages, options=options
    )


def _by_structure(document: Document, options: ImportOptions, number: int | None) -> Trajectory:
    data = document.data
    turns = turns_of(data["messages"])
    trace = data["tool_trace"] if isinstance(data["tool_trace"], list) else []
    errors = [_error(entry) for entry in trace]
    segments: dict[int, tuple[Segment, ...]] = {}
    num_results = 0
    for place, turn in enumerate(turns):
        if turn.kind == "tool":
            failed = num_results < len(errors) and errors[num_results]
            segments[place] = observed(turn, options, failed=failed)
            num_results += 1
    reward = data.get("reward")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=_task(data.get("task")),
        reward=float(reward) if isinstance(reward, int | float) else None,
        action_text_lossy=any(turn.tool_calls for turn in turns),
        segments=segments,
        facts={"episode_id": str(data["episode_id"])},
    )
    return assemble(turns, origin, options).model_copy(update={"stop_reason": _stop_reason(data)})


def is_envelope(text: str) -> bool:
    """Whether a tool message is the JSON object that OpenEnv's default adapter writes around an observation."""
    fields = json_fields(text)
    return fields is not None and {name for name, *_ in fields} >= _ENVELOPE


def observed(turn: Turn, options: ImportOptions, *, failed: bool = False) -> tuple[Segment, ...]:
    """Cut a tool message: the fields of an envelope by what they are, any other text by the user's rules."""
    body = Source.TOOL_ERROR if failed or turn.is_error else Source.TOOL_RESULT
    fields = json_fields(turn.text) if is_envelope(turn.text) else None
    if fields is None:
        return split(turn.text, options.rules, body=body, tool=turn.name)
    pieces: list[tuple[int, int, Source]] = []
    for name, key, start, end in fields:
        if name in _FIELD_SOURCES:
            pieces.append((key, end, _FIELD_SOURCES[name]))
        elif name == "observation":
            pieces += _observation(turn.text, start, end, body)
    return _tile(turn, pieces, options)


def _observation(text: str, start: int, end: int, body: Source) -> list[tuple[int, int, Source]]:
    """The value of the observation: the inside of a string, or an object without its reward and flags."""
    value = text[start:end]
    if value.startswith('"'):
        return [(start + 1, end - 1, body)]
    if value == "null":
        return []
    pieces: list[tuple[int, int, Source]] = []
    done = start
    for name, key, value_start, value_end in json_fields(value) or ():
        is_error = name == "error" and value[value_start:value_end] != "null"
        source = Source.TOOL_ERROR if is_error else _FIELD_SOURCES.get(name)
        if source is not None and name not in ("tool_name", "arguments"):
            pieces += [(done, start + key, body), (start + key, start + value_end, source)]
            done = start + value_end
    return [*pieces, (done, end, body)]


def _tile(turn: Turn, pieces: list[tuple[int, int, Source]], options: ImportOptions) -> tuple[Segment, ...]:
    """Segments for the pieces, the user's rules within bodies, and the envelope's own characters between them."""
    segments: list[Segment] = []
    done = 0
    for start, end, source in [*sorted(pieces), (len(turn.text), len(turn.text), Source.WRAPPER)]:
        if start > done:
            segments.append(Segment(source=Source.WRAPPER, text=turn.text[done:start], tool=turn.name))
        if source in (Source.TOOL_RESULT, Source.TOOL_ERROR):
            segments += split(turn.text[start:end], options.rules, body=source, tool=turn.name)
        elif end > start:
            segments.append(Segment(source=source, text=turn.text[start:end], tool=turn.name))
        done = end
    return tuple(segments)


def json_fields(text: str) -> list[tuple[str, int, int, int]] | None:
    """Return name, where the key begins, and where the value begins and ends, of each field of a JSON object.

    None where the text is no JSON object. Places are character offsets, so a field can be cut out of the text.
    """
    decoder = JSONDecoder()
    fields: list[tuple[str, int, int, int]] = []
    place = _skip(text, 0)
    if text[place : place + 1] != "{":
        return None
    place = _skip(text, place + 1)
    try:
        while text[place : place + 1] != "}":
            if fields and text[place : place + 1] != ",":
                return None
            key = place = _skip(text, place + 1) if fields else place
            if text[place : place + 1] != '"':
                return None
            name, place = decoder.raw_decode(text, place)
            place = _skip(text, place)
            if text[place : place + 1] != ":":
                return None
            start = _skip(text, place + 1)
            _, end = decoder.raw_decode(text, start)
            fields.append((name, key, start, end))
            place = _skip(text, end)
    except (ValueError, RecursionError):
        return None
    return fields if _skip(text, place + 1) == len(text) else None


def _skip(text: str, place: int) -> int:
    while place < len(text) and text[place] in _SPACE:
        place += 1
    return place


def _error(entry: Any) -> bool:
    result = entry.get("result") if isinstance(entry, Mapping) else None
    return isinstance(result, Mapping) and bool(result.get("error"))


def _task(task: Any) -> str | None:
    """A task is anything: its own id where it has one, else a digest of what it says."""
    if isinstance(task, str | int) and not isinstance(task, bool):
        return str(task)
    if isinstance(task, Mapping):
        named = next((task[name] for name in ("task_id", "id", "name") if isinstance(task.get(name), str | int)), None)
        if named is not None:
            return str(named)
    if task is None:
        return None
    return hashlib.sha256(json.dumps(task, sort_keys=True).encode()).hexdigest()[:16]


def _stop_reason(data: Mapping[str, Any]) -> StopReason:
    metrics = data.get("metrics")
    if isinstance(metrics, Mapping) and metrics.get("truncated"):
        return StopReason.MAX_TURNS
    return StopReason.COMPLETED if data.get("done") is True else StopReason.UNKNOWN
