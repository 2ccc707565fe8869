"""Sessions of Gemini CLI: `{"sessionId", "messages": [{"type": "user" | "gemini" | "info" | ..., "content"}]}`.

What a tool answered stands in `toolCalls`, in newer versions only. Notes to the user (`info`, `error`, `warning`) were
never shown to the model. System prompt and schemas are not in the file, and of the thoughts there are summaries. Not
here: single messages of other writers (`turns`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import ToolCall, Trajectory

NAME = "gemini-cli"
_NOTES: Final = ("info", "error", "warning", "quit", "about")


def recognises(data: Any) -> bool:
    """Whether the document is such a session."""
    if not isinstance(data, Mapping) or "sessionId" not in data or not isinstance(data.get("messages"), list):
        return False
    return all(isinstance(m, Mapping) and isinstance(m.get("type"), str) and "role" not in m for m in data["messages"])


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: a message is of an unknown type, or there is no answer.
    """
    data = document.data
    turns: list[Turn] = []
    num_notes = num_without_result = 0
    for place, message in enumerate(data["messages"]):
        kind = message["type"]
        if kind in _NOTES:
            num_notes += 1
        elif kind == "user":
            turns += turns_of([{"role": "user", "content": message.get("content")}])
        elif kind in ("gemini", "model"):
            calls = [call for call in message.get("toolCalls") or () if isinstance(call, Mapping)]
            turns.append(_answer(message, calls, place))
            results = [_result(call, _identity(call, place, n)) for n, call in enumerate(calls)]
            turns += [result for result in results if result is not None]
            num_without_result += sum(result is None for result in results)
        else:
            raise DataError(f"expected a message of type user or gemini, found {kind!r}", turn=place)
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError("expected at least one answer of a model, found none")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        action_provenance="proved",
        action_text_lossy=True,
        context_incomplete=True,
        facts={
            "session_id": data.get("sessionId"),
            "num_notes_left_out": num_notes,
            "num_calls_without_result": num_without_result,
        },
    )
    yield assemble(turns, origin, options)


def _answer(message: Mapping[str, Any], calls: list[Mapping[str, Any]], place: int) -> Turn:
    thoughts = [t for t in message.get("thoughts") or () if isinstance(t, Mapping)]
    (turn,) = turns_of([{"role": "assistant", "content": message.get("content") or ""}])
    return Turn(
        kind="assistant",
        text=turn.text,
        reasoning="\n".join(str(t.get("description", "")) for t in thoughts) or None,
        tool_calls=tuple(
            ToolCall(
                name=str(call.get("name")),
                arguments=json.dumps(call.get("args") or {}, ensure_ascii=False),
                id=_identity(call, place, n),
            )
            for n, call in enumerate(calls)
        ),
        is_lossy=True,
    )


def _identity(call: Mapping[str, Any], place: int, number: int) -> str:
    return call["id"] if isinstance(call.get("id"), str) else f"call_{place}_{number}"


def _result(call: Mapping[str, Any], identity: str) -> Turn | None:
    """What the tool answered: the response that the model was sent, else what was shown; None: not in the file."""
    stored = call.get("result")
    entries = stored if isinstance(stored, list) else [] if stored is None else [stored]
    texts = [text for entry in entries if (text := _text(entry)) is not None]
    if not texts and isinstance(call.get("resultDisplay"), str):
        texts = [call["resultDisplay"]]
    if not texts:
        return None
    is_error = str(call.get("status")) in ("error", "cancelled")
    return Turn(kind="tool", text="".join(texts), tool_call_id=identity, name=str(call.get("name")), is_error=is_error)


def _text(entry: Any) -> str | None:
    if isinstance(entry, str):
        return entry
    response = entry.get("functionResponse") if isinstance(entry, Mapping) else None
    inner = response.get("response") if isinstance(response, Mapping) else None
    if isinstance(inner, Mapping):
        only = next((inner[key] for key in ("output", "error") if isinstance(inner.get(key), str)), None)
        return only if only is not None else json.dumps(dict(inner), ensure_ascii=False)
    return entry["text"] if isinstance(entry, Mapping) and isinstance(entry.get("text"), str) else None
