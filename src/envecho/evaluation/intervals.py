"""Bootstrap intervals: how firm a figure is, given that tokens of one task, and tasks of one seed, hang together.

Every figure of an evaluation is a ratio of sums over tokens, `sum(numerators) / sum(denominators)`. Tasks are drawn
with replacement, never tokens (`ratio_stat`); where several training seeds were measured on the same tasks, seeds and
tasks are drawn (`crossed_draws`, `resampled_means`, `seed_stat`). Not here: which figures a study has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.results import Stat

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000

# Sums in memory while tasks are drawn, or left out one by one: a thousand tasks at once, of more tasks fewer.
_RESAMPLED_AT_ONCE = 2_000_000


def ratio_stat(
    numerators: NDArray[Any],
    denominators: NDArray[Any],
    task_index: NDArray[np.integer[Any]],
    *,
    num_tokens: int | None = None,
    seed: int = 0,
) -> Stat | None:
    """Return `sum(numerators) / sum(denominators)` with its 95 % BCa bootstrap interval over tasks.

    All arrays are `[token]`, or hold sums over some tokens of one task, of which there are `num_tokens` in all;
    `task_index` says whose they are. Sums are taken per task first, then tasks are drawn
    with replacement, numerator and denominator together (Efron and Tibshirani 1993, chapter 14; `scipy.stats.bootstrap`
    with `paired=True`). None for no tokens; `low` and `high` are None below two tasks, and equal the value where every
    task has the same ratio.
    """
    sums = _task_sums(task_index, numerators, denominators)
    sums = sums[:, sums[1] > 0]
    num_tasks = sums.shape[1]
    if num_tasks == 0:
        return None
    low, high = _interval(sums, seed=seed)
    return Stat(
        value=float(_ratio(*sums)),
        low=low,
        high=high,
        num_tokens=len(numerators) if num_tokens is None else num_tokens,
        num_tasks=num_tasks,
    )


def _task_sums(task_index: NDArray[Any], *values: NDArray[Any]) -> NDArray[np.float64]:
    """Return sums `[value, task]` over the tasks that occur."""
    _, dense = np.unique(task_index, return_inverse=True)
    sums = [np.bincount(dense, weights=np.asarray(value, dtype=np.float64)) for value in values]
    return np.stack(sums).astype(np.float64)


def _ratio(numerators: NDArray[Any], denominators: NDArray[Any], axis: int = -1) -> Any:
    return numerators.sum(axis=axis) / denominators.sum(axis=axis)


def _interval(sums: NDArray[np.float64], *, seed: int) -> tuple[float | None, float | None]:
    from scipy.stats import bootstrap

    if sums.shape[1] < 2:
        return None, None
    ratios = sums[0] / sums[1]
    if np.ptp(ratios) <= 1e-12 * max(1.0, float(np.abs(ratios).max())):
        value = float(_ratio(*sums))
        return value, value
    found = bootstrap(
        (sums[0], sums[1]),
        _ratio,
        paired=True,
        vectorized=True,
        n_resamples=NUM_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="BCa",
        batch=max(1, _RESAMPLED_AT_ONCE // sums.shape[1]),
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


@dataclass(frozen=True, kw_only=True)
class SeedStat:
    """A mean over training seeds with its 95 % interval over seeds and tasks; None below two seeds or two tasks.

    `num_tasks` is 0 for a figure that is not kept by task: its interval is over seeds alone.
    """

    value: float
    low: float | None
    high: float | None
    num_seeds: int
    num_tasks: int


@dataclass(frozen=True, kw_only=True)
class CrossedDraws:
    """How often each resample holds each seed and each task: `seeds [resample, seed]`, `tasks [resample, task]`.

    Figures made from one `CrossedDraws` are paired: every arm meets the same seeds and the same tasks in a resample.
    """

    seeds: NDArray[np.float64]
    tasks: NDArray[np.float64]


def crossed_draws(num_seeds: int, num_tasks: int, *, seed: int = 0, num_resamples: int = 4000) -> CrossedDraws:
    """Draw seeds and tasks with replacement, independently of each other.

    All seeds were measured on the same tasks, so tasks are not nested in seeds: the two are crossed factors, resampled
    as Owen (2007, "The pigeonhole bootstrap") does.
    """
    rng = np.random.default_rng(seed)

    def counts(size: int) -> NDArray[np.float64]:
        return rng.multinomial(size, np.full(size, 1 / size), size=num_resamples).astype(np.float64)

    return CrossedDraws(seeds=counts(num_seeds), tasks=counts(num_tasks))


def seed_means(numerators: NDArray[Any], denominators: NDArray[Any]) -> NDArray[np.float64]:
    """Return the mean over seeds of each seed's ratio of sums over tasks; `[..., seed, task]` -> `[...]`."""
    return (numerators.sum(axis=-1) / denominators.sum(axis=-1)).mean(axis=-1)


def resampled_means(numerators: NDArray[Any], denominators: NDArray[Any], draws: CrossedDraws) -> NDArray[np.float64]:
    """Return `seed_means` of every resample: `[..., seed, task]` -> `[..., resample]`.

    Every denominator must be above 0, so that no draw of tasks is empty.
    """
    ratios = (numerators @ draws.tasks.T) / (denominators @ draws.tasks.T)
    return (ratios * draws.seeds.T).sum(axis=-2) / draws.seeds.sum(axis=1)


def seed_interval(resampled: NDArray[np.float64], *, num_seeds: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a resampled figure `[resample]`; infinite values are allowed.

    The percentile interval, expanded as Hesterberg (2015, "What Teachers Should Know About the Bootstrap") does for
    few units: its tails are `Phi(-sqrt(n / (n - 1)) * t)` with t the 97.5 % quantile of Student's distribution with
    `n - 1` degrees of freedom, n = `num_seeds`. With five seeds or fewer it reaches close to the most extreme seeds.
    """
    from scipy.stats import norm, t

    quantile = t.ppf((1 + CONFIDENCE) / 2, num_seeds - 1)
    tail = float(norm.cdf(-np.sqrt(num_seeds / (num_seeds - 1)) * quantile))
    low = np.quantile(resampled, tail, method="lower")
    high = np.quantile(resampled, 1 - tail, method="higher")
    return float(low), float(high)


def seed_stat(
    numerators: NDArray[Any], denominators: NDArray[Any], *, minus: tuple[NDArray[Any], NDArray[Any]] | None = None,
    by_task: bool = True, seed: int = 0,
) -> SeedStat:  # fmt: skip
    """Return the mean over seeds with its interval; arrays are `[seed, task]`, denominators above 0.

    `minus` (numerators, denominators of another arm, the same seeds and tasks in the same order) makes it the paired
    difference. One seed, or one task, has a value and no interval: nothing is known of how another would do. With
    `by_task` False the arrays are `[seed, 1]`, sums over whatever tasks there were, and only seeds are drawn.
    """
    pairs = [(numerators, denominators), *([minus] if minus else [])]
    signs = (1.0, -1.0)
    num_seeds, num_tasks = numerators.shape
    value = sum(sign * float(seed_means(*pair)) for sign, pair in zip(signs, pairs, strict=False))
    low = high = None
    if num_seeds > 1 and (num_tasks > 1 or not by_task):
        draws = crossed_draws(num_seeds, num_tasks, seed=seed)
        parts = [sign * resampled_means(*pair, draws) for sign, pair in zip(signs, pairs, strict=False)]
        low, high = seed_interval(np.sum(parts, axis=0), num_seeds=num_seeds)
    return SeedStat(value=value, low=low, high=high, num_seeds=num_seeds, num_tasks=num_tasks if by_task else 0)
