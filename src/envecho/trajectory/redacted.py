"""How redacted text is written: the mark that stands for a secret, and the label of turns whose own words hid one.

A secret in a message's content is a segment of its own (`Source.REDACTED`). Where a turn has no segments (reasoning,
arguments of calls, exact ids) its label `redacted` names what was found, so that a tokenizer can keep it out of
training. Not here: what is a secret (`envecho.formats.secret_patterns`).
"""

from __future__ import annotations

import re
from typing import Final

from envecho.trajectory.record import Message

REDACTED_LABEL: Final = "redacted"
"""The key in `Message.labels`; its value names the kinds of secret, joined by commas."""

REDACTION_MARK: Final = re.compile(r"\[redacted:[a-z0-9][a-z0-9_-]*\]")


def redaction_mark(name: str) -> str:
    """Return the text that stands for a secret of this kind."""
    return f"[redacted:{name}]"


def hides_own_words(message: Message) -> bool:
    """Whether something was redacted in this turn's reasoning, calls or exact ids, where no segment says so."""
    return REDACTED_LABEL in message.labels
