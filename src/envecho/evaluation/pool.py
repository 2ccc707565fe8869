"""One predictor on one held-out pool in memory: every token's score, the swapped scores, and the figures.

Not here: pools of any size (`streaming`), who scored the tokens (`scores`, `baselines`), and what a figure is
(`summary`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from envecho.errors import DataError, TemplateError
from envecho.evaluation.facts import ChangedText
from envecho.evaluation.results import Comparison, Predictor, PredictorResult
from envecho.evaluation.scores import SAID, PoolTokens, TokenLabels, label_tokens, pool_requests, pool_tokens
from envecho.evaluation.summary import compare_all, first_predictor, summarize_sums
from envecho.evaluation.sums import PoolSums, sum_scores, sum_tokens
from envecho.evaluation.swap import SwapScores, plan_swaps
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.trajectory import Trajectory


@dataclass(frozen=True, kw_only=True)
class PoolResult:
    """A predictor's figures on a pool, with what they were made of: sequences, the score of each token, and sums."""

    result: PredictorResult
    sequences: tuple[TokenizedTrajectory, ...]
    tokens: PoolTokens
    labels: TokenLabels
    swap: SwapScores | None
    sums: PoolSums


def tokenize_pool(
    trajectories: Iterable[Trajectory], tokenizer: ChatTokenizer, *, max_tokens: int | None = None
) -> list[TokenizedTrajectory]:
    """Return the sequences of all trajectories: branches, and windows of at most `max_tokens`.

    Raises:
        TemplateError: the chat template cannot render one of them; the message names it.
    """
    sequences: list[TokenizedTrajectory] = []
    for trajectory in trajectories:
        try:
            sequences += tokenize_trajectory(trajectory, tokenizer, max_tokens=max_tokens)
        except TemplateError as error:
            raise TemplateError(
                f"trajectory {trajectory.id!r}: {error}; `envecho doctor FILE --model M` lists all that this template "
                "cannot show"
            ) from error
    return sequences


def evaluate_pool(
    engine: Engine,
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    num_swaps: int = 2,
    changed: ChangedText | None = None,
    seed: int = 0,
) -> PoolResult:
    """Evaluate an engine's model on held-out trajectories, at T = 1 whatever they were sampled with.

    `num_swaps` is the number of other commands per derivable observation (0 leaves the swap out); `seed` draws them
    and the bootstrap's tasks. Evaluating two models with one seed gives both the same swaps. `changed` is what another
    run printed otherwise (`envecho.evaluation.facts`).

    Raises:
        DataError: an empty pool, trajectory ids that are not unique, or a view that nobody knows.
        EngineError: the engine left a token unscored.
    """
    max_tokens = engine.capabilities.max_context_tokens
    sequences = tokenize_pool(trajectories, tokenizer, max_tokens=max_tokens)
    own = pool_requests(sequences, SAID)
    plan = None
    if num_swaps:
        plan = plan_swaps(trajectories, sequences, tokenizer, max_tokens=max_tokens, num_swaps=num_swaps, seed=seed)
    scores = engine.logprobs([*own, *(plan.requests if plan else [])])
    tokens = pool_tokens(sequences, scores[: len(own)])
    return summarize_pool(
        tokens,
        sequences,
        trajectories,
        swap=plan.gather(tokens, scores[len(own) :]) if plan else None,
        sums=sum_scores(sequences, scores[: len(own)], trajectories, tokenizer, changed=changed),
        seed=seed,
    )


def summarize_pool(
    tokens: PoolTokens,
    sequences: Sequence[TokenizedTrajectory],
    trajectories: Sequence[Trajectory],
    *,
    swap: SwapScores | None = None,
    sums: PoolSums | None = None,
    seed: int = 0,
) -> PoolResult:
    """Return the figures of scored environment tokens; raises DataError as `label_tokens` does.

    `sums` are those of the same scores where more is known, such as facts and boilerplate.
    """
    labels = label_tokens(tokens, trajectories)
    sums = sums or sum_tokens(tokens, trajectories)
    result = summarize_sums(sums, seed=seed)
    if swap is not None:
        swapped = {"action_swap_gap": swap.gap(tokens, seed=seed), "swap_counts": swap.counts}
        result = result.model_copy(update=swapped)
    return PoolResult(result=result, sequences=tuple(sequences), tokens=tokens, labels=labels, swap=swap, sums=sums)


def compare_predictors(pool: str, results: Mapping[Predictor, PoolResult], *, seed: int = 0) -> list[Comparison]:
    """Compare the trained model (or the base model alone) with every other predictor of the pool.

    Over derivable tokens, and over all tokens; a comparison over no token is left out.

    Raises:
        DataError: the results are not over the same tokens.
    """
    first = first_predictor(results)
    if first is not None:
        for reference, found in results.items():
            if not _same_tokens(results[first], found):
                raise DataError(f"expected {first} and {reference} on the same tokens of {pool}, found different ones")
    return compare_all(pool, {name: found.sums for name, found in results.items()}, seed=seed)


def _same_tokens(a: PoolResult, b: PoolResult) -> bool:
    names = ("trajectory_index", "turns", "sources", "num_bytes")
    same = all(np.array_equal(getattr(a.tokens, name), getattr(b.tokens, name)) for name in names)
    return same and a.tokens.trajectory_ids == b.tokens.trajectory_ids
