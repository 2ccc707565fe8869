"""The suffix-match copier: a distribution, learnt trust, and longer memory than six tokens."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.evaluation.matches import EpisodeMatches
from envecho.evaluation.ngram import ORDER, Adaptation, EpisodeNgram, count_ngrams
from envecho.evaluation.ppm import blend, fit_trust, situation_of

VOCAB = 40
SLOW = Adaptation(weights=np.full(ORDER, 0.01), discounts=np.full(ORDER, 0.999))
EVEN = Adaptation(weights=np.full(ORDER, 1.0), discounts=np.full(ORDER, 0.5))


def episodes(seed: int, *, num: int, copies: bool) -> list[np.ndarray]:
    """Twenty random tokens, then those again (or twenty others)."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        first = rng.integers(0, VOCAB, 20)
        found.append(np.concatenate([first, first if copies else rng.integers(0, VOCAB, 20)]))
    return found


def fitted(copies: bool):
    """An n-gram that hardly adapts, and the trust learnt on episodes that repeat themselves or do not."""
    ngram = EpisodeNgram(counts=count_ngrams(episodes(0, num=5, copies=copies), VOCAB), adaptation=SLOW)
    tuned = episodes(1, num=10, copies=copies)
    return ngram, fit_trust(ngram, tuned, [np.arange(40) > 0] * len(tuned))


@given(st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=25), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_the_blend_is_a_distribution(ids: list[int], trust: float):
    """Catches a copied token that gets its trust on top of the whole n-gram."""
    ngram = EpisodeNgram(counts=count_ngrams(episodes(0, num=3, copies=True), VOCAB), adaptation=EVEN)
    for matches, dense in ngram.walk(np.array(ids), np.arange(len(ids)) > 0):
        mixed = blend(dense, matches, trust)
        assert mixed.sum() == pytest.approx(1)
        assert (mixed >= 0).all()
        if matches.prediction is not None:
            assert mixed[matches.prediction] >= dense[matches.prediction] - 1e-12


def test_a_long_match_is_trusted_where_episodes_repeat_and_not_where_they_do_not():
    """Catches trust that is a constant: a copier that always or never copies is weaker than the data allow."""
    for copies in (True, False):
        _, trust = fitted(copies)
        matches = EpisodeMatches(episodes(2, num=1, copies=True)[0])
        while matches.match_length < 6:
            matches.advance()
        assert (trust.of(matches, -1) > 0.9) == copies


def test_trust_is_the_most_likely_weight_of_the_mixture():
    """Catches a plain hit rate, which forgets that the n-gram, too, may have predicted the copied token."""
    from envecho.evaluation.ppm import _mixture_weight  # pyright: ignore[reportPrivateUsage]

    rng = np.random.default_rng(0)
    hit, chance = rng.random(4000) < 0.7, rng.uniform(0.01, 0.6, 4000)

    def likelihood(q: float) -> float:
        return float(np.log(np.where(hit, q, 0) + (1 - q) * chance).sum())

    grid = np.linspace(0.01, 0.99, 99)
    assert _mixture_weight(hit, chance, 0.5) == pytest.approx(grid[np.argmax([likelihood(q) for q in grid])], abs=0.02)


def test_it_copies_beyond_the_reach_of_an_n_gram():
    """Catches a suffix match that is cut to the n-gram's order: then it adds nothing to it."""
    _, trust = fitted(True)
    ngram = EpisodeNgram(counts=count_ngrams(episodes(0, num=5, copies=True), VOCAB), adaptation=EVEN)
    rng = np.random.default_rng(3)
    stem = rng.integers(0, VOCAB, 9)
    # The same nine tokens are followed by 1 once; their last five tokens are followed by 2 three times.
    ids = np.array([7, *stem, 1, *[t for k in (11, 12, 13) for t in (k, *stem[-5:], 2)], 7, *stem, 1])
    read = np.arange(len(ids)) == len(ids) - 1
    matches, dense = next(ngram.walk(ids, read))
    assert matches.prediction == 1
    assert matches.match_length == 10
    assert dense.argmax() == 2
    assert blend(dense, matches, trust.of(matches, int(stem[-1]))).argmax() == 1


def test_without_a_match_it_is_the_n_gram():
    """Catches a copy of nothing at the start of an episode."""
    ngram, trust = fitted(True)
    ids = np.arange(6)
    for matches, dense in ngram.walk(ids, np.arange(6) > 0):
        assert trust.of(matches, 0) == 0
        assert blend(dense, matches, 0.9) is dense


def test_situations_tell_apart_length_streak_and_agreement():
    """Catches classes that fall together, so that a one-token match is trusted like a long one."""
    matches = EpisodeMatches(np.array([1, 2, 3, 4, 5, 1, 2, 3, 4, 5]))
    seen = []
    for _ in range(9):
        matches.advance()
        if matches.prediction is not None:
            seen.append(situation_of(matches))
    assert seen == [(0, 0, True), (1, 1, True), (2, 1, True), (3, 1, True)]
