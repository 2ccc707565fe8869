"""Cut a batch into parts that fit in memory, and lay sequences out as padded rows.

Rows are padded on the right: under causal attention no real token sees what follows it, so no mask is needed and the
fast attention kernels stay available. With packing a row holds several sequences, positions start over with each, and a
mask keeps them apart. On the CPU a micro-batch is one flat row (`token_forest`), with neither padding nor mask. Not
here: the model, and any loss.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from envecho.engines.attention import laid_out
from envecho.engines.model import CausalModel
from envecho.engines.token_forest import TokenForest, flattest, plan_forests
from envecho.errors import EngineError
from envecho.losses import WeightedBatch

_WIDTH_FACTORS = (1, 2, 4)
_HIDDEN_SIZE = 1024


class PassKeywords(TypedDict, total=False):
    """The fields of `PassOptions` as keywords of an engine."""

    tokens_per_micro_batch: int
    gradient_checkpointing: bool
    activation_memory_mb: int | None
    packing: bool


@dataclass(frozen=True, kw_only=True)
class PassOptions:
    """How a batch goes through the model: memory and time depend on it, results do not.

    `tokens_per_micro_batch`: computed tokens per forward pass. `gradient_checkpointing`: compute activations again in
    the backward pass, a fraction of the memory for 4/3 of the time; with `activation_memory_mb` instead, of as few
    layers as keep the activations of a micro-batch within so many MB. `packing`: padded rows hold several sequences
    where that is estimated to be cheaper; flat rows (on the CPU) always do.
    """

    tokens_per_micro_batch: int = 1024
    gradient_checkpointing: bool = False
    activation_memory_mb: int | None = None
    packing: bool = False

    def __post_init__(self) -> None:
        if self.tokens_per_micro_batch < 1:
            raise EngineError(f"tokens_per_micro_batch is {self.tokens_per_micro_batch}, expected at least 1")
        if self.activation_memory_mb is not None and self.gradient_checkpointing:
            raise EngineError(
                "gradient_checkpointing is for every layer, activation_memory_mb for as few as fit; set one"
            )


@dataclass(frozen=True, kw_only=True)
class MicroBatch:
    """Some sequences of a batch: `tokens` `[token]` are places in the whole batch, row after row.

    `lengths` are the tokens of each row; `is_packed` says that some row holds more than one sequence. With a `forest`
    the sequences lie in one flat row, and `tokens` are in the order of its paths.
    """

    tokens: Tensor
    lengths: list[int]
    is_packed: bool = False
    forest: TokenForest | None = None

    def laid_out(self) -> AbstractContextManager[None]:
        """A block for forward and backward of this micro-batch: in it, networks see its flat row if it is one."""
        return nullcontext() if self.forest is None else laid_out(self.forest.segments)

    def hidden(self, model: CausalModel, part: WeightedBatch) -> Tensor:
        """Return the hidden states `[token, hidden]` of its tokens, of which `part` is the batch.

        A token of a beginning that is shared has one state in all of its sequences, which gets the gradients of all.
        """
        if self.forest is None:
            rows, mask = pad_rows(part.token_ids, self.lengths)
            apart = packed_attention(part, self.lengths) if self.is_packed else {}
            return model.hidden(rows, **apart)[mask]
        states = self.forest.hidden(model)
        if len(states) == len(self.tokens):
            return states
        return states[torch.from_numpy(np.concatenate(self.forest.paths)).to(states.device)]


def plan_rows(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Group rows so that rows times the longest of them is at most `max_tokens`; a longer row stands alone.

    Longest first, neighbours in length together, as few groups as that allows, and among those the flattest: equal
    groups have the lowest peak of memory.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    if not order:
        return []
    size = flattest(lambda tokens: len(_cut(order, lengths, tokens)), max_tokens)
    return _cut(order, lengths, size)


def _cut(order: list[int], lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    groups: list[list[int]] = []
    for row in order:
        if groups and lengths[groups[-1][0]] * (len(groups[-1]) + 1) <= max_tokens:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def pack_rows(lengths: Sequence[int], max_tokens: int) -> list[list[list[int]]]:
    """Group sequences into micro-batches of rows of sequences, `[micro-batch][row]` -> sequences, in the cheapest way.

    The cheapest is chosen by an estimate among the padded rows of `plan_rows` and rows as wide as the longest sequence,
    or twice or four times that. Per token a layer costs 12 * hidden^2, and attention hidden * width, or twice that
    under a mask, at a hidden size of 1024. So what hardly pays is not packed, and the longer the sequences, the less.
    """
    plans = [
        _plan(lengths, max_tokens, packing=False),
        *(_fill_rows(lengths, max_tokens, factor) for factor in _WIDTH_FACTORS),
    ]
    return min(plans, key=lambda plan: sum(_cost(rows, lengths) for rows in plan))


def _fill_rows(lengths: Sequence[int], max_tokens: int, factor: int) -> list[list[list[int]]]:
    """Fill row after row with the longest sequence that still fits, rows as wide as the longest times the factor."""
    left = sorted(range(len(lengths)), key=lambda sequence: (lengths[sequence], -sequence))
    groups: list[list[list[int]]] = []
    while left:
        width = max(lengths[left[-1]], min(factor * lengths[left[-1]], max_tokens))
        rows: list[list[int]] = []
        while left and len(rows) < max(1, max_tokens // width):
            row, free = [], width
            while place := bisect.bisect_right(left, free, key=lambda sequence: lengths[sequence]):
                row.append(left.pop(place - 1))
                free -= lengths[row[-1]]
            rows.append(row)
        groups.append(rows)
    return groups


def _cost(rows: list[list[int]], lengths: Sequence[int]) -> int:
    width = _width(rows, lengths)
    is_packed = any(len(row) > 1 for row in rows)
    return len(rows) * width * (12 * _HIDDEN_SIZE + (2 if is_packed else 1) * width)


def _width(rows: list[list[int]], lengths: Sequence[int]) -> int:
    return max(sum(lengths[sequence] for sequence in row) for row in rows)


def padding_share(lengths: Sequence[int], max_tokens: int, *, packing: bool = False) -> float:
    """Return the share of the computed tokens that are padding, for sequences of these lengths in one step."""
    computed = sum(len(rows) * _width(rows, lengths) for rows in _plan(lengths, max_tokens, packing=packing))
    return 1 - sum(lengths) / computed if computed else 0.0


def _plan(lengths: Sequence[int], max_tokens: int, *, packing: bool) -> list[list[list[int]]]:
    if packing:
        return pack_rows(lengths, max_tokens)
    return [[[sequence] for sequence in group] for group in plan_rows(lengths, max_tokens)]


def split_batch(batch: WeightedBatch, max_tokens: int, *, packing: bool = False) -> list[MicroBatch]:
    """Return the micro-batches of a batch; with `packing` in rows of several sequences where that pays.

    The split depends on the lengths alone, never on what is read: otherwise logging the environment at weight 0 would
    change the shapes of the products, and with them the last bits of the policy's gradient.
    """
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    stops = [*starts[1:], len(batch.token_ids)]
    lengths = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return [
        MicroBatch(
            tokens=torch.cat([torch.arange(starts[sequence], stops[sequence]) for row in rows for sequence in row]),
            lengths=[sum(lengths[sequence] for sequence in row) for row in rows],
            is_packed=any(len(row) > 1 for row in rows),
        )
        for rows in _plan(lengths, max_tokens, packing=packing)
    ]


def split_flat(batch: WeightedBatch, max_tokens: int, *, share: bool) -> list[MicroBatch]:
    """Return micro-batches that are one flat row each, without padding; with `share` a common beginning stands once.

    `max_tokens` counts what is computed. The split depends on the token ids alone, never on what is read.
    """
    starts = torch.nonzero(batch.positions == 0).flatten().tolist()
    stops = [*starts[1:], len(batch.token_ids)]
    ids = batch.token_ids.cpu().numpy()
    sequences = [ids[start:stop] for start, stop in zip(starts, stops, strict=True)]
    return [
        MicroBatch(
            tokens=torch.cat([torch.arange(starts[member], stops[member]) for member in forest.members]),
            lengths=[len(forest)],
            forest=forest,
        )
        for forest in plan_forests(sequences, max_tokens, share=share)
    ]


def weight_mask(batch: WeightedBatch) -> Tensor:
    """Mask `[token]` of the tokens that some term of the loss weighs."""
    weights = (batch.policy_weights, batch.env_weights, batch.kl_weights, batch.entropy_weights)
    return torch.stack([weight != 0 for weight in weights]).any(dim=0)


def without_env(batch: WeightedBatch) -> WeightedBatch:
    """Return the batch with the policy side alone: no environment weight, nothing read for the log."""
    return dataclasses.replace(
        batch, env_weights=torch.zeros_like(batch.env_weights), env_targets=torch.zeros_like(batch.env_targets)
    )


def without_policy(batch: WeightedBatch) -> WeightedBatch:
    """Return the batch with the environment term alone."""
    names = ("policy_weights", "kl_weights", "entropy_weights")
    return dataclasses.replace(batch, **{name: torch.zeros_like(getattr(batch, name)) for name in names})


def take(batch: WeightedBatch, tokens: Tensor, device: torch.device) -> WeightedBatch:
    """Return the part of a batch at `tokens` `[token]`, on a device, its sequences renumbered from 0."""
    part: dict[str, Tensor | None] = {}
    for name in batch.token_fields():
        value = getattr(batch, name)
        part[name] = None if value is None else value[tokens].to(device)
    part["sequence_index"] = (part["positions"] == 0).cumsum(0) - 1  # pyright: ignore[reportOptionalMemberAccess, reportAttributeAccessIssue]
    return dataclasses.replace(batch, **part)  # pyright: ignore[reportArgumentType]


def pad_rows(token_ids: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Lay flat ids `[token]` out as rows `[row, longest]`, padded with 0, with the mask `[row, longest]` of real ones.

    `rows[mask]` gives the flat ids back, in order.
    """
    sizes = torch.tensor(lengths, device=token_ids.device)
    mask = torch.arange(max(lengths), device=token_ids.device)[None, :] < sizes[:, None]
    rows = torch.zeros(mask.shape, dtype=token_ids.dtype, device=token_ids.device)
    rows[mask] = token_ids
    return rows, mask


def packed_attention(batch: WeightedBatch, lengths: Sequence[int]) -> dict[str, Tensor]:
    """Return what keeps the sequences of packed rows apart: options of `CausalModel.hidden`.

    `position_ids` `[row, longest]` start over with each sequence; `attention_mask` `[row, 1, longest, longest]` lets a
    token see those of its own sequence up to itself. Padding sees padding.
    """
    positions, is_real = pad_rows(batch.positions, lengths)
    sequences, _ = pad_rows(batch.sequence_index, lengths)
    sequences = torch.where(is_real, sequences, -1)
    is_same = sequences[:, None, :, None] == sequences[:, None, None, :]
    return {"position_ids": positions, "attention_mask": is_same.tril()}
