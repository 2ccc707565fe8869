"""One chat message of any spelling as ours: OpenAI chat, Anthropic blocks, Responses items, ShareGPT, nebius rows.

Role words are read here and not believed: what a turn is follows from its place and from who wrote it (`assemble`).
Not here: where in a file the messages lie (`messages` and the other formats).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from envecho.errors import DataError
from envecho.trajectory import ToolCall

Kind = Literal["system", "user", "assistant", "tool"]

_KINDS: dict[str, Kind] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human"), "user"),
    **dict.fromkeys(("assistant", "ai", "gpt", "model", "function_call", "tool_call", "bot", "chatgpt"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "environment"), "tool"),
    **dict.fromkeys(("tool_result", "tool_results", "ipython"), "tool"),
}
_TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")
_HIDDEN_PARTS = ("redacted_thinking",)
_CALL_ITEMS = ("function_call", "custom_tool_call")
_RESULTS_OF_ITEMS = ("output", "outputs", "results", "result")


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One message: `text` is its content; `is_error` what the file says of a tool's result.

    `is_lossy` says that a call's arguments were stored as an object or that reasoning is hidden, so that the sampled
    text is not known to the character; `num_dropped_parts` counts images, audio, hidden reasoning and other parts
    without text. `placeholders` are the spans of `text` that stand for them (`[image]`). `sampled` is False for turns
    that the file says no policy wrote, or nobody is to learn.
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
    placeholders: tuple[tuple[int, int], ...] = ()
    sampled: bool = True
    raw: Mapping[str, Any] | None = None


def paired(turns: Sequence[Turn]) -> list[Turn]:
    """Give results the id and name of the call that they answer: by id, else in order of the calls.

    Files lose ids (results of verifiers), repeat them over turns (demonstrations of SWE-agent) and answer out of order.
    """
    found: list[Turn] = []
    open_calls: list[ToolCall] = []
    for turn in turns:
        if turn.kind == "assistant":
            open_calls = (
                [*open_calls, *turn.tool_calls] if found and found[-1].kind == "assistant" else list(turn.tool_calls)
            )
        elif turn.kind == "tool" and open_calls:
            by_id = [call for call in open_calls if call.id is not None and call.id == turn.tool_call_id]
            if by_id or turn.tool_call_id is None:
                call = by_id[0] if by_id else open_calls[0]
                open_calls.remove(call)
                turn = replace(turn, tool_call_id=turn.tool_call_id or call.id, name=turn.name or call.name)
        found.append(turn)
    return found


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
    kinds = [str((t.raw or {}).get("type")) for t in (last, turn) if t is not None]
    joins = (
        last is not None
        and (last.kind, turn.kind) == ("assistant", "assistant")
        and (_is_piece(kinds[-1]) or kinds[0] == "reasoning" or kinds[0].startswith("mcp_"))
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
        placeholders=(*last.placeholders, *((a + len(last.text), b + len(last.text)) for a, b in turn.placeholders)),
        sampled=last.sampled and turn.sampled,
        raw=turn.raw,
    )


def _is_piece(kind: str) -> bool:
    return kind == "reasoning" or kind.endswith("_call") or kind.startswith("mcp_")


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
    if content is None and isinstance(message.get("parts"), list):
        content = message["parts"]
    if word in ("function_call", "tool_call"):
        yield _shared_call(content, message)
        return
    if kind == "assistant" and isinstance(content, list) and any(map(_is_result, content)):
        for is_result, blocks in groupby(content, key=_is_result):  # tools that the provider ran within the answer
            yield from _turns({**message, "role": "user" if is_result else "assistant", "content": list(blocks)})
        return
    parts = _Parts.of(content)
    results = list(parts.results(message))
    calls, is_lossy = _calls(message)
    yield from results
    if results and not parts.text.strip() and not (kind == "assistant" or calls):
        return
    yield Turn(
        kind=kind,
        text=parts.text,
        reasoning=_text_or_none(_first(message, ("reasoning_content", "reasoning", "thinking"))) or parts.reasoning,
        tool_calls=calls + parts.calls,
        tool_call_id=_text_or_none(message.get("tool_call_id")),
        name=_text_or_none(message.get("name") or message.get("function")),
        is_error=any(bool(message.get(name)) for name in ("is_error", "error", "tool_error")),
        is_lossy=is_lossy or bool(parts.calls) or parts.is_hidden,
        num_dropped_parts=parts.num_dropped,
        placeholders=parts.placeholders,
        sampled=kind != "assistant" or _is_sampled(message),
        raw=message,
    )


def _is_result(part: Any) -> bool:
    kind = part.get("type") if isinstance(part, Mapping) else None
    return isinstance(kind, str) and (kind == "tool_result" or kind.endswith("_tool_result"))


def _is_sampled(message: Mapping[str, Any]) -> bool:
    """Whether nothing in an answer says that no policy wrote it, or that it is not to be learnt."""
    if any(message.get(name) is False for name in ("sampled", "mask", "loss", "train")):
        return False
    return all(message.get(name) != 0 or message.get(name) is None for name in ("weight", "loss_weight"))


def _item(item: Mapping[str, Any], kind: str) -> Iterator[Turn]:
    """One item of the Responses API."""
    if kind.endswith("_call"):
        arguments = _first(item, ("arguments", "input", "action", "code", "queries", "query"))
        call_id = _text_or_none(item.get("call_id")) or _text_or_none(item.get("id"))
        call = ToolCall(name=str(item.get("name") or kind), arguments=_json_text(arguments), id=call_id)
        yield Turn(kind="assistant", text="", tool_calls=(call,), is_lossy=not isinstance(arguments, str), raw=item)
        result = _first(item, _RESULTS_OF_ITEMS) if kind not in _CALL_ITEMS else None
        if result is not None:  # a tool of the provider: its result stands in the same item
            text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
            yield Turn(kind="tool", text=text, tool_call_id=call_id, name=call.name, raw=item)
    elif kind.endswith("_output") or kind == "function_response":
        output = _first(item, ("output", "content"))
        parts = _Parts.of(output["content"] if isinstance(output, Mapping) and "content" in output else output)
        call_id = _text_or_none(item.get("call_id"))
        yield Turn(
            kind="tool", text=parts.text, tool_call_id=call_id, num_dropped_parts=parts.num_dropped,
            placeholders=parts.placeholders, raw=item,
        )  # fmt: skip
    elif kind.startswith("mcp_"):  # lists of tools and approvals, which hold no words of anybody
        yield Turn(kind="assistant", text="", num_dropped_parts=1, raw=item)
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
    placeholders: tuple[tuple[int, int], ...] = ()
    is_hidden: bool = False

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
        gathered = _Gathered()
        for part in content:
            gathered.add(part)
        return gathered.parts()

    def results(self, message: Mapping[str, Any]) -> Iterator[Turn]:
        for block in self.blocks:
            parts = _Parts.of(block.get("content"))
            yield Turn(
                kind="tool",
                text=parts.text,
                tool_call_id=_text_or_none(block.get("tool_use_id")),
                is_error=bool(block.get("is_error")),
                num_dropped_parts=parts.num_dropped,
                placeholders=parts.placeholders,
                raw=message,
            )


class _Gathered:
    """The parts of one content, gathered in order."""

    def __init__(self) -> None:
        self._text = ""
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._results: list[Mapping[str, Any]] = []
        self._places: list[tuple[int, int]] = []
        self._num_dropped = 0
        self._is_hidden = False

    def add(self, part: Any) -> None:
        """Take one part: text, thinking, a call, a result, or something without text."""
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            self._text += part
        elif not isinstance(part, Mapping):
            raise DataError(f"expected a part of a content, found {type(part).__name__}")
        elif kind in _TEXT_PARTS or (kind is None and isinstance(part.get("text"), str)):
            self._text += str(_first(part, ("text", "refusal", "value", "content")) or "")
        elif kind in ("thinking", "reasoning"):
            self._think(str(_first(part, ("thinking", "text", "reasoning", "value", "content")) or ""))
        elif kind in _HIDDEN_PARTS:
            self._think("")
        elif kind in ("tool_use", "tool_call", "server_tool_use"):
            self._call(part)
        elif _is_result(part):
            self._results.append(part)
        else:
            start = len(self._text)
            self._text += f"[{str(kind or 'part').removeprefix('input_').removesuffix('_url')}]"
            self._places.append((start, len(self._text)))
            self._num_dropped += 1

    def _think(self, text: str) -> None:
        """Keep a thought; one without text was hidden by the provider."""
        self._reasoning += [text] if text else []
        self._num_dropped += not text
        self._is_hidden = self._is_hidden or not text

    def _call(self, part: Mapping[str, Any]) -> None:
        value = _decoded(part["value"], "a tool call") if isinstance(part.get("value"), str) else part
        if not isinstance(value, Mapping):
            raise DataError(f"expected a tool call, found {type(value).__name__}")
        arguments = _json_text(_first(value, ("input", "arguments")))
        self._calls.append(
            ToolCall(name=str(value.get("name")), arguments=arguments, id=_text_or_none(value.get("id")))
        )

    def parts(self) -> _Parts:
        """Return what was gathered."""
        return _Parts(
            text=self._text,
            reasoning="".join(self._reasoning) or None,
            calls=tuple(self._calls),
            blocks=tuple(self._results),
            num_dropped=self._num_dropped,
            placeholders=tuple(self._places),
            is_hidden=self._is_hidden,
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
