"""Asking a model: the log-prob of whole answers behind prompts, and the answer that it writes itself.

Not here: which questions are worth asking (`probes`), and the log-prob of recorded tokens in place (`scores`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.seam import Engine, SamplingParams, ScoreRequest


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """A true answer `token_ids` `[token]`, the `prompt` `[token]` before it, and the token that ends its message.

    `stop` is empty where nothing stands behind the answer.
    """

    prompt: NDArray[np.int32]
    token_ids: NDArray[np.int32]
    stop: tuple[int, ...]


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


def continue_greedily(engine: Engine, outputs: Sequence[Continuation]) -> list[list[int]]:
    """Return the model's own answer to each prompt, its stop token included, at most as long as the truth.

    Where an answer ends is said by the template's scaffold, which nothing trains, so what would come after the true
    length is not asked for. At the end of the model's context an answer may be shorter.

    Raises:
        EngineError: a prompt leaves no room in the model's context.
    """
    answers: list[list[int]] = [[] for _ in outputs]
    context = engine.capabilities.max_context_tokens
    wanted = [len(output.token_ids) for output in outputs]
    for stop in {output.stop for output in outputs}:
        group = [place for place, output in enumerate(outputs) if output.stop == stop]
        # In one batch every prompt must leave room for the longest answer.
        together = max(len(outputs[k].prompt) for k in group) + max(wanted[k] for k in group) <= context
        for batch in [group] if together else [[place] for place in group]:
            room = min(context - len(outputs[k].prompt) for k in batch)
            max_tokens = min(room, max(wanted[k] for k in batch))
            params = SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_token_ids=stop)
            samples = engine.sample([outputs[k].prompt for k in batch], params)
            for place, sample in zip(batch, samples, strict=True):
                answers[place] = sample.token_ids[: wanted[place]].tolist()
    return answers


def _request(prompt: NDArray[np.int32], answer: NDArray[np.int32]) -> ScoreRequest:
    token_ids = np.concatenate([prompt, answer]).astype(np.int32)
    return ScoreRequest(token_ids=token_ids, read=np.arange(len(token_ids)) >= len(prompt))
