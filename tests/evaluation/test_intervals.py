"""Bootstrap intervals over tasks, beside a slow bootstrap, and what clusters and pairs do to them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.evaluation import crossed_draws, ratio_stat, resampled_means, seed_interval, seed_stat


def tasks(num_tasks: int, *, seed: int = 0, spread: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Values `[token]` whose mean differs between tasks, and whose task each is."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(5, 40, num_tasks)
    index = np.repeat(np.arange(num_tasks), sizes)
    return np.exp(spread * rng.normal(size=num_tasks))[index] + 0.1 * rng.random(len(index)), index


def test_the_interval_equals_a_slow_bootstrap_over_tasks():
    """Catches tokens drawn in place of tasks, and a mean of task means in place of the pooled mean."""
    values, index = tasks(60)
    stat = ratio_stat(values, np.ones(len(values)), index)
    rng = np.random.default_rng(1)
    of_task = [values[index == task] for task in range(60)]
    means = [np.concatenate([of_task[task] for task in rng.integers(0, 60, 60)]).mean() for _ in range(1500)]
    low, high = np.quantile(means, [0.025, 0.975])
    width = high - low
    assert stat is not None
    assert stat.value == pytest.approx(values.mean())
    assert (stat.num_tokens, stat.num_tasks) == (len(values), 60)
    # BCa corrects bias and skew, so the ends move by a part of the width.
    assert abs(stat.low - low) < 0.15 * width
    assert abs(stat.high - high) < 0.25 * width
    assert stat.low < stat.value < stat.high


def test_more_tokens_of_the_same_tasks_are_no_more_evidence():
    """Catches a bootstrap over tokens: ten copies of each token would shrink its interval by three."""
    values, index = tasks(30)
    once = ratio_stat(values, np.ones(len(values)), index)
    tenfold = ratio_stat(np.tile(values, 10), np.ones(10 * len(values)), np.tile(index, 10))
    assert (once.low, once.high) == pytest.approx((tenfold.low, tenfold.high))
    assert tenfold.num_tokens == 10 * once.num_tokens


def test_a_paired_difference_is_firmer_than_two_separate_figures():
    """Catches unpaired draws: what is hard for both predictors cancels only if both get the same tasks."""
    values, index = tasks(40)
    better = 0.8 * values
    ones = np.ones(len(values))
    separate = [ratio_stat(v, ones, index) for v in (values, better)]
    difference = ratio_stat(better - values, ones, index)
    ratio = ratio_stat(better, values, index)
    assert difference.high < 0
    assert separate[0].low < separate[1].high
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((0.8, 0.8, 0.8))


def test_a_seed_gives_one_interval():
    """Catches draws from the global generator: the same evaluation must give the same file."""
    values, index = tasks(20)
    ones = np.ones(len(values))
    assert ratio_stat(values, ones, index, seed=3) == ratio_stat(values, ones, index, seed=3)
    assert ratio_stat(values, ones, index, seed=3) != ratio_stat(values, ones, index, seed=4)


def test_one_task_has_a_value_and_no_interval():
    """Catches an interval of width 0 that says certain where nothing is known."""
    stat = ratio_stat(np.array([1.0, 3.0]), np.ones(2), np.array([5, 5]))
    assert (stat.value, stat.low, stat.high, stat.num_tasks) == (2.0, None, None, 1)
    assert ratio_stat(np.zeros(0), np.zeros(0), np.zeros(0, dtype=int)) is None


@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.0, 1.0, 2.5])), min_size=1, max_size=25))
@settings(max_examples=60, deadline=None)
def test_small_and_flat_samples_give_finite_intervals(rows: list[tuple[int, float]]):
    """Catches NaN, and warnings, where few tasks or equal values leave the bootstrap nothing to vary."""
    index, values = np.array([task for task, _ in rows]), np.array([value for _, value in rows])
    stat = ratio_stat(values, np.ones(len(values)), index)
    assert stat is not None
    if stat.num_tasks > 1:
        ratios = [values[index == task].mean() for task in set(index)]
        assert min(ratios) - 1e-9 <= stat.low <= stat.high <= max(ratios) + 1e-9


def crossed(num_seeds: int, num_tasks: int, *, seed: int) -> np.ndarray:
    """Values `[seed, task]` around 0 with an effect of the seed, of the task, and of both."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(num_seeds, 1)) + 0.5 * rng.normal(size=num_tasks) + rng.normal(size=(num_seeds, num_tasks))


def test_resampled_means_equal_a_slow_bootstrap_over_seeds_and_tasks():
    """Catches tasks drawn anew for each seed, token means in place of ratios of sums, and draws in the wrong axis."""
    rng = np.random.default_rng(0)
    numerators, denominators = rng.random((3, 4, 6)), rng.integers(1, 9, (3, 4, 6)).astype(float)
    draws = crossed_draws(4, 6, num_resamples=50)
    fast = resampled_means(numerators, denominators, draws)
    assert fast.shape == (3, 50)
    for look in range(3):
        for place in range(50):
            seeds = np.repeat(np.arange(4), draws.seeds[place].astype(int))
            tasks = np.repeat(np.arange(6), draws.tasks[place].astype(int))
            assert (len(seeds), len(tasks)) == (4, 6)
            ratios = [numerators[look, s, tasks].sum() / denominators[look, s, tasks].sum() for s in seeds]
            assert fast[look, place] == pytest.approx(np.mean(ratios))


def test_the_interval_over_seeds_and_tasks_covers_the_truth():
    """Catches intervals over tasks alone, which seeds that differ make far too narrow."""
    covered = narrow = 0
    for trial in range(150):
        values = crossed(5, 30, seed=trial)
        stat = seed_stat(values, np.ones_like(values), seed=trial)
        covered += stat.low <= 0 <= stat.high
        means = values.mean(axis=0)
        over_tasks = ratio_stat(means, np.ones(30), np.arange(30), seed=trial)
        narrow += over_tasks.low <= 0 <= over_tasks.high
    assert covered / 150 > 0.88
    assert narrow / 150 < 0.7


def test_a_difference_of_arms_is_paired_by_seed_and_task():
    """Catches separate draws for the two arms."""
    values = crossed(4, 20, seed=1)
    ones = np.ones_like(values)
    stat = seed_stat(values + 0.25, ones, minus=(values, ones))
    assert (stat.low, stat.value, stat.high) == pytest.approx((0.25, 0.25, 0.25))
    assert (stat.num_seeds, stat.num_tasks) == (4, 20)


def test_trap_26_one_seed_has_a_value_and_no_interval():
    """Catches a single-seed comparison that looks firm because its tasks were resampled."""
    values = crossed(1, 30, seed=0)
    stat = seed_stat(values, np.ones_like(values))
    assert stat.value == pytest.approx(values.mean())
    assert (stat.low, stat.high, stat.num_seeds) == (None, None, 1)


def test_an_interval_of_steps_may_end_in_never():
    """Catches interpolation between a number and never, which is NaN."""
    steps = np.array([10.0] * 50 + [20.0] * 900 + [np.inf] * 50)
    assert seed_interval(steps, num_seeds=5) == (10.0, np.inf)
