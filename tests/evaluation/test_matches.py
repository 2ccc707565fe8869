"""`EpisodeMatches` beside a loop written for reading."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from envecho.evaluation.matches import EpisodeMatches

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=30)


def match_length(ids: list[int], j: int, i: int) -> int:
    """How many tokens before j equal the tokens before i."""
    length = 0
    while length < j and ids[j - 1 - length] == ids[i - 1 - length]:
        length += 1
    return length


@given(TOKENS)
def test_lengths_equal_a_comparison_token_by_token(ids: list[int]):
    """Catches a recursion that is off by one, or that carries a match over a token that differs."""
    matches = EpisodeMatches(np.array(ids))
    for i in range(len(ids)):
        assert matches.position == i
        assert matches.lengths.tolist() == [match_length(ids, j, i) for j in range(i)]
        matches.advance()


@given(TOKENS)
def test_counts_equal_counting_each_context(ids: list[int]):
    """Catches context counts that include the next token, or contexts that reach over the start of the episode."""
    matches = EpisodeMatches(np.array(ids))
    for i in range(len(ids)):
        counts = matches.counts(4)
        for k in range(4):
            for column, token in enumerate(matches.tokens):
                same = [j for j in range(k, i) if ids[j - k : j] == ids[i - k : i] and ids[j] == token]
                assert counts[k, column] == (len(same) if i >= k else 0)
        matches.advance()


@given(TOKENS)
def test_the_prediction_follows_the_most_recent_longest_match(ids: list[int]):
    """Catches a copier that takes the oldest match, a shorter one, or reports agreement where the matches differ."""
    matches = EpisodeMatches(np.array(ids))
    streak = 0
    for i in range(len(ids)):
        lengths = [match_length(ids, j, i) for j in range(i)]
        longest = max(lengths, default=0)
        best = [j for j in range(i) if lengths[j] == longest]
        assert matches.match_length == longest
        assert matches.streak == streak
        if longest:
            assert matches.prediction == ids[best[-1]]
            assert matches.agrees == (len({ids[j] for j in best}) == 1)
        else:
            assert matches.prediction is None
        streak = streak + 1 if matches.prediction == ids[i] else 0
        matches.advance()
