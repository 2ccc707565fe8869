"""Bootstrap intervals over tasks: how firm a figure is, given that tokens of one task are not independent.

Every figure of an evaluation is a ratio of sums over tokens, `sum(numerators) / sum(denominators)`. Tasks are drawn
with replacement, never tokens. Not here: intervals over training seeds (a study's business).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.results import Stat

CONFIDENCE = 0.95
NUM_RESAMPLES = 2000


def ratio_stat(
    numerators: NDArray[Any],
    denominators: NDArray[Any],
    task_index: NDArray[np.integer[Any]],
    *,
    seed: int = 0,
) -> Stat | None:
    """Return `sum(numerators) / sum(denominators)` with its 95 % BCa bootstrap interval over tasks.

    All arrays are `[token]`; `task_index` says whose a token is. Sums are taken per task first, then tasks are drawn
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
        num_tokens=len(numerators),
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
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)
