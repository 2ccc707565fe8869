"""A suffix-match copier in the manner of PPM*: the second copy baseline, for matches longer than an n-gram sees.

The longest match of the episode's last tokens with its own past (`matches`) predicts the token that followed there. How
far that copy is trusted is a number per situation, learnt on episodes that the n-gram's counts do not hold:

    p(w) = q [w = copied token] + (1 - q) p_ngram(w)

q depends on the length of the match, on how many copies in a row came true, on whether all longest matches agree, and,
as far as data go, on the last token (a copy is less sure after the end of a line). Blending with the adaptive n-gram
makes it a distribution over the whole vocabulary (Cleary, Teahan and Witten 1995, with the escape learnt rather than
counted). Not here: the n-gram itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.matches import EpisodeMatches
from envecho.evaluation.ngram import EpisodeNgram

LENGTH_BOUNDS = (2, 3, 4, 6, 9, 16, 32)
STREAK_BOUNDS = (1, 4, 16)

_PRIOR_STRENGTH = 1.0
_NUM_HALVINGS = 30

Situation = tuple[int, int, bool]
_Key = TypeVar("_Key")


@dataclass(frozen=True, kw_only=True)
class CopyTrust:
    """q, the share of probability that goes to the copied token: by situation and last token, by situation, overall."""

    overall: float
    by_situation: Mapping[Situation, float]
    by_last_token: Mapping[tuple[Situation, int], float]

    def of(self, matches: EpisodeMatches, last_token: int) -> float:
        """Return q at this point of an episode; 0 where there is nothing to copy."""
        if matches.prediction is None:
            return 0.0
        situation = situation_of(matches)
        known = self.by_situation.get(situation, self.overall)
        return self.by_last_token.get((situation, last_token), known)


def situation_of(matches: EpisodeMatches) -> Situation:
    """Return (class of the match length, class of the streak, whether all longest matches agree)."""
    length = int(np.searchsorted(LENGTH_BOUNDS, matches.match_length, side="right"))
    streak = int(np.searchsorted(STREAK_BOUNDS, matches.streak, side="right"))
    return length, streak, matches.agrees


def blend(ngram: NDArray[np.float64], matches: EpisodeMatches, trust: float) -> NDArray[np.float64]:
    """Return the copier's distribution `[vocab]` from the n-gram's."""
    if matches.prediction is None:
        return ngram
    mixed = (1.0 - trust) * ngram
    mixed[matches.prediction] += trust
    return mixed


def fit_trust(
    ngram: EpisodeNgram, sequences: Sequence[NDArray[np.integer[Any]]], reads: Sequence[NDArray[np.bool_]]
) -> CopyTrust:
    """Learn q on the read tokens of episodes that the n-gram's counts do not hold.

    Each q is the likeliest weight of a two-part mixture, drawn to that of the wider class as if by `_PRIOR_STRENGTH`
    more tokens.
    """
    hits: list[bool] = []
    chances: list[float] = []
    situations: list[Situation] = []
    lasts: list[int] = []
    for ids, read in zip(sequences, reads, strict=True):
        for matches, dense in ngram.walk(ids, read):
            if matches.prediction is not None:
                token = int(ids[matches.position])
                hits.append(token == matches.prediction)
                chances.append(float(dense[token]))
                situations.append(situation_of(matches))
                lasts.append(int(ids[matches.position - 1]))
    hit, chance = np.array(hits, dtype=np.bool_), np.array(chances)
    overall = _mixture_weight(hit, chance, 0.5)
    by_situation: dict[Situation, float] = {}
    for situation, places in _groups(situations).items():
        by_situation[situation] = _mixture_weight(hit[places], chance[places], overall)
    by_last_token: dict[tuple[Situation, int], float] = {}
    for (situation, last), places in _groups(list(zip(situations, lasts, strict=True))).items():
        by_last_token[situation, last] = _mixture_weight(hit[places], chance[places], by_situation[situation])
    return CopyTrust(overall=overall, by_situation=by_situation, by_last_token=by_last_token)


def _mixture_weight(hit: NDArray[np.bool_], chance: NDArray[np.float64], prior: float) -> float:
    """Return the q that maximises sum log(q hit + (1 - q) chance) + m (prior log q + (1 - prior) log(1 - q)).

    The sum is concave in q, so the zero of its derivative is found by halving the interval.
    """
    low, high = 0.0, 1.0
    for _ in range(_NUM_HALVINGS):
        q = (low + high) / 2
        slope = ((hit - chance) / (q * hit + (1 - q) * chance)).sum()
        slope += _PRIOR_STRENGTH * (prior / q - (1 - prior) / (1 - q))
        low, high = (q, high) if slope > 0 else (low, q)
    return (low + high) / 2


def _groups(keys: Sequence[_Key]) -> dict[_Key, list[int]]:
    groups: dict[_Key, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(key, []).append(place)
    return groups
