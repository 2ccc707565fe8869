"""Draw continuations from a causal model: batched, with a cache of keys and values, one generator per prompt.

A prompt's draws depend on the seed, on its own tokens and on how many equal prompts stand before it, not on what else
is in the batch. Prompts of a batch that begin alike read that once. Not here: prompts from messages (`envecho.tokens`),
and episodes (`envecho.rollout`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envecho.engines.decoding import CachedSession
from envecho.engines.micro_batches import plan_rows
from envecho.engines.model import CausalModel
from envecho.errors import EngineError
from envecho.seam import Sample, SamplingParams


def draw_samples(
    model: CausalModel, prompts: Sequence[NDArray[np.int32]], params: SamplingParams, *, seed: int, max_tokens: int
) -> list[Sample]:
    """Continue each prompt until a stop token or `params.max_tokens`.

    Log-probs are those of the distribution that was sampled from, softmax(logits / temperature); at temperature 0 the
    largest logit is taken, and the log-prob is 0 because nothing else could have been.

    Raises:
        EngineError: a prompt is empty, or prompt and continuation do not fit in the model's context.
    """
    if params.max_tokens < 1 or params.temperature < 0:
        raise EngineError(
            f"max_tokens is {params.max_tokens}, temperature {params.temperature}; expected >= 1 and >= 0"
        )
    for prompt in prompts:
        if not 0 < len(prompt) <= model.max_context_tokens - params.max_tokens:
            raise EngineError(
                f"a prompt of {len(prompt)} tokens and {params.max_tokens} new ones do not fit in the model's context"
                f" of {model.max_context_tokens}"
            )
    generators = _generators(prompts, seed=seed, params=params)
    samples: list[Sample | None] = [None] * len(prompts)
    # The cache holds prompt and continuation, so both count against the budget.
    for group in plan_rows([len(prompt) + params.max_tokens for prompt in prompts], 4 * max_tokens):
        draws = np.stack([generators[member].random(params.max_tokens) for member in group])
        session = CachedSession(model, seed=seed)
        drawn = session.draw({member: prompts[member] for member in group}, draws, params)
        for member, sample in zip(group, drawn, strict=True):
            samples[member] = sample
    return [sample for sample in samples if sample is not None]


def _generators(
    prompts: Sequence[NDArray[np.int32]], *, seed: int, params: SamplingParams
) -> list[np.random.Generator]:
    seen: Counter[bytes] = Counter()
    generators: list[np.random.Generator] = []
    for prompt in prompts:
        digest = hashlib.sha256(prompt.astype("<i4").tobytes()).digest()
        words = np.frombuffer(digest, dtype="<u4").tolist()
        generators.append(np.random.default_rng([seed, params.seed, seen[digest], *words]))
        seen[digest] += 1
    return generators
