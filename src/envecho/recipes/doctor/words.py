"""Checks of the text itself: what no rule cut, what was cut off, whose verdict stands in it, what was taken out."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Final, final

from envecho.recipes.doctor.episode import Episode, Settings, target_text
from envecho.recipes.doctor.findings import Findings
from envecho.trajectory import Message, Role, Source

_MOST_LINES: Final = 50_000
_SHOWN_LINES: Final = 3
_REPEATED_SHARE: Final = 0.05
_SHORTEST_VERDICT: Final = 16
_SHORTEST_CUT: Final = 1_000
_MOST_JSON: Final = 200_000
"""A longer observation that looks like JSON is not parsed to see whether it is whole."""

_VERDICT = re.compile(
    r"\b[Yy]our (?:answer|solution|submission) (?:is|was) (?:wrong|correct|incorrect|right|accepted|rejected)\b"
    r"|[\"']?\breward[\"']?\s*[:=]\s*-?\d|\b(?:[Ss]core|[Gg]rade|[Rr]eward)\s*[:=]\s*-?\d+(?:\.\d+)?\s*/\s*\d+"
    r"|\bverif(?:y|ier)_result\b|[\"']is_correct[\"']\s*:|\b[Gg]rader (?:says|output|result|feedback)\b"
)

_FLAGS: Final = ("environment_simulated", "context_incomplete", "action_text_lossy")


@final
class GraderCheck:
    """Words of a grader: where they are, where they are trained, and what looks like them."""

    def __init__(self, settings: Settings, findings: Findings) -> None:
        self._settings, self._findings = settings, findings

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        messages = episode.trajectory.messages
        graded = [
            (turn, segment.text)
            for turn, message in enumerate(messages)
            for segment in message.segments
            if segment.source is Source.GRADER and segment.text.strip()
        ]
        for turn, text in graded[:1]:
            self._findings.add("grader_present", turn=turn, text=text)
        sayings = {text.strip() for _, text in graded if len(text.strip()) >= _SHORTEST_VERDICT}
        sources = self._settings.sources - {Source.GRADER}
        for turn, message in enumerate(messages):
            text = target_text(message, sources)
            if not self._settings.objective.grader_is_target:
                for saying in sayings:
                    if saying in text:
                        self._findings.add("grader_in_targets", turn=turn, text=saying)
            if verdict := _VERDICT.search(text):
                around = text[max(verdict.start() - 40, 0) : verdict.end() + 40]
                self._findings.add("grader_like_text", turn=turn, text=around)

    def conclude(self) -> None:
        """Nothing that a single episode does not show."""


@final
class CutCheck:
    """Observations that were shortened: with a notice, and without one."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        for turn, message in enumerate(episode.trajectory.messages):
            notices = [s.text for s in message.segments if s.source is Source.TRUNCATION_NOTICE]
            if notices:
                self._findings.add("truncated_observations", turn=turn, text=notices[0])
            elif reason := ends_abruptly(_observed(message)):
                self._findings.add("cut_observations", turn=turn, text=f"… {_observed(message)[-60:]}", reason=reason)

    def conclude(self) -> None:
        """Nothing that a single episode does not show."""


def ends_abruptly(text: str) -> str | None:
    """Return how it is seen that an observation was cut off at its end, or None.

    Seen are half an escape sequence or character, JSON without its end, and a long text without an end of line whose
    length is a round number: the limit of some harness.
    """
    if re.search(r"\x1b(?:\[[\d;]*)?\Z", text):
        return "ends within an escape sequence"
    if text.endswith("\N{REPLACEMENT CHARACTER}"):
        return "ends within a character"
    if text.endswith("\n"):
        return None  # a command such as `head` ends at the end of a line
    stripped = text.strip()
    if 20 <= len(stripped) <= _MOST_JSON and stripped[0] in "[{" and not _is_whole_json(stripped):
        return "JSON without its end"
    is_round = len(text) % 1_000 == 0 or len(text) % 1_024 == 0
    if len(text) >= _SHORTEST_CUT and is_round and not text.endswith((".", "}", "]", ")", ">")):
        return f"ends in the middle of a line after {len(text):,} characters"
    return None


def _is_whole_json(text: str) -> bool:
    """Whether JSON ends where it should; text that is not JSON from early on (a log, a listing) counts as whole."""
    try:
        json.loads(text)
    except RecursionError:
        return True
    except ValueError as error:
        return getattr(error, "pos", 0) < len(text) - 1 and not _stops_inside(text, error)
    return True


def _stops_inside(text: str, error: ValueError) -> bool:
    """Whether the only fault is that the text stops: a string that is open at the end of it."""
    position = int(getattr(error, "pos", 0))
    return "Unterminated string" in str(error) and "\n" not in text[position:]


def _observed(message: Message) -> str:
    return "".join(segment.text for segment in message.segments if segment.source.role is Role.ENV_OUTPUT)


@final
class OriginCheck:
    """What an importer could not tell: observations that no rule cut, lines that repeat in them, and its flags."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._num_observations = self._num_unattributed = 0
        self._lines: Counter[str] = Counter()

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        facts = episode.imported
        for name in _FLAGS:
            if facts.get(name):
                self._findings.add(name)
        if facts.get("num_parts_dropped"):
            self._findings.add("parts_dropped")
        if str(facts.get("action_provenance", "proved")) != "proved":
            self._findings.add("actions_not_proved", reason=str(facts["action_provenance"]))
        for turn, message in enumerate(episode.trajectory.messages):
            redacted = [s.text for s in message.segments if s.source is Source.REDACTED]
            if redacted:
                self._findings.add("redacted_text", turn=turn, text=redacted[0])
            if facts:
                self._attribute(message, turn)

    def _attribute(self, message: Message, turn: int) -> None:
        text = _observed(message)
        if not text.strip():
            return
        self._num_observations += 1
        if any(segment.source.role is not Role.ENV_OUTPUT for segment in message.segments if segment.text.strip()):
            return
        self._num_unattributed += 1
        self._findings.add("unattributed_text", turn=turn, text=text)
        self._lines.update({line for line in text.splitlines() if 8 <= len(line) <= 200})
        if len(self._lines) > _MOST_LINES:
            self._lines = Counter(dict(self._lines.most_common(_MOST_LINES // 2)))

    def conclude(self) -> None:
        """Say what the whole file shows."""
        if not self._num_unattributed:
            return
        share = self._num_unattributed / self._num_observations
        detail = f"{self._num_unattributed:,} of {self._num_observations:,} observations ({share:.0%})"
        self._findings.state("unattributed_text", detail)
        least = max(3, _REPEATED_SHARE * self._num_unattributed)
        repeated = [(line, count) for line, count in self._lines.most_common(_SHOWN_LINES) if count >= least]
        if repeated:
            shown = "; ".join(f"{count:,} x {line!r}" for line, count in repeated)
            self._findings.state("repeated_lines", shown)
