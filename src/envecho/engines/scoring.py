"""Score tokens without a gradient; requests that share a beginning share its computation.

Requests are laid out as `token_forest` says: a shared beginning stands once in a row, every continuation after it. A
token sees what stood before it alone, at the position that it had in its request: on the CPU by our own attention over
flat rows, elsewhere through a mask over padded ones. That is exact, and world-model evaluation scores the same history
with several last turns. Not here: what a score means
(`envecho.evaluation`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.attention import laid_out
from envecho.engines.micro_batches import plan_rows
from envecho.engines.model import CausalModel
from envecho.engines.token_forest import (
    MIN_SHARED_TOKENS,
    TokenForest,
    common_length,
    in_token_order,
    lay_out,
    plan_forests,
)
from envecho.errors import EngineError
from envecho.losses import read_logprobs
from envecho.seam import ScoreRequest, Scores

_MIN_SHARED_FRACTION = 0.25
"""Of a sequence: a mask that keeps the others apart costs more than a shorter beginning saves."""


def plan_trees(inputs: Sequence[NDArray[np.int32]], max_tokens: int, *, share: bool) -> list[TokenForest]:
    """Put every input into a row of its own, or of those with which it shares a beginning, of at most `max_tokens`.

    For rows that lie beside each other in a batch, with padding and a mask.
    """
    rows: list[list[tuple[int, int]]] = []
    size, before = 0, np.zeros(0, dtype=np.int32)
    # In the order of their tokens, inputs with a common beginning are neighbours.
    for member in in_token_order(inputs):
        shared = common_length(before, inputs[member]) if share else 0
        size += len(inputs[member]) - shared
        if shared < max(MIN_SHARED_TOKENS, _MIN_SHARED_FRACTION * len(inputs[member])) or size > max_tokens:
            rows.append([])
            size, shared = len(inputs[member]), 0
        rows[-1].append((member, shared))
        before = inputs[member]
    return [
        lay_out([inputs[member] for member, _ in row], [shared for _, shared in row], [member for member, _ in row])
        for row in rows
    ]


@torch.no_grad()
def trees_are_exact(model: CausalModel) -> bool:
    """Whether this model computes a row with a mask as it computes its sequences; asked once, of a small tree.

    Not so where a layer does not see all tokens before it, or where positions or masks are the model's own affair.
    """
    if not model.sees_all:
        return False
    ids = np.arange(1, MIN_SHARED_TOKENS + 9) % model.head_weight.shape[0]
    history, one, whole = ids[:-8], ids[:-4], np.concatenate([ids[:-8], ids[-4:]])
    (tree,) = plan_trees([one.astype(np.int32), whole.astype(np.int32)], 2 * len(history), share=True)
    expected = model.hidden(torch.from_numpy(whole)[None].to(model.device))[0].float()
    path = tree.paths[tree.members.index(1)]
    try:
        found = _tree_hidden(model, [tree])[0, torch.from_numpy(path).to(model.device)].float()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        # Models fail in their own ways on a mask per token pair; whatever it is, they are scored row by row.
        return False
    tolerance = 5e-2 if model.head_weight.dtype == torch.bfloat16 else 1e-3
    return bool((found - expected).norm() <= tolerance * expected.norm())


@dataclass(frozen=True, kw_only=True)
class ScoringOptions:
    """How to score: tokens per pass, positions per chunk of the head, shared beginnings, rows, and what is read.

    `flat`: rows without padding, as `token_forest` has them; else padded rows with a mask.
    """

    max_tokens: int
    chunk_size: int
    share: bool
    flat: bool
    temperature: float = 1.0
    with_entropies: bool = False


@torch.no_grad()
def score(model: CausalModel, requests: Sequence[ScoreRequest], options: ScoringOptions) -> list[Scores]:
    """Return log-probs, top-1 marks and (where asked) entropies of the read tokens of every request, in order.

    Raises:
        EngineError: a request reads its token 0, or is longer than the model's context; the temperature is not
            positive.
    """
    if not options.temperature > 0:
        raise EngineError(f"temperature is {options.temperature}, expected a positive number")
    inputs = [_input_of(request, model.max_context_tokens) for request in requests]
    scores = [
        Scores(
            logprobs=np.full(len(request.token_ids), np.nan, dtype=np.float32),
            top1=np.zeros(len(request.token_ids), dtype=np.bool_),
            entropies=np.full(len(request.token_ids), np.nan, dtype=np.float32) if options.with_entropies else None,
        )
        for request in requests
    ]
    for states, paths in _passes(model, inputs, options):
        tokens = {member: np.flatnonzero(requests[member].read) for member in paths}
        places = np.concatenate([path[tokens[member] - 1] for member, path in paths.items()])
        targets = np.concatenate([requests[member].token_ids[tokens[member]] for member in paths])
        read = read_logprobs(
            states[torch.from_numpy(places).to(states.device)],
            model.head_weight,
            torch.from_numpy(targets.astype(np.int64)).to(states.device),
            temperatures=torch.full((len(targets),), options.temperature, device=states.device, dtype=torch.float64),
            bias=model.head_bias,
            chunk_size=options.chunk_size,
            softcap=model.softcap,
            with_entropies=options.with_entropies,
        )
        values, marks = read.logprobs.float().cpu().numpy(), read.top1.cpu().numpy()
        entropies = None if read.entropies is None else read.entropies.float().cpu().numpy()
        start = 0
        for member in paths:
            stop = start + len(tokens[member])
            scores[member].logprobs[tokens[member]] = values[start:stop]
            top1, kept = scores[member].top1, scores[member].entropies
            if top1 is not None:
                top1[tokens[member]] = marks[start:stop]
            if kept is not None and entropies is not None:
                kept[tokens[member]] = entropies[start:stop]
            start = stop
    return scores


def _passes(
    model: CausalModel, inputs: Sequence[NDArray[np.int32]], options: ScoringOptions
) -> Iterator[tuple[Tensor, dict[int, NDArray[np.int64]]]]:
    """Give hidden states `[place, hidden]`, pass after pass, and the places `[token]` of the requests in them."""
    if options.flat:
        for forest in plan_forests(inputs, options.max_tokens, share=options.share):
            with laid_out(forest.segments):
                states = forest.hidden(model)
            yield states, dict(zip(forest.members, forest.paths, strict=True))
        return
    trees = plan_trees(inputs, options.max_tokens, share=options.share)
    for group in plan_rows([len(tree) for tree in trees], options.max_tokens):
        rows = [trees[index] for index in group]
        hidden = _tree_hidden(model, rows)
        size = hidden.shape[1]
        yield (
            hidden.flatten(0, 1),
            {
                member: path + row * size
                for row, tree in enumerate(rows)
                for member, path in zip(tree.members, tree.paths, strict=True)
            },
        )


def _input_of(request: ScoreRequest, max_context_tokens: int) -> NDArray[np.int32]:
    """The tokens that the model must see: all before the last one that is read."""
    if request.read.shape != request.token_ids.shape:
        raise EngineError(f"read has shape {request.read.shape}, token_ids {request.token_ids.shape}")
    places = np.flatnonzero(request.read)
    if not len(places):
        return request.token_ids[:0]
    if places[0] == 0:
        raise EngineError("a score request reads token 0, which nothing predicts")
    if places[-1] > max_context_tokens:
        raise EngineError(f"a request needs {places[-1]} tokens of context; the model has {max_context_tokens}")
    return request.token_ids[: places[-1]]


def _tree_hidden(model: CausalModel, rows: Sequence[TokenForest]) -> Tensor:
    """Hidden states `[row, place, hidden]` of some trees."""
    size = max(len(tree) for tree in rows)
    token_ids = np.zeros((len(rows), size), dtype=np.int64)
    for row, tree in enumerate(rows):
        token_ids[row, : len(tree)] = tree.token_ids
    ids = torch.from_numpy(token_ids).to(model.device)
    if not any(tree.branches for tree in rows):
        return model.hidden(ids)
    depths = np.zeros((len(rows), size), dtype=np.int64)
    for row, tree in enumerate(rows):
        depths[row, : len(tree)] = tree.depths
    mask = np.stack([tree.attention(size) for tree in rows])[:, None]
    return model.hidden(
        ids,
        attention_mask=torch.from_numpy(mask).to(model.device),
        position_ids=torch.from_numpy(depths).to(model.device),
    )
