"""Draw tokens from logits, and turns from a model: token after token until every row has stopped.

`draw_turn` goes on behind the rows of a `RowCache`. `draw_anew` is for models with layers that do not see all tokens:
these count distances in columns, so prompts are padded on the left and nothing is kept. Not here: where the uniform
draws come from (`sampling`, `decoding`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.model import CausalModel
from envecho.engines.row_cache import RowCache
from envecho.seam import Sample, SamplingParams

_LEAST_LOGPROB = -1e30


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
    scaled = logits.float() if temperature == 1 else logits.float() / temperature
    logprobs = torch.log_softmax(scaled, dim=-1)
    probabilities = logprobs.exp()
    # Single precision has too few digits for sums over a vocabulary.
    cumulative = probabilities.cumsum(dim=-1, dtype=torch.float64)
    uniform = torch.from_numpy(draws).to(cumulative)
    # The last sum is not exactly 1; scaling the draw keeps it below the last sum, so a token is always found.
    chosen = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)
    chosen = chosen.clamp(max=logits.shape[-1] - 1)
    chosen_logprobs = logprobs.gather(-1, chosen)
    # 0 * -inf is 0 here.
    surprise = probabilities.mul_(logprobs.clamp_(min=_LEAST_LOGPROB))
    entropies = surprise.sum(dim=-1, keepdim=True, dtype=torch.float64).neg()
    found = torch.cat([chosen.double(), chosen_logprobs.double(), entropies], dim=1).cpu().numpy()
    return found[:, 0].astype(np.int64), found[:, 1], found[:, 2]


def draw_turn(
    model: CausalModel, cache: RowCache, hidden: Tensor, draws: NDArray[np.float64], params: SamplingParams
) -> list[Sample]:
    """Draw a turn for each row of the cache, in the order of its places before the first token.

    A row that stops is computed no further. Its last token is in no cache: it is read with the next prompt.

    Args:
        model: whose cache it is.
        cache: places change while rows stop, names do not.
        hidden: the states `[row, hidden]` after the last token of each row.
        draws: uniform draws `[row, position]`.
        params: how to sample.
    """
    drawn = _Drawn(len(draws), params)
    going = np.arange(len(draws))  # per place of the cache that is still drawn, its row in `draws`
    cache.begin(params.max_tokens)
    for position in range(params.max_tokens):
        found = choose(model.logits(hidden), draws[going, position], params.temperature)
        stopped = drawn.add(going, found)
        chosen = found[0]
        for place in reversed(np.flatnonzero(stopped).tolist()):
            cache.settle([place], [drawn.kept(going[place])])
            last = len(going) - 1
            cache.swap(place, last)
            going[place], chosen[place] = going[last], chosen[last]
            going, chosen = going[:last], chosen[:last]
        if not len(going):
            break
        if position + 1 < params.max_tokens:
            hidden = cache.append(chosen)
    cache.settle(range(len(going)), [drawn.kept(row) for row in going])
    return drawn.samples()


def draw_anew(
    model: CausalModel, prompts: Sequence[NDArray[np.int32]], draws: NDArray[np.float64], params: SamplingParams
) -> list[Sample]:
    """Continue prompts that are padded on the left, from uniform draws `[prompt, position]`."""
    drawn = _Drawn(len(prompts), params)
    going = np.arange(len(prompts))
    token_ids, mask = _pad_left(prompts, model.device)
    cache: Any = None
    for position in range(params.max_tokens):
        out = model.network.base_model(
            input_ids=token_ids,
            attention_mask=None if bool(mask.all()) else mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -token_ids.shape[1] :],
            past_key_values=cache,
            use_cache=True,
        )
        cache = out.past_key_values
        found = choose(model.logits(out.last_hidden_state[:, -1]), draws[going, position], params.temperature)
        keep = np.flatnonzero(~drawn.add(going, found))
        if not len(keep):
            break
        if len(keep) < len(going):
            places = torch.from_numpy(keep).to(mask.device)
            cache.batch_select_indices(places)
            mask, going = mask[places], going[keep]
        token_ids = torch.from_numpy(found[0][keep]).to(model.device)[:, None]
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return drawn.samples()


@final
class _Drawn:
    """The tokens of some rows, as far as they were drawn."""

    def __init__(self, num: int, params: SamplingParams) -> None:
        shape = (num, params.max_tokens)
        self._stops: Collection[int] = params.stop_token_ids
        self._ids = np.zeros(shape, dtype=np.int32)
        self._logprobs, self._entropies = np.zeros(shape, dtype=np.float32), np.zeros(shape, dtype=np.float32)
        self._lengths = np.zeros(num, dtype=np.int64)
        self._stopped = np.zeros(num, dtype=np.bool_)

    def add(
        self, rows: NDArray[np.int64], found: tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]
    ) -> NDArray[np.bool_]:
        """Note one token of each of these rows, and return which of them it ends."""
        where = (rows, self._lengths[rows])
        self._ids[where], self._logprobs[where], self._entropies[where] = found
        self._lengths[rows] += 1
        self._stopped[rows] = np.isin(found[0], list(self._stops))
        return self._stopped[rows]

    def kept(self, row: int | np.int64) -> NDArray[np.int32]:
        """The tokens of a row that have been read: all but the last."""
        return self._ids[row, : self._lengths[row] - 1]

    def samples(self) -> list[Sample]:
        return [
            Sample(
                token_ids=self._ids[row, :num].copy(),
                logprobs=self._logprobs[row, :num].copy(),
                entropies=self._entropies[row, :num].copy(),
                stopped=bool(self._stopped[row]),
            )
            for row, num in enumerate(self._lengths.tolist())
        ]


def _pad_left(prompts: Sequence[NDArray[np.int32]], device: torch.device) -> tuple[Tensor, Tensor]:
    size = max(len(prompt) for prompt in prompts)
    token_ids = np.zeros((len(prompts), size), dtype=np.int64)
    mask = np.zeros((len(prompts), size), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        token_ids[row, size - len(prompt) :] = prompt
        mask[row, size - len(prompt) :] = 1
    return torch.from_numpy(token_ids).to(device), torch.from_numpy(mask).to(device)
