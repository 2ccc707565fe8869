"""OpenEnv 0.10 `TrainingTrace` documents, as its capture proxy hands them to trainers: `{"schema_version", "turns"}`.

Every turn is one model call with its exact ids, so the prompt test of `exact` makes the branches. Role spans in
`metadata["rfc010"]` are believed; without them tool messages are read as those of an `EpisodeRecord`. A call whose mask
is 0 throughout is context, by the producer's word. Source: openenv/core/harness/training.py and capture/contract.py of
openenv 0.10.0. Not here: writing (`training_trace_export`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats import rfc010
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, Calls
from envecho.formats.openenv_records import is_envelope, observed
from envecho.formats.reading import Document
from envecho.formats.token_fields import is_number
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Message, Segment, Trajectory

NAME = "openenv-trace"
_IDS = ("prompt_token_ids", "completion_token_ids")


def recognises(data: Any) -> bool:
    """Whether the document has turns with ids and a mask over prompt and completion."""
    turns = data.get("turns") if isinstance(data, Mapping) else None
    if not isinstance(turns, list) or not turns or "schema_version" not in data:
        return False
    return all(isinstance(turn, Mapping) and {*_IDS, "loss_mask"} <= set(turn) for turn in turns)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: another schema version, or a turn that is malformed; the error names it.
    """
    data = document.data
    if data["schema_version"] != 1:
        raise DataError(f"expected schema_version 1, found {data['schema_version']!r}; upgrade envecho to read it")
    for place, turn in enumerate(data["turns"]):
        _check(turn, place)
    last = _metadata(data["turns"][-1])
    ours = last.get(rfc010.OURS)
    if rfc010.KEY in last and isinstance(ours, Mapping) and isinstance(ours.get("episode"), Mapping):
        yield _exported(document, ours["episode"], options, number)
    else:
        yield _captured(document, options, number)


def _check(turn: Mapping[str, Any], place: int) -> None:
    for name in (*_IDS, "loss_mask", "per_token_logps"):
        values = turn.get(name)
        if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
            raise DataError(f"{name}: expected a list of numbers, found {values!r:.60}", turn=place)
    expected = sum(len(turn[name]) for name in _IDS)
    if len(turn["loss_mask"]) != expected:
        raise DataError(
            f"loss_mask: expected one entry for each of {expected} ids, found {len(turn['loss_mask'])}", turn=place
        )


def _metadata(turn: Mapping[str, Any]) -> Mapping[str, Any]:
    metadata = turn.get("metadata")
    return metadata if isinstance(metadata, Mapping) else {}


def _exported(document: Document, episode: Mapping[str, Any], options: ImportOptions, number: int | None) -> Trajectory:
    """The trajectory that `training_trace_export` wrote: its messages by their place in the record."""
    aside = dict(episode)
    asides = {kept["message"]: kept for kept in aside.pop("asides", ())}
    messages: dict[int, Message] = {}

    def add(place: int, chat: Mapping[str, Any], spans: list[Any], sampled: dict[str, Any] | None = None) -> None:
        kept = {name: value for name, value in asides.get(place, {}).items() if name != "message"}
        entropies = kept.pop("entropies", None)
        if sampled is not None:
            kept["sampled"] = sampled | {"entropies": entropies}
        try:
            messages[place] = rfc010.read_chat_message(chat, spans, kept)
        except DataError as error:
            raise DataError(str(error), turn=place) from None

    for turn in document.data["turns"]:
        metadata = _metadata(turn)
        places = [*metadata[rfc010.OURS]["messages"], metadata[rfc010.OURS]["answer"]]
        chats = [*turn["request"]["messages"], turn["response"]["choices"][0]["message"]]
        spans: list[list[Any]] = [[] for _ in chats]
        for span in rfc010.spans_of(metadata[rfc010.KEY]):
            spans[span["message"]].append(span)
        for place, chat, own in zip(places, chats, spans, strict=True):
            if place == places[-1]:
                add(place, chat, own, _sampled(turn))
            elif place not in messages:
                add(place, chat, own)
    for chat in aside.pop("rest", ()):
        add(chat["message"], chat, rfc010.spans_of(chat[rfc010.KEY]))
    if sorted(messages) != list(range(len(messages))):
        raise DataError(f"expected messages 0 to {len(messages) - 1}, found {sorted(messages)}")
    ordered = [messages[place] for place in sorted(messages)]
    return rfc010.build_trajectory(
        document, format=NAME, number=number, fields={}, aside=aside, messages=ordered, options=options
    )


def _sampled(turn: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "token_ids": turn["completion_token_ids"],
        "logprobs": turn["per_token_logps"],
        "temperature": _temperature(turn),
    }


def _temperature(turn: Mapping[str, Any]) -> float | None:
    stated = _metadata(turn).get("sampling_params")
    value: Any = stated.get("temperature") if isinstance(stated, Mapping) else None
    return float(value) if is_number(value) else None


def _captured(document: Document, options: ImportOptions, number: int | None) -> Trajectory:
    """A trace that a capture proxy wrote: calls by the prompt test."""
    calls = Calls()
    stated: dict[int, tuple[Segment, ...]] = {}
    num_partial = 0
    tools: tuple[dict[str, Any], ...] = ()
    for place, turn in enumerate(document.data["turns"]):
        mask = turn["loss_mask"][len(turn["prompt_token_ids"]) :]
        num_partial += any(mask) and not all(mask)
        request = turn.get("request") if isinstance(turn.get("request"), Mapping) else {}
        if not tools and isinstance(request.get("tools"), list):
            tools = tuple(dict(tool) for tool in request["tools"] if isinstance(tool, Mapping))
        try:
            shown = turns_of(request["messages"]) if request.get("messages") else None
            stated |= _stated(shown or [], turn, len(request.get("messages") or ()))
            calls.add(
                Call(
                    prompt_ids=tuple(turn["prompt_token_ids"]),
                    completion_ids=tuple(turn["completion_token_ids"]),
                    logprobs=tuple(map(float, turn["per_token_logps"])),
                    temperature=_temperature(turn),
                    request=shown,
                    answer=_answer(turn.get("response")),
                    is_policy=any(mask) or not mask,
                )
            )
        except DataError as error:
            raise DataError(str(error), turn=place) from None
    segments = {
        place: stated[id(turn)] if id(turn) in stated else observed(turn, options)
        for place, turn in enumerate(calls.turns)
        if id(turn) in stated or (turn.kind == "tool" and is_envelope(turn.text))
    }
    model = _metadata(document.data["turns"][0]).get("model")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        segments=segments,
        tools=tools,
        facts={"model": model, "num_calls_with_partial_masks": num_partial},
    )
    return calls.trajectory(origin, options)


def _stated(shown: list[Turn], turn: Mapping[str, Any], num_messages: int) -> dict[int, tuple[Segment, ...]]:
    """The segments that role spans of a call state, by the identity of the turn; blocks of one message share none."""
    block = _metadata(turn).get(rfc010.KEY)
    if block is None or len(shown) != num_messages:
        return {}
    spans: dict[int, list[Any]] = {}
    for span in rfc010.spans_of(block):
        spans.setdefault(span["message"], []).append(span)
    return {
        id(shown[k]): rfc010.cut(shown[k].text, own, role=shown[k].kind) for k, own in spans.items() if k < len(shown)
    }


def _answer(response: Any) -> Turn | None:
    choices = response.get("choices") if isinstance(response, Mapping) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        return None
    message = choices[0].get("message")
    return turns_of([message])[-1] if isinstance(message, Mapping) else None
