"""Draw continuations from a causal model: batched, with a cache of keys and values, one generator per prompt.

A prompt's draws depend on the seed, on its own tokens and on how many equal prompts stand before it, not on what else
is in the batch. Not here: prompts from messages (`envecho.tokens`), and episodes (`envecho.rollout`).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.micro_batches import plan_rows
from envecho.engines.model import CausalModel
from envecho.errors import EngineError
from envecho.seam import Sample, SamplingParams


@torch.no_grad()
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
        drawn = _decode(model, [prompts[i] for i in group], [generators[i] for i in group], params)
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


def _decode(
    model: CausalModel,
    prompts: Sequence[NDArray[np.int32]],
    generators: Sequence[np.random.Generator],
    params: SamplingParams,
) -> list[Sample]:
    ids: list[list[int]] = [[] for _ in prompts]
    logprobs: list[list[float]] = [[] for _ in prompts]
    entropies: list[list[float]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)
    alive = list(range(len(prompts)))
    token_ids, mask = _pad_left(prompts, model.device)
    cache: Any = None
    for _ in range(params.max_tokens):
        out = model.network.base_model(
            input_ids=token_ids,
            # Without padding there is no mask, and the fast attention kernel runs.
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -token_ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        logits = model.logits(out.last_hidden_state[:, -1])
        draws = np.array([generators[row].random() for row in alive]) if params.temperature else np.zeros(len(alive))
        chosen, chosen_logprobs, chosen_entropies = choose(logits, draws, params.temperature)
        for place, row in enumerate(alive):
            ids[row].append(int(chosen[place]))
            logprobs[row].append(float(chosen_logprobs[place]))
            entropies[row].append(float(chosen_entropies[place]))
            stopped[row] = ids[row][-1] in params.stop_token_ids
        keep = [place for place, row in enumerate(alive) if not stopped[row]]
        if not keep:
            break
        if len(keep) < len(alive):
            places = torch.tensor(keep, device=mask.device)
            cache.batch_select_indices(places)
            chosen, mask, alive = chosen[keep], mask[places], [alive[place] for place in keep]
        token_ids = torch.from_numpy(chosen).to(model.device)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return [
        Sample(
            token_ids=np.array(ids[row], dtype=np.int32),
            logprobs=np.array(logprobs[row], dtype=np.float32),
            stopped=stopped[row],
            entropies=np.array(entropies[row], dtype=np.float32),
        )
        for row in range(len(prompts))
    ]


def _pad_left(prompts: Sequence[NDArray[np.int32]], device: torch.device) -> tuple[Tensor, Tensor]:
    size = max(len(prompt) for prompt in prompts)
    token_ids = np.zeros((len(prompts), size), dtype=np.int64)
    mask = np.zeros((len(prompts), size), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        token_ids[row, size - len(prompt) :] = prompt
        mask[row, size - len(prompt) :] = 1
    return torch.from_numpy(token_ids).to(device), torch.from_numpy(mask).to(device)


def choose(
    logits: Tensor, draws: NDArray[np.float64], temperature: float
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Return one token id, its log-prob and the entropy per row of `logits` `[row, vocab]`, from draws in [0, 1).

    The distribution is softmax(logits / temperature). At temperature 0 the largest logit is taken; log-prob and entropy
    are 0 because nothing else could have been.
    """
    if temperature == 0:
        chosen = logits.argmax(dim=-1).cpu().numpy()
        return chosen, np.zeros(len(chosen)), np.zeros(len(chosen))
    logprobs = torch.log_softmax(logits.float() / temperature, dim=-1)
    probabilities = logprobs.double().exp()
    cumulative = probabilities.cumsum(dim=-1)
    uniform = torch.from_numpy(draws).to(cumulative)
    # The last sum is not exactly 1; scaling the draw keeps it below the last sum, so a token is always found.
    chosen = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    chosen = chosen.clamp(max=logits.shape[-1] - 1)
    entropies = torch.special.entr(probabilities).sum(dim=-1)
    chosen_logprobs = logprobs.gather(-1, chosen).squeeze(1).double()
    return chosen.squeeze(1).cpu().numpy(), chosen_logprobs.cpu().numpy(), entropies.cpu().numpy()
