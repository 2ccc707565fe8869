"""One chat message of any spelling as ours: OpenAI chat, Anthropic blocks, Responses items, ShareGPT, nebius rows.

Role words are read here and not believed: what a turn is follows from its place and from who wrote it (`assemble`).
Not here: where in a file the messages lie (`messages` and the other formats).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from envecho.errors import DataError
from envecho.trajectory import ToolCall

Kind = Literal["system", "user", "assistant", "tool"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "ai", "gpt", "model", "function_call", "tool_call", "bot"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "environment"), "tool"),
}
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "summary_text")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: `text` is its content; `is_error` what the file says of a tool's result.

    `is_lossy` says that a call's arguments were stored as an object, so that the sampled text is not known to the
    character; `num_dropped_parts` counts images, audio and other parts without text. `sampled` is False for turns that
    the file says no policy wrote.
    """

    kind: Kind
    text: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    is_error: bool = False
    is_lossy: bool = False
    num_dropped_parts: int = 0
    sampled: bool = True
    raw: Mapping[str, Any] | None = None


def turns_of(messages: Any) -> list[Turn]:
    """Return the turns of a message list.

    Raises:
        DataError: it is no list of messages; the error says which entry and what was expected.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str | bytes):
        raise DataError(f"expected a list of messages, found {type(messages).__name__}")
    turns: list[Turn] = []
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise DataError(f"expected a message with a role, found {type(message).__name__}", turn=number)
        try:
            for turn in _turns(message):
                _append(turns, turn)
        except DataError as error:
            raise DataError(str(error), turn=number) from None
    return turns


def _append(turns: list[Turn], turn: Turn) -> None:
    """Responses items that belong to one answer (reasoning, text, calls) come one by one: join them."""
    last = turns[-1] if turns else None
    items = ("reasoning", "function_call", "custom_tool_call", "local_shell_call")
    kinds = [(t.raw or {}).get("type") for t in (last, turn) if t is not None]
    joins = (
        last is not None
        and (last.kind, turn.kind) == ("assistant", "assistant")
        and (kinds[-1] in items or kinds[0] == "reasoning")
    )
    if not joins or last is None:
        turns.append(turn)
        return
    turns[-1] = Turn(
        kind="assistant",
        text=last.text + turn.text,
        reasoning="".join(filter(None, (last.reasoning, turn.reasoning))) or None,
        tool_calls=last.tool_calls + turn.tool_calls,
        is_lossy=last.is_lossy or turn.is_lossy,
        num_dropped_parts=last.num_dropped_parts + turn.num_dropped_parts,
        sampled=last.sampled and turn.sampled,
        raw=turn.raw,
    )


def _turns(message: Mapping[str, Any]) -> Iterator[Turn]:
    kind_of_item = message.get("type")
    if message.get("object") == "response":
        for item in message.get("output") or ():
            yield from _turns(item)
        return
    if "role" not in message and "from" not in message and isinstance(kind_of_item, str):
        yield from _item(message, kind_of_item)
        return
    word = message.get("role", message.get("from"))
    if not isinstance(word, str) or word.lower() not in _KINDS:
        raise DataError(f"expected a role such as user, assistant or tool, found {word!r}")
    kind = _KINDS[word.lower()]
    content = _first(message, ("content", "value", "text"))
    if content is None and kind == "system":
        content = message.get("system_prompt")
    if word in ("function_call", "tool_call"):
        yield _shared_call(content, message)
        return
    parts = _Parts.of(content)
    results = list(parts.results(message))
    calls, is_lossy = _calls(message)
    if results and kind == "user" and not parts.text.strip():
        results[-1] = replace(results[-1], num_dropped_parts=results[-1].num_dropped_parts + parts.num_dropped)
        yield from results
        return
    yield from results
    yield Turn(
        kind=kind,
        text=parts.text,
        reasoning=_text_or_none(_first(message, ("reasoning_content", "reasoning", "thinking"))) or parts.reasoning,
        tool_calls=calls + parts.calls,
        tool_call_id=_text_or_none(message.get("tool_call_id")),
        name=_text_or_none(message.get("name") or message.get("function")),
        is_error=bool(message.get("is_error") or message.get("error")),
        is_lossy=is_lossy or bool(parts.calls),
        num_dropped_parts=parts.num_dropped,
        raw=message,
    )


def _item(item: Mapping[str, Any], kind: str) -> Iterator[Turn]:
    """One item of the Responses API."""
    if kind in ("function_call", "custom_tool_call", "local_shell_call"):
        arguments = _first(item, ("arguments", "input", "action"))
        call = ToolCall(
            name=str(item.get("name") or kind), arguments=_json_text(arguments), id=_text_or_none(item.get("call_id"))
        )
        yield Turn(kind="assistant", text="", tool_calls=(call,), is_lossy=not isinstance(arguments, str), raw=item)
    elif kind.endswith("_output") or kind == "function_response":
        parts = _Parts.of(_first(item, ("output", "content")))
        call_id = _text_or_none(item.get("call_id"))
        yield Turn(kind="tool", text=parts.text, tool_call_id=call_id, num_dropped_parts=parts.num_dropped, raw=item)
    elif kind == "reasoning":
        parts = _Parts.of(item.get("content") or item.get("summary"))
        hidden = int(bool(item.get("encrypted_content")))
        yield Turn(
            kind="assistant", text="", reasoning=parts.text or None, num_dropped_parts=hidden, is_lossy=True, raw=item
        )
    else:
        raise DataError(f"expected a message, a call, its output or reasoning, found an item of type {kind!r}")


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What a content holds: text, thinking, calls and results in blocks, and how many parts have no text."""

    text: str
    reasoning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    blocks: tuple[Mapping[str, Any], ...] = ()
    num_dropped: int = 0

    @classmethod
    def of(cls, content: Any) -> _Parts:
        if content is None:
            return cls(text="")
        if isinstance(content, str):
            return cls(text=content)
        if isinstance(content, Mapping):
            content = [content]
        if not isinstance(content, Sequence):
            raise DataError(f"expected text or a list of parts as content, found {type(content).__name__}")
        texts: list[str] = []
        reasoning: list[str] = []
        calls: list[ToolCall] = []
        results: list[Mapping[str, Any]] = []
        dropped = 0
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(part, str):
                texts.append(part)
            elif not isinstance(part, Mapping):
                raise DataError(f"expected a part of a content, found {type(part).__name__}")
            elif kind in _TEXT_PARTS or (kind is None and isinstance(part.get("text"), str)):
                texts.append(str(part.get("text") or part.get("refusal") or ""))
            elif kind in ("thinking", "reasoning"):
                reasoning.append(str(part.get("thinking") or part.get("text") or part.get("reasoning") or ""))
            elif kind == "tool_use":
                calls.append(
                    ToolCall(
                        name=str(part.get("name")),
                        arguments=_json_text(part.get("input")),
                        id=_text_or_none(part.get("id")),
                    )
                )
            elif kind == "tool_result":
                results.append(part)
            else:
                dropped += 1
        return cls(
            text="".join(texts),
            reasoning="".join(reasoning) or None,
            calls=tuple(calls),
            blocks=tuple(results),
            num_dropped=dropped,
        )

    def results(self, message: Mapping[str, Any]) -> Iterator[Turn]:
        for block in self.blocks:
            parts = _Parts.of(block.get("content"))
            yield Turn(
                kind="tool",
                text=parts.text,
                tool_call_id=_text_or_none(block.get("tool_use_id")),
                is_error=bool(block.get("is_error")),
                num_dropped_parts=parts.num_dropped,
                raw=message,
            )


def _calls(message: Mapping[str, Any]) -> tuple[tuple[ToolCall, ...], bool]:
    """Calls beside the content; some files store each as a JSON string, some the arguments as an object."""
    stored = message.get("tool_calls") or ([message["function_call"]] if message.get("function_call") else [])
    if isinstance(stored, str):
        stored = _decoded(stored, "tool_calls")
    if not isinstance(stored, Sequence):
        raise DataError(f"expected a list of tool calls, found {type(stored).__name__}")
    calls: list[ToolCall] = []
    is_lossy = False
    for entry in stored:
        call = _decoded(entry, "a tool call") if isinstance(entry, str) else entry
        if not isinstance(call, Mapping):
            raise DataError(f"expected a tool call, found {type(call).__name__}")
        function = call.get("function")
        inner = function if isinstance(function, Mapping) else call
        name = inner.get("name") or (function if isinstance(function, str) else None)
        arguments = inner.get("arguments")
        is_lossy = is_lossy or not isinstance(arguments, str)
        calls.append(ToolCall(name=str(name), arguments=_json_text(arguments), id=_text_or_none(call.get("id"))))
    return tuple(calls), is_lossy


def _shared_call(content: Any, message: Mapping[str, Any]) -> Turn:
    """ShareGPT's `function_call`: the call as JSON in the value, or text that is no JSON after all."""
    try:
        value = json.loads(content) if isinstance(content, str) else content
    except ValueError:
        return Turn(kind="assistant", text=str(content), is_lossy=True, raw=message)
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, Mapping) and "name" in entry for entry in entries):
        return Turn(kind="assistant", text=str(content), is_lossy=True, raw=message)
    calls = tuple(ToolCall(name=str(e["name"]), arguments=_json_text(e.get("arguments"))) for e in entries)
    return Turn(kind="assistant", text="", tool_calls=calls, is_lossy=True, raw=message)


def _decoded(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{what} is a string that is no JSON: {error}") from None


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps({} if value is None else value, ensure_ascii=False)


def _first(message: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((message[key] for key in keys if message.get(key) is not None), None)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
