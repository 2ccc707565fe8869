"""Lay token sequences out in flat rows, without padding, with a common beginning once.

In the order of their tokens, sequences with a common beginning are neighbours, and what one of them adds to the row is
what differs from the one before. Each token stands at the position that it had in its sequence, and `segments` say what
it sees, so that the hidden states are those of the sequences one by one. Not here: attention (`attention`), and what is
read from the states (`micro_batches`, `scoring`).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.attention import Segment, laid_out
from envecho.engines.model import CausalModel

MIN_SHARED_TOKENS = 16
"""A shorter common beginning (the first words of every chat template) is computed for each."""


@dataclass(frozen=True, kw_only=True)
class TokenForest:
    """Some sequences in one row: `token_ids` and `depths` (positions) are `[place]`, int64.

    `paths[i]` are the places `[token]` of the sequence that has the number `members[i]` among all.
    """

    token_ids: NDArray[np.int64]
    depths: NDArray[np.int64]
    paths: list[NDArray[np.int64]]
    members: list[int]
    segments: list[Segment]

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def branches(self) -> bool:
        """Whether some place does not see all places before it, so that plain causal attention would be wrong."""
        return any(segment.before != (((0, segment.start),) if segment.start else ()) for segment in self.segments)

    def attention(self, size: int) -> NDArray[np.bool_]:
        """Mask `[size, size]`: the place of the row sees the place of the column. Padding sees itself alone."""
        mask = np.eye(size, dtype=np.bool_)
        for segment in self.segments:
            own = slice(segment.start, segment.stop)
            mask[own, own] = np.tri(segment.stop - segment.start, dtype=np.bool_)
            for start, stop in segment.before:
                mask[own, start:stop] = True
        return mask

    def hidden(self, model: CausalModel) -> Tensor:
        """Return the hidden states `[place, hidden]`; what calls backward does so while the segments are `laid_out`."""
        ids, depths = (torch.from_numpy(values)[None].to(model.device) for values in (self.token_ids, self.depths))
        return model.hidden(ids, position_ids=depths)[0]


def plan_forests(sequences: Sequence[NDArray[np.integer]], max_tokens: int, *, share: bool = True) -> list[TokenForest]:
    """Put every sequence into a row of at most `max_tokens` places; a longer one has a row of its own.

    As few rows as that allows in the order of the tokens, and among those the flattest: equal rows have the lowest peak
    of memory. Without `share` every sequence is computed whole. Empty sequences have no row.
    """
    order = in_token_order(sequences)
    ordered = [sequences[i] for i in order]
    shared = [0] * len(order)
    if share:
        common = (common_length(one, other) for one, other in itertools.pairwise(ordered))
        shared[1:] = [num if num >= MIN_SHARED_TOKENS else 0 for num in common]
    lengths = [len(sequence) for sequence in ordered]
    size = flattest(lambda tokens: len(_cut(lengths, shared, tokens)), max_tokens)
    return [
        lay_out(ordered[start:stop], [0, *shared[start + 1 : stop]], order[start:stop])
        for start, stop in _cut(lengths, shared, size)
    ]


def flattest(num_groups: Callable[[int], int], max_tokens: int) -> int:
    """Return the smallest budget with as few groups as `max_tokens` has: equal groups have the lowest memory peak."""
    low, high, fewest = 1, max_tokens, num_groups(max_tokens)
    while low < high:
        middle = (low + high) // 2
        if num_groups(middle) <= fewest:
            high = middle
        else:
            low = middle + 1
    return high


def in_token_order(sequences: Sequence[NDArray[np.integer]]) -> list[int]:
    """Return the numbers of the sequences that are not empty, so that a common beginning makes neighbours."""
    keys = [sequence.astype(">i4").tobytes() for sequence in sequences]
    return sorted((i for i in range(len(sequences)) if keys[i]), key=keys.__getitem__)


def common_length(one: NDArray[np.integer], other: NDArray[np.integer]) -> int:
    """Return how many tokens both begin with."""
    n = min(len(one), len(other))
    differs = np.flatnonzero(one[:n] != other[:n])
    return int(differs[0]) if len(differs) else n


def _cut(lengths: Sequence[int], shared: Sequence[int], max_tokens: int) -> list[tuple[int, int]]:
    """Ranges of neighbours; the first of a range shares nothing, because what it would share lies in another row."""
    ranges: list[tuple[int, int]] = []
    size = 0
    for place, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if ranges and size + length - common <= max_tokens:
            ranges[-1] = (ranges[-1][0], place + 1)
            size += length - common
        else:
            ranges.append((place, place + 1))
            size = length
    return ranges


def lay_out(sequences: Sequence[NDArray[np.integer]], shared: Sequence[int], members: Sequence[int]) -> TokenForest:
    """Put sequences into one row; `shared` are the tokens that each begins with like the one before it."""
    ids: list[NDArray[np.integer]] = []
    depths: list[NDArray[np.int64]] = []
    paths: list[NDArray[np.int64]] = []
    segments: list[Segment] = []
    size = 0
    for sequence, common in zip(sequences, shared, strict=True):
        beginning = paths[-1][:common] if common else np.zeros(0, dtype=np.int64)
        new = len(sequence) - common
        paths.append(np.concatenate([beginning, np.arange(size, size + new)]))
        if new:
            ids.append(sequence[common:])
            depths.append(np.arange(common, len(sequence)))
            segments.append(Segment(start=size, stop=size + new, before=_ranges(beginning)))
        size += new
    return TokenForest(
        token_ids=np.concatenate(ids).astype(np.int64),
        depths=np.concatenate(depths),
        paths=paths,
        members=list(members),
        segments=segments,
    )


def _ranges(places: NDArray[np.int64]) -> tuple[tuple[int, int], ...]:
    """Runs of neighbouring places."""
    if not len(places):
        return ()
    edges = np.flatnonzero(np.diff(places) != 1)
    starts, stops = places[np.append(0, edges + 1)], places[np.append(edges, len(places) - 1)] + 1
    return tuple((int(start), int(stop)) for start, stop in zip(starts, stops, strict=True))


@torch.no_grad()
def forests_are_exact(model: CausalModel) -> bool:
    """Whether this model computes a flat row as it computes its sequences; asked once, of two families of sequences.

    Not so where a layer does not see all tokens before it, or where positions or masks are the model's own affair.
    """
    if not model.lays_flat:
        return False
    ids = np.arange(1, 60) % model.head_weight.shape[0]
    history = ids[:MIN_SHARED_TOKENS]
    sequences = [np.concatenate([history, ids[20:25]]), np.concatenate([history, ids[30:37]]), ids[40:51]]
    (forest,) = plan_forests(sequences, 1000)
    tolerance = 5e-2 if model.head_weight.dtype == torch.bfloat16 else 1e-3
    with laid_out(forest.segments):
        try:
            states = forest.hidden(model).float()
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            # Models fail in their own ways on a row that is none of theirs; they are given padded rows.
            return False
    for member, path in zip(forest.members, forest.paths, strict=True):
        expected = model.hidden(torch.from_numpy(sequences[member])[None].to(model.device))[0].float()
        found = states[torch.from_numpy(path).to(model.device)]
        if not bool((found - expected).norm() <= tolerance * expected.norm()):
            return False
    return True
