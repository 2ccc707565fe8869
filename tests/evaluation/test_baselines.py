"""The copy baselines on a pool, beside models: fitted on training data, strong, and never left out."""

from __future__ import annotations

import time

import numpy as np
import pytest
from pool_builders import LastTokenPredictor, OraclePredictor, box_episode, small_pool

from envecho.errors import DataError
from envecho.evaluation import (
    best_baseline,
    compare_predictors,
    evaluate_baselines,
    evaluate_pool,
    fit_baselines,
    score_pool,
    summarize_pool,
    tokenize_pool,
)
from envecho.tokens import TokenizedTrajectory


@pytest.fixture(scope="module")
def train(tokenizer) -> list[TokenizedTrajectory]:
    return tokenize_pool([box_episode(number) for number in range(100, 124)], tokenizer)


@pytest.fixture(scope="module")
def fitted(tokenizer, train):
    return fit_baselines(train, len(tokenizer.hf))


def test_copying_is_far_better_than_chance_and_tells_derivable_from_new(tokenizer, pool, fitted):
    """Catches a strawman (METHOD's trap 28): what was shown before must be cheap for whoever copies."""
    results = evaluate_baselines(fitted, pool, tokenizer)
    for result in (results["ngram"].result, results["ppm"].result):
        assert result.ce_derivable.value < 0.2 * np.log(len(tokenizer.hf))
        assert result.ce_derivable.value < result.ce_first_view.value
        assert result.top1_accuracy.value > 0.5
        assert result.action_swap_gap is None


def test_both_baselines_give_finite_costs_to_text_that_nobody_trained_on(tokenizer, fitted):
    """Catches probability 0 for a token that training never showed."""
    strange = box_episode(7)
    (sequence,) = tokenize_pool([strange], tokenizer)
    for scores in fitted.score(sequence).values():
        read = ~np.isnan(scores.logprobs)
        assert read.tolist() == (sequence.obs_mask & sequence.owned_mask()).tolist()
        assert np.isfinite(scores.logprobs[read]).all()
        assert (scores.logprobs[read] < 0).all()


def test_the_future_of_an_episode_changes_no_score_before_it(tokenizer, fitted):
    """Catches a baseline that was shown the whole episode: METHOD's trap 25 in small."""
    whole = box_episode(3)
    cut = whole.model_copy(update={"messages": whole.messages[:8]})
    scores = []
    for trajectory in (whole, cut):
        (sequence,) = tokenize_pool([trajectory], tokenizer)
        scores.append({name: s.logprobs for name, s in fitted.score(sequence).items()})
    for name in ("ngram", "ppm"):
        np.testing.assert_allclose(scores[0][name][: len(scores[1][name])], scores[1][name], rtol=1e-6)


def test_tuning_uses_no_episode_whose_tokens_were_counted(tokenizer, train):
    """Catches weights tuned on episodes that the counts hold: training text would be trusted far too much."""
    from envecho.evaluation import baselines

    counted, tuned = baselines._split(train, 0)  # pyright: ignore[reportPrivateUsage]
    assert {s.task_id for s in counted} & {s.task_id for s in tuned} == set()
    assert len(counted) + len(tuned) == len(train)
    assert len(tuned) == pytest.approx(0.25 * len(train), abs=1)
    with pytest.raises(DataError, match="at least two training trajectories"):
        fit_baselines(train[:1], len(tokenizer.hf))


def test_a_validation_pool_can_tune(tokenizer, train, fitted):
    """Catches tuning sequences that are ignored, or that are added to the counts."""
    tuning = tokenize_pool([box_episode(number) for number in range(200, 206)], tokenizer)
    other = fit_baselines(train, len(tokenizer.hf), tuning_sequences=tuning)
    assert not np.allclose(other.ngram.adaptation.weights, fitted.ngram.adaptation.weights)
    for ours, theirs in zip(other.ngram.counts.levels, fitted.ngram.counts.levels, strict=True):
        np.testing.assert_array_equal(ours.keys, theirs.keys)


def test_every_predictor_stands_beside_the_baselines_on_the_same_tokens(tokenizer, pool, fitted):
    """Catches an evaluation without a control (METHOD's trap 28): each comparison is paired, on the same tokens."""
    results = {
        "base": evaluate_pool(LastTokenPredictor(len(tokenizer.hf)), pool, tokenizer, num_swaps=0),
        "trained": evaluate_pool(OraclePredictor(tokenizer, pool), pool, tokenizer, num_swaps=0),
        **evaluate_baselines(fitted, pool, tokenizer),
    }
    comparisons = compare_predictors("new_boxes", results)
    assert {(c.reference, c.tokens) for c in comparisons} == {
        (name, tokens) for name in ("base", "ngram", "ppm") for tokens in ("derivable", "all")
    }
    (against_base,) = (c for c in comparisons if (c.reference, c.tokens) == ("base", "derivable"))
    trained, base = (results[name].result.ce_derivable.value for name in ("trained", "base"))
    assert against_base.predictor == "trained"
    assert against_base.difference.value == pytest.approx(trained - base)
    assert against_base.ratio.value == pytest.approx(trained / base)
    assert against_base.ratio.high < 0.25
    best = best_baseline({name: found.result for name, found in results.items()})
    assert results[best].result.ce_derivable.value == min(
        results[name].result.ce_derivable.value for name in ("ngram", "ppm")
    )


def test_a_comparison_over_other_tokens_is_refused(tokenizer, pool):
    """Catches base and trained model that were measured on different pools."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    results = {"base": evaluate_pool(predictor, pool, tokenizer, num_swaps=0)}
    results["trained"] = evaluate_pool(predictor, pool[:3], tokenizer, num_swaps=0)
    with pytest.raises(DataError, match="same tokens"):
        compare_predictors("new_boxes", results)


def test_nothing_is_chosen_on_the_pool_trap_25(tokenizer, fitted):
    """Catches figures of one pool that move with another: a baseline or a model fitted on what it is tested on."""
    alone = evaluate_baselines(fitted, small_pool(2), tokenizer)
    again = evaluate_baselines(fitted, small_pool(4), tokenizer)
    for name in ("ngram", "ppm"):
        shared = np.isin(again[name].tokens.trajectory_index, (0, 1))
        np.testing.assert_array_equal(alone[name].tokens.nll, again[name].tokens.nll[shared])


def test_a_summary_without_swaps_says_so(tokenizer, pool):
    """Catches a gap of 0 where none was measured: unknown is None."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    sequences = tokenize_pool(pool, tokenizer)
    result = summarize_pool(score_pool(predictor, sequences), sequences, pool).result
    assert result.action_swap_gap is None
    assert result.swap_counts is None


def test_fitting_and_scoring_stay_within_the_demo_s_seconds(tokenizer):
    """Catches a baseline that costs minutes: 10,000 tokens fitted and 3,000 scored within seconds of one core."""
    train = tokenize_pool([box_episode(number, num_lines=16) for number in range(40)], tokenizer)
    pool = [box_episode(number, num_lines=16) for number in range(300, 310)]
    start = time.process_time()
    fitted = fit_baselines(train, len(tokenizer.hf))
    found = evaluate_baselines(fitted, pool, tokenizer)
    assert sum(map(len, train)) > 10_000
    assert sum(map(len, found["ngram"].sequences)) > 3_000
    assert time.process_time() - start < 8
