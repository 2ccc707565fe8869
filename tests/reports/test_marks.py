"""Marking readouts: the runs are the text, and the right parts of it are marked."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.reports.marks import MAX_CHARACTERS, MISS, Run, cut, mark_difference, mark_teacher_forced

words = st.text(alphabet="ab 1\n/", min_size=1, max_size=6)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(words, st.booleans()), max_size=20))
def test_a_teacher_forced_answer_is_shown_as_the_true_output(tokens: list[tuple[str, bool]]):
    """Catches marks that lose, double or reorder characters of what the world said."""
    actual = "".join(text for text, _ in tokens)
    forced = "".join(text if hit else MISS for text, hit in tokens)
    runs = mark_teacher_forced(forced, actual)
    assert "".join(run.text for run in runs) == actual
    assert any(run.miss for run in runs) == any(not hit for _, hit in tokens)


def test_a_missed_token_is_marked_at_its_place():
    """Catches a mark on the neighbour of the token that the predictor missed."""
    runs = mark_teacher_forced(f"2 {MISS} found", "2 errors found")
    assert runs == [Run(text="2 "), Run(text="errors", miss=True), Run(text=" found")]


def test_a_forced_text_that_does_not_fit_is_shown_with_its_boxes():
    """Catches a crash, or invented text, where a missed token was half a character."""
    runs = mark_teacher_forced(f"{MISS}x", "")
    assert runs == [Run(text=MISS, miss=True), Run(text="x")]


@settings(deadline=None, max_examples=50)
@given(words, words)
def test_a_free_running_answer_is_shown_as_it_was(predicted: str, actual: str):
    """Catches a difference view that shows the true text in place of the model's."""
    runs = mark_difference(predicted, actual)
    assert "".join(run.text for run in runs) == predicted
    assert any(run.miss for run in runs) or predicted in actual or len(predicted) < len(actual)


def test_an_equal_answer_has_no_marks():
    """Catches marks on an exact match."""
    assert not any(run.miss for run in mark_difference("2 ERROR\n", "2 ERROR\n"))


def test_long_text_is_cut_and_what_is_left_out_is_counted():
    """Catches a page that grows with one endless line, or text that vanishes without a word."""
    kept, left_out = cut([Run(text="x" * MAX_CHARACTERS), Run(text="yy", miss=True)])
    assert sum(len(run.text) for run in kept) == MAX_CHARACTERS
    assert left_out == 2
