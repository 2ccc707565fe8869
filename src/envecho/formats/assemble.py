"""Turns -> `Trajectory`: who wrote what, by place and by evidence, with what is known of its origin.

    before the first answer     system text, the task and demonstrations: nothing there is an answer of the world
    answers                     the policy's, unless the file says that nobody sampled them
    tool turns after it         the world's words, without those of the harness (rule packs)
    user turns after it         the world's, where a harness's own marks or the format say so; else a person's

Not here: how a file's messages become turns (`turns`), and the packs (`rules`).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from envecho.errors import DataError
from envecho.formats.reading import Document
from envecho.formats.redaction import Redactor
from envecho.formats.rules import PACKS, Rule, pack_of, split
from envecho.formats.turns import Kind, Turn, paired
from envecho.trajectory import Message, Role, Segment, Source, Trajectory

UserTurns = Literal["auto", "world", "person"]
Provenance = Literal["proved", "assumed", "not_sampled"]


class TextReader(Protocol):
    """Reads the text of token ids; `envecho.tokens.id_text.IdReader` is one."""

    def prompt(self, token_ids: Sequence[int]) -> list[tuple[Kind, str]] | None:
        """Return (role, content) of each message of a prompt, None where it cannot be read."""
        ...

    def completion(self, token_ids: Sequence[int]) -> str:
        """Return the text of sampled ids, without the token that ends the turn."""
        ...


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How traces are read.

    `rules` are the user's, tried before every pack; `user_turns` says whose words user turns after an answer are.
    `calls_as_text` writes calls into the answer's text and results into user turns, for models whose chat template
    knows no tools; what was sampled is then no longer known to the character. `text_only` leaves exact token ids
    behind, for a model of another tokenizer. `redactor` takes secrets out; None leaves them in.
    `reader` reads the text of traces that hold ids alone.
    """

    rules: tuple[Rule, ...] = ()
    user_turns: UserTurns = "auto"
    calls_as_text: bool = False
    text_only: bool = False
    reader: TextReader | None = None
    redactor: Redactor | None = field(default_factory=Redactor)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What a format knows of one episode beside its turns; it is kept in the trajectory's metadata under `import`.

    `pack` is the rule pack of its harness, None looks for one in the text. `world_speaks_as_user` is what the format
    knows of user turns. `segments[i]` replaces the cutting of turn i where the file itself says where the body lies.
    """

    format: str
    document: Document
    number: int | None = None
    task: str | None = None
    reward: float | None = None
    pack: str | None = None
    world_speaks_as_user: bool = False
    action_provenance: Provenance = "assumed"
    context_incomplete: bool = False
    environment_simulated: bool = False
    action_text_lossy: bool = False
    tools: tuple[dict[str, Any], ...] = ()
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    segments: dict[int, tuple[Segment, ...]] = field(default_factory=dict[int, tuple[Segment, ...]])


def assemble(turns: Sequence[Turn], origin: Origin, options: ImportOptions) -> Trajectory:
    """Build the trajectory of one episode.

    Raises:
        DataError: there is no turn.
    """
    if not turns:
        raise DataError("expected messages, found none")
    turns = paired(turns)
    proved = origin.action_provenance != "not_sampled"
    sampled = (place for place, turn in enumerate(turns) if turn.kind == "assistant" and turn.sampled)
    first = next(sampled, len(turns))
    pack = origin.pack or next((found for turn in turns[first:] if (found := _sign(turn))), None)
    rules = options.rules + (PACKS[pack] if pack else ())
    reply = _source_of_user_turns(turns[first:], origin, options, pack)
    matched = unmatched = persons = 0
    messages: list[Message] = []
    for place, turn in enumerate(turns):
        if place in origin.segments and place > first:
            segments = origin.segments[place]
        elif turn.kind == "assistant":
            source = Source.POLICY if turn.sampled and proved else Source.TASK
            segments = (Segment(source=source, text=turn.text),) if turn.text else ()
        elif turn.kind == "system" or place < first:
            source = Source.SYSTEM if turn.kind == "system" else Source.TASK
            segments = (Segment(source=source, text=turn.text),)
        else:
            segments = _cut(turn, turns[place - 1], reply, rules)
        persons += turn.kind == "user" and place > first and {s.source for s in segments} == {Source.TASK}
        if turn.kind in ("user", "tool") and any(s.source.role is Role.ENV_OUTPUT for s in segments):
            has_rule = any(s.source.role is not Role.ENV_OUTPUT for s in segments)
            matched, unmatched = matched + has_rule, unmatched + (not has_rule)
        segments = _with_placeholders(segments, turn.placeholders)
        messages.append(message_as_text(turn, segments) if options.calls_as_text else _message(turn, segments))
    document = origin.document
    counts = {
        "num_parts_dropped": sum(turn.num_dropped_parts for turn in turns),
        "num_observations_with_rule": matched,
        "num_observations_without_rule": unmatched,
        "num_turns_of_a_person": persons,
    }
    lossy = any(turn.is_lossy or (options.calls_as_text and turn.tool_calls) for turn in turns)
    flags = {
        "action_text_lossy": origin.action_text_lossy or lossy,
        "grader_in_text": any(s.source is Source.GRADER for m in messages for s in m.segments),
        "rule_pack": pack,
    }
    return Trajectory(
        id=document.place if origin.number is None else f"{document.place}#{origin.number}",
        task_id=origin.task or hashlib.sha256(_opening(turns[:first]).encode()).hexdigest()[:16],
        messages=tuple(messages),
        tools=_plain(origin.tools),
        reward=_plain(origin.reward),
        metadata={"import": _plain(_facts(origin) | flags | counts)},
    )


def _facts(origin: Origin) -> dict[str, Any]:
    """What a format knows of an episode's origin; what it does not know is left out."""
    facts: dict[str, Any] = {
        "format": origin.format,
        "file": origin.document.file,
        "line": origin.document.line,
        "number": origin.number,
        "token_exact": False,
        "has_logprobs": False,
        "action_provenance": origin.action_provenance,
        "environment_simulated": origin.environment_simulated,
        "context_incomplete": origin.context_incomplete,
        **origin.facts,
    }
    return {key: value for key, value in facts.items() if value is not None}


def _plain(value: Any) -> Any:
    """The value without NaN and infinities, which JSON does not know: they are unknown."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        inner = [_plain(entry) for entry in value]
        return tuple(inner) if isinstance(value, tuple) else inner
    return value


def _sign(turn: Turn) -> str | None:
    return pack_of(turn.text) if turn.kind in ("user", "tool") else None


def _source_of_user_turns(
    turns: Sequence[Turn], origin: Origin, options: ImportOptions, pack: str | None
) -> Source | None:
    """Whose words user turns after an answer are: the world's, a person's reply as a target, or (None) a person's.

    The option decides, then the format, then a harness's marks where there are no tools. A reply that is a target only
    because the option says so, beside tools, is `user_reply`.
    """
    speaks = origin.world_speaks_as_user or (pack is not None and not any(turn.kind == "tool" for turn in turns))
    if options.user_turns == "world":
        has_tools = any(turn.kind == "tool" for turn in turns)
        return Source.USER_REPLY if has_tools and not speaks else Source.TOOL_RESULT
    return Source.TOOL_RESULT if speaks and options.user_turns == "auto" else None


def _cut(turn: Turn, before: Turn, reply: Source | None, rules: Sequence[Rule]) -> tuple[Segment, ...]:
    """The segments of a tool or user turn after the first answer."""
    body = Source.TOOL_ERROR if turn.is_error and turn.kind == "tool" else Source.TOOL_RESULT
    if turn.kind == "user":
        if before.kind == "tool" and turn.placeholders:  # it only brings pictures that the tool turn could not hold
            return (Segment(source=Source.WRAPPER, text=turn.text),)
        if reply is None and pack_of(turn.text) is None:
            return (Segment(source=Source.TASK, text=turn.text),)
        body = reply or Source.TOOL_RESULT
    return split(turn.text, rules, body=body, tool=turn.name)


def _with_placeholders(segments: tuple[Segment, ...], spans: Sequence[tuple[int, int]]) -> tuple[Segment, ...]:
    """Cut `[image]` and the like out of the segments: they are context, and never a target."""
    if not spans:
        return segments
    found: list[Segment] = []
    start = 0
    for segment in segments:
        end, done = start + len(segment.text), start
        for left, right in spans:
            left, right = max(left, done), min(right, end)
            if left >= right:
                continue
            found += [segment.model_copy(update={"text": segment.text[done - start : left - start]})] * (left > done)
            found.append(Segment(source=Source.SCAFFOLD, text=segment.text[left - start : right - start]))
            done = right
        found += [segment.model_copy(update={"text": segment.text[done - start :]})] * (done < end or done == start)
        start = end
    return tuple(found)


def _message(turn: Turn, segments: tuple[Segment, ...]) -> Message:
    return Message(
        role=turn.kind,
        segments=segments,
        reasoning=turn.reasoning,
        tool_calls=turn.tool_calls,
        tool_call_id=turn.tool_call_id,
        name=turn.name,
    )


def message_as_text(turn: Turn, segments: tuple[Segment, ...]) -> Message:
    """The message without calls and tool roles: `<tool_call>` blocks of JSON, as Hermes models write them."""
    blocks = [
        f'<tool_call>\n{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}\n</tool_call>'
        for call in turn.tool_calls
    ]
    if not blocks:
        return Message(role="user" if turn.kind == "tool" else turn.kind, segments=segments, reasoning=turn.reasoning)
    source = segments[0].source if segments else Source.POLICY if turn.sampled else Source.TASK
    text = ("\n" if turn.text else "") + "\n".join(blocks)
    return Message(role=turn.kind, segments=(*segments, Segment(source=source, text=text)), reasoning=turn.reasoning)


def _opening(turns: Sequence[Turn]) -> str:
    return "\0".join(turn.text for turn in turns)
