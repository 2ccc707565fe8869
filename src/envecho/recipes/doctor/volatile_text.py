"""Volatile text: clocks, ids, hashes, addresses and names that differ from run to run, found by their form.

Rollouts of one task say more exactly what differs (`envecho.objective.agreement`); one rollout has only its form. Not
here: what is done about it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

VolatileSpan = tuple[int, int, str]
"""Start, end and kind of a stretch of volatile text."""

_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"

PATTERNS: Final[Mapping[str, str]] = {
    "uuid": r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b",
    "temporary_path": (
        r"/(?:var/|private/)?tmp/(?:tmp|pip-|pytest-)[^\s'\"<>:;,)\]]+|/tmp/[^\s'\"<>:;,)\]/.]*\.[A-Za-z0-9]{6,10}\b"
        r"|/var/folders/[^\s'\"<>:;,)\]]+"
    ),
    "time": (
        r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b"
        rf"|\b\d{{1,2}}/{_MONTH}/\d{{4}}(?::\d\d:\d\d:\d\d)?|\b{_MONTH} [ \d]\d (?:\d\d:\d\d(?::\d\d)?|[ ]?\d{{4}})\b"
        r"|\b\d{1,2}:\d\d:\d\d(?:[.,]\d+)?\b|\b1[5-9]\d{8}(?:\d{3}|\.\d+)?\b"
    ),
    "duration": r"\b\d+(?:\.\d+)? ?(?:ms|µs|us|ns|seconds?|secs?)\b|\b\d+\.\d+s\b|\b\d+m\d+(?:\.\d+)?s\b",
    "process_id": r"\b(?:pid|PID|process)[ =:#]{1,2}\d{2,7}\b|\b[a-z][\w-]{1,30}\[\d{2,7}\]:",
    "memory_address": r"\b0x[0-9a-fA-F]{6,16}\b",
    "network_address": (
        r"\b(?:\d{1,3}\.){3}\d{1,3}(?::\d{2,5})?\b|\b[0-9a-f]{2}(?::[0-9a-f]{2}){5}\b|\blocalhost:\d{4,5}\b"
    ),
    "hash": r"\b(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,64}\b",
}
"""Kind -> its form; of two that begin at one place the first is meant."""

_VOLATILE = re.compile("|".join(f"(?P<{kind}>{pattern})" for kind, pattern in PATTERNS.items()))


def volatile_spans(text: str) -> list[VolatileSpan]:
    """Return (start, end, kind) of every stretch of volatile text, in order."""
    return [(*match.span(), str(match.lastgroup)) for match in _VOLATILE.finditer(text)]
