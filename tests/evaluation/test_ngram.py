"""The adaptive n-gram beside a slow one with dictionaries, and what a copy baseline must be able to do."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import DataError
from envecho.evaluation.ngram import ORDER, Adaptation, EpisodeNgram, count_ngrams, fit_adaptation
from envecho.evaluation.pool import tokenize_pool
from envecho.evaluation.scores import read_mask

VOCAB = 5
SEQUENCES = st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=20), min_size=1, max_size=4)
EPISODE = st.lists(st.integers(0, VOCAB - 1), min_size=2, max_size=15)
ADAPTATION = Adaptation(weights=np.array([0.5, 1, 2, 3, 4, 8.0]), discounts=np.array([0.1, 0.3, 0.5, 0.5, 0.7, 0.9]))


def slow_counts(sequences: list[list[int]]) -> list[Counter[tuple[int, ...]]]:
    """Counts by length: raw for six tokens; below that, how many different tokens (or a start) stand before."""
    raw = [Counter(tuple(s[i : i + k]) for s in sequences for i in range(len(s) - k + 1)) for k in range(1, ORDER + 2)]
    counts: list[Counter[tuple[int, ...]]] = []
    for k in range(1, ORDER + 1):
        if k == ORDER:
            counts.append(raw[k - 1])
            continue
        before: dict[tuple[int, ...], set[object]] = defaultdict(set)
        for gram in raw[k]:
            before[gram[1:]].add(gram[0])
        for sequence in sequences:
            if len(sequence) >= k:
                before[tuple(sequence[:k])].add("start")
        counts.append(Counter({gram: len(before[gram]) for gram in raw[k - 1]}))
    return counts


def slow_discounts(counts: Counter[tuple[int, ...]]) -> dict[int, float]:
    """Chen and Goodman's closed form, within the bounds that keep a distribution."""
    n = Counter(counts.values())
    y = n[1] / (n[1] + 2 * n[2]) if n[1] else 0.5
    found = {c: c - (c + 1) * y * n[c + 1] / n[c] if n[c] else c * y for c in (1, 2, 3)}
    return {c: min(max(value, 0.05), c - 0.05) for c, value in found.items()}


def slow_probability(sequences: list[list[int]], history: list[int], token: int, adaptation: Adaptation) -> float:
    """The module's formula, from p_{-1} up, one context at a time."""
    p = 1 / VOCAB
    for k in range(ORDER):
        if k > len(history):
            break
        context = tuple(history[len(history) - k :])
        counts, b, d = slow_counts(sequences)[k], adaptation.weights[k], adaptation.discounts[k]
        discounts = slow_discounts(counts)
        trained = {gram[-1]: count for gram, count in counts.items() if gram[:-1] == context}
        episode = Counter(history[j] for j in range(k, len(history)) if tuple(history[j - k : j]) == context)
        total = sum(trained.values()) + b * sum(episode.values())
        if not total:
            continue
        taken = {t: discounts[min(count, 3)] for t, count in trained.items()}
        mass = trained.get(token, 0) - taken.get(token, 0) + b * max(episode[token] - d, 0)
        p = (mass + (sum(taken.values()) + b * d * len(episode)) * p) / total
    return p


def distributions(ngram: EpisodeNgram, ids: list[int]) -> np.ndarray:
    """The distributions `[position, vocab]` at every position but the first."""
    read = np.arange(len(ids)) > 0
    return np.stack([dense for _, dense in ngram.walk(np.array(ids), read)])


@given(SEQUENCES, EPISODE)
@settings(max_examples=40, deadline=None)
def test_it_equals_a_slow_kneser_ney_with_dictionaries(sequences: list[list[int]], ids: list[int]):
    """Catches wrong continuation counts, discounts, backoff masses, and n-grams that reach over a sequence's start."""
    ngram = EpisodeNgram(counts=count_ngrams([np.array(s) for s in sequences], VOCAB), adaptation=ADAPTATION)
    found = distributions(ngram, ids)
    for i in range(1, len(ids)):
        expected = [slow_probability(sequences, ids[:i], token, ADAPTATION) for token in range(VOCAB)]
        np.testing.assert_allclose(found[i - 1], expected, rtol=1e-9)
        assert sum(found[i - 1]) == pytest.approx(1)


@given(SEQUENCES, EPISODE)
@settings(max_examples=25, deadline=None)
def test_fitting_and_predicting_use_one_formula(sequences: list[list[int]], ids: list[int]):
    """Catches a fit that tunes another formula than the one that is evaluated."""
    from envecho.evaluation.ngram import _collect  # pyright: ignore[reportPrivateUsage]

    counts, read = count_ngrams([np.array(s) for s in sequences], VOCAB), np.arange(len(ids)) > 0
    found = distributions(EpisodeNgram(counts=counts, adaptation=ADAPTATION), ids)
    expected = _collect(counts, np.array(ids), read).logprobs(ADAPTATION, VOCAB)
    np.testing.assert_allclose(np.log(found[np.arange(len(ids) - 1), ids[1:]]), expected, rtol=1e-9)


@given(SEQUENCES, EPISODE, st.integers(1, 12))
@settings(max_examples=25, deadline=None)
def test_it_never_sees_the_future(sequences: list[list[int]], ids: list[int], cut: int):
    """Catches counts of the whole episode used from its start: a baseline that knows the answer is no baseline."""
    cut = min(cut, len(ids) - 1)
    ngram = EpisodeNgram(counts=count_ngrams([np.array(s) for s in sequences], VOCAB), adaptation=ADAPTATION)
    other = [*ids[:cut], *(VOCAB - 1 - token for token in ids[cut:])]
    np.testing.assert_allclose(distributions(ngram, ids)[:cut], distributions(ngram, other)[:cut], rtol=1e-12)


def test_probabilities_sum_to_one_over_the_real_vocabulary(tokenizer, pool):
    """Catches mass that leaks on a real tokenizer, where most tokens were never seen."""
    *train, held_out = tokenize_pool(pool, tokenizer)
    vocab_size = len(tokenizer.hf)
    ngram = EpisodeNgram(counts=count_ngrams([s.token_ids for s in train], vocab_size), adaptation=ADAPTATION)
    read = read_mask(held_out)
    read[np.flatnonzero(read)[::7]] = False
    sums = [(dense.sum(), dense.min()) for _, dense in ngram.walk(held_out.token_ids, read)]
    assert len(sums) == read.sum() > 20
    np.testing.assert_allclose([total for total, _ in sums], 1, rtol=1e-9)
    assert min(smallest for _, smallest in sums) > 0


def test_a_repeated_line_costs_less_the_second_time(tokenizer):
    """Catches a baseline that does not adapt: it would be beaten by any model that copies, and show nothing."""
    train = np.array(tokenizer.encode_text("INFO ready\nERROR retry 12\nINFO login\n")[0] * 3)
    line, _ = tokenizer.encode_text("WARN quota 7781 exceeded\n")
    ids = np.array([*line, *tokenizer.encode_text("INFO ready\n")[0], *line])
    ngram = EpisodeNgram(counts=count_ngrams([train], len(tokenizer.hf)), adaptation=ADAPTATION)
    nll = [-np.log(dense[ids[m.position]]) for m, dense in ngram.walk(ids, np.arange(len(ids)) > 0)]
    first, second = nll[: len(line) - 1], nll[len(ids) - len(line) :]
    assert np.mean(second[1:]) < 0.25 * np.mean(first)


def test_training_makes_it_better_than_uniform(tokenizer, pool):
    """Catches counts that are looked up under the wrong context: then training text would not help."""
    *train, held_out = tokenize_pool(pool, tokenizer)
    vocab_size = len(tokenizer.hf)
    never = Adaptation(weights=np.full(ORDER, 1e-9), discounts=np.full(ORDER, 0.5))
    ngram = EpisodeNgram(counts=count_ngrams([s.token_ids for s in train], vocab_size), adaptation=never)
    ids = held_out.token_ids
    nll = [-np.log(dense[ids[m.position]]) for m, dense in ngram.walk(ids, read_mask(held_out))]
    assert np.mean(nll) < 0.5 * np.log(vocab_size)


def test_fitted_weights_are_at_least_as_good_as_any_of_a_grid(tokenizer, pool):
    """Catches a search that stops early: an untuned baseline would be a strawman."""
    first, *tuned = tokenize_pool(pool, tokenizer)
    counts = count_ngrams([first.token_ids], len(tokenizer.hf))
    ids, reads = [s.token_ids for s in tuned], [read_mask(s) for s in tuned]

    def cost(adaptation: Adaptation) -> float:
        ngram = EpisodeNgram(counts=counts, adaptation=adaptation)
        walks = zip(ids, reads, strict=True)
        return float(np.mean([-np.log(p[i[m.position]]) for i, read in walks for m, p in ngram.walk(i, read)]))

    fitted = cost(fit_adaptation(counts, ids, reads))
    for weight in (0.3, 3.0, 30.0):
        assert fitted <= cost(Adaptation(weights=np.full(ORDER, weight), discounts=np.full(ORDER, 0.5))) + 1e-6


def test_tokens_beyond_the_vocabulary_are_refused():
    """Catches n-gram keys that run into each other because a token id is larger than the vocabulary."""
    with pytest.raises(DataError, match="below the vocabulary's 5"):
        count_ngrams([np.array([1, 5])], 5)
    with pytest.raises(DataError, match="found 0 tokens"):
        count_ngrams([], 5)
