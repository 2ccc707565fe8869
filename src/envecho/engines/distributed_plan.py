"""Which rank computes what: sequences, micro-batches, requests and prompts, cut into one share per rank.

Every plan is a function of lengths and tokens alone, so that all runs of a command cut alike. Not here: processes and
what they compute (`distributed_rank`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.micro_batches import MicroBatch, PassOptions, split_batch, split_flat, weight_mask
from envecho.losses import WeightedBatch
from envecho.seam import ScoreRequest


@dataclass(frozen=True, kw_only=True)
class BatchPart:
    """What one rank does of a forward and backward: one entry per pass, the same number of passes on every rank.

    `batch` holds the rank's sequences, `places` `[token]` where its tokens lie in the whole batch. `passes[k]` is the
    k-th micro-batch of `batch`, or None where other ranks alone have one.
    `with_gradient[k]` is equal on all ranks: all of them run the backward pass of a micro-batch, or none.
    """

    batch: WeightedBatch
    places: Tensor
    passes: tuple[MicroBatch | None, ...]
    with_gradient: tuple[bool, ...]


def split_evenly(sizes: Sequence[int], num_ranks: int) -> list[list[int]]:
    """Deal numbers out to ranks so that the sums of their sizes are about equal: longest first, to whom has least."""
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for number in sorted(range(len(sizes)), key=lambda n: (-sizes[n], n)):
        rank = loads.index(min(loads))
        shares[rank].append(number)
        loads[rank] += sizes[number]
    return [sorted(share) for share in shares]


def split_step(batch: WeightedBatch, num_ranks: int, options: PassOptions, *, flat: bool = False) -> list[BatchPart]:
    """Cut a batch into whole sequences per rank, and each rank's part into micro-batches; `flat`: of flat rows.

    Passes that nothing reads on any rank are left out; one that only logs runs without a gradient on all ranks.
    """
    starts = torch.nonzero(batch.positions == 0).flatten()
    lengths = torch.diff(starts, append=torch.tensor([len(batch.positions)])).tolist()
    shares = split_evenly(lengths, num_ranks)
    places = [
        torch.cat([torch.arange(int(starts[n]), int(starts[n]) + lengths[n]) for n in share] or [starts[:0]])
        for share in shares
    ]
    parts = [batch.select(share) for share in shares]
    micros = [
        _micro_batches(part, options, flat=flat) if share else [] for part, share in zip(parts, shares, strict=True)
    ]
    marks = [[_reads(part, micro.tokens) for micro in found] for part, found in zip(parts, micros, strict=True)]
    slots = range(max(map(len, micros), default=0))
    weighed, read = (
        [any(k < len(row) and row[k][is_read] for row in marks) for k in slots] for is_read in (False, True)
    )
    kept = [k for k in slots if read[k]]
    return [
        BatchPart(
            batch=part,
            places=place,
            passes=tuple(found[k] if k < len(found) else None for k in kept),
            with_gradient=tuple(weighed[k] for k in kept),
        )
        for part, place, found in zip(parts, places, micros, strict=True)
    ]


def _micro_batches(part: WeightedBatch, options: PassOptions, *, flat: bool) -> list[MicroBatch]:
    if flat:
        return split_flat(part, options.tokens_per_micro_batch, share=True)
    return split_batch(part, options.tokens_per_micro_batch, packing=options.packing)


def _reads(part: WeightedBatch, tokens: Tensor) -> tuple[bool, bool]:
    """Whether some of the tokens has a weight, and whether some is read, for a weight or for the log."""
    weighed = weight_mask(part)[tokens]
    return bool(weighed.any()), bool((weighed | part.env_targets[tokens]).any())


def split_requests(requests: Sequence[ScoreRequest], num_ranks: int) -> list[list[int]]:
    """Cut score requests into runs of about equal tokens, neighbours being those that share a beginning."""
    order = sorted(range(len(requests)), key=lambda n: requests[n].token_ids.astype(">i4").tobytes())
    sizes = np.array([len(requests[n].token_ids) for n in order], dtype=np.int64)
    middles = np.cumsum(sizes) - sizes / 2
    ranks = np.minimum((middles * num_ranks / max(int(sizes.sum()), 1)).astype(np.int64), num_ranks - 1)
    return [sorted(order[k] for k in np.flatnonzero(ranks == rank)) for rank in range(num_ranks)]


def split_prompts(prompts: Sequence[NDArray[np.int32]], num_ranks: int) -> list[list[int]]:
    """Deal prompts out, equal prompts to one rank in their order: their draws are numbered among each other."""
    groups: dict[bytes, list[int]] = {}
    for number, prompt in enumerate(prompts):
        groups.setdefault(prompt.astype("<i4").tobytes(), []).append(number)
    members = list(groups.values())
    shares = split_evenly([sum(len(prompts[n]) + 1 for n in group) for group in members], num_ranks)
    return [sorted(n for group in share for n in members[group]) for share in shares]
