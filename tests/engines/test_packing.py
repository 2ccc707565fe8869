"""Packing: rows that hold several sequences change no gradient, and waste less."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import SIZES, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.engines.micro_batches import PassKeywords, PassOptions, pack_rows, padding_share, split_batch
from envecho.errors import EngineError
from envecho.seam import AdamParams

LENGTHS = [12, 3, 12, 8, 5, 4, 2, 1]


def make(folder: Path, **options) -> LocalEngine:
    return LocalEngine(folder, device="cpu", compute_dtype="float64", **options)


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen3"])
@pytest.mark.parametrize("tokens", [1, 13, 24, 1000])
@pytest.mark.parametrize("options", [{}, {"lora": LoraOptions(rank=2, alpha=4)}, {"gradient_checkpointing": True}])
def test_packing_changes_no_gradient(architecture: str, tokens: int, options: dict, request: pytest.FixtureRequest):
    """Catches a sequence that sees its neighbour in the row, or stands at a position that goes on from it."""
    folder, batch = request.getfixturevalue(architecture), random_batch(LENGTHS, policy=True)
    plain = make(folder, tokens_per_micro_batch=tokens, **options)
    packed = make(folder, tokens_per_micro_batch=tokens, packing=True, **options)
    if "lora" in options:  # away from B = 0, where half of the gradient is zero whatever the code does
        for engine in (plain, packed):
            engine.forward_backward(random_batch([9, 7], seed=3))
            engine.optim_step(AdamParams(learning_rate=1e-2))
    assert any(micro.is_packed for micro in split_batch(batch, tokens, packing=True)) == (tokens > 12)
    outs = [engine.forward_backward(batch) for engine in (plain, packed)]
    assert outs[1].loss == pytest.approx(outs[0].loss, rel=1e-12)
    np.testing.assert_allclose(outs[1].env_logprobs, outs[0].env_logprobs, rtol=1e-6)
    np.testing.assert_allclose(outs[1].policy_logprobs, outs[0].policy_logprobs, rtol=1e-6)
    expected, found = plain.gradients(), packed.gradients()
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        np.testing.assert_allclose(found[name], gradient, rtol=1e-8, atol=1e-13)


def test_a_neighbour_in_the_row_changes_no_bit_of_a_sequence(tiny_llama: Path):
    """Catches attention that leaks by a little: other tokens in the neighbours must leave the log-probs as they are."""
    engine = make(tiny_llama, tokens_per_micro_batch=16, packing=True)
    batch = random_batch([8, 5, 3])
    other = torch.where(batch.sequence_index == 1, batch.token_ids, 60 - batch.token_ids % 50)
    outs = [engine.forward_backward(b).env_logprobs for b in (batch, dataclasses.replace(batch, token_ids=other))]
    of_it = (batch.sequence_index == 1).numpy() & batch.env_targets.numpy()
    np.testing.assert_array_equal(outs[0][of_it], outs[1][of_it])
    assert (outs[0] != outs[1])[batch.env_targets.numpy() & ~of_it].any()


def test_learnt_positions_start_over_with_each_sequence_of_a_row(tmp_path: Path):
    """Catches positions that count on from the neighbour: a rotation hides that, a table of positions does not."""
    torch.manual_seed(2)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"vocab_size": 61, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, **quiet, initializer_range=0.3)).save_pretrained(tmp_path)
    batch, found = random_batch(LENGTHS), []
    for packing in (False, True):
        engine = make(tmp_path, tokens_per_micro_batch=24, packing=packing)
        engine.forward_backward(batch)
        found.append(engine.gradients())
    for name, gradient in found[0].items():
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-8, atol=1e-13)


def test_a_model_that_cannot_be_packed_exactly_is_refused(tmp_path: Path):
    """Catches silently wrong gradients from a sliding window that counts columns."""
    torch.manual_seed(3)
    MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).save_pretrained(tmp_path)
    with pytest.raises(EngineError, match="MistralForCausalLM cannot keep the sequences of a packed row apart"):
        make(tmp_path, packing=True)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=25), st.integers(1, 100))
def test_packed_rows_hold_each_sequence_once_within_the_budget(lengths: list[int], max_tokens: int):
    """Catches a sequence that is lost or computed twice, a row that overflows, and packing that wastes more."""
    groups = pack_rows(lengths, max_tokens)
    assert sorted(i for rows in groups for row in rows for i in row) == list(range(len(lengths)))
    for rows in groups:
        widths = [sum(lengths[i] for i in row) for row in rows]
        assert len(rows) == 1 or len(rows) * max(widths) <= max_tokens
        assert max(widths) <= max(max_tokens, *(lengths[i] for row in rows for i in row))
    # These are short: attention costs next to nothing, so the plan with less padding is always the cheaper one.
    assert padding_share(lengths, max_tokens, packing=True) <= padding_share(lengths, max_tokens) + 0.01


def test_what_does_not_pay_is_not_packed():
    """Catches a wide mask to save a little padding: two of these do not fit in the length of the longest."""
    assert all(len(row) == 1 for rows in pack_rows([530, 500, 480, 450, 420], 8192) for row in rows)
    assert [[len(row) for row in rows] for rows in pack_rows([600] + [60] * 10, 8192)] == [[1, 10]]


def test_the_padding_share_counts_what_is_computed_for_nothing():
    """Catches a share of rows, or of the budget, instead of computed tokens."""
    assert padding_share([10, 5, 5], 40) == pytest.approx(1 - 20 / 30)
    assert padding_share([10, 5, 5], 40, packing=True) == 0
    assert padding_share([600, 290, 300], 1200, packing=True) == pytest.approx(1 - 1190 / 1200)
    assert padding_share([], 40) == 0


def test_the_keywords_of_an_engine_are_the_fields_of_its_options():
    """Catches an option that can be set in one place alone, and a misspelt one that is taken silently."""
    assert set(PassKeywords.__annotations__) == {field.name for field in PassOptions.__dataclass_fields__.values()}
    with pytest.raises(TypeError, match="token_per_micro_batch"):
        LocalEngine("nowhere", token_per_micro_batch=3)  # type: ignore[call-arg]
    with pytest.raises(EngineError, match="tokens_per_micro_batch is 0, expected at least 1"):
        LocalEngine("nowhere", tokens_per_micro_batch=0)
