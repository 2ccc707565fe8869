"""Searching a view: which of its text is by the chosen writers, and where a text occurs in it.

Not here: how hits are drawn (`view`, `envecho.reports`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import final

from envecho.errors import ConfigError, did_you_mean
from envecho.tokens.view import TokenView
from envecho.trajectory import Source


@dataclass(frozen=True, kw_only=True)
class Selected:
    """What a selection found in a view.

    `shown` `[entry]` marks the entries by a chosen writer; `hits` maps an entry to the characters `[start, end)` of its
    text that are part of a match. `num_hits` counts matches, or, where only writers were chosen, shown entries.
    """

    shown: tuple[bool, ...]
    hits: Mapping[int, tuple[tuple[int, int], ...]] = field(default_factory=dict[int, tuple[tuple[int, int], ...]])
    num_hits: int = 0


@final
@dataclass(frozen=True, kw_only=True)
class Selection:
    """A text to find, and whose words are looked at; empty: everything is shown and nothing is marked."""

    pattern: re.Pattern[str] | None = None
    sources: frozenset[Source] = frozenset()

    @classmethod
    def of(cls, find: str | None = None, *, regex: bool = False, sources: Iterable[str] = ()) -> Selection:
        """Build a selection from what a user typed.

        Args:
            find: plain text, in which capitals do not matter; with `regex` a Python pattern, as it stands (`^` and `$`
                match at lines).
            sources: names of sources.

        Raises:
            ConfigError: the pattern does not compile or matches the empty text, or there is no such source.
        """
        known = [source.value for source in Source]
        for name in sources:
            if name not in known:
                raise ConfigError(f"there is no source {name!r}; known: {', '.join(known)}.{did_you_mean(name, known)}")
        return cls(
            pattern=None if find is None else _pattern(find, regex=regex),
            sources=frozenset(Source(name) for name in sources),
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return self.pattern is None and not self.sources

    def apply(self, view: TokenView) -> Selected:
        """Find it in a view; a match lies within one turn and within text that stands side by side."""
        shown = tuple(not self.sources or token.source in self.sources for token in view.tokens)
        if self.pattern is None:
            return Selected(shown=shown, num_hits=sum(on and bool(view.tokens[k].text) for k, on in enumerate(shown)))
        hits: dict[int, list[tuple[int, int]]] = {}
        num_hits = 0
        for places in _runs(view, shown):
            text = "".join(view.tokens[place].text for place in places)
            matches = [match.span() for match in self.pattern.finditer(text) if match.end() > match.start()]
            num_hits += len(matches)
            _spread(view, places, matches, hits)
        return Selected(shown=shown, hits={place: tuple(found) for place, found in hits.items()}, num_hits=num_hits)


def _pattern(find: str, *, regex: bool) -> re.Pattern[str]:
    if not find:
        raise ConfigError("the text to find is empty; name at least one character")
    if not regex:
        return re.compile(re.escape(find), re.IGNORECASE)
    try:
        return re.compile(find, re.MULTILINE)
    except re.error as error:
        raise ConfigError(f"the pattern {find!r} does not compile: {error}; without --regex it is plain text") from None


def _runs(view: TokenView, shown: tuple[bool, ...]) -> Iterable[list[int]]:
    """The places of shown entries that stand side by side in one turn."""
    for _, run in view.turns():
        places: list[int] = []
        for place, _ in run:
            if shown[place]:
                places.append(place)
            elif places:
                yield places
                places = []
        if places:
            yield places


def _spread(
    view: TokenView, places: list[int], matches: list[tuple[int, int]], hits: dict[int, list[tuple[int, int]]]
) -> None:
    """Cut matches in the joined text of a run into ranges of its entries."""
    start, number = 0, 0
    for place in places:
        end = start + len(view.tokens[place].text)
        while number < len(matches) and matches[number][1] <= start:
            number += 1
        following = number
        while following < len(matches) and matches[following][0] < end:
            first, last = max(matches[following][0], start), min(matches[following][1], end)
            if first < last:
                hits.setdefault(place, []).append((first - start, last - start))
            following += 1
        start = end
