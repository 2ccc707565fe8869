"""Attention over flat rows against attention with a dense mask, and flat rows of forests against their sequences."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from batches import SIZES, random_batch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from envecho.engines.attention import Segment, segment_attention
from envecho.engines.local import LocalEngine
from envecho.engines.micro_batches import split_flat
from envecho.engines.token_forest import plan_forests
from envecho.losses import WeightedBatch

SHARED = list(range(1, 21))


def dense_mask(segments: list[Segment], size: int) -> torch.Tensor:
    mask = torch.zeros(size, size, dtype=torch.bool)
    for segment in segments:
        own = slice(segment.start, segment.stop)
        mask[own, own] = torch.ones(segment.stop - segment.start, segment.stop - segment.start).tril().bool()
        for start, stop in segment.before:
            mask[own, start:stop] = True
    return mask


def random_segments(draw: np.random.Generator, sizes: list[int]) -> list[Segment]:
    """Each segment starts alone, after the one before it, or behind a part of an earlier chain."""
    segments: list[Segment] = []
    place = 0
    for size in sizes:
        before: tuple[tuple[int, int], ...] = ()
        if segments and draw.random() < 0.7:
            parent = segments[draw.integers(len(segments))]
            cut = int(draw.integers(parent.start + 1, parent.stop + 1))
            before = (*parent.before, (parent.start, cut))
        segments.append(Segment(start=place, stop=place + size, before=before))
        place += size
    return segments


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=5), st.sampled_from([(4, 4), (6, 2), (3, 1)]), st.integers(0, 9)
)
def test_values_and_gradients_are_those_of_a_dense_mask(sizes: list[int], heads: tuple[int, int], seed: int):
    """Catches a key too many or too few at a block's edge, heads that are mixed up, and a lost gradient of a prefix."""
    draw = np.random.default_rng(seed)
    segments, size = random_segments(draw, sizes), sum(sizes)
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn(num, size, 8, generator=generator, dtype=torch.float64).requires_grad_()
        for num in (heads[0], heads[1], heads[1])
    )
    upstream = torch.randn(size, heads[0], 8, generator=generator, dtype=torch.float64)
    found = segment_attention(query, key, value, segments, scale=0.3)
    keys, values = (t.repeat_interleave(heads[0] // heads[1], dim=0) for t in (key, value))
    scores = (query @ keys.transpose(1, 2) * 0.3).masked_fill(~dense_mask(segments, size), -torch.inf)
    expected = (torch.softmax(scores, -1) @ values).transpose(0, 1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
    gradients = [torch.autograd.grad(out, (query, key, value), upstream) for out in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


def test_bfloat16_is_no_farther_from_float64_than_the_kernel_of_torch():
    """Catches scores that are rounded to bfloat16 before the softmax, and sums over blocks that are."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(6, 700, 64, generator=generator, dtype=torch.float64) * 2 for _ in range(3)]
    upstream = torch.randn(700, 6, 64, generator=generator, dtype=torch.float64)

    def plain(query, key, value):
        return torch.nn.functional.scaled_dot_product_attention(query[None], key[None], value[None], is_causal=True)[
            0
        ].transpose(0, 1)

    def own(query, key, value):
        return segment_attention(query, key, value, [Segment(start=0, stop=700)], scale=64**-0.5)

    def values_of(attention, dtype):
        leaves = [t.to(dtype).requires_grad_() for t in exact]
        out = attention(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, upstream.to(dtype))]

    truth = values_of(plain, torch.float64)
    ours, theirs = values_of(own, torch.bfloat16), values_of(plain, torch.bfloat16)
    for name, expected, one, other in zip(("out", "query", "key", "value"), truth, ours, theirs, strict=True):
        errors = [float((found.double() - expected).norm() / expected.norm()) for found in (one, other)]
        assert errors[0] < 1.5 * errors[1], f"{name}: {errors}"


class LargestTensor(TorchDispatchMode):
    """The largest number of elements that any operation gave."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.numel = max([self.numel, *(leaf.numel() for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor))])
        return out


def test_memory_grows_with_the_length_and_not_with_its_square():
    """Catches scores of all queries at once: at 4,096 tokens they would be 32 times as large as anything here."""
    query, key, value = (torch.randn(2, 4096, 4).requires_grad_() for _ in range(3))
    with LargestTensor() as largest:
        segment_attention(query, key, value, [Segment(start=0, stop=4096)], scale=0.5).sum().backward()
    assert largest.numel <= 2 * 128 * 4096


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), max_size=12), min_size=1, max_size=8), st.integers(1, 120), st.booleans())
def test_every_place_of_a_forest_sees_exactly_the_tokens_before_it(tails: list[list[int]], budget: int, share: bool):
    """Catches a wrong ancestor, position or range, and a sequence that a plan loses or computes twice."""
    sequences = [np.array(SHARED[: 20 * (i % 3 > 0)] + tail, dtype=np.int32) for i, tail in enumerate(tails)]
    forests = plan_forests(sequences, budget, share=share)
    whole = [i for i, sequence in enumerate(sequences) if len(sequence)]
    assert sorted(member for forest in forests for member in forest.members) == whole
    for forest in forests:
        assert len(forest) <= budget or len(forest.members) == 1
        mask = dense_mask(forest.segments, len(forest)).numpy()
        assert sum(segment.stop - segment.start for segment in forest.segments) == len(forest)
        for member, path in zip(forest.members, forest.paths, strict=True):
            np.testing.assert_array_equal(forest.token_ids[path], sequences[member])
            np.testing.assert_array_equal(forest.depths[path], np.arange(len(path)))
            for depth, place in enumerate(path):
                np.testing.assert_array_equal(np.flatnonzero(mask[place]), np.sort(path[: depth + 1]))
        if not share:
            assert len(forest) == sum(len(path) for path in forest.paths)


def group_batch() -> WeightedBatch:
    """Four rollouts of one prompt, of which two go on alike, and a stranger; both terms weigh prompts, too."""
    draw = np.random.default_rng(4)
    same = draw.integers(1, 61, 5).tolist()
    tails = [same + draw.integers(1, 61, n).tolist() for n in (6, 3)] + [
        draw.integers(1, 61, n).tolist() for n in (9, 1)
    ]
    sequences = [SHARED + tail for tail in tails] + [draw.integers(1, 61, 14).tolist()]
    batch = random_batch([len(sequence) for sequence in sequences], policy=True, seed=5)
    return WeightedBatch(
        **{**vars(batch), "token_ids": torch.tensor([token for sequence in sequences for token in sequence])}
    )


def double_precision_model(folder: Path) -> Path:
    """A model that is float64 throughout: the norms of a Llama compute in float32 whatever its dtype."""
    torch.manual_seed(2)
    quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    sizes = {"vocab_size": 61, "n_embd": 16, "n_layer": 3, "n_head": 2, "n_positions": 64}
    GPT2LMHeadModel(GPT2Config(**sizes, **quiet, initializer_range=0.3)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tokens", [1, 30, 64, 1000])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_no_split_packing_or_chunk_changes_a_float64_gradient(tokens: int, chunk: int, tmp_path: Path):
    """Catches a beginning that is trained once instead of once for each of its sequences."""
    folder, batch = double_precision_model(tmp_path), group_batch()
    made = [
        LocalEngine(folder, device="cpu", compute_dtype="float64", tokens_per_micro_batch=n) for n in (10**6, tokens)
    ]
    plain, flat = made
    plain.lays_flat, flat._chunk_size = False, chunk
    outs = [engine.forward_backward(batch) for engine in made]
    assert outs[1].loss == pytest.approx(outs[0].loss, rel=1e-12)
    norm = sum(float(np.square(g).sum()) for g in plain.gradients().values()) ** 0.5
    for name, gradient in plain.gradients().items():
        assert np.linalg.norm(flat.gradients()[name] - gradient) <= 1e-12 * norm, name


def test_a_shared_beginning_is_computed_once_where_it_lies_in_one_row():
    """Catches a plan that computes the prompt of a group for each of its rollouts."""
    batch = group_batch()
    (together,) = split_flat(batch, 1000, share=True)
    assert together.lengths == [20 + 5 + 6 + 3 + 9 + 1 + 14]
    assert sum(micro.lengths[0] for micro in split_flat(batch, 1000, share=False)) == len(batch.token_ids)
    assert sorted(torch.cat([m.tokens for m in split_flat(batch, 40, share=True)]).tolist()) == list(
        range(len(batch.token_ids))
    )


def test_checkpointing_computes_flat_rows_again_as_they_were(tmp_path: Path):
    """Catches layers that are recomputed as one long sequence, because the segments are gone when backward runs."""
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(tmp_path)
    found = []
    for checkpointing in (False, True):
        engine = LocalEngine(tmp_path, device="cpu", compute_dtype="float64", gradient_checkpointing=checkpointing)
        engine.forward_backward(group_batch())
        found.append(engine.gradients())
    for name, gradient in found[0].items():
        np.testing.assert_allclose(found[1][name], gradient, rtol=1e-9, atol=1e-14)


def test_a_model_with_windows_keeps_its_own_attention(tmp_path: Path):
    """Catches a window of attention that is silently dropped."""
    torch.manual_seed(3)
    MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)).save_pretrained(tmp_path)
    engine = LocalEngine(tmp_path, device="cpu", compute_dtype="float64")
    assert not engine.lays_flat
    assert engine._model.network.config._attn_implementation == "sdpa"


def test_a_saved_model_does_not_name_our_attention(tiny_llama: Path, tmp_path: Path):
    """Catches a checkpoint that no other program can open."""
    LocalEngine(tiny_llama, device="cpu").save_model(tmp_path)
    assert "envecho" not in (tmp_path / "config.json").read_text()
