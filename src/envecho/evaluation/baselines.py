"""The copy baselines `ngram` and `ppm` as predictors: fitted on training sequences, evaluated on a pool.

Both know the training tokens and everything that the episode showed so far, commands included; neither sees the
future, nor what a command means. Their free numbers are chosen on training (or validation) episodes alone. A model that
does not beat them has learnt nothing that copying does not do. Not here: the counts (`ngram`), the copier (`ppm`), the
figures (`pool`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.ngram import EpisodeNgram, count_ngrams, fit_adaptation
from envecho.evaluation.pool import PoolResult, summarize_pool, tokenize_pool
from envecho.evaluation.ppm import CopyTrust, blend, fit_trust
from envecho.evaluation.results import BASELINES, BaselineName
from envecho.evaluation.scores import ENV, SAID, pool_tokens, read_mask
from envecho.evaluation.sums import sum_scores
from envecho.seam import Scores
from envecho.tokens import ChatTokenizer, TokenizedTrajectory
from envecho.trajectory import Role, Trajectory

TUNING_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class CopyBaselines:
    """The fitted baselines: the n-gram with its counts of all training tokens, and the copier's trust in a copy."""

    ngram: EpisodeNgram
    trust: CopyTrust

    def score(self, sequence: TokenizedTrajectory, roles: Sequence[Role] = ENV) -> dict[BaselineName, Scores]:
        """Return both baselines' scores of one sequence's tokens of these roles."""
        read = read_mask(sequence, roles)
        ids = sequence.token_ids.astype(np.int64)
        logprobs = {name: np.full(len(ids), np.nan, dtype=np.float32) for name in BASELINES}
        top1 = {name: np.zeros(len(ids), dtype=np.bool_) for name in BASELINES}
        for matches, dense in self.ngram.walk(ids, read):
            here = matches.position
            trust = self.trust.of(matches, int(ids[here - 1]))
            probs_of: dict[BaselineName, NDArray[np.float64]] = {"ngram": dense, "ppm": blend(dense, matches, trust)}
            for name, probs in probs_of.items():
                logprobs[name][here] = np.log(probs[ids[here]])
                top1[name][here] = int(probs.argmax()) == ids[here]
        return {name: Scores(logprobs=logprobs[name], top1=top1[name]) for name in BASELINES}


def fit_baselines(
    train_sequences: Sequence[TokenizedTrajectory],
    vocab_size: int,
    *,
    tuning_sequences: Sequence[TokenizedTrajectory] | None = None,
    seed: int = 0,
) -> CopyBaselines:
    """Fit both baselines on the sequences that the model was trained on.

    The weights that govern adaptation and copying are chosen on `tuning_sequences`, such as a validation pool; without
    them on a seeded quarter of the training tasks, with counts of the other three. The counts used afterwards hold all
    training tokens.

    Raises:
        DataError: fewer than two training sequences and nothing to tune on, no environment token to tune on, or token
            ids beyond `vocab_size`.
    """
    if tuning_sequences is None:
        counted, tuned = _split(train_sequences, seed)
    else:
        counted, tuned = list(train_sequences), list(tuning_sequences)
    ids, reads = [s.token_ids.astype(np.int64) for s in tuned], [read_mask(s) for s in tuned]
    part = count_ngrams([s.token_ids for s in counted], vocab_size)
    adaptation = fit_adaptation(part, ids, reads)
    trust = fit_trust(EpisodeNgram(counts=part, adaptation=adaptation), ids, reads)
    whole = part if tuning_sequences is not None else count_ngrams([s.token_ids for s in train_sequences], vocab_size)
    return CopyBaselines(ngram=EpisodeNgram(counts=whole, adaptation=adaptation), trust=trust)


def evaluate_baselines(
    baselines: CopyBaselines,
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    max_tokens: int | None = None,
    seed: int = 0,
) -> dict[BaselineName, PoolResult]:
    """Evaluate both baselines on held-out trajectories; `max_tokens` is the context of the model beside them.

    Their action-swap gap is None: they do not read commands.

    Raises:
        DataError: as `evaluate_pool`.
    """
    sequences = tokenize_pool(trajectories, tokenizer, max_tokens=max_tokens)
    scores = [baselines.score(sequence, SAID) for sequence in sequences]
    results: dict[BaselineName, PoolResult] = {}
    for name in BASELINES:
        found = [score[name] for score in scores]
        sums = sum_scores(sequences, found, trajectories, tokenizer)
        results[name] = summarize_pool(pool_tokens(sequences, found), sequences, trajectories, sums=sums, seed=seed)
    return results


def _split(
    sequences: Sequence[TokenizedTrajectory], seed: int
) -> tuple[list[TokenizedTrajectory], list[TokenizedTrajectory]]:
    """Split by task, or by trajectory where there is one task, so that the tuned part was not counted."""
    by_task = len({s.task_id for s in sequences}) > 1
    names = [s.task_id if by_task else s.trajectory_id for s in sequences]
    distinct = sorted(set(names))
    if len(distinct) < 2:
        raise DataError(
            f"expected at least two training trajectories, to tune the copy baselines on one that the other's counts "
            f"do not hold, found {len(distinct)}; give more data or tuning sequences"
        )
    count = max(1, round(len(distinct) * TUNING_SHARE))
    drawn = np.random.default_rng(seed).choice(len(distinct), size=count, replace=False)
    tuned = {distinct[place] for place in drawn}
    parts: tuple[list[TokenizedTrajectory], list[TokenizedTrajectory]] = ([], [])
    for name, sequence in zip(names, sequences, strict=True):
        parts[name in tuned].append(sequence)
    return parts
