"""The figures of a probe, against loops written for reading."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.evaluation.probe_measures import auc, balanced_accuracy, majority, share

Rows = list[tuple[float, bool, str]]
ROWS = st.lists(
    st.tuples(st.sampled_from([-2.0, -0.5, 0.0, 0.5, 3.0]), st.booleans(), st.sampled_from("abcd")),
    min_size=1,
    max_size=14,
)


def _slow_auc(rows: Rows) -> float:
    pairs = [(s > o) + 0.5 * (s == o) for s, truth, _ in rows if truth for o, other, _ in rows if not other]
    return sum(pairs) / len(pairs)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_auc_and_balanced_accuracy_are_what_loops_say(rows: Rows) -> None:
    """Catches ties that count as wins, classes weighted by their size, and a value where one class is empty."""
    scores, truths, tasks = (list(column) for column in zip(*rows, strict=True))
    correct = [(score > 0) == truth for score, truth, _ in rows]
    found = (auc(scores, truths, tasks, seed=0), balanced_accuracy(correct, truths, tasks, seed=0))
    if len(set(truths)) == 1:
        assert found == (None, None)
        return
    by_class = [np.mean([c for c, t in zip(correct, truths, strict=True) if t == of]) for of in (True, False)]
    for stat, value in zip(found, (_slow_auc(rows), float(np.mean(by_class))), strict=True):
        assert stat is not None
        assert stat.value == pytest.approx(value)
        assert (stat.num_tokens, stat.num_tasks) == (len(rows), len(set(tasks)))
        spread = all(len({task for _, t, task in rows if t == of}) > 1 for of in (True, False))
        assert (stat.low is not None) == spread
        if stat.low is not None and stat.high is not None:
            assert 0 <= stat.low <= stat.high <= 1


def test_an_interval_is_over_tasks_not_over_questions() -> None:
    """Catches ten questions of one task that count as ten independent ones."""
    rng = np.random.default_rng(0)
    truths = [bool(k % 2) for k in range(12)]
    scores = [float(truth) + rng.normal() for truth in truths]
    tasks = [str(k // 2) for k in range(12)]
    once, often = (auc(scores * n, truths * n, tasks * n, seed=1) for n in (1, 10))
    assert once is not None
    assert often is not None
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert once.low is not None
    assert once.high is not None
    assert once.low < once.value < once.high


def test_the_majority_is_that_of_the_questions_asked() -> None:
    """Catches a majority that counts answers which nobody asked for, or that is 0.5 for many classes."""
    stat = majority(["6", "5", "6", "4"], ["a", "b", "c", "d"], seed=0)
    assert stat is not None
    assert stat.value == 0.5
    assert majority([], [], seed=0) is None
    assert share([], [], seed=0) is None
