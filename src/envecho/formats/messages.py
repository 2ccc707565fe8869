"""Message lists wherever they lie: bare, in a row of a data set, in a recorded exchange, or as JSON text in a column.

    {"messages": [...]}                       OpenAI chat, SWE-smith (a JSON string), API requests of Anthropic
    {"conversations": [...]}                  ShareGPT, CodeAct, AgentInstruct, exports of Harbor
    {"trajectory": [{"role": ...}, ...]}      nebius
    {"prompt": [...], "completion": [...]}    results of verifiers
    {"task_id": ..., "traj": [...]}           tau-bench
    {"input": [...]}                          requests of the Responses API
    {"interactions": [...]}                   recorded exchanges with either API

Not here: what a single message looks like (`turns`), and whose words it holds (`assemble`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envecho.errors import DataError
from envecho.formats import chat_export
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.turns import turns_of
from envecho.trajectory import Trajectory

NAME = "messages"
_LISTS = ("messages", "conversations", "trajectory", "traj", "input")


def recognises(data: Any) -> bool:
    """Whether this is a message list, or a document that holds one under a known name."""
    if isinstance(data, Mapping):
        if isinstance(data.get("interactions"), list) or isinstance(data.get("completion"), list):
            return True
        return any(_is_message_list(_decoded(data.get(name))) for name in _LISTS)
    return _is_message_list(data)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode of a document, or those of its exchanges.

    Raises:
        DataError: the messages cannot be read; the error names the turn.
    """
    data = document.data
    if chat_export.recognises(data):
        yield from chat_export.read(document, options, number=number)
        return
    if isinstance(data, Mapping) and isinstance(data.get("interactions"), list):
        yield from _cassette(document, data["interactions"], options)
        return
    row: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
    yield assemble(turns_of(_messages(data)), _origin(document, row, number), options)


def _messages(data: Any) -> list[Any]:
    if not isinstance(data, Mapping):
        return list(data)
    if isinstance(data.get("completion"), list):
        prompt = data.get("prompt")
        opening = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or ())
        return [*opening, *data["completion"]]
    found = next(decoded for name in _LISTS if _is_message_list(decoded := _decoded(data.get(name))))
    system = data.get("system") or data.get("instructions")
    if isinstance(system, str) and system and (not found or found[0].get("role") != "system"):
        return [{"role": "system", "content": system}, *found]
    return list(found)


def _origin(document: Document, row: Mapping[str, Any], number: int | None) -> Origin:
    """What the columns of known data sets say beside the messages."""
    facts = {
        name: row[name]
        for name in (
            "instance_id",
            "traj_id",
            "trajectory_id",
            "model",
            "model_name",
            "agent",
            "episode",
            "stop_condition",
        )
        if isinstance(row.get(name), str | int)
    }
    completion = isinstance(row.get("completion"), list)
    nebius = any(isinstance(m, Mapping) and m.get("role") == "ai" for m in _list(row.get("trajectory")))
    simulated = any(
        isinstance(m, Mapping) and m.get("from") == "function_call" for m in _list(row.get("conversations"))
    )
    return Origin(
        format=NAME,
        document=document,
        number=number,
        task=_task(row),
        reward=_reward(row),
        pack="swe-agent" if nebius else None,
        world_speaks_as_user=completion or nebius,
        environment_simulated=simulated,
        context_incomplete=bool(row.get("previous_response_id")),
        tools=_tools(row),
        facts=facts,
    )


def _task(row: Mapping[str, Any]) -> str | None:
    for name in ("instance_id", "task_id", "task_name", "task", "example_id", "id"):
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", "default"):
            return str(value)
    return None


def _reward(row: Mapping[str, Any]) -> float | None:
    for name in ("reward", "resolved", "target", "verified", "score"):
        value = row.get(name)
        if isinstance(value, bool | int | float):
            return float(value)
    return None


def _tools(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Tool schemas as chat templates take them; a list that is none is left out."""
    info = row.get("info")
    stored = row.get("tools") or row.get("tool_defs") or (info.get("oai_tools") if isinstance(info, Mapping) else None)
    tools = _decoded(stored)
    if not isinstance(tools, list):
        return ()
    return tuple(dict(tool) for tool in tools if isinstance(tool, Mapping))


def _cassette(document: Document, interactions: Sequence[Any], options: ImportOptions) -> Iterator[Trajectory]:
    """Recorded exchanges: each chain of requests that grow is one episode; the last answer is appended."""
    chains: list[tuple[list[Any], Mapping[str, Any], Any]] = []
    for place, exchange in enumerate(interactions):
        body, answer = _bodies(exchange, place)
        messages = _messages(body) if recognises(body) else None
        if messages is None:
            raise DataError("expected a request with messages", turn=place)
        if chains and messages[: len(chains[-1][0])] == chains[-1][0]:
            chains.pop()
        chains.append((messages, body, answer))
    for number, (messages, body, answer) in enumerate(chains):
        said = _answer(answer)
        row = {key: value for key, value in body.items() if key not in _LISTS}
        yield assemble(turns_of([*messages, *said]), _origin(document, row, number), options)


def _bodies(exchange: Any, place: int) -> tuple[Mapping[str, Any], Any]:
    try:
        request, response = exchange["request"], exchange["response"]
        body = request.get("parsed_body") or _decoded(request.get("body"))
        answer = response.get("parsed_body") or _decoded((response.get("body") or {}).get("string"))
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


def _is_message_list(value: Any) -> bool:
    if not isinstance(value, list) or not value or not all(isinstance(entry, Mapping) for entry in value):
        return False
    return all(isinstance(e.get("role", e.get("from", e.get("type", e.get("object")))), str) for e in value) and any(
        "role" in entry or "from" in entry for entry in value
    )


def _decoded(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except ValueError:
            return value
    return value


def _list(value: Any) -> list[Any]:
    decoded = _decoded(value)
    return decoded if isinstance(decoded, list) else []
