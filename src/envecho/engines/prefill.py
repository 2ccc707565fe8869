"""Which rows of a turn read their prompts apart, and which begin with what another one has read already.

Rows of a group start with the same prompt, and all rows of a world with the same instructions: a beginning that a row
shares is read once and copied. Rows that have much more to read than the others are read apart, because a pass pads
all of its rows to the longest. Plans alone; the reading is `decoding`'s. Not here: scoring, whose beginnings lie in one
row (`scoring`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envecho.engines.token_forest import common_length

LEAST_SHARED = 16
"""A shorter common beginning is read again: another pass costs more."""
TOKENS_PER_PASS = 4096
"""Of a pass over prompts, padding counted, unless a single row is longer: its activations bound the memory."""
_PASS_TOKENS = 64
"""What a pass costs beside its tokens (all weights are read from memory), in tokens."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """The first `num` tokens of a row are those of `source`, a row that is read before it or has been."""

    source: int
    num: int


@dataclass(frozen=True, kw_only=True)
class SharePlan:
    """`beginnings` of the rows that have one, and `waves` of all rows: a wave finds its beginnings in those before it.

    So all waves but the last are read before the others. Rows of the last one are nobody's source.
    """

    beginnings: Mapping[int, Beginning]
    waves: Sequence[Sequence[int]]


def plan_sharing(fresh: Mapping[int, NDArray[np.int32]], held: Mapping[int, NDArray[np.int32]]) -> SharePlan:
    """Find for each of the `fresh` prompts the longest beginning that a held row, or a fresh one before it, has.

    The last token of a prompt is never shared, because its logits are needed.
    """
    beginnings: dict[int, Beginning] = {}
    levels: dict[int, int] = {}
    first_of: dict[bytes, int] = {}
    for row, prompt in fresh.items():
        text = prompt[:-1]
        equal = first_of.get(text.tobytes())
        if equal is not None:
            found = Beginning(source=equal, num=len(text))
        else:
            sources = {**held, **{other: fresh[other][:-1] for other in first_of.values()}}
            found = max(
                (Beginning(source=other, num=common_length(text, ids)) for other, ids in sources.items()),
                key=lambda beginning: beginning.num,
                default=Beginning(source=row, num=0),
            )
            first_of[text.tobytes()] = row
        levels[row] = 0
        if found.num >= LEAST_SHARED:
            beginnings[row] = found
            levels[row] = levels.get(found.source, -1) + 1
    sources = {beginning.source for beginning in beginnings.values()} & fresh.keys()
    depth = max((levels[row] for row in sources), default=-1) + 1
    waves = [[row for row in fresh if row in sources and levels[row] == level] for level in range(depth)]
    waves.append([row for row in fresh if row not in sources])
    return SharePlan(beginnings=beginnings, waves=waves)


def plan_passes(lengths: Sequence[int]) -> list[list[int]]:
    """Return groups of rows to read apart, all but their last token, before all rows are read together.

    The groups are those for which padded tokens and passes cost least, where a row has so many tokens to read.
    """
    num = len(lengths)
    order = sorted(range(num), key=lambda row: (-lengths[row], row))
    widths = np.array([lengths[row] for row in order])
    # cheapest[i]: of reading the i longest rows apart; begins[i]: where the last of their groups begins.
    cheapest, begins = np.zeros(num + 1), np.zeros(num + 1, dtype=np.int64)
    for stop in range(1, num + 1):
        first = np.arange(stop)
        tokens = (stop - first) * (widths[first] - 1)
        allowed = (tokens <= TOKENS_PER_PASS) | (first == stop - 1)
        costs = np.where(allowed, cheapest[first] + tokens + _PASS_TOKENS, np.inf)
        begins[stop] = np.argmin(costs)
        cheapest[stop] = costs[begins[stop]]
    together = num * np.append(widths, 1.0)
    together[:-1][(together[:-1] > TOKENS_PER_PASS) & (widths > 1)] = np.inf
    stop = int(np.argmin(cheapest + together))
    groups: list[list[int]] = []
    while stop:
        groups.insert(0, order[begins[stop] : stop])
        stop = int(begins[stop])
    return groups
