"""Where each message's content stands in the rendering of a chat template: found by marks, proved by equality.

A rendering with invisible marks in the content must equal the plain rendering once the marks are removed, character
for character; then the marks stand where the content stands. Two placements are tried. `edges`: marks around every
segment; right for templates that copy content. `anchors`: one mark in the middle of each content, for templates that
trim content or look at how it begins or ends; what was trimmed is measured by rendering without the white space. If
neither is equal the template changes text in a way that nobody can follow: refuse rather than guess.

Not here: whose the text between the contents is (`spans`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from envecho.errors import TemplateError
from envecho.tokens.chat import ChatDict, ChatTokenizer, chat_dict
from envecho.trajectory import Message, Source

_PRIVATE = re.compile("[\U000f0000-\U000ffffd\U00100000-\U0010fffd]")
_FIRST, _LAST = 0xF0000, 0xFFFFD

_Render = Callable[[Sequence[ChatDict]], str]


@dataclass(frozen=True, kw_only=True)
class ContentSpan:
    """Characters `[start, end)` of the rendering that are one segment of message `turn`."""

    turn: int
    start: int
    end: int
    source: Source


@dataclass(frozen=True, kw_only=True)
class Located:
    """The plain rendering, its content spans in order, and where the search for a turn's end may begin.

    `guards` maps an assistant turn whose own text contains the end-of-turn token to a position behind that text.
    """

    text: str
    spans: tuple[ContentSpan, ...]
    guards: Mapping[int, int]


@dataclass(kw_only=True)
class _Marks:
    """Marks that occur nowhere in the conversation; `owners`: its turn, and whether it must show."""

    used: frozenset[str]
    owners: dict[str, tuple[int, bool]] = field(default_factory=dict[str, tuple[int, bool]])
    next_code: int = _FIRST

    def new(self, turn: int, *, required: bool = True) -> str:
        while chr(self.next_code) in self.used:
            self.next_code += 1
        if self.next_code > _LAST:
            raise TemplateError("the conversation uses up the private characters that mark content; split it")
        mark = chr(self.next_code)
        self.next_code += 1
        self.owners[mark] = (turn, required)
        return mark


@dataclass(frozen=True, kw_only=True)
class _Rendered:
    """A marked rendering without its marks, and the place of each mark in it (only those that show)."""

    text: str
    places: Mapping[str, int]


def has_policy_text(message: Message) -> bool:
    """Whether the policy wrote this assistant turn (a few-shot example of the prompt has other sources)."""
    if message.role != "assistant":
        return False
    sources = {segment.source for segment in message.segments if segment.text}
    return not sources or Source.POLICY in sources


def own_strings(message: Message) -> list[str]:
    """Every string that the writer of a message chose: content, reasoning, names and arguments of calls."""
    # Arguments are JSON text, whose escapes a template may write differently: what counts is what they decode to.
    called = chat_dict(message)["tool_calls"] if message.tool_calls else ()
    calls = [leaf for call in called for leaf in _leaves(call["function"])]
    return [text for text in (message.content, message.reasoning or "", *calls) if text]


def locate_content(
    messages: Sequence[Message],
    tokenizer: ChatTokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    generation_prompt: bool = False,
) -> Located:
    """Render messages and find every segment of every message in the text.

    Raises:
        TemplateError: the template refuses the messages, or changes a content in a way that cannot be followed; it
            names the message.
    """
    dicts = [chat_dict(message) for message in messages]

    def render(chats: Sequence[ChatDict]) -> str:
        return tokenizer.template_text(chats, tools=tools, generation_prompt=generation_prompt)

    text = render(dicts)
    everything = json.dumps([dicts, list(tools)], ensure_ascii=False, default=str)
    used = frozenset(_PRIVATE.findall(everything))
    end_of_turn = tokenizer.turn_format.end_of_turn
    marks = _Marks(used=used)
    chats = [_with_edges(message, turn, marks, end_of_turn) for turn, message in enumerate(messages)]
    rendered = _read(render(chats), marks)
    if _problem(rendered, marks, text) is None:
        return Located(text=text, spans=_edge_spans(messages, marks, rendered), guards=_guards(marks, rendered))
    return _locate_by_anchors(messages, render, text, used, end_of_turn)


def _is_exact(message: Message) -> bool:
    """Whether every character of the content needs its place: all but what the policy wrote alone."""
    return bool(message.content) and (
        message.role != "assistant" or any(s.source is not Source.POLICY for s in message.segments if s.text)
    )


def _with_edges(message: Message, turn: int, marks: _Marks, end_of_turn: str) -> ChatDict:
    if not _is_exact(message):
        return _with_guards(message, turn, marks, end_of_turn)
    parts = [marks.new(turn)]
    for segment in message.segments:
        if segment.text:
            parts += [segment.text, marks.new(turn)]
    return chat_dict(message, "".join(parts))


def _with_guards(message: Message, turn: int, marks: _Marks, end_of_turn: str) -> ChatDict:
    """Mark the end of the policy's strings that contain the end-of-turn token, so that it is not taken for the end."""
    chat = chat_dict(message)
    if not any(end_of_turn in text for text in own_strings(message)):
        return chat

    def guard(value: Any) -> Any:
        if isinstance(value, str) and end_of_turn in value:
            core = value.rstrip()
            return core + marks.new(turn, required=False) + value[len(core) :]
        if isinstance(value, dict):
            return {guard(key): guard(part) for key, part in value.items()}
        if isinstance(value, list):
            return [guard(part) for part in value]
        return value

    return {key: value if key == "role" else guard(value) for key, value in chat.items()}


def _read(marked: str, marks: _Marks) -> _Rendered:
    places: dict[str, int] = {}
    pieces: list[str] = []
    done = removed = 0
    for match in _PRIVATE.finditer(marked):
        mark = match.group()
        if mark in marks.owners and mark not in places:
            places[mark] = match.start() - removed
            pieces.append(marked[done : match.start()])
            done, removed = match.end(), removed + 1
    return _Rendered(text="".join((*pieces, marked[done:])), places=places)


def _problem(rendered: _Rendered, marks: _Marks, text: str) -> tuple[int, str] | None:
    """Say in which turn the marked rendering shows that the template does more than copy, and what it does."""
    last = -1
    for mark, (turn, required) in marks.owners.items():
        place = rendered.places.get(mark)
        if place is None and required:
            return turn, "does not show this message's content"
        if place is not None and required:
            if place < last:
                return turn, "moves this message's content"
            last = place
    if rendered.text == text:
        return None
    same = next((k for k, (a, b) in enumerate(zip(rendered.text, text, strict=False)) if a != b), None)
    same = min(len(rendered.text), len(text)) if same is None else same
    before = [marks.owners[mark][0] for mark, place in rendered.places.items() if place <= same]
    return (before[-1] if before else 0), "changes text near this message's content"


def _edge_spans(messages: Sequence[Message], marks: _Marks, rendered: _Rendered) -> tuple[ContentSpan, ...]:
    by_turn: dict[int, list[int]] = {}
    for mark, (turn, required) in marks.owners.items():
        if required:
            by_turn.setdefault(turn, []).append(rendered.places[mark])
    spans: list[ContentSpan] = []
    for turn, places in by_turn.items():
        segments = [segment for segment in messages[turn].segments if segment.text]
        for segment, (start, end) in zip(segments, pairwise(places), strict=True):
            if rendered.text[start:end] != segment.text:
                raise _refusal(turn, messages[turn], "changes this message's content")
            spans.append(ContentSpan(turn=turn, start=start, end=end, source=segment.source))
    return tuple(spans)


def _guards(marks: _Marks, rendered: _Rendered) -> dict[int, int]:
    guards: dict[int, int] = {}
    for mark, (turn, required) in marks.owners.items():
        if not required and mark in rendered.places:
            guards[turn] = max(guards.get(turn, 0), rendered.places[mark])
    return guards


def _locate_by_anchors(
    messages: Sequence[Message], render: _Render, text: str, used: frozenset[str], end_of_turn: str
) -> Located:
    def anchored(lead: bool, trail: bool) -> tuple[_Marks, _Rendered]:
        marks = _Marks(used=used)
        chats: list[ChatDict] = []
        for turn, message in enumerate(messages):
            before, core, after = _trimmed(message.content)
            if _is_exact(message) and core:
                middle = len(core) // 2
                content = core[:middle] + marks.new(turn) + core[middle:]
                chats.append(chat_dict(message, (before if lead else "") + content + (after if trail else "")))
            else:
                chats.append(_with_guards(message, turn, marks, end_of_turn))
        return marks, _read(render(chats), marks)

    marks, whole = anchored(True, True)
    problem = _problem(whole, marks, text)
    if problem is not None:
        raise _refusal(problem[0], messages[problem[0]], problem[1])
    _refuse_blank_contents(messages, render, text)
    turns = [turn for turn, required in marks.owners.values() if required]
    places = [whole.places[mark] for mark, (_, required) in marks.owners.items() if required]
    leads = _kept([*places, len(text)], *_required_places(*anchored(False, True)))
    trails = _kept([*places, len(text)], *_required_places(*anchored(True, False)))
    spans: list[ContentSpan] = []
    for k, turn in enumerate(turns):
        # A lead is rendered before its own mark, a trail before the next one.
        spans += _anchor_spans(turn, messages[turn], places[k], leads[k], trails[k + 1], text)
    return Located(text=text, spans=tuple(spans), guards=_guards(marks, whole))


def _trimmed(content: str) -> tuple[str, str, str]:
    """Split content into leading white space, core and trailing white space."""
    core = content.strip()
    start = content.find(core) if core else 0
    return content[:start], core, content[start + len(core) :]


def _required_places(marks: _Marks, rendered: _Rendered) -> tuple[list[int], int]:
    places = [rendered.places.get(mark, 0) for mark, (_, required) in marks.owners.items() if required]
    return places, len(rendered.text)


def _kept(places: list[int], probe: list[int], probe_length: int) -> list[int]:
    """How many characters stand before each mark (and the end), since the mark before, that the probe lacks."""
    gone = [0, *(a - b for a, b in zip(places, [*probe, probe_length], strict=True))]
    return [after - before for before, after in pairwise(gone)]


def _anchor_spans(turn: int, message: Message, place: int, lead: int, trail: int, text: str) -> list[ContentSpan]:
    before, core, after = _trimmed(message.content)
    middle = place - len(core) // 2
    start, end = middle - lead, middle + len(core) + trail
    kept = before[len(before) - lead :] + core + after[:trail]
    if not (0 <= lead <= len(before) and 0 <= trail <= len(after) and text[start:end] == kept):
        raise _refusal(turn, message, "changes this message's content beyond trimming its white space")
    spans: list[ContentSpan] = []
    offset = start - (len(before) - lead)
    for segment in message.segments:
        first, last = max(offset, start), min(offset + len(segment.text), end)
        if first < last:
            spans.append(ContentSpan(turn=turn, start=first, end=last, source=segment.source))
        offset += len(segment.text)
    return spans


def _refuse_blank_contents(messages: Sequence[Message], render: _Render, text: str) -> None:
    """A content of white space alone has no middle to mark: it is followed only where the template drops it all."""
    blank = [turn for turn, m in enumerate(messages) if _is_exact(m) and not m.content.strip()]
    if blank and render([chat_dict(m, "" if t in blank else None) for t, m in enumerate(messages)]) != text:
        raise _refusal(blank[0], messages[blank[0]], "trims contents but keeps white space of this message")


def _leaves(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [leaf for item in value.items() for part in item for leaf in _leaves(part)]
    if isinstance(value, list):
        return [leaf for part in value for leaf in _leaves(part)]
    return []


def _refusal(turn: int, message: Message, what: str) -> TemplateError:
    return TemplateError(
        f"turn {turn} ({message.role}): the chat template {what}, so its characters have no provable source; expected "
        "a template that copies or trims contents. Use another template, or write this message in another role"
    )
