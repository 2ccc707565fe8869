"""One predictor on one held-out pool: the figures, their slices and their intervals.

Not here: who scored the tokens (`scores`, `baselines`), and the swapped scores (`swap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import Comparison, OperationResult, Predictor, PredictorResult, Stat
from envecho.evaluation.scores import PoolTokens, TokenLabels, label_tokens, pool_requests, pool_tokens
from envecho.evaluation.swap import SwapScores, plan_swaps
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.trajectory import SOURCES, Trajectory


@dataclass(frozen=True, kw_only=True)
class PoolResult:
    """A predictor's figures on a pool, with the sequences and the scores of each token that they were made of."""

    result: PredictorResult
    sequences: tuple[TokenizedTrajectory, ...]
    tokens: PoolTokens
    labels: TokenLabels
    swap: SwapScores | None


def tokenize_pool(
    trajectories: Sequence[Trajectory], tokenizer: ChatTokenizer, *, max_tokens: int | None = None
) -> list[TokenizedTrajectory]:
    """Return the sequences of all trajectories: branches, and windows of at most `max_tokens`."""
    return [s for t in trajectories for s in tokenize_trajectory(t, tokenizer, max_tokens=max_tokens)]


def evaluate_pool(
    engine: Engine,
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    num_swaps: int = 2,
    seed: int = 0,
) -> PoolResult:
    """Evaluate an engine's model on held-out trajectories, at T = 1 whatever they were sampled with.

    `num_swaps` is the number of other commands per derivable observation (0 leaves the swap out); `seed` draws them
    and the bootstrap's tasks. Evaluating two models with one seed gives both the same swaps.

    Raises:
        DataError: an empty pool, trajectory ids that are not unique, or a view that nobody knows.
        EngineError: the engine left a token unscored.
    """
    max_tokens = engine.capabilities.max_context_tokens
    sequences = tokenize_pool(trajectories, tokenizer, max_tokens=max_tokens)
    own = pool_requests(sequences)
    if not num_swaps:
        return summarize_pool(pool_tokens(sequences, engine.logprobs(own)), sequences, trajectories, seed=seed)
    plan = plan_swaps(trajectories, sequences, tokenizer, max_tokens=max_tokens, num_swaps=num_swaps, seed=seed)
    scores = engine.logprobs([*own, *plan.requests])
    tokens = pool_tokens(sequences, scores[: len(own)])
    swap = plan.gather(tokens, scores[len(own) :])
    return summarize_pool(tokens, sequences, trajectories, swap=swap, seed=seed)


def summarize_pool(
    tokens: PoolTokens,
    sequences: Sequence[TokenizedTrajectory],
    trajectories: Sequence[Trajectory],
    *,
    swap: SwapScores | None = None,
    seed: int = 0,
) -> PoolResult:
    """Return the figures of scored tokens; raises DataError as `label_tokens` does."""
    labels = label_tokens(tokens, trajectories)

    def ce(mask: NDArray[np.bool_]) -> Stat | None:
        return _mean(tokens.nll, tokens, mask, seed=seed)

    everything = np.ones(len(tokens), dtype=np.bool_)
    per_byte = ratio_stat(tokens.nll, tokens.num_bytes, tokens.task_index, seed=seed)
    sources = {SOURCES[code].value: ce(tokens.sources == code) for code in np.unique(tokens.sources)}
    result = PredictorResult(
        ce_per_token=ce(everything),
        ce_per_byte=per_byte,
        ce_first_view=ce(labels.first),
        ce_derivable=ce(labels.derivable),
        top1_accuracy=_mean(tokens.top1, tokens, everything, seed=seed),
        action_swap_gap=None if swap is None else swap.gap(tokens, seed=seed),
        num_tokens=len(tokens),
        by_source={name: stat for name, stat in sources.items() if stat is not None},
        by_operation=_by_operation(tokens, labels, seed=seed),
        swap_counts=None if swap is None else swap.counts,
    )
    return PoolResult(result=result, sequences=tuple(sequences), tokens=tokens, labels=labels, swap=swap)


def compare_predictors(pool: str, results: Mapping[Predictor, PoolResult], *, seed: int = 0) -> list[Comparison]:
    """Compare the trained model (or the base model alone) with every other predictor of the pool.

    Over derivable tokens, and over all tokens; a comparison over no token is left out.

    Raises:
        DataError: the results are not over the same tokens.
    """
    names: tuple[Predictor, ...] = ("trained", "base")
    first: Predictor | None = next((name for name in names if name in results), None)
    comparisons: list[Comparison] = []
    for reference in results:
        if first is None or reference == first:
            continue
        a, b = results[first], results[reference]
        if not _same_tokens(a, b):
            raise DataError(f"expected {first} and {reference} on the same tokens of {pool}, found different ones")
        masks = {"derivable": a.labels.derivable, "all": np.ones(len(a.tokens), dtype=np.bool_)}
        for tokens, mask in masks.items():
            ours, theirs, tasks = a.tokens.nll[mask], b.tokens.nll[mask], a.tokens.task_index[mask]
            difference = ratio_stat(ours - theirs, np.ones(len(ours)), tasks, seed=seed)
            ratio = ratio_stat(ours, theirs, tasks, seed=seed)
            if difference is not None and ratio is not None:
                comparisons.append(
                    Comparison(
                        pool=pool,
                        predictor=first,
                        reference=reference,
                        tokens="derivable" if tokens == "derivable" else "all",
                        difference=difference,
                        ratio=ratio,
                    )
                )
    return comparisons


def _same_tokens(a: PoolResult, b: PoolResult) -> bool:
    names = ("trajectory_index", "turns", "sources", "num_bytes")
    same = all(np.array_equal(getattr(a.tokens, name), getattr(b.tokens, name)) for name in names)
    return same and a.tokens.trajectory_ids == b.tokens.trajectory_ids


def _mean(values: NDArray[Any], tokens: PoolTokens, mask: NDArray[np.bool_], *, seed: int) -> Stat | None:
    return ratio_stat(values[mask], np.ones(int(mask.sum())), tokens.task_index[mask], seed=seed)


def _by_operation(tokens: PoolTokens, labels: TokenLabels, *, seed: int) -> dict[str, OperationResult]:
    results: dict[str, OperationResult] = {}
    total = int(labels.derivable.sum())
    for name in np.unique(labels.operations[labels.derivable]).tolist():
        mask = labels.derivable & (labels.operations == name)
        ce = _mean(tokens.nll, tokens, mask, seed=seed)
        top1 = _mean(tokens.top1, tokens, mask, seed=seed)
        if name and ce is not None and top1 is not None:
            results[name] = OperationResult(ce=ce, top1_accuracy=top1, share=int(mask.sum()) / total)
    return results
