"""Token ids -> messages, for traces that keep ids and no text: `IdReader`.

How a template opens and closes turns of each role is read off probe conversations; control tokens are told from text by
their ids, so that a tool result that spells `<|im_end|>` is text here too. What does not parse to the last character is
not read. Not here: whose words a message holds (`envecho.formats`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from envecho.errors import TemplateError
from envecho.tokens.chat import ChatDict, ChatTokenizer
from envecho.trajectory import ChatRole

_FIRST_STAND_IN = 0xF0000
_PROBES = ("\U000ff000", "\U000ff001", "\U000ff002", "\U000ff003")


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """What a template writes around a turn, and between the results of parallel calls that share one."""

    role: ChatRole
    opening: str
    closing: str
    between: str = ""


@final
class IdReader:
    """Reads prompts and completions of one model's template.

    Args:
        folder: a folder with a tokenizer and its chat template, or a hub name; loaded when it is first used, and again
            in each process that the reader is sent to.
    """

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}

    @cached_property
    def _chat(self) -> ChatTokenizer:
        return ChatTokenizer.from_pretrained(self._folder)

    @cached_property
    def _stand_in(self) -> dict[int, str]:
        """A private character for each control token, so that text never looks like one."""
        known = sorted(self._chat.added_ids)
        return {token: chr(_FIRST_STAND_IN + place) for place, token in enumerate(known)}

    @cached_property
    def _spelled(self) -> dict[int, str]:
        """For each private character the text of its control token, for `str.translate`."""
        by_id = {token.id: text for text, token in self._chat.added.items()}
        return {ord(mark): by_id[token] for token, mark in self._stand_in.items()}

    def completion(self, token_ids: Sequence[int]) -> str:
        """Return the text of sampled ids, without the end-of-turn token."""
        ids = list(token_ids)
        if ids and ids[-1] == self._chat.end_of_turn_id:
            ids.pop()
        return self._plain(self._marked(ids))

    def prompt(self, token_ids: Sequence[int]) -> list[tuple[ChatRole, str]] | None:
        """Return (role, content) of each message of a prompt; None if it is not one of this template's.

        The text that a template adds to a system message (tools) is part of that message here.
        """
        return self._parse(self._marked(token_ids))

    def _marked(self, token_ids: Sequence[int]) -> str:
        pieces: list[bytes] = []
        for token in token_ids:
            mark = self._stand_in.get(token)
            pieces.append(mark.encode() if mark else self._chat.token_bytes(token))
        return b"".join(pieces).decode(errors="replace")

    def _plain(self, marked: str) -> str:
        return marked.translate(self._spelled)

    def _marks_of(self, text: str) -> str:
        """Template text with its control tokens as private characters."""
        return self._chat.added_pattern.sub(lambda m: self._stand_in[self._chat.added[m.group()].id], text)

    @cached_property
    def _turns(self) -> list[_Turn]:
        """The turns that the template writes, the longest opening first."""
        a, b, c, d = _PROBES
        say: list[ChatDict] = [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
        form = self._chat.turn_format
        found = [_Turn(role="assistant", opening=form.header, closing=form.footer)]
        user = self._user([*say, {"role": "user", "content": c}, {"role": "assistant", "content": d}])
        if user:
            found.append(user)
        with contextlib.suppress(TemplateError):  # a template without tools: its prompts have none
            results: list[ChatDict] = [{"role": "tool", "content": text} for text in (c, d)]
            text = self._chat.template_text([*say, *results], generation_prompt=True)
            found.append(
                _Turn(
                    role="tool",
                    opening=text.partition(b)[2].partition(c)[0].removeprefix(form.footer),
                    closing=text.partition(d)[2].removesuffix(form.generation_prompt),
                    between=text.partition(c)[2].partition(d)[0],
                )
            )
        with contextlib.suppress(TemplateError):  # a template without system messages
            text = self._chat.template_text([{"role": "system", "content": c}, {"role": "user", "content": d}])
            closing = text.partition(c)[2].partition(d)[0]
            closing = closing.removesuffix(user.opening) if user else closing
            found.append(_Turn(role="system", opening=text.partition(c)[0], closing=closing))
        marked = [
            _Turn(role=t.role, **{name: self._marks_of(getattr(t, name)) for name in ("opening", "closing", "between")})
            for t in found
            if t.opening and t.closing
        ]
        return sorted(marked, key=lambda turn: len(turn.opening), reverse=True)

    def _user(self, messages: Sequence[ChatDict]) -> _Turn | None:
        """How a user turn between two assistant turns opens and closes."""
        _, before, content, after = _PROBES
        form = self._chat.turn_format
        text = self._chat.template_text(messages)
        opening = text.partition(before)[2].partition(content)[0].removeprefix(form.footer)
        closing, header, _ = text.partition(content)[2].partition(after)[0].rpartition(form.header)
        return _Turn(role="user", opening=opening, closing=closing) if header else None

    def _parse(self, text: str) -> list[tuple[ChatRole, str]] | None:
        messages: list[tuple[ChatRole, str]] = []
        at = 0
        while at < len(text):
            turn = next((turn for turn in self._turns if text.startswith(turn.opening, at)), None)
            if turn is None:
                return None
            start = at + len(turn.opening)
            if turn.role == "assistant" and self._is_open(text[start:]):
                return messages
            while True:
                marks = [mark for mark in (turn.closing, turn.between) if mark]
                end = min((place for mark in marks if (place := text.find(mark, start)) >= 0), default=-1)
                if end < 0:
                    return None
                messages.append((turn.role, self._plain(text[start:end])))
                if text.startswith(turn.closing, end):
                    break
                start = end + len(turn.between)
            at = end + len(turn.closing)
        return messages

    def _is_open(self, rest: str) -> bool:
        """Whether what follows an assistant header is the end of a prompt: nothing, or a thinking block it opened."""
        end = self._marks_of(self._chat.turn_format.end_of_turn)
        return end not in rest and len(self._plain(rest).split()) <= 2
