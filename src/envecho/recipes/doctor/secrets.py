"""Secrets that are still in a trajectory: what `envecho import` would take out, searched where it was not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from envecho.formats.redaction import Redactor
from envecho.recipes.doctor.episode import Episode
from envecho.recipes.doctor.findings import Findings
from envecho.trajectory import Message, Source
from envecho.trajectory.redacted import REDACTED_LABEL

_SHOWN_CHARACTERS = 3


@final
class SecretCheck:
    """Known kinds of secrets in contents, reasoning and calls; an example shows three characters of one."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._redactor = Redactor()

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        for turn, message in enumerate(episode.trajectory.messages):
            for secret, kind in self._secrets(message):
                text = f"{secret[:_SHOWN_CHARACTERS]}… ({len(secret)} characters)"
                self._findings.add("secrets_left", turn=turn, text=text, reason=kind)

    def _secrets(self, message: Message) -> Iterator[tuple[str, str]]:
        """Yield every secret that can become a target or an action, with its kind."""
        content = message.content
        taken = list(_redacted(message))
        for start, end, kind in self._redactor.find(content):
            if not any(start < last and first < end for first, last in taken):
                yield content[start:end], kind
        if REDACTED_LABEL in message.labels:
            return
        for text in (message.reasoning or "", *(call.arguments for call in message.tool_calls)):
            for start, end, kind in self._redactor.find(text):
                yield text[start:end], kind

    def conclude(self) -> None:
        """Nothing that a single episode does not show."""


def _redacted(message: Message) -> Iterator[tuple[int, int]]:
    place = 0
    for segment in message.segments:
        if segment.source is Source.REDACTED:
            yield place, place + len(segment.text)
        place += len(segment.text)
