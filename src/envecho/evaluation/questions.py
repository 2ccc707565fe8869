"""Asking a model which of several answers it expects: the log-prob of whole answers behind prompts.

Not here: which questions are worth asking (`probes`), and the log-prob of recorded tokens in place (`scores`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.seam import Engine, ScoreRequest


def answer_logprobs(
    engine: Engine, prompts: Sequence[NDArray[np.int32]], answers: Sequence[NDArray[np.int32]]
) -> NDArray[np.float64]:
    """Return the total log-prob in nats of each answer's ids behind its prompt, `[question]`, at T = 1.

    `prompts[i]` and `answers[i]` are ids `[token]`. All pairs go to the engine in one call, so prompts that begin alike
    are computed once by engines that share beginnings.

    Raises:
        DataError: not one answer per prompt, or a prompt or answer without a token.
        EngineError: a pair is longer than the model's context.
    """
    if len(prompts) != len(answers):
        raise DataError(f"expected one answer per prompt, found {len(prompts)} prompts and {len(answers)} answers")
    empty = [place for place, pair in enumerate(zip(prompts, answers, strict=True)) if not all(map(len, pair))]
    if empty:
        raise DataError(f"expected at least one token in every prompt and answer, found none in pair {empty[0]}")
    if not prompts:
        return np.zeros(0)
    requests = [_request(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    scores = engine.logprobs(requests)
    totals = [s.logprobs[r.read].astype(np.float64).sum() for r, s in zip(requests, scores, strict=True)]
    return np.array(totals, dtype=np.float64)


def _request(prompt: NDArray[np.int32], answer: NDArray[np.int32]) -> ScoreRequest:
    token_ids = np.concatenate([prompt, answer]).astype(np.int32)
    return ScoreRequest(token_ids=token_ids, read=np.arange(len(token_ids)) >= len(prompt))
