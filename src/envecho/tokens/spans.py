"""`Rendering`: the text of a chat template with one source per character.

A rendering with spans is the template's plain rendering, character for character (`marks` proves it); otherwise there
is a TemplateError that names the message. Whose a character is:

- A segment's text is its segment's source.
- Of an assistant turn that the policy wrote, everything between the template's header (the generation prompt) and the
  end-of-turn token is the policy's: content, reasoning, and tool calls as the template writes them, with the tags
  around them, because a policy must emit those. Header and footer are scaffold. A sampled turn is exact: its ids,
  with the end-of-turn token if that was sampled, are the policy's, and the rest of the footer is scaffold (`render`).
  What stands there for a secret is redacted, and a sampled turn that held one is so as a whole.
- All else is scaffold: role tags, wrappers of tool results, tool schemas, a default system prompt.

Not here: ids (`render`), and histories that a template rewrites (`branches`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.errors import TemplateError
from envecho.tokens.chat import ChatTokenizer, TurnFormat
from envecho.tokens.marks import ContentSpan, Located, has_policy_text, locate_content
from envecho.trajectory import Message, Source
from envecho.trajectory.redacted import marks_in


@dataclass(frozen=True, kw_only=True)
class Body:
    """Characters `[start, end)` that the policy wrote in assistant turn `turn`; the end-of-turn token follows."""

    turn: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """The text that the model sees, and per character who wrote it.

    Arrays are `[character]`: `sources` uint8 codes; `turns` int32, -1 for scaffold before the first message.
    `spans` are the contents that are text and never control tokens; `bodies` what the policy wrote, per turn.

    Example:
        text     <|im_start|>user\\nhi<|im_end|>\\n<|im_start|>assistant\\nls<|im_end|>\\n
        sources  ssssssssssssssss sttsssssssssss sssssssssssssssssssssss ppssssssssssss
                 (s scaffold, t task, p policy)
        spans    hi       bodies   ls
    """

    text: str
    sources: NDArray[np.uint8]
    turns: NDArray[np.int32]
    spans: tuple[ContentSpan, ...]
    bodies: tuple[Body, ...]


def render_spans(
    messages: Sequence[Message],
    tokenizer: ChatTokenizer,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    generation_prompt: bool = False,
) -> Rendering:
    """Render messages with the chat template and say of every character who wrote it.

    Raises:
        TemplateError: the template's text cannot be followed character by character; it names the message.
    """
    located = locate_content(messages, tokenizer, tools=tools, generation_prompt=generation_prompt)
    bodies, starts = _walk(messages, located, tokenizer)
    sources = np.full(len(located.text), Source.SCAFFOLD.code, dtype=np.uint8)
    for body in bodies:
        sources[body.start : body.end] = Source.POLICY.code
        for start, end in marks_in(messages[body.turn], located.text[body.start : body.end]):
            sources[body.start + start : body.start + end] = Source.REDACTED.code
    for span in located.spans:
        sources[span.start : span.end] = span.source.code
    turns = np.full(len(located.text), -1, dtype=np.int32)
    for start, turn in starts:
        turns[start:] = turn
    return Rendering(text=located.text, sources=sources, turns=turns, spans=located.spans, bodies=tuple(bodies))


def _walk(
    messages: Sequence[Message], located: Located, tokenizer: ChatTokenizer
) -> tuple[list[Body], list[tuple[int, int]]]:
    """Go through the turns in order: bodies of the policy's turns, and where in the text each turn begins.

    The cursor only ever stands behind text whose writer is known, so what is searched for from there (a header, an
    end-of-turn token) is found in scaffold and never in somebody's content.
    """
    form = tokenizer.turn_format
    by_turn: dict[int, list[ContentSpan]] = {}
    for span in located.spans:
        by_turn.setdefault(span.turn, []).append(span)
    bodies: list[Body] = []
    starts: list[tuple[int, int]] = []
    cursor = 0
    for turn, message in enumerate(messages):
        spans = by_turn.get(turn, [])
        if message.role == "assistant":
            header = located.text.find(form.header, cursor)
            if header < 0 or (spans and header > spans[0].start):
                raise _lost(turn, "opening")
            body = _body(turn, located, header, form, spans)
            if any(span.turn > turn and span.start < body.end for span in located.spans):
                raise _lost(turn, "closing")
            starts.append((header, turn))
            if has_policy_text(message):
                _check_calls_shown(turn, message, located.text[body.start : body.end])
                bodies.append(body)
            cursor = body.end
        elif spans:
            footer = located.text.rfind(form.footer, cursor, spans[0].start)
            starts.append((cursor if footer < 0 else footer + len(form.footer), turn))
            cursor = spans[-1].end
    return bodies, starts


def _body(turn: int, located: Located, header: int, form: TurnFormat, spans: list[ContentSpan]) -> Body:
    prompted = located.text.startswith(form.generation_prompt, header)
    start = header + len(form.generation_prompt if prompted else form.header)
    known = max([start, located.guards.get(turn, 0), *(span.end for span in spans)])
    end = located.text.find(form.end_of_turn, known)
    if end < 0:
        raise _lost(turn, "closing")
    return Body(turn=turn, start=start, end=end)


def _lost(turn: int, what: str) -> TemplateError:
    return TemplateError(
        f"turn {turn} (assistant): the {what} of this turn is not where the chat template's other turns have it, so "
        "the policy's text cannot be told from scaffold; use a template that writes every assistant turn alike"
    )


def _check_calls_shown(turn: int, message: Message, body: str) -> None:
    missing = [call.name for call in message.tool_calls if call.name not in body]
    if missing and message.sampled is None:
        raise TemplateError(
            f"turn {turn} (assistant): the chat template does not show the call of tool {missing[0]!r}, so the action "
            "would be lost; use a template that renders tool calls, or write the call into the message's content, as"
            " envecho import --calls-as-text does"
        )
