"""Text that comes out otherwise in every run: times, process ids, hashes, random names; found by patterns, in bytes.

The patterns are written for few false alarms: a count, a size, a version or a port that somebody chose is not volatile,
and a bare number is a process id only where its line says so. Every repetition is bounded and begins behind a boundary,
so a hostile line costs what a plain one of its length costs. docs/slices.md has the table. Not here: what another run
really answered otherwise (`envecho.recipes.floor`), and whether a text had been shown before (`token_classes`).
"""

from __future__ import annotations

import re
from typing import Final

_MONTH: Final = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
_WEEKDAY: Final = r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_MONTH_NUMBER, _DAY_NUMBER = r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_ZONE: Final = r"(?:Z| ?[+-][01]\d:?[0-5]\d)?"
_UNIT: Final = r"(?:ns|us|\xc2\xb5s|ms|[num]sec|s|secs?|seconds?|mins?|minutes?)(?![\w/])"
_LINE: Final = r"(?:^|(?<=\n))"
_TERMINAL: Final = r"(?:pts/\d{1,4}|tty\w{1,5}|\?)"
_EPHEMERAL: Final = r"(?:3276[89]|327[7-9]\d|32[89]\d\d|3[3-9]\d{3}|[45]\d{4}|6[0-5]\d{3})(?!\w)"

VOLATILE_PATTERNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("date", "-", rf"(?<![\d.])(?:19|20)\d\d-{_MONTH_NUMBER}-{_DAY_NUMBER}(?!\d)"),
    ("date", "/", rf"(?<![\d.])(?:19|20)\d\d/{_MONTH_NUMBER}/{_DAY_NUMBER}(?!\d)"),
    ("date", "", rf"(?<!\w)(?:19|20)\d\d{_MONTH_NUMBER}{_DAY_NUMBER}[T_-]?[0-2]\d[0-5]\d[0-5]\dZ?(?!\w)"),
    ("date", " ", rf"\b(?:{_WEEKDAY},? )?{_MONTH} {{1,2}}\d\d?(?= {{1,2}}(?:\d\d:\d\d|\d{{4}}\b))"),
    ("date", "", rf"\b(?:{_WEEKDAY}, )?\d\d?[ /-]{_MONTH}(?=[ /-]\d{{4}}\b)"),
    (
        "clock",
        ":",
        r"(?:(?<![\w:.])|(?<=\d[T_]))(?:[01]?\d|2[0-3]):[0-5]\d:[0-5]\d(?:[.,]\d{1,9})?" + _ZONE + r"(?![\w:])",
    ),
    ("clock", ":", r"(?:(?<![\w:.-])|(?<=\d[T_]))(?:[01]\d|2[0-3]):[0-5]\d" + _ZONE + r"(?![\w:])"),
    ("clock", ":", r"(?<![\w:.-])1?\d:[0-5]\d ?[AaPp][Mm]\b"),
    ("duration", ".", rf"(?<![\w.])\d{{1,9}}\.\d{{1,9}} ?{_UNIT}"),
    ("duration", "m", r"(?<![\w.])\d{1,6}m\d{1,2}\.\d{1,9}s(?!\w)"),
    ("duration", "", rf"\b(?:in|took|time[:=]|elapsed[:=]?) ?(?P<value>\d{{1,9}} ?{_UNIT})"),
    ("rate", "B/s", r"(?<![\w.])\d{1,9}(?:\.\d{1,9})? ?[kKMG]?i?B/s(?!\w)"),
    ("epoch", "1", r"(?<![\w.])1[5-9]\d{8}(?:\d{3})?(?:\.\d{1,12})?(?![\w.])"),
    ("load", "load av", r"\bload averages?: (?P<value>\d{1,5}\.\d\d,? \d{1,5}\.\d\d,? \d{1,5}\.\d\d)"),
    ("inode", "node: ", r"\bInode: (?P<value>\d{1,20})"),
    ("uuid", "-", r"(?<!\w)[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}(?!\w)"),
    ("hash", "", r"(?<!\w)(?=[a-f]{0,128}\d)(?=\d{0,128}[a-f])[0-9a-f]{7,128}(?!\w)"),
    ("address", "0x", r"(?<!\w)0x[0-9a-fA-F]{6,16}(?!\w)"),
    ("temporary", "tmp.", r"(?<!\w)tmp\.(?=[a-z]{0,16}[A-Z0-9])[A-Za-z0-9]{6,16}(?!\w)"),
    ("temporary", "/tmp", r"(?<=/)tmp(?=[a-z_]{0,8}\d)[a-z0-9_]{8}(?!\w)"),
    ("temporary", "/tmp/cc", r"(?<=/tmp/)cc[A-Za-z0-9]{6}(?=\.\w)"),
    ("process", "", r"\b[Pp][Ii][Dd](?:[ =#]|[:=] )(?P<value>\d{1,7})(?![\w.])"),
    ("process", "] ", _LINE + r"\[\d{1,4}\] (?P<value>\d{1,7})(?=\r?(?:\n|\Z))"),
    ("process", ": ", r": {1,4}(?P<value>\d{1,7}) (?:Killed|Terminated|Aborted|Segmentation fault|Hangup)\b"),
    (
        "process",
        ":",
        _LINE + r" {0,6}(?P<value>\d{1,7}) (?:pts/\d{1,4}|tty\w{1,5}|\?) {1,9}(?:\w{1,4} {1,4})?\d\d?:\d\d",
    ),
    ("process", ".", _LINE + r"[\w.+-]{1,32} {1,9}(?P<value>\d{1,7}) {1,6}\d{1,3}\.\d {1,6}\d{1,3}\.\d "),
    ("process", "]", rf"{_MONTH} [ \d]\d \d\d:\d\d:\d\d [\w.-]{{1,64}} [\w./-]{{1,64}}\[(?P<value>\d{{1,7}})\]"),
    ("port", ":", rf"(?:127\.0\.0\.1|0\.0\.0\.0|localhost|\[::1?\]):(?P<value>{_EPHEMERAL})"),
    ("port", "port ", rf"\bport (?P<value>{_EPHEMERAL})"),
)
"""Kind, text that every match holds, and pattern; the group `value` is volatile where there is one, else the match."""

_COMPILED: Final = tuple(
    (kind, text.encode(), compiled, "value" if "value" in compiled.groupindex else 0)
    for kind, text, pattern in VOLATILE_PATTERNS
    for compiled in [re.compile(pattern.encode("latin-1"))]
)
_DIGIT: Final = re.compile(rb"\d|tmp\.")


def volatile_spans(text: bytes) -> list[tuple[int, int, str]]:
    """Return (start, end, kind) of every volatile stretch of UTF-8 text, in order and disjoint.

    Of two matches that overlap the one that begins first stays, then the longer one.

    Example:
        >>> volatile_spans(b"ran 12 tests in 0.03s, pid 4711\\n")
        [(16, 21, 'duration'), (27, 31, 'process')]
    """
    if _DIGIT.search(text) is None:
        return []
    found: list[tuple[int, int, str]] = []
    for kind, needed, pattern, group in _COMPILED:
        if needed in text:
            found += [(*match.span(group), kind) for match in pattern.finditer(text)]
    found.sort(key=lambda span: (span[0], -span[1]))
    spans: list[tuple[int, int, str]] = []
    for span in found:
        if not spans or span[0] >= spans[-1][1]:
            spans.append(span)
    return spans
