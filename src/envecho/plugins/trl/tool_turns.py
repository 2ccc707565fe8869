"""Tools that TRL calls itself: which of the ids that it appends are the tool's words.

TRL renders the results of one turn behind a made-up conversation, tokenises the text and appends the ids behind the
assistant's end-of-turn token; its `tool_mask` is 0 on all of them, role tags and wrappers included. `ToolTurnReader`
renders the same messages with envecho's own spans, in which every character has one writer and tool text never becomes
a control token, and encodes them. Only where that gives TRL's ids, one by one, is a token's writer known; a tool whose
text spells a control token, which TRL lets through as one, gives other ids and proves nothing. What is not proved is
not trained, and counted. No ids are searched for in others.

TRL keeps the ids of earlier turns as they are and never renders the history again, so a template that rewrites history
changes nothing here.
"""

from __future__ import annotations

import ast
import copy
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import TemplateError
from envecho.objective import EchoConfig
from envecho.plugins.trl.row_masks import RowMasks
from envecho.tokens import ChatTokenizer
from envecho.tokens.render import encode_rendering
from envecho.tokens.spans import render_spans
from envecho.tokens.targets import target_sources
from envecho.trajectory import SOURCES, Message, Role, Segment, Source, ToolCall

_logger = logging.getLogger(__name__)

_NUM_MADE_UP = 2
"""TRL's made-up conversation: a user and an assistant that calls a tool."""


@dataclass(frozen=True, kw_only=True)
class ToolTurn:
    """The ids that TRL appended for one turn of tool results, and the writer of each: `sources` codes `[token]`.

    `tools` names the tool whose result a token belongs to, by the code in `tool_of_token` `[token]` (-1: none).
    """

    sources: NDArray[np.uint8]
    tools: tuple[str, ...]
    tool_of_token: NDArray[np.int64]

    def role_mask(self, role: Role) -> NDArray[np.bool_]:
        """Mask `[token]` of the tokens whose writer has this role."""
        return np.array([source.role is role for source in SOURCES])[self.sources]


@final
class ToolTurnReader:
    """Reads turns of tool results as TRL renders them.

    Args:
        tokenizer: the trainer's transformers tokenizer.
        chat_template: the template that TRL renders with (`GRPOTrainer.chat_template`); None: the tokenizer's own.
        template_kwargs: `GRPOConfig.chat_template_kwargs`.

    Raises:
        TemplateError: the tokenizer cannot keep text and control tokens apart.
    """

    def __init__(self, tokenizer: Any, *, chat_template: str | None, template_kwargs: Mapping[str, Any]) -> None:
        own = copy.copy(tokenizer)
        # Variables that are set at the top of a template take precedence over those that a caller hands in.
        settings = "".join(f"{{%- set {name} = {_literal(value)} -%}}" for name, value in template_kwargs.items())
        own.chat_template = settings + (chat_template or tokenizer.chat_template or "")
        self._tokenizer = ChatTokenizer(own)

    def read(self, tool_messages: Sequence[Mapping[str, Any]], suffix_ids: Sequence[int]) -> ToolTurn:
        """Say of every id that TRL appended who wrote it.

        Raises:
            TemplateError: it cannot be proved.
        """
        messages = [*_made_up(str(tool_messages[0]["name"])), *map(_message, tool_messages)]
        rendering = render_spans(messages, self._tokenizer, generation_prompt=True)
        arrays = encode_rendering(rendering, messages, self._tokenizer)
        start = len(arrays.token_ids) - len(suffix_ids)
        if start < 0 or arrays.token_ids[start:].tolist() != list(suffix_ids):
            raise TemplateError(
                "TRL's ids are not those of the results as text; a result that spells a control token is one cause"
            )
        turns = arrays.turns[start:]
        if (arrays.turns[:start] >= _NUM_MADE_UP).any():
            raise TemplateError("TRL's ids begin behind the first result")
        return ToolTurn(
            sources=arrays.sources[start:],
            tools=tuple(str(message["name"]) for message in tool_messages),
            tool_of_token=np.where(turns >= _NUM_MADE_UP, turns.astype(np.int64) - _NUM_MADE_UP, -1),
        )


@dataclass(frozen=True, kw_only=True)
class BuiltSuffix:
    """Ids that TRL built for the results of one turn; whether the sample keeps them is known later."""

    tool_messages: Sequence[Mapping[str, Any]]
    token_ids: Sequence[int]


def rows_of_turns(
    completions: Sequence[Sequence[Mapping[str, Any]]],
    completion_ids: Sequence[Sequence[int]],
    tool_masks: Sequence[Sequence[int]],
    built: Sequence[BuiltSuffix],
    *,
    reader: ToolTurnReader,
    echo: EchoConfig,
) -> list[RowMasks]:
    """Return the masks of completions in which TRL called tools.

    `built` are all suffixes of the generation. Those that no completion shows were left out by TRL, because they would
    pass `max_completion_length`; how many tokens of observation they held is counted with the first row.
    """
    # Messages are told apart by identity: two results may say the same.
    by_message = {id(suffix.tool_messages[0]): suffix for suffix in built}
    rows = [
        _row(messages, ids, mask, by_message, reader=reader, echo=echo)
        for messages, ids, mask in zip(completions, completion_ids, tool_masks, strict=True)
    ]
    kept = {id(message) for messages in completions for message in messages}
    left_out = [suffix for suffix in built if id(suffix.tool_messages[0]) not in kept]
    if left_out and rows:
        num_dropped = sum(_num_observed(suffix, reader) for suffix in left_out)
        _logger.warning(
            "TRL left out %d turns of tool results (%d tokens of observation) that would pass max_completion_length;"
            " ECHO cannot learn from them",
            len(left_out),
            num_dropped,
        )
        rows[0] = replace(rows[0], num_dropped=num_dropped)
    return rows


def _row(
    messages: Sequence[Mapping[str, Any]],
    ids: Sequence[int],
    mask: Sequence[int],
    built: Mapping[int, BuiltSuffix],
    *,
    reader: ToolTurnReader,
    echo: EchoConfig,
) -> RowMasks:
    row = RowMasks.nothing(len(ids))
    chosen = target_sources(echo.world_loss_target)
    is_target = np.array([source in chosen for source in SOURCES])
    try:
        for first, (start, end) in _turns(messages, mask):
            suffix = built.get(id(first))
            if suffix is None or list(suffix.token_ids) != list(ids[start:end]):
                raise TemplateError("the ids of a tool turn are not those that TRL built for its messages")
            turn = reader.read(suffix.tool_messages, suffix.token_ids)
            row.targets[start:end] = is_target[turn.sources]
            row.observed[start:end] = turn.role_mask(Role.ENV_OUTPUT) | turn.role_mask(Role.WARNING)
            coeffs = np.array([echo.tool_coeffs.get(tool, 1.0) for tool in turn.tools] + [1.0], dtype=np.float32)
            row.multipliers[start:end] = coeffs[turn.tool_of_token]
    except TemplateError as error:
        _logger.warning("a completion's observations are not trained: %s", error)
        return RowMasks.nothing(len(ids), unproved=True)
    return row


def _turns(
    messages: Sequence[Mapping[str, Any]], mask: Sequence[int]
) -> Iterable[tuple[Mapping[str, Any], tuple[int, int]]]:
    """The first tool message of each turn of results, with the place `[start, end)` of the turn in the completion."""
    firsts = [
        message
        for place, message in enumerate(messages)
        if message["role"] == "tool" and (place == 0 or messages[place - 1]["role"] != "tool")
    ]
    edges = np.flatnonzero(np.diff(np.concatenate(([1], np.asarray(mask), [1]))))
    places = list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
    if len(firsts) != len(places):
        raise TemplateError(f"the completion shows {len(firsts)} turns of results, its mask {len(places)}")
    return zip(firsts, places, strict=True)


def _num_observed(suffix: BuiltSuffix, reader: ToolTurnReader) -> int:
    """Tokens of observation in a suffix; where they cannot be told apart, all of its tokens."""
    try:
        return int(reader.read(suffix.tool_messages, suffix.token_ids).role_mask(Role.ENV_OUTPUT).sum())
    except TemplateError:
        return len(suffix.token_ids)


def _made_up(tool: str) -> list[Message]:
    return [
        Message(role="user", segments=(Segment(source=Source.TASK, text="dummy"),)),
        Message(role="assistant", segments=(), tool_calls=(ToolCall(name=tool, arguments="{}"),)),
    ]


def _message(tool_message: Mapping[str, Any]) -> Message:
    content = tool_message["content"]
    if not isinstance(content, str):
        raise TemplateError(f"a tool answered {type(content).__name__}, expected text")
    name = str(tool_message["name"])
    source = Source.HARNESS_ERROR if _is_error_of_trl(content) else Source.TOOL_RESULT
    segments = (Segment(source=source, text=content, tool=name),) if content else ()
    return Message(role="tool", name=name, segments=segments)


def _is_error_of_trl(content: str) -> bool:
    """Whether this is what TRL writes for a call that raised, or that it could not make: harness text, a warning."""
    if not content.startswith("{'error': "):
        return False
    try:
        value: Any = ast.literal_eval(content)
    except (SyntaxError, ValueError):
        return False
    return isinstance(value, dict) and list(value) == ["error"]


def _literal(value: Any) -> str:
    """A template variable as Jinja writes it."""
    return "none" if value is None else json.dumps(value)
