"""How redacted text is written: the mark that stands for a secret, and the label of turns whose own words hid one.

A secret in a message's content is a segment of its own (`Source.REDACTED`). Where a turn has no segments (reasoning,
arguments of calls, exact ids) its label `redacted` names what was found, so that a tokenizer can keep it out of
training. Not here: what is a secret (`envecho.formats.secret_patterns`).
"""

from __future__ import annotations

import re
from typing import Final

from envecho.trajectory.record import Message
from envecho.trajectory.roles import Source

REDACTED_LABEL: Final = "redacted"
"""The key in `Message.labels`; its value names the kinds of secret, joined by commas."""

REDACTION_MARK: Final = re.compile(r"\[redacted:[a-z0-9][a-z0-9_-]{0,40}\]")


def redaction_mark(name: str) -> str:
    """Return the text that stands for a secret of this kind."""
    return f"[redacted:{name}]"


def sampled_source(message: Message) -> Source:
    """Return whose the sampled ids of this turn are: the policy's, and nobody's to train where they hold a secret."""
    return Source.REDACTED if REDACTED_LABEL in message.labels else Source.POLICY


def marks_in(message: Message, text: str) -> list[tuple[int, int]]:
    """Return where marks stand in what a template made of this turn; none where nothing of its own was redacted."""
    if REDACTED_LABEL not in message.labels:
        return []
    return [match.span() for match in REDACTION_MARK.finditer(text)]
