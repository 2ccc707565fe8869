"""Recorded exchanges with a model's API (VCR cassettes): `{"interactions": [{"request", "response"}, ...]}`.

Requests that grow are one episode; the last answer is appended. A request names an earlier answer by
`previous_response_id` instead of repeating it: the chain is put together where that answer is in the file, and refused
where it is not, since the prompt is then not in the record. Assistant turns of the first request were sampled by nobody
knows whom: they are context. Not here: the messages themselves (`turns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, assemble
from envecho.formats.message_rows import decoded, holds_messages, messages_of, row_origin
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.turns import turns_of
from envecho.trajectory import Trajectory

NAME = "messages"


def recognises(data: Any) -> bool:
    """Whether this is a cassette."""
    return isinstance(data, Mapping) and isinstance(data.get("interactions"), list)


@dataclass(frozen=True, kw_only=True)
class _Chain:
    """Requests that grow: the longest one's messages, how many the first had, its body, and the last answer."""

    messages: list[Any]
    num_given: int
    body: Mapping[str, Any]
    answer: list[Any]
    place: int


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of a cassette; an exchange that holds no messages is refused by its place."""
    chains: list[_Chain] = []
    told: dict[str, list[Any]] = {}
    for place, exchange in enumerate(document.data["interactions"]):
        try:
            found = _chain(exchange, place, chains, told)
        except MALFORMED as error:
            yield refuse(document, error)
            continue
        chains = [*(chain for chain in chains if not _starts(found.messages, chain)), found]
    for index, chain in enumerate(chains):
        try:
            yield _episode(document, chain, index, options)
        except MALFORMED as error:
            yield refuse(document, error)


def _starts(messages: Sequence[Any], chain: _Chain) -> bool:
    return len(chain.messages) < len(messages) and messages[: len(chain.messages)] == chain.messages


def _chain(exchange: Any, place: int, chains: Sequence[_Chain], told: dict[str, list[Any]]) -> _Chain:
    """Read one exchange; `told` gets the whole conversation up to its answer, under the answer's id."""
    body, answer = _bodies(exchange, place)
    previous = body.get("previous_response_id")
    if isinstance(body.get("input"), str):
        body = {**body, "input": [{"role": "user", "content": body["input"]}]}
    if not holds_messages(body):
        raise DataError("expected a request with messages", turn=place)
    messages = messages_of(body)
    if previous is not None:
        if previous not in told:
            raise DataError(
                f"the request continues the answer {previous!r} (previous_response_id), which is not in this file, so "
                "the prompt is unknown; record the whole chain, or send the whole input",
                turn=place,
            )
        messages = [*told[previous], *messages]
    said = _answer(answer)
    if isinstance(answer, Mapping) and isinstance(answer.get("id"), str):
        told[answer["id"]] = [*messages, *said]
    given = min((chain.num_given for chain in chains if _starts(messages, chain)), default=len(messages))
    return _Chain(messages=messages, num_given=given, body=body, answer=said, place=place)


def _episode(document: Document, chain: _Chain, number: int, options: ImportOptions) -> Trajectory:
    given = turns_of(chain.messages[: chain.num_given])
    turns = turns_of([*chain.messages, *chain.answer])
    shown = [replace(turn, sampled=turn.sampled and place >= len(given)) for place, turn in enumerate(turns)]
    if not any(turn.kind == "assistant" and turn.sampled for turn in shown):
        message = "expected an answer that can be read, found none (a stream of events, or an error)"
        raise DataError(message, turn=chain.place)
    row = {key: value for key, value in chain.body.items() if key not in ("messages", "input")}
    origin = row_origin(document, row, number)
    return assemble(shown, replace(origin, action_provenance="proved", context_incomplete=False), options)


def _bodies(exchange: Any, place: int) -> tuple[Mapping[str, Any], Any]:
    try:
        request, response = exchange["request"], exchange["response"]
        body = request.get("parsed_body") or decoded(request.get("body"))
        stored = response.get("body") or {}
        answer = response.get("parsed_body") or decoded(stored.get("string") if isinstance(stored, Mapping) else stored)
    except (TypeError, KeyError, AttributeError) as error:
        raise DataError(f"expected a request and a response, found {error!r}", turn=place) from None
    if not isinstance(body, Mapping):
        raise DataError("expected a JSON body in the request, found none", turn=place)
    return body, answer


def _answer(answer: Any) -> list[Any]:
    """The message that an API's answer holds: Chat Completions, Anthropic's messages, or Responses."""
    if not isinstance(answer, Mapping):
        return []
    choices = answer.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) and choices[0].get("message"):
        return [choices[0]["message"]]
    if isinstance(answer.get("output"), list):
        return [{"object": "response", "output": answer["output"]}]
    return [answer] if answer.get("role") == "assistant" else []
