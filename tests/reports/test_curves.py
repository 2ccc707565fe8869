"""What is drawn of a run's steps: a mean and a band around each step, and nothing where there is nothing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from envecho.reports.charts import BAND, draw_smoothed, finite_points, running_band, running_mean

values = st.lists(st.floats(min_value=-10, max_value=10), min_size=1, max_size=130)


@settings(deadline=None, max_examples=40)
@given(values)
def test_a_smoothed_curve_stays_between_the_values_around_it(found: list[float]):
    """Catches a window that reaches too far, or a mean that lags behind the run."""
    points = list(enumerate(found))
    half = max(1, len(found) // 20) // 2
    for step, value in running_mean(points):
        around = found[max(0, step - half) : step + half + 1]
        assert value == pytest.approx(np.mean(around), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(values)
def test_the_band_holds_four_of_five_of_the_steps_around_each(found: list[float]):
    """Catches a band over the whole run, or over another share than the caption says."""
    steps, low, high = running_band(list(enumerate(found)))
    half = min(BAND, len(found)) // 2 or 1
    for step, bottom, top in zip(steps, low, high, strict=True):
        around = np.array(found[max(0, step - half) : step + half + 1])
        assert bottom == pytest.approx(np.quantile(around, 0.1))
        assert top == pytest.approx(np.quantile(around, 0.9))


def test_a_short_run_has_no_band_and_an_empty_one_no_curve():
    """Catches a band made of three steps, and a crash before the first step."""
    ax = Figure().subplots()
    draw_smoothed(ax, [], "#3b49b8")
    assert (len(ax.lines), len(ax.collections)) == (0, 0)
    draw_smoothed(ax, [(0, 1.0), (1, 2.0)], "#3b49b8")
    assert (len(ax.lines), len(ax.collections)) == (2, 0)
    draw_smoothed(ax, [(step, 1.0) for step in range(BAND)], "#3b49b8")
    assert (len(ax.lines), len(ax.collections)) == (4, 1)


def test_values_that_are_no_numbers_are_left_out():
    """Catches a curve that ends, or a scale that explodes, where a run diverged."""
    assert finite_points([(0, 1.0), (1, None), (2, float("nan")), (3, float("inf")), (4, 2.0)]) == [(0, 1.0), (4, 2.0)]
