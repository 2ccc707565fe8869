"""Windows: every token is owned once, with context, and nothing is cut."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conversations import episode, opening, policy, stdout
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import ConfigError
from envecho.tokens import TokenizedTrajectory, tokenize_trajectory
from envecho.tokens.windows import split_windows
from envecho.trajectory import Source


def sequence(turn_lengths: list[int], owned_from: int = 0) -> TokenizedTrajectory:
    """A sequence whose ids count up, so that a window shows where it was cut."""
    turns = np.repeat(np.arange(len(turn_lengths)), turn_lengths).astype(np.int32)
    n = len(turns)
    return TokenizedTrajectory(
        trajectory_id="t",
        task_id="k",
        group_id=None,
        reward=None,
        branch=0,
        window=0,
        owned_from=min(owned_from, n),
        context_truncated=False,
        token_ids=np.arange(n, dtype=np.int32),
        sources=np.full(n, Source.STDOUT.code, dtype=np.uint8),
        turns=turns,
        num_bytes=np.ones(n, dtype=np.uint16),
        sampling_logprobs=np.full(n, np.nan, dtype=np.float32),
        sampling_entropies=np.full(n, np.nan, dtype=np.float32),
    )


@settings(deadline=None, max_examples=200)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=20),
    owned_from=st.integers(0, 400),
    max_tokens=st.integers(8, 150),
)
def test_windows_own_each_token_exactly_once_and_with_context(lengths, owned_from, max_tokens):
    """Catches tokens that no window trains, that two windows train, or that are trained without context."""
    whole = sequence(lengths, owned_from)
    windows = split_windows(whole, max_tokens)
    owned = [int(token) for window in windows for token in window.token_ids[window.owned_from :]]
    assert owned == list(range(whole.owned_from, len(whole)))
    for number, window in enumerate(windows):
        start = int(window.token_ids[0])
        assert window.token_ids.tolist() == list(range(start, start + len(window)))
        assert len(window) <= max_tokens
        assert window.window == number
        assert window.context_truncated == (start > 0)
        assert window.owned_from >= min(max_tokens // 4, start + window.owned_from)


def test_windows_end_at_message_boundaries_where_one_is_near():
    """Catches messages cut in two though they would fit whole."""
    windows = split_windows(sequence([10] * 20), 64)
    assert all((int(window.token_ids[-1]) + 1) % 10 == 0 for window in windows)
    assert all(len(window) == 64 for window in windows[1:])


def test_a_message_longer_than_the_context_is_cut_into_windows_not_dropped(smol):
    """Catches the one long observation that every length budget throws away."""
    long = episode(*opening(), policy("cat big"), stdout("0123456789\n" * 200), policy("done"))
    (whole,) = tokenize_trajectory(long, smol)
    windows = tokenize_trajectory(long, smol, max_tokens=256)
    assert sum(int((w.obs_mask & w.owned_mask()).sum()) for w in windows) == int(whole.obs_mask.sum())
    assert [w.context_truncated for w in windows] == [False] + [True] * (len(windows) - 1)
    late = [w for w in windows if (w.action_mask & w.owned_mask() & (w.turns == 4)).any()]
    assert [w.context_truncated for w in late] == [True]


def test_a_sequence_that_fits_is_returned_as_it_is(smol):
    """Catches short episodes that lose their ownership or context for nothing."""
    (whole,) = tokenize_trajectory(episode(*opening(), policy("ls"), stdout("a\n")), smol)
    assert split_windows(whole, len(whole)) == [whole]
    late = replace(whole, owned_from=len(whole))
    assert split_windows(late, 8) == []


def test_a_context_that_is_too_short_to_window_is_refused():
    """Catches windows without any context at all."""
    with pytest.raises(ConfigError, match="max_tokens is 7"):
        split_windows(sequence([5]), 7)
