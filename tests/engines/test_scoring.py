"""Scoring: requests that share a beginning give the numbers that they would give alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from batches import SIZES
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from envecho.engines.local import LocalEngine
from envecho.engines.micro_batches import plan_rows
from envecho.engines.scoring import plan_trees
from envecho.errors import EngineError
from envecho.seam import ScoreRequest


def request(ids: list[int], first_read: int) -> ScoreRequest:
    """Score every token from `first_read` on."""
    return ScoreRequest(token_ids=np.array(ids, dtype=np.int32), read=np.arange(len(ids)) >= first_read)


def family(seed: int = 0) -> list[ScoreRequest]:
    """One history of 24 tokens with several last turns, a deeper history, a stranger, and an empty request."""
    draw = np.random.default_rng(seed)
    history = draw.integers(1, 61, 24).tolist()
    longer = history + draw.integers(1, 61, 8).tolist()
    requests = [request(history + draw.integers(1, 61, length).tolist(), 24) for length in (3, 7, 5)]
    requests += [request(longer + draw.integers(1, 61, 4).tolist(), 10), request(longer, 30)]
    requests += [request(draw.integers(1, 61, 15).tolist(), 1)]
    silent = ScoreRequest(token_ids=np.array(history, dtype=np.int32), read=np.zeros(24, dtype=np.bool_))
    return [*requests, silent]


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen3"])
@pytest.mark.parametrize("max_tokens", [40, 200])
def test_shared_prefixes_give_the_log_probs_of_plain_scoring(
    architecture: str, max_tokens: int, request: pytest.FixtureRequest
):
    """Catches a suffix that sees its sibling, or stands at the wrong position behind the shared history."""
    folder = request.getfixturevalue(architecture)
    engine = LocalEngine(folder, device="cpu", compute_dtype="float32", tokens_per_micro_batch=max_tokens, trains=False)
    assert engine.shares_prefixes
    shared = engine.logprobs(family())
    engine.shares_prefixes = False
    plain = engine.logprobs(family())
    for one, other, asked in zip(shared, plain, family(), strict=True):
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)
        np.testing.assert_array_equal(np.isnan(one.logprobs), ~asked.read)
        np.testing.assert_array_equal(one.top1, other.top1)


def test_scores_equal_those_of_full_logits_one_request_at_a_time(tiny_qwen3: Path):
    """Catches the same mistake in shared and plain scoring: both are compared with transformers itself."""
    engine = LocalEngine(tiny_qwen3, device="cpu", compute_dtype="float32", trains=False)
    assert_scores_are_those_of_transformers(tiny_qwen3, engine)


def assert_scores_are_those_of_transformers(folder: Path, engine: LocalEngine) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder)
    for asked, scores in zip(family(), engine.logprobs(family()), strict=True):
        ids = torch.from_numpy(asked.token_ids.astype(np.int64))
        with torch.no_grad():
            table = torch.log_softmax(model(ids[None]).logits[0], -1)
        for place in np.flatnonzero(asked.read):
            assert scores.logprobs[place] == pytest.approx(float(table[place - 1, ids[place]]), abs=1e-4)
            assert scores.top1[place] == (int(table[place - 1].argmax()) == int(ids[place]))


def other_architecture(name: str) -> PreTrainedModel:
    """Small models of which the first can share rows and the others cannot."""
    torch.manual_seed(3)
    if name == "gpt2":
        return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=2, n_head=2, n_positions=64))
    if name == "bloom":
        return BloomForCausalLM(BloomConfig(vocab_size=61, hidden_size=16, n_layer=2, n_head=2, initializer_range=0.3))
    return MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6))


@pytest.mark.parametrize(("name", "shares"), [("gpt2", True), ("bloom", False), ("mistral", False)])
def test_models_that_cannot_share_rows_are_scored_row_by_row(name: str, shares: bool, tmp_path: Path):
    """Catches silently wrong scores from a model with its own masks or positions: windows, ALiBi, learnt positions."""
    other_architecture(name).save_pretrained(tmp_path)
    engine = LocalEngine(tmp_path, device="cpu", compute_dtype="float32", trains=False)
    assert engine.shares_prefixes == shares
    assert_scores_are_those_of_transformers(tmp_path, engine)


def test_a_shared_history_is_computed_once():
    """Catches a plan that packs requests but computes their common beginning for each."""
    requests = family()
    inputs = [asked.token_ids[:-1] for asked in requests[:5]]
    alone = sum(len(tokens) for tokens in inputs)
    assert sum(len(tree) for tree in plan_trees(inputs, 1000, share=False)) == alone
    (tree,) = plan_trees(inputs, 1000, share=True)
    assert len(tree) == 24 + (2 + 6 + 4) + 8 + 3


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=40), min_size=1, max_size=8), st.integers(20, 90))
def test_every_place_of_a_tree_sees_exactly_the_tokens_before_it(token_lists: list[list[int]], max_tokens: int):
    """Catches a wrong ancestor, depth or mask in any tree, and a request that a plan loses."""
    inputs = [np.array(tokens, dtype=np.int32) for tokens in token_lists]
    trees = plan_trees(inputs, max_tokens, share=True)
    assert sorted(member for tree in trees for member in tree.members) == list(range(len(inputs)))
    for tree in trees:
        mask = tree.attention(len(tree) + 2)
        assert mask[-1].sum() == 1
        for member, path in zip(tree.members, tree.paths, strict=True):
            assert [tree.token_ids[place] for place in path] == inputs[member].tolist()
            for depth, place in enumerate(path):
                assert tree.depths[place] == depth
                assert sorted(np.flatnonzero(mask[place])) == sorted(path[: depth + 1])
        if not tree.branches:
            assert (mask[: len(tree), : len(tree)] == np.tri(len(tree), dtype=bool)).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=20), st.integers(1, 100))
def test_a_plan_of_rows_holds_each_row_once_within_the_budget(lengths: list[int], max_tokens: int):
    """Catches a row that is lost or computed twice, and a group that overflows memory."""
    groups = plan_rows(lengths, max_tokens)
    assert sorted(row for group in groups for row in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[row] for row in group) <= max_tokens


def test_impossible_requests_are_refused(tiny_llama: Path):
    """Catches a score for token 0, which nothing predicts, and a context that the model does not have."""
    engine = LocalEngine(tiny_llama, device="cpu", trains=False)
    with pytest.raises(EngineError, match="reads token 0"):
        engine.logprobs([request([3, 4, 5], 0)])
    with pytest.raises(EngineError, match="needs 65 tokens of context; the model has 64"):
        engine.logprobs([request([1] * 66, 60)])
