"""Near-duplicate texts among millions, by MinHash: signatures of 128 bytes, and which pairs agree enough.

A text is its set of shingles (runs of three words). Position k of two signatures agrees with a probability that is
their Jaccard similarity, so the share of agreeing positions estimates it. Signatures are cut into 16 bands of 4; texts
that share a band are compared. Two signatures that agree in more than 3 of 4 positions differ in fewer than 16 places,
so some band holds none of them: no such pair is missed. Not here: what the text of a trajectory is (`splits`).

(Broder 1997, "On the resemblance and containment of documents". `datasketch` 2.0 does the same at 6 times the time per
text and 9 KB each, ten times what a million texts may take here.)
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

NUM_POSITIONS: Final = 64
NUM_BANDS: Final = 16
SHINGLE_WORDS: Final = 3
LOWEST_THRESHOLD: Final = 1 - NUM_BANDS / NUM_POSITIONS
"""Above this share of agreeing positions, no pair is missed."""

_LARGEST_BUCKET: Final = 4096
_EMPTY: Final = np.uint32(0xFFFFFFFF)
_RNG = np.random.Generator(np.random.PCG64(20_240_607))
_FACTORS = _RNG.integers(1, 2**63, size=NUM_POSITIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _RNG.integers(0, 2**63, size=NUM_POSITIONS, dtype=np.uint64)
_BAND_FACTORS = _RNG.integers(1, 2**63, size=NUM_BANDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def minima(words: list[str]) -> NDArray[np.uint32]:
    """Return the smallest hash per position `[NUM_POSITIONS]` over the shingles of a text.

    Of a union of texts it is the smaller one at each position: `np.minimum`.
    """
    if not words:
        return np.full(NUM_POSITIONS, _EMPTY, dtype=np.uint32)
    hashes = np.fromiter((zlib.crc32(word.encode("utf-8", "replace")) for word in words), np.uint64, len(words))
    num_shingles = max(1, len(words) - SHINGLE_WORDS + 1)
    shingles = np.zeros(num_shingles, dtype=np.uint64)
    for place in range(min(SHINGLE_WORDS, len(words))):
        shingles = (shingles ^ hashes[place : place + num_shingles]) * np.uint64(0x9E3779B97F4A7C15)
        shingles ^= shingles >> np.uint64(29)
    return ((shingles[:, None] * _FACTORS + _OFFSETS) >> np.uint64(32)).min(axis=0).astype(np.uint32)


def signature(smallest: NDArray[np.uint32]) -> NDArray[np.uint16]:
    """Return the signature `[NUM_POSITIONS]` of minima: their low 16 bits; all zero for no text."""
    if smallest[0] == _EMPTY and (smallest == _EMPTY).all():
        return np.zeros(NUM_POSITIONS, dtype=np.uint16)
    return smallest.astype(np.uint16)


def similarity(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> NDArray[np.float64]:
    """Return the share of agreeing positions `[...]` of signatures `[..., NUM_POSITIONS]`."""
    return np.asarray((one == other).mean(axis=-1), dtype=np.float64)


def near_duplicates(signatures: NDArray[np.uint16], threshold: float) -> NDArray[np.int64]:
    """Return pairs `[pair, 2]` of rows that connect every two rows with a similarity of at least the threshold.

    Not every such pair is returned, but each is connected by returned ones. Rows without text have no partner. A bucket
    of over 4,096 different texts is joined without looking at every pair of it.

    Raises:
        ValueError: the threshold is not above `LOWEST_THRESHOLD`, or above 1.
    """
    if not LOWEST_THRESHOLD < threshold <= 1:
        raise ValueError(f"threshold is {threshold}, expected above {LOWEST_THRESHOLD} and at most 1")
    known = np.flatnonzero(signatures.any(axis=1))
    whole = np.zeros(len(known), dtype=np.uint64)
    for band in range(NUM_BANDS):
        whole += _band(signatures, known, band) * _BAND_FACTORS[band]
    order, starts, ends = _runs(whole)
    pairs = [_chain(known[order], starts, ends)]
    first = known[order[starts]]  # one row of each different text
    for band in range(NUM_BANDS):
        order, starts, ends = _runs(_band(signatures, first, band))
        shared = ends - starts > 1
        pairs += _similar(first[order], starts[shared], ends[shared], signatures, threshold)
    return np.concatenate(pairs)


def _band(signatures: NDArray[np.uint16], rows: NDArray[np.int64], band: int) -> NDArray[np.uint64]:
    """The four values of a band as one number `[row]`."""
    return np.ascontiguousarray(signatures[rows, 4 * band : 4 * band + 4]).view(np.uint64)[:, 0]


def _runs(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """An order in which equal keys are neighbours, and where each run of them starts and ends in it."""
    order = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.r_[len(keys) > 0, np.diff(keys[order]) != 0][: len(keys)])
    return order, starts, np.r_[starts[1:], len(keys)][: len(starts)].astype(np.int64)


def _chain(rows: NDArray[np.int64], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """Pairs of neighbours within runs."""
    inside = np.ones(len(rows), dtype=np.bool_)
    inside[ends - 1] = False
    left = np.flatnonzero(inside)
    return np.stack([rows[left], rows[left + 1]], axis=1)


def _similar(
    rows: NDArray[np.int64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
    signatures: NDArray[np.uint16],
    threshold: float,
) -> Iterator[NDArray[np.int64]]:
    """Pairs that connect the similar rows of each bucket `rows[starts[k]:ends[k]]`."""
    twos = ends - starts == 2
    left, right = rows[starts[twos]], rows[starts[twos] + 1]
    agree = similarity(signatures[left], signatures[right]) >= threshold
    yield np.stack([left[agree], right[agree]], axis=1)
    for start, end in zip(starts[~twos], ends[~twos], strict=True):
        bucket = rows[start:end]
        if len(bucket) > _LARGEST_BUCKET:
            yield np.stack([bucket[:-1], bucket[1:]], axis=1)
            continue
        for place in range(len(bucket) - 1):
            agree = similarity(signatures[bucket[place + 1 :]], signatures[bucket[place]]) >= threshold
            others = bucket[place + 1 :][agree]
            if len(others):
                yield np.stack([np.full(len(others), bucket[place]), others], axis=1)
