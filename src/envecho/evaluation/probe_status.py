"""Exit statuses as harnesses write them: where the phrase stands in an observation, and what it would say otherwise.

A harness states the status before the output (`<returncode>0</returncode>`), behind it (`[exit status 1]`), or behind
it and only where it is not 0. Which of these a pool has is read off its own observations. Not here: the question
(`probe_exit`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from envecho.trajectory import Message, Role, Source

_NUMBER: Final = re.compile(
    r"(?:(?:exit|return)[ _-]?(?:code|status)|exited with (?:code|status))[\s:=>\"']*(?P<status>-?\d+)", re.IGNORECASE
)
_WORDS: Final = re.compile(r"(?P<status>executed successfully|failed)(?=\. Output:)")
_BEHIND: Final = re.compile(r"[^\sA-Za-z0-9]*\n?")
_SPOKEN: Final = {"executed successfully": 0, "failed": 1}
_SURE: Final = 3
"""So many failures that are stated, and no success, make silence a success."""

_OPENING: Final = frozenset({Source.WRAPPER, Source.COMMAND_ECHO})
_BROKEN: Final = frozenset(
    {
        *(Source.TRUNCATION_NOTICE, Source.TIMEOUT_NOTICE, Source.FORMAT_WARNING, Source.HARNESS_NOTICE),
        *(Source.HARNESS_ERROR, Source.REDACTED),
    }
)


@dataclass(frozen=True, kw_only=True)
class StatusPhrase:
    """An observation's exit status: segment number `place` says `before`, the status, `after`.

    `after` are the punctuation and the newline right behind, without which nobody knows that the number is over.
    `leads` says that nothing but wrappers and the echoed command stand before it.
    """

    place: int
    before: str
    status: int
    after: str
    leads: bool
    spoken: bool = False

    def saying(self, status: int) -> str:
        """Return the phrase with another status."""
        word = next(text for text, known in _SPOKEN.items() if known == min(abs(status), 1)) if self.spoken else status
        return f"{self.before}{word}{self.after}"


def status_phrase(answer: Message) -> StatusPhrase | None:
    """Return the first phrase that states an exit status; None for none, or for two that disagree on failure."""
    found: list[StatusPhrase] = []
    for place, segment in enumerate(answer.segments):
        if segment.source is not Source.STATUS:
            continue
        leads = all(earlier.source in _OPENING for earlier in answer.segments[:place])
        for pattern in (_WORDS, _NUMBER):
            for match in pattern.finditer(segment.text):
                start, end = match.span("status")
                said, behind = match["status"], _BEHIND.match(segment.text, end)
                found.append(
                    StatusPhrase(
                        place=place,
                        before=segment.text[:start],
                        status=_SPOKEN[said] if pattern is _WORDS else int(said),
                        after=behind.group() if behind else "",
                        leads=leads,
                        spoken=pattern is _WORDS,
                    )
                )
    agree = len({bool(phrase.status) for phrase in found}) == 1
    return found[0] if agree else None


def is_whole(answer: Message) -> bool:
    """Whether an observation is an answer that nothing cut, redacted or interrupted."""
    return answer.role != "assistant" and not any(segment.source in _BROKEN for segment in answer.segments)


@dataclass(frozen=True, kw_only=True)
class StatusHabit:
    """How a pool's harness states exit statuses.

    `failures` are the statuses other than 0 that occur, sorted. `silent_success`: a status is stated where it is not
    0, and only there; three failures or more are stated and no success. `leads`: before the output. `trailing` is a
    phrase behind output, to be said with any status.
    """

    failures: tuple[int, ...]
    silent_success: bool
    leads: bool
    trailing: StatusPhrase | None

    def status(self, answer: Message) -> int | None:
        """Return the exit status that an observation states or, where silence says so, 0; None: unknown."""
        phrase = status_phrase(answer)
        if phrase is not None:
            return phrase.status
        return 0 if self.silent_success and is_whole(answer) and not _states(answer) else None


def status_habit(answers: Iterable[Message]) -> StatusHabit:
    """Read off a pool's observations how their harness states exit statuses."""
    known = [(answer, phrase) for answer in answers if (phrase := status_phrase(answer)) is not None]
    behind = [phrase for _, phrase in known if not phrase.leads]
    # A phrase alone in its observation leads nothing: it is the end of an empty output.
    leads = [phrase for answer, phrase in known if phrase.leads and _outputs(answer, phrase.place + 1)]
    failed = [phrase.status for _, phrase in known if phrase.status]
    first = len(leads) > len(behind)
    alone = [phrase for _, phrase in known if not first]
    return StatusHabit(
        failures=tuple(sorted(set(failed))),
        silent_success=len(failed) >= _SURE and len(failed) == len(known) and not first,
        leads=first,
        trailing=(behind or alone or [None])[0],
    )


def _states(answer: Message) -> bool:
    """Whether some status is stated that was not understood."""
    return any(
        segment.source is Source.STATUS and (_NUMBER.search(segment.text) or _WORDS.search(segment.text))
        for segment in answer.segments
    )


def _outputs(answer: Message, start: int) -> bool:
    return any(segment.source.role is Role.ENV_OUTPUT for segment in answer.segments[start:])


def opening_segments(answer: Message) -> int:
    """Return how many segments stand before what a command answers: wrappers, and the echoed command."""
    return next((k for k, s in enumerate(answer.segments) if s.source not in _OPENING), len(answer.segments))
