"""What a probe reports: shares over its questions, with intervals over tasks.

Not here: the questions (`probe_exit`, `probe_files`) and how they are put to a model (`probe_asking`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.intervals import CONFIDENCE, NUM_RESAMPLES, ratio_stat
from envecho.evaluation.results import Stat


def share(values: Sequence[float | bool], tasks: Sequence[str], *, seed: int) -> Stat | None:
    """Return the mean of `values` `[question]` with its interval over `tasks` `[question]`; None for no question."""
    return ratio_stat(np.array(values, dtype=np.float64), np.ones(len(values)), task_index(tasks), seed=seed)


def majority(truths: Sequence[Hashable], tasks: Sequence[str], *, seed: int) -> Stat | None:
    """Return what always giving the commonest true answer would reach; the answer is chosen on the same questions."""
    if not truths:
        return None
    commonest = Counter(truths).most_common(1)[0][0]
    return share([truth == commonest for truth in truths], tasks, seed=seed)


def balanced_accuracy(
    correct: Sequence[bool], truths: Sequence[bool], tasks: Sequence[str], *, seed: int
) -> Stat | None:
    """Return the mean of the two classes' accuracies; None where one class has no question."""
    right, truth = np.array(correct, dtype=np.float64), np.array(truths, dtype=np.bool_)

    def measure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        shares = [(weights[:, of] @ right[of]) / weights[:, of].sum(axis=1) for of in (truth, ~truth)]
        return (shares[0] + shares[1]) / 2

    return _resampled(measure, truth, tasks, seed=seed)


def auc(scores: Sequence[float], truths: Sequence[bool], tasks: Sequence[str], *, seed: int) -> Stat | None:
    """Return how often a true question scores above a false one, a tie counting half; None where one class is empty.

    It needs no threshold: 0.5 is chance, whatever the shares of the classes.
    """
    score, truth = np.array(scores, dtype=np.float64), np.array(truths, dtype=np.bool_)
    above = score[truth][:, None] - score[~truth][None, :]
    wins = (above > 0) + 0.5 * (above == 0)

    def measure(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        one, other = weights[:, truth], weights[:, ~truth]
        return ((one @ wins) * other).sum(axis=1) / (one.sum(axis=1) * other.sum(axis=1))

    return _resampled(measure, truth, tasks, seed=seed)


def task_index(tasks: Sequence[str]) -> NDArray[np.int64]:
    """Return the place of each question's task among the sorted tasks, `[question]`."""
    return np.unique(np.array(tasks, dtype=np.str_), return_inverse=True)[1].astype(np.int64)


def _resampled(
    measure: Callable[[NDArray[np.float64]], NDArray[Any]],
    truth: NDArray[np.bool_],
    tasks: Sequence[str],
    *,
    seed: int,
) -> Stat | None:
    """Return `measure` of weights `[resample, question]` with its percentile interval over draws of tasks.

    A draw without one of the classes has no value and is left out. There is no interval where a class lies within one
    task: how another task would do is then unknown.
    """
    if not truth.any() or truth.all():
        return None
    of_task = task_index(tasks)
    num_tasks = int(of_task.max()) + 1
    value = float(measure(np.ones((1, len(truth))))[0])
    low = high = None
    if min(len(np.unique(of_task[truth])), len(np.unique(of_task[~truth]))) > 1:
        rng = np.random.default_rng(seed)
        draws = rng.multinomial(num_tasks, np.full(num_tasks, 1 / num_tasks), size=NUM_RESAMPLES)
        weights = draws[:, of_task].astype(np.float64)
        both = (weights[:, truth].sum(axis=1) > 0) & (weights[:, ~truth].sum(axis=1) > 0)
        tail = (1 - CONFIDENCE) / 2
        low, high = (float(x) for x in np.quantile(measure(weights[both]), (tail, 1 - tail)))
    return Stat(value=value, low=low, high=high, num_tokens=len(truth), num_tasks=num_tasks)
