"""Figures from sums: where a lower cross-entropy comes from, and two finished evaluations side by side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pool_builders import LastTokenPredictor, OraclePredictor, answer, episode, small_pool

from envecho.errors import DataError
from envecho.evaluation import (
    attribute,
    compare_sums,
    evaluate_stream,
    pool_facts,
    score_pool,
    sum_tokens,
    summarize_sums,
    tokenize_pool,
)
from envecho.evaluation.results import TOKEN_CLASSES
from envecho.evaluation.sums import ALL, BOILERPLATE, PoolSums


@pytest.fixture(scope="module")
def base(tokenizer, pool) -> PoolSums:
    return evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), pool, tokenizer)


@pytest.fixture(scope="module")
def trained(tokenizer, pool) -> PoolSums:
    return evaluate_stream(OraclePredictor(tokenizer, pool), pool, tokenizer)


def cheaper(sums: PoolSums, name: tuple[str, str], nats: float) -> PoolSums:
    """The same sums with fewer nats per token of one slice."""
    here = sums.slice_index == sums.slices.index(name)
    return replace(sums, nats=sums.nats - nats * sums.num_tokens * here)


def test_the_parts_of_an_attribution_add_up_to_what_is_saved(base, trained):
    """Catches a class that is over its own tokens alone, and tokens that lie in two classes or in none."""
    found = attribute("boxes", trained, base)
    assert found.saved.value > 1
    assert sum(part.saved.value for part in found.parts.values()) == pytest.approx(found.saved.value, rel=1e-12)
    assert sum(part.tokens for part in found.parts.values()) == pytest.approx(1, rel=1e-12)
    assert sum(part.share for part in found.parts.values()) == pytest.approx(1, rel=1e-12)
    assert sum(part.saved.num_tokens for part in found.parts.values()) == found.saved.num_tokens
    assert set(found.parts) <= {BOILERPLATE, *TOKEN_CLASSES}
    nats = [sum(sums.totals(ALL, key).nats.sum() for key in (ALL, BOILERPLATE)) for sums in (base, trained)]
    assert found.saved.value == pytest.approx((nats[0] - nats[1]) / found.saved.num_tokens)


@pytest.mark.parametrize("name", [(ALL, BOILERPLATE), ("token_class", "copied"), ("token_class", "novel")])
def test_who_learnt_one_thing_alone_has_all_of_it_there(base, name: tuple[str, str]):
    """Catches parts under each other's names: a model that learnt the harness's phrases must show just that."""
    found = attribute("boxes", cheaper(base, name, 0.5), base)
    here = name[1]
    assert found.parts[here].share == pytest.approx(1)
    assert found.parts[here].saved.value == pytest.approx(0.5 * found.parts[here].tokens)
    assert all(part.saved.value == 0 for key, part in found.parts.items() if key != here)


def test_nothing_saved_has_no_shares(base):
    """Catches a division by nothing: a share of 0 nats is unknown."""
    found = attribute("boxes", base, base)
    assert found.saved.value == 0
    assert {part.share for part in found.parts.values()} == {None}


def test_parts_that_cancel_have_nats_and_no_shares(base):
    """Catches "-3421 % boilerplate": what was gained here and lost there, told as shares of what is left."""
    copied, novel = ("token_class", "copied"), ("token_class", "novel")
    counts = [base.totals(*name).num_tokens.sum() for name in (copied, novel)]
    ours = cheaper(cheaper(base, copied, 0.5), novel, -0.4 * counts[0] / counts[1])
    found = attribute("boxes", ours, base)
    assert found.saved.value > 0
    assert found.parts["novel"].saved.value < 0
    assert {part.share for part in found.parts.values()} == {None}
    kept = attribute("boxes", cheaper(cheaper(base, copied, 0.5), novel, -0.1 * counts[0] / counts[1]), base)
    assert kept.parts["novel"].share == pytest.approx(-0.25)


def test_sums_without_token_classes_are_not_attributed(tokenizer, pool):
    """Catches an attribution that quietly leaves tokens out."""
    tokens = score_pool(LastTokenPredictor(len(tokenizer.hf)), tokenize_pool(pool, tokenizer))
    bare = sum_tokens(tokens, pool)
    with pytest.raises(DataError, match=f"found {len(tokens)} without one"):
        attribute("boxes", bare, bare)


def test_a_comparison_is_paired_over_tasks(base, trained):
    """Catches an interval of two independent draws: a constant difference between two models is known exactly."""
    by_name = {c.tokens: c for c in compare_sums("boxes", trained, base)}
    ours, theirs = (summarize_sums(sums) for sums in (trained, base))
    assert by_name["all"].difference.value == pytest.approx(ours.ce_per_token.value - theirs.ce_per_token.value)
    assert by_name["all"].ratio.value == pytest.approx(ours.ce_per_token.value / theirs.ce_per_token.value)
    assert by_name["derivable"].difference.value == pytest.approx(ours.ce_derivable.value - theirs.ce_derivable.value)
    assert by_name["all"].difference.num_tokens == ours.num_tokens
    constant = {c.tokens: c for c in compare_sums("boxes", cheaper(base, (ALL, ALL), 0.25), base)}["all"].difference
    assert (constant.value, constant.low, constant.high) == (pytest.approx(-0.25),) * 3


def test_sums_of_other_trajectories_or_other_tokens_are_not_compared(tokenizer, pool, base):
    """Catches two evaluations of different pools, or of two tokenizers, set side by side as if nothing were."""
    predictor = LastTokenPredictor(len(tokenizer.hf))
    with pytest.raises(DataError, match="found 3 and 4 trajectories with 3 ids in common"):
        compare_sums("boxes", evaluate_stream(predictor, pool[:3], tokenizer), base)
    longer = pool[0].messages[3].model_copy(update={"segments": answer("another text\n").segments})
    other = pool[0].with_messages((*pool[0].messages[:3], longer, *pool[0].messages[4:]))
    with pytest.raises(DataError, match="found other tokens in 1 trajectories: box-0 has"):
        compare_sums("boxes", evaluate_stream(predictor, [other, *pool[1:]], tokenizer), base)
    with pytest.raises(DataError, match="found other tokens in 1 trajectories: box-0 has"):
        attribute("boxes", evaluate_stream(predictor, [other, *pool[1:]], tokenizer), base)


def test_slices_of_every_dimension_hold_each_of_its_tokens_once(base):
    """Catches shares that do not add up, and a slice whose mean is over other tokens than its share."""
    result = summarize_sums(base)
    assert {"token_class", "boilerplate", "source", "turn", "command", "view"} <= set(result.slices)
    for dimension, found in result.slices.items():
        assert sum(part.share for part in found.values()) == pytest.approx(1), dimension
    classes = result.slices["token_class"].values()
    mean = sum(part.ce.value * part.ce.num_tokens for part in classes) / result.num_tokens
    assert mean == pytest.approx(result.ce_per_token.value)
    (phrases,) = result.slices["boilerplate"].values()
    assert phrases.ce == result.ce_boilerplate


def test_rare_keys_are_shown_together_and_kept_apart_in_the_sums(tokenizer):
    """Catches a table of a hundred programs that were called once, and tokens lost when they are folded."""
    turns = [(f"prog{n} x", answer("done\n" * (n + 1))) for n in range(40)]
    sums = evaluate_stream(LastTokenPredictor(len(tokenizer.hf)), [episode("many", turns)], tokenizer)
    assert len(sums.keys("command")) == 40
    found = summarize_sums(sums).slices["command"]
    assert len(found) == 31
    assert list(found)[-1] == "other"
    assert sum(part.ce.num_tokens for part in found.values()) == sums.totals(ALL, ALL).num_tokens.sum()


def test_what_a_pool_is_is_counted_once(base, tokenizer):
    """Catches tokens of both roles under one name."""
    facts = pool_facts("boxes.parquet", base)
    sequences = tokenize_pool(small_pool(), tokenizer)
    assert (facts.num_trajectories, facts.num_tasks) == (4, 4)
    assert facts.num_env_tokens == sum(int((s.obs_mask & s.owned_mask()).sum()) for s in sequences)
    assert facts.num_boilerplate_tokens == sum(int((s.warning_mask & s.owned_mask()).sum()) for s in sequences)
    assert np.isfinite(base.nats).all()
