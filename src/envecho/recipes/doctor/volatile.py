"""The share of the world's words that nobody can predict. Not here: how they are recognised (`volatile_text`)."""

from __future__ import annotations

from collections import Counter
from typing import Final, final

from envecho.recipes.doctor.episode import Episode
from envecho.recipes.doctor.findings import Findings

REPORTED_SHARE: Final = 0.02
_MOST_KINDS_SHOWN: Final = 5


@final
class VolatileCheck:
    """Counts volatile text of role env_output, by kind."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._num_characters = 0
        self.characters: Counter[str] = Counter()
        self.occurrences: Counter[str] = Counter()

    @property
    def share(self) -> float:
        """The share of the characters of role env_output that is volatile."""
        return self.characters.total() / self._num_characters if self._num_characters else 0.0

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        for turn, texts in episode.volatile.items():
            for text, spans in texts:
                self._num_characters += len(text)
                for start, end, kind in spans:
                    self.characters[kind] += end - start
                    self.occurrences[kind] += 1
                if spans:
                    shown = ", ".join(dict.fromkeys(text[start:end] for start, end, _ in spans[:6]))
                    self._findings.add("volatile_text", turn=turn, text=shown)

    def conclude(self) -> None:
        """Say what the whole file shows."""
        if self.share < REPORTED_SHARE:
            self._findings.drop("volatile_text")
            return
        kinds = ", ".join(f"{kind} {count:,} x" for kind, count in self.occurrences.most_common(_MOST_KINDS_SHOWN))
        self._findings.state("volatile_text", f"{self.share:.1%} of the characters of role env_output: {kinds}")
