"""Recorded prompts and answers, as text -> episodes: a prompt that does not continue the one before begins a new one.

    prompt 1                                      -> answer 1
    prompt 1 + answer 1 + observation 1           -> answer 2      continues: the same episode
    prompt 1 + (observation 1, cut) + ... + observation 2 -> answer 3      a new episode, all of its prompt is context

What an answer met is at the end of the episode of that answer, so every observation and answer is new in one episode
alone and copies are context. Not here: calls with token ids (`exact`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class TextCall:
    """One call: the messages of its prompt, and the answer's text."""

    prompt: Sequence[Mapping[str, Any]]
    answer: str


@dataclass(frozen=True, kw_only=True)
class TextEpisode:
    """Messages of one episode; the first `num_given` are copied or given, and context."""

    messages: list[Mapping[str, Any]]
    num_given: int


def text_episodes(calls: Sequence[TextCall]) -> list[TextEpisode]:
    """Return the episodes of calls in order."""
    episodes: list[TextEpisode] = []
    for call in calls:
        prompt = list(call.prompt)
        last = episodes.pop() if episodes else None
        if last is None:
            messages, given = prompt, len(prompt)
        elif _same(prompt[: len(last.messages)], last.messages):
            messages, given = [*last.messages, *prompt[len(last.messages) :]], last.num_given
            messages[len(last.messages) - 1] = prompt[len(last.messages) - 1]  # with the calls that a step leaves out
        else:
            behind = next((n for n in range(len(prompt), 0, -1) if prompt[n - 1].get("role") == "assistant"), 0)
            follows = behind > 0 and _key(prompt[behind - 1]) == _key(last.messages[-1])
            met = prompt[behind:] if follows else []
            answered = [*last.messages[:-1], prompt[behind - 1]] if follows else last.messages
            episodes.append(TextEpisode(messages=[*answered, *met], num_given=last.num_given))
            messages, given = prompt, len(prompt)
        answer = {"role": "assistant", "content": call.answer}
        episodes.append(TextEpisode(messages=[*messages, answer], num_given=given))
    return episodes


def _same(left: Sequence[Mapping[str, Any]], right: Sequence[Mapping[str, Any]]) -> bool:
    return len(left) == len(right) and all(_key(a) == _key(b) for a, b in zip(left, right, strict=True))


def _key(message: Mapping[str, Any]) -> tuple[Any, str]:
    """Role and text; a content may be parts at one time and text at another."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return message.get("role"), str(content or "").strip()
