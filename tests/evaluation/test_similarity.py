"""Answers as texts and as log-probs: how alike two are, and how likely one is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pool_builders import LastTokenPredictor

from envecho.errors import DataError
from envecho.evaluation.questions import answer_logprobs
from envecho.evaluation.similarity import edit_similarity


def _distance(one: str, other: str) -> int:
    """The textbook table, row by row."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        left, row[0] = row[0], i
        for j, b in enumerate(other, 1):
            left, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, left + (a != b))
    return row[-1]


@given(st.text(alphabet="ab\n é", max_size=9), st.text(alphabet="ab\n é", max_size=9))
def test_edit_similarity_is_one_minus_the_textbook_distance_over_the_longer_length(one: str, other: str) -> None:
    """Catches a similarity that counts substitutions twice (Indel), or divides by the sum of the lengths."""
    longer = max(len(one), len(other))
    expected = 1 - _distance(one, other) / longer if longer else 1.0
    assert edit_similarity(one, other) == pytest.approx(expected)


def _ids(values: Sequence[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def test_the_log_prob_of_an_answer_is_the_sum_over_its_own_tokens() -> None:
    """Catches an off-by-one of the read mask: the last token of the prompt scored, or the first of the answer not."""
    engine = LastTokenPredictor(100)
    prompts, answers = [_ids([3, 4]), _ids([9])], [_ids([5]), _ids([10, 50, 51])]
    found = answer_logprobs(engine, prompts, answers)
    rest = 0.25 / 98
    assert found == pytest.approx([np.log(0.25), np.log(0.25) + np.log(rest) + np.log(0.25)], rel=1e-5)
    assert engine.num_calls == 1


def test_a_question_without_a_token_or_an_answer_is_refused() -> None:
    """Catches an empty answer that counts as certain (log-prob 0), and answers that belong to other prompts."""
    engine = LastTokenPredictor(100)
    with pytest.raises(DataError, match="one answer per prompt"):
        answer_logprobs(engine, [_ids([1])], [])
    with pytest.raises(DataError, match="pair 1"):
        answer_logprobs(engine, [_ids([1]), _ids([1])], [_ids([2]), _ids([])])
    assert len(answer_logprobs(engine, [], [])) == 0
