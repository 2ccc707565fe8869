"""An order-6 n-gram that knows the training tokens and adapts to the episode: the first copy baseline.

Training counts are smoothed by interpolated modified Kneser-Ney (Chen and Goodman 1999): absolute discounts per count
class, continuation counts below the highest order. The episode's own counts, of every token so far including commands,
join them at each order, so that for a context h of k tokens

    p_k(w | h) = ( a(h, w) + b_k max(c(h, w) - d_k, 0) + (g(h) + b_k d_k t(h)) p_{k-1}(w) ) / ( n(h) + b_k m(h) )

with a, g, n the discounted counts, the discounted mass and the total of training; c, t, m the count, the distinct
followers and the total of the episode; p_{-1} uniform over the vocabulary; p_k = p_{k-1} where h was never seen. The
weights b_k and discounts d_k are fitted on episodes that the counts do not hold (`fit_adaptation`). Not here: copying
beyond six tokens (`ppm`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation.matches import EpisodeMatches

ORDER = 6
"""Longest n-gram: a context of five tokens and the token that follows."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Level:
    """The k-grams of one length, sorted by (parent, last token); a parent is the (k-1)-gram without the last token.

    `keys` = parent * vocab_size + token and `values` (discounted counts) are `[gram]`; `starts` `[parent + 1]` bounds
    each parent's grams; `totals` and `reserved` (what the discounts took) are `[parent]`.
    """

    keys: Ints
    values: Floats
    starts: Ints
    totals: Floats
    reserved: Floats

    def find(self, keys: Ints) -> Ints:
        """Return the place of each key, -1 where it is not there (or negative)."""
        places = np.searchsorted(self.keys, keys)
        # One more key behind the last, so that no place is out of bounds.
        return np.where(np.append(self.keys, -2)[places] == keys, places, -1)


@dataclass(frozen=True, kw_only=True)
class NgramCounts:
    """Kneser-Ney counts of the training tokens, by length of the n-gram."""

    vocab_size: int
    levels: tuple[_Level, ...]

    def contexts(self, token_ids: NDArray[np.integer[Any]]) -> Ints:
        """Return, `[k, token]`, the place of the k tokens before each token among the k-grams; -1 where unseen."""
        ids = np.asarray(token_ids, dtype=np.int64)
        found = np.full((len(self.levels), len(ids)), -1, dtype=np.int64)
        found[0] = 0
        for k in range(1, len(self.levels)):
            parents = found[k - 1, :-1]
            keys = np.where(parents >= 0, parents * self.vocab_size + ids[:-1], -1)
            found[k, 1:] = self.levels[k - 1].find(keys)
        return found


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """How much an episode's own counts weigh, `[k]` per context length: `weights` b_k > 0, `discounts` 0 < d_k < 1."""

    weights: Floats
    discounts: Floats


def count_ngrams(sequences: Sequence[NDArray[np.integer[Any]]], vocab_size: int) -> NgramCounts:
    """Count the n-grams of training sequences `[token]`; none reaches over the start of its sequence.

    Raises:
        DataError: there is no token, or one that is not below `vocab_size`.
    """
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *[np.asarray(s, dtype=np.int64) for s in sequences]])
    if not len(ids) or ids.max() >= vocab_size or ids.min() < 0:
        found = f"{len(ids)} tokens" + (f" with ids from {ids.min()} to {ids.max()}" if len(ids) else "")
        raise DataError(f"expected training tokens with ids below the vocabulary's {vocab_size}, found {found}")
    depth = np.concatenate([np.arange(len(s)) for s in sequences])
    parents = np.zeros(len(ids), dtype=np.int64)
    keys: list[Ints] = []
    counts: list[Ints] = []
    shorter: Ints | None = None
    for k in range(1, ORDER + 1):
        valid = np.flatnonzero(depth >= k - 1)
        unique, first, inverse, count = np.unique(
            parents[valid] * vocab_size + ids[valid], return_index=True, return_inverse=True, return_counts=True
        )
        if shorter is not None:
            # Below the highest order a gram counts once per token that stands before it (a sequence start is one more).
            before = np.bincount(shorter[valid[first]], minlength=len(keys[-1]))
            before[np.unique(shorter[depth == k - 2])] += 1
            counts[-1] = before
        grams = np.full(len(ids), -1, dtype=np.int64)
        grams[valid] = inverse
        keys.append(unique)
        counts.append(count)
        shorter = grams
        parents = np.concatenate([[-1], grams[:-1]])
    widths = [1, *(len(level) for level in keys)]
    levels = [_level(keys[k], counts[k], widths[k], vocab_size) for k in range(ORDER)]
    return NgramCounts(vocab_size=vocab_size, levels=tuple(levels))


def _level(keys: Ints, counts: Ints, num_parents: int, vocab_size: int) -> _Level:
    parents = keys // vocab_size
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    return _Level(
        keys=keys,
        values=counts - discounts,
        starts=np.searchsorted(parents, np.arange(num_parents + 1)),
        totals=_sums(parents, counts.astype(np.float64), num_parents),
        reserved=_sums(parents, discounts, num_parents),
    )


def _sums(groups: Ints, values: Floats, num_groups: int) -> Floats:
    return np.bincount(groups, weights=values, minlength=num_groups).astype(np.float64)


def _discounts(counts: Ints) -> Floats:
    """Return modified Kneser-Ney's discounts for counts 0 (none), 1, 2, 3 and more, from the counts of counts."""
    n = [int((counts == value).sum()) for value in range(5)]
    y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.5
    closed = [c - (c + 1) * y * n[c + 1] / n[c] if n[c] else c * y for c in (1, 2, 3)]
    # Small corpora can give a discount outside (0, c), which would be no distribution.
    return np.array([0.0, *np.clip(closed, 0.05, [0.95, 1.95, 2.95])])


@dataclass(frozen=True, kw_only=True)
class EpisodeNgram:
    """The n-gram of `counts`, adapting to each episode by `adaptation`."""

    counts: NgramCounts
    adaptation: Adaptation

    def walk(
        self, token_ids: NDArray[np.integer[Any]], read: NDArray[np.bool_]
    ) -> Iterator[tuple[EpisodeMatches, Floats]]:
        """Yield, for each position of `read` `[token]`, the matches so far and the distribution `[vocab]` of its token.

        The distribution knows the tokens before the position alone. It is a fresh array each time.
        """
        counts = self.counts
        contexts = counts.contexts(token_ids)
        totals, reserved = _context_masses(counts, contexts)
        unigram = np.zeros(counts.vocab_size)
        unigram[counts.levels[0].keys] = counts.levels[0].values
        matches = EpisodeMatches(token_ids)
        for position in range(int(np.flatnonzero(read)[-1]) + 1 if read.any() else 0):
            if read[position]:
                episode = matches.counts(ORDER)
                shares, rest = self._shares(totals[:, position], reserved[:, position], episode)
                dense = shares[0] * unigram
                dense += rest / counts.vocab_size
                for k in range(1, ORDER):
                    node = contexts[k, position]
                    if node >= 0 and shares[k]:
                        level = counts.levels[k]
                        grams = slice(level.starts[node], level.starts[node + 1])
                        dense[level.keys[grams] - node * counts.vocab_size] += shares[k] * level.values[grams]
                dense[matches.tokens] += (shares * self.adaptation.weights) @ self._discounted(episode)
                yield matches, dense
            matches.advance()

    def _discounted(self, episode: Ints) -> Floats:
        return np.maximum(episode - self.adaptation.discounts[:, None], 0.0)

    def _shares(self, totals: Floats, reserved: Floats, episode: Ints) -> tuple[Floats, float]:
        """Return what one discounted count is worth at each context length, and the mass left to the uniform."""
        a = self.adaptation
        seen = totals + a.weights * episode.sum(axis=1)
        backoff = reserved + a.weights * a.discounts * (episode > 0).sum(axis=1)
        shares, rest = np.zeros(ORDER), 1.0
        for k in reversed(range(ORDER)):
            if seen[k] > 0:
                shares[k] = rest / seen[k]
                rest *= backoff[k] / seen[k]
        return shares, rest


def _context_masses(counts: NgramCounts, contexts: Ints) -> tuple[Floats, Floats]:
    """Return n(h) and g(h) `[k, token]`, 0 where the context was never seen in training."""
    totals = [_take(level.totals, node) for level, node in zip(counts.levels, contexts, strict=True)]
    reserved = [_take(level.reserved, node) for level, node in zip(counts.levels, contexts, strict=True)]
    return np.stack(totals), np.stack(reserved)


def _take(values: Floats, places: Ints) -> Floats:
    """Return the value at each place, 0 at place -1."""
    return np.append(values, 0.0)[places]


@dataclass(frozen=True, kw_only=True)
class _Features:
    """What the probability of each read token depends on, all `[k, read token]`; names as in the module's formula."""

    a: Floats
    g: Floats
    n: Floats
    c: Floats
    t: Floats
    m: Floats

    def logprobs(self, adaptation: Adaptation, vocab_size: int) -> Floats:
        """Return the log-probs `[read token]` by the recursion from p_{-1} up."""
        p = np.full(self.a.shape[1], 1.0 / vocab_size)
        for k in range(ORDER):
            b, d = adaptation.weights[k], adaptation.discounts[k]
            seen = self.n[k] + b * self.m[k]
            mass = self.a[k] + b * np.maximum(self.c[k] - d, 0.0) + (self.g[k] + b * d * self.t[k]) * p
            p = np.where(seen > 0, mass / np.where(seen > 0, seen, 1.0), p)
        return np.log(p)


def _collect(counts: NgramCounts, token_ids: NDArray[np.integer[Any]], read: NDArray[np.bool_]) -> _Features:
    ids = np.asarray(token_ids, dtype=np.int64)
    contexts = counts.contexts(ids)
    n, g = _context_masses(counts, contexts)
    places = [
        level.find(np.where(node >= 0, node * counts.vocab_size + ids, -1))
        for level, node in zip(counts.levels, contexts, strict=True)
    ]
    a = np.stack([_take(level.values, place) for level, place in zip(counts.levels, places, strict=True)])
    matches = EpisodeMatches(ids)
    rows: list[NDArray[np.int64]] = []
    for position in range(len(ids)):
        if read[position]:
            episode = matches.counts(ORDER)
            here = episode[:, np.searchsorted(matches.tokens, ids[position])]
            rows.append(np.stack([here, (episode > 0).sum(axis=1), episode.sum(axis=1)]))
        matches.advance()
    c, t, m = np.stack(rows, axis=-1).astype(np.float64) if rows else np.zeros((3, ORDER, 0))
    return _Features(a=a[:, read], g=g[:, read], n=n[:, read], c=c, t=t, m=m)


def fit_adaptation(
    counts: NgramCounts, sequences: Sequence[NDArray[np.integer[Any]]], reads: Sequence[NDArray[np.bool_]]
) -> Adaptation:
    """Return the weights and discounts of least cross-entropy on the read tokens of episodes that `counts` do not hold.

    Twelve numbers by L-BFGS from weights 1 and discounts 1/2, within weights e^-6 to e^8.

    Raises:
        DataError: no token is read.
    """
    from scipy.optimize import minimize

    parts = [_collect(counts, ids, read) for ids, read in zip(sequences, reads, strict=True)]
    names = ("a", "g", "n", "c", "t", "m")
    joined = {name: np.concatenate([getattr(part, name) for part in parts], axis=1) for name in names} if parts else {}
    if not parts or not joined["a"].shape[1]:
        raise DataError("expected environment tokens in the episodes that tune the copy baselines, found none")
    features = _Features(**joined)

    def adaptation(x: Floats) -> Adaptation:
        return Adaptation(weights=np.exp(x[:ORDER]), discounts=1.0 / (1.0 + np.exp(-x[ORDER:])))

    found = minimize(
        lambda x: -features.logprobs(adaptation(x), counts.vocab_size).mean(),
        np.zeros(2 * ORDER),
        method="L-BFGS-B",
        bounds=[(-6.0, 8.0)] * ORDER + [(-4.0, 4.0)] * ORDER,
        options={"maxiter": 60},
    )
    return adaptation(found.x)
