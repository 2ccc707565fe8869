"""What was said and answered so far in an episode, read from its messages.

A policy that keeps nothing between its turns says the same whenever it sees the same messages. Not here: what an
answer teaches (`seen`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from envecho.trajectory import CallOutcome, Message, call_outcome
from envecho.worlds.tool_calls import CallText, parse_action


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """One action as text, the call that it is (None: it is none), and the messages that answered it."""

    text: str
    call: CallText | None
    answers: tuple[Message, ...]

    @property
    def is_valid(self) -> bool:
        """Whether the world carried it out."""
        return bool(self.answers) and all(call_outcome(answer) is CallOutcome.VALID for answer in self.answers)


def said_in(message: Message) -> list[str]:
    """Return the actions of an assistant turn as a world takes them: a text, or one canonical text for each call.

    Structured calls that the text itself does not spell out become text; what else the turn says is then thought.
    """
    if not message.tool_calls or isinstance(parse_action(message.content), CallText):
        return [message.content]
    return [_call_text(call.name, call.arguments) for call in message.tool_calls]


def _call_text(name: str, arguments: str) -> str:
    """The canonical text of a call; arguments that are no JSON object stay as they were written."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, dict):
        return str(CallText(name=name, arguments=found))
    return f'{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments}}}'


def exchanges(messages: Sequence[Message]) -> tuple[tuple[Message, ...], list[Exchange]]:
    """Return the messages before the first action, and every action with what answered it."""
    starts = [place for place, message in enumerate(messages) if message.role == "assistant"]
    ends = [*starts, len(messages)]
    opening = tuple(messages[: ends[0]])
    found: list[Exchange] = []
    for place, end in zip(starts, ends[1:], strict=True):
        texts, answers = said_in(messages[place]), tuple(messages[place + 1 : end])
        for number, text in enumerate(texts):
            parsed = parse_action(text)
            call = parsed if isinstance(parsed, CallText) else None
            found.append(Exchange(text=text, call=call, answers=_part(answers, number, len(texts))))
    return opening, found


def _part(answers: tuple[Message, ...], number: int, count: int) -> tuple[Message, ...]:
    """The answers to call `number` of `count` of one turn: one each in order, the last has the rest."""
    return answers[number:] if number == count - 1 else answers[number : number + 1]
