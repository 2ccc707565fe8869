"""Causal attention on the CPU over a flat row of segments, in matrix products: exact, and without padding.

A segment is a run of tokens that stand one after the other in the row and in their sequence. Its tokens see those of
`before`, which lie elsewhere in the row, and their own up to themselves. So sequences of any lengths lie in one row
without a mask, and a beginning that several share stands there once. Scores are made for a block of queries at a time,
forward and again backward, so memory grows with the length of a sequence and not with its square. torch's own kernel
for CPUs takes longer (docs/performance.md), and knows no segments.

transformers calls it through its `AttentionInterface` while a row is being `laid_out`, and its `sdpa` otherwise. Not
here: which sequences lie in a row (`token_forest`), and devices that have kernels of their own.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from envecho.losses.products import goes_to_onednn, matmul

_NAME = "envecho"
_QUERIES = 128
# Of one block over some heads: what is larger is mapped anew by the C library each time, which costs more than it.
_SCORES_BYTES = 2**24


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Tokens `start` to `stop` of a row, and the ranges of it that hold what stands before them, in order."""

    start: int
    stop: int
    before: tuple[tuple[int, int], ...] = ()


_segments: ContextVar[Sequence[Segment] | None] = ContextVar("segments", default=None)


def install_attention(network: PreTrainedModel) -> bool:
    """Let a network that uses `sdpa` use this; return whether it does. Nothing changes outside of `laid_out`."""
    if network.config._attn_implementation != "sdpa":  # pyright: ignore[reportPrivateUsage]
        return False
    AttentionInterface.register(_NAME, _attend)
    AttentionMaskInterface.register(_NAME, _mask)
    network.set_attn_implementation(_NAME)
    return True


@contextmanager
def laid_out(segments: Sequence[Segment] | None) -> Generator[None]:
    """Mark a block in which networks see one row of these segments, forward and backward; None: rows as ever."""
    token = _segments.set(segments)
    try:
        yield
    finally:
        _segments.reset(token)


def _mask(batch_size: int, q_length: int, kv_length: int, *args: Any, **kwargs: Any) -> Tensor | None:
    if _segments.get() is not None:
        return None
    if q_length == 1:
        # With a mask that hides nothing the kernel for one query is several times as fast in bfloat16 as without one.
        kwargs["allow_is_causal_skip"] = False
    return sdpa_mask(batch_size, q_length, kv_length, *args, **kwargs)


def _attend(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    segments = _segments.get()
    if segments is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    refused = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if refused or attention_mask is not None or options.get("dropout") or len(query) != 1:
        raise ValueError(f"a flat row takes neither masks, dropout nor batches, nor {', '.join(refused) or 'biases'}")
    scale = options.get("scaling")
    out = segment_attention(
        query[0], key[0], value[0], segments, scale=query.shape[-1] ** -0.5 if scale is None else scale
    )
    return out[None], None


def segment_attention(
    query: Tensor, key: Tensor, value: Tensor, segments: Sequence[Segment], *, scale: float
) -> Tensor:
    """Return the attention `[token, head, size]` of `query` `[head, token, size]` in a flat row.

    `key` and `value` are `[kv_head, token, size]`; each serves the same number of neighbouring query heads. Every token
    must lie in one segment.
    """
    return _SegmentAttention.apply(query, key, value, segments, scale)  # pyright: ignore[reportReturnType]


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """Keys and values that a segment sees, its own last, `[kv_head, seen, size]`."""

    keys: Tensor
    wide_keys: Tensor
    values: Tensor
    ranges: list[tuple[int, int]]

    @staticmethod
    def of(segment: Segment, key: Tensor, value: Tensor) -> _Keys:
        ranges: list[tuple[int, int]] = []
        for start, stop in (*segment.before, (segment.start, segment.stop)):
            if ranges and ranges[-1][1] == start:
                ranges[-1] = (ranges[-1][0], stop)
            else:
                ranges.append((start, stop))
        keys, values = (torch.cat([t[:, a:b] for a, b in ranges], dim=1).contiguous() for t in (key, value))
        return _Keys(keys=keys, wide_keys=keys.to(_score_dtype(keys.dtype)), values=values, ranges=ranges)


class _SegmentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        query, key, value, segments, scale = args
        ctx.save_for_backward(query, key, value)
        ctx.segments, ctx.scale = segments, scale
        out = query.new_empty(query.shape[1], query.shape[0], value.shape[-1])
        rows = _Rows(query, key, scale)
        for segment in segments:
            seen = _Keys.of(segment, key, value)
            for start, stop, num_keys in _blocks(segment, seen.keys.shape[1]):
                for heads in rows.head_groups(stop - start, num_keys):
                    p = rows.probabilities(heads, start, stop, seen.wide_keys, num_keys)
                    mixed = _batched(p, seen.values[heads, :num_keys])
                    out[start:stop].unflatten(1, (key.shape[0], -1))[:, heads] = rows.to_tokens(mixed, stop - start)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value = ctx.saved_tensors
        rows = _Rows(query, key, ctx.scale)
        gradient = _Rows(grad_outputs[0].transpose(0, 1), key, 1.0)
        dtype = _score_dtype(query.dtype)
        of_query = torch.empty_like(rows.grouped)
        of_key, of_value = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (key, value))
        for segment in ctx.segments:
            seen = _Keys.of(segment, key, value)
            sums = [torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (seen.keys, seen.values)]
            for start, stop, num_keys in _blocks(segment, seen.keys.shape[1]):
                for heads in rows.head_groups(stop - start, num_keys):
                    p = rows.probabilities(heads, start, stop, seen.wide_keys, num_keys)
                    above = gradient.queries(heads, start, stop)
                    sums[1][heads, :num_keys].add_(_batched(p.transpose(1, 2), above))
                    of_p = _batched(above, seen.values[heads, :num_keys].transpose(1, 2))
                    of_scores = torch.ops.aten._softmax_backward_data(of_p, p, -1, p.dtype)
                    below = _batched(of_scores, seen.keys[heads, :num_keys])
                    of_query[heads, :, start:stop] = below.view(below.shape[0], -1, stop - start, below.shape[-1])
                    of_keys = _batched(of_scores.transpose(1, 2), rows.queries(heads, start, stop))
                    sums[0][heads, :num_keys].add_(of_keys)
            for total, part in zip((of_key, of_value), sums, strict=True):
                offset = 0
                for start, stop in seen.ranges:
                    total[:, start:stop].add_(part[:, offset : offset + stop - start])
                    offset += stop - start
        return (
            of_query.mul_(ctx.scale).view(query.shape),
            of_key.mul_(ctx.scale).to(key),
            of_value.to(value),
            None,
            None,
        )


def _score_dtype(dtype: torch.dtype) -> torch.dtype:
    """Scores of bfloat16 are float32, as they are inside of the kernels of torch; rounded they would cost accuracy."""
    return torch.float32 if dtype == torch.bfloat16 else dtype


def _blocks(segment: Segment, num_seen: int) -> list[tuple[int, int, int]]:
    """Start and stop of blocks of queries, and how many keys the last of each sees."""
    num_before = num_seen - (segment.stop - segment.start)
    starts = range(segment.start, segment.stop, _QUERIES)
    stops = [min(start + _QUERIES, segment.stop) for start in starts]
    return [(start, stop, num_before + stop - segment.start) for start, stop in zip(starts, stops, strict=True)]


class _Rows:
    """Queries `[head, token, size]` as rows of matrices, the heads of one key head under each other."""

    def __init__(self, query: Tensor, key: Tensor, scale: float) -> None:
        self._scale = scale
        self.grouped = query.reshape(key.shape[0], -1, *query.shape[1:])
        self._triangle = torch.full(
            (_QUERIES, _QUERIES), -torch.inf, dtype=_score_dtype(query.dtype), device=query.device
        ).triu_(1)
        self._one_by_one = goes_to_onednn(self._triangle)

    def head_groups(self, num_queries: int, num_keys: int) -> list[slice]:
        """Key heads that are computed at once."""
        num, share = self.grouped.shape[:2]
        size = share * num_queries * num_keys * self._triangle.element_size()
        step = 1 if self._one_by_one else max(1, _SCORES_BYTES // size)
        return [slice(start, min(start + step, num)) for start in range(0, num, step)]

    def queries(self, heads: slice, start: int, stop: int) -> Tensor:
        """A block `[kv_head, share * token, size]`, contiguous."""
        return self.grouped[heads, :, start:stop].reshape(heads.stop - heads.start, -1, self.grouped.shape[-1])

    def probabilities(self, heads: slice, start: int, stop: int, keys: Tensor, num_keys: int) -> Tensor:
        """The softmax `[kv_head, share * token, key]` of a block; its own tokens are the last keys."""
        block = self.queries(heads, start, stop).to(keys.dtype) * self._scale
        scores = _batched(block, keys[heads, :num_keys].transpose(1, 2))
        own = stop - start
        scores.view(scores.shape[0], -1, own, num_keys)[..., num_keys - own :].add_(self._triangle[:own, :own])
        return torch.softmax(scores, dim=-1).to(self.grouped.dtype)

    def to_tokens(self, mixed: Tensor, num_tokens: int) -> Tensor:
        """`[kv_head, share * token, size]` as `[token, kv_head, share, size]`."""
        return mixed.view(mixed.shape[0], -1, num_tokens, mixed.shape[-1]).permute(2, 0, 1, 3)


def _batched(left: Tensor, right: Tensor) -> Tensor:
    """Products `[batch, m, n]`."""
    if left.shape[0] == 1:
        return matmul(left[0], right[0])[None]
    return torch.bmm(left, right)
