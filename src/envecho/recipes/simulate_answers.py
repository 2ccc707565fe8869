"""What an answer says, read from its text alone: the output, the harness's phrases behind it, and whether it failed.

A model writes one text where a world has typed segments. So a guess is split by the forms of this project's own worlds:
phrases in brackets on lines of their own (`[exit status 2]`, `[timed out after 3 s; ...]`), and an error of an API as
one JSON object with the key `error` in front. The true text is split by the same rule, so both sides are treated alike,
and `read_truth` compares the split with what the world's segments say: where they disagree, the phrases are another
harness's, and nothing is split or judged. Not here: predicting (`simulate_prompts`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from envecho.trajectory import Message, Role, Source

_PHRASES: Final = (
    r"exit status \d+",
    r"timed out after .*",
    r"more than \d+ bytes of output; .*",
    r"characters that a command cannot hold .*",
    r"the shell ended; .*",
    r"the machine was stopped: .*",
    r"the reply was cut after .*",
    r"expected .*nothing was run",
)
_LAST_LINE: Final = re.compile(rf"^\[(?:{'|'.join(_PHRASES)})\]\n?\Z", re.MULTILINE)
_OMITTED: Final = re.compile(r"^\[\d+ bytes left out: .*\]\n", re.MULTILINE)
_STATUS: Final = re.compile(r"\[exit status (\d+)\]")
_FAILED: Final = re.compile(r"^\[(?:timed out after|the machine was stopped|the reply was cut|expected)", re.MULTILINE)
_API_ERROR: Final = re.compile(r'\s*\{\s*"error"')

_FAILING: Final = frozenset({Source.TOOL_ERROR, Source.TIMEOUT_NOTICE, Source.FORMAT_WARNING})
_OF_TOOLS: Final = frozenset({Source.TOOL_RESULT, Source.TOOL_ERROR})


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer as text: `output`, then `harness`; `failed` where a status, an API's error or a notice says so."""

    text: str
    output: str
    harness: str
    failed: bool


@dataclass(frozen=True, kw_only=True)
class TrueAnswer:
    """A world's answer; `phrases_known` says that its segments say what the split says. Else `output` is all of it.

    `failed` is None where nobody knows: behind unknown phrases, or where no failure is shown by a harness of which it
    is not known that it shows them.
    """

    text: str
    output: str
    harness: str
    failed: bool | None
    phrases_known: bool


def split_answer(text: str) -> Answer:
    r"""Split a text into what a world printed and what its harness said about it.

    A line end before a phrase counts as output: from text alone nobody knows whose it is.

    Example:
        >>> split_answer("cat: x: No such file or directory\n[exit status 1]").harness
        '[exit status 1]'
    """
    end = len(text)
    while found := _LAST_LINE.search(text[:end]):
        end = found.start()
    output, harness = _OMITTED.sub("", text[:end]), text[end:]
    statuses = [int(status) for status in _STATUS.findall(harness)]
    failed = any(statuses) or bool(_FAILED.search(harness)) or bool(_API_ERROR.match(output))
    return Answer(text=text, output=output, harness=harness, failed=failed)


def whole_answer(text: str) -> Answer:
    """Return an answer that is not split, beside a truth whose phrases nobody here knows."""
    return Answer(text=text, output=text, harness="", failed=split_answer(text).failed)


def read_truth(message: Message, *, shows_failures: bool) -> TrueAnswer:
    """Split a world's answer, and check the split against its segments.

    Args:
        message: the answer.
        shows_failures: whether an answer without a sign of failure was a success. What a tool answered always says.
    """
    split = split_answer(message.content)
    said = "".join(segment.text for segment in message.segments if segment.source.role is Role.ENV_OUTPUT)
    same_output = split.output in (said, f"{said}\n") if split.harness else split.output == said
    known = same_output and split.failed == _stated_failure(message)
    kept = split if known else whole_answer(message.content)
    sources = {segment.source for segment in message.segments if segment.source.role is Role.ENV_OUTPUT}
    told = split.failed or shows_failures or (bool(sources) and sources <= _OF_TOOLS)
    return TrueAnswer(
        text=kept.text,
        output=kept.output,
        harness=kept.harness,
        failed=kept.failed if known and told else None,
        phrases_known=known,
    )


def _stated_failure(message: Message) -> bool:
    """What the segments say: a status that is not zero, or a source that is a failure by itself."""
    statuses = [_STATUS.search(s.text) for s in message.segments if s.source is Source.STATUS]
    if any(status is not None and int(status[1]) for status in statuses):
        return True
    return any(segment.source in _FAILING for segment in message.segments)
