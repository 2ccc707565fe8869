"""`python -m envecho.recipes.bench_kernels`: what makes a step on the CPU faster, part by part.

    python -m envecho.recipes.bench_kernels --out results/bench/kernels.json

Each row is the time of one way over that of another; they take turns in one process. What the allocator keeps cannot be
taken back, so its rows are seconds, each of a process of its own. Sizes are those of SmolLM2-135M: 9 heads of 64 over 3
key heads, a hidden size of 576, a vocabulary of 49,152. Not here: whole steps beside other programs (`bench_step`).
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from envecho.engines.allocator import keep_freed_memory
from envecho.engines.attention import Segment, laid_out, segment_attention
from envecho.engines.model import load_causal_model
from envecho.engines.pretrained import resolve_model
from envecho.engines.token_forest import plan_forests
from envecho.losses import products, read_logprobs
from envecho.losses.head_loss import Head, summed_loss
from envecho.recipes import bench

MODEL: Final = "smollm2-135m"
CHUNK: Final = 128
"""Positions of the head at once, as the engine has it for this vocabulary."""
_HEADS, _KV_HEADS, _HEAD_SIZE = 9, 3, 64
_VOCAB, _HIDDEN, _WIDE = 49_152, 576, 1_536
_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Ways = tuple[Callable[[], object], Callable[[], object]]


def turns(ways: Ways, repetitions: int) -> dict[str, list[float]]:
    """Return the time of the first way over that of the second, once for each repetition after a first of both."""
    for way in ways:
        way()
    ratios: list[float] = []
    for _ in range(repetitions):
        seconds: list[float] = []
        for way in ways:
            start = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - start)
        ratios.append(seconds[0] / seconds[1])
    return {"ratio": ratios}


def product(num_rows: int) -> Ways:
    """A float32 product of a layer, as `products` computes it, and as torch by itself does."""
    values, weight = torch.randn(num_rows, _HIDDEN), torch.randn(_WIDE, _HIDDEN)
    return lambda: products.matmul(values, weight.t()), lambda: values @ weight.t()


def attention(num_tokens: int, dtype: torch.dtype) -> Ways:
    """Forward and backward of our attention, and of torch's, whose keys are repeated as transformers repeats them."""
    query, key, value = (
        torch.randn(num, num_tokens, _HEAD_SIZE).to(dtype).requires_grad_() for num in (_HEADS, _KV_HEADS, _KV_HEADS)
    )
    upstream = torch.randn(num_tokens, _HEADS, _HEAD_SIZE).to(dtype)

    def own() -> object:
        row = [Segment(start=0, stop=num_tokens)]
        out = segment_attention(query, key, value, row, scale=_HEAD_SIZE**-0.5)
        return torch.autograd.grad(out, (query, key, value), upstream)

    def plain() -> object:
        keys, values = (t.repeat_interleave(_HEADS // _KV_HEADS, dim=0)[None] for t in (key, value))
        out = torch.nn.functional.scaled_dot_product_attention(query[None], keys, values, is_causal=True)
        return torch.autograd.grad(out[0].transpose(0, 1), (query, key, value), upstream)

    return own, plain


def head(num_positions: int, dtype: torch.dtype, *, other_chunk: int | None) -> Ways:
    """The head's loss with its gradient; beside it log-probs that are differentiated, or chunks of another size."""
    hidden = torch.randn(num_positions, _HIDDEN).to(dtype).requires_grad_()
    weight = (torch.randn(_VOCAB, _HIDDEN) / 8).to(dtype).requires_grad_()
    targets = torch.randint(0, _VOCAB, (num_positions,))

    def by_loss(chunk_size: int) -> object:
        asked = Head(weight=weight, bias=None, softcap=None, chunk_size=chunk_size)
        loss = summed_loss(hidden, asked, targets, _total, temperature=1.0).loss
        return torch.autograd.grad(loss, (hidden, weight))

    def by_logprobs() -> object:
        ones = torch.ones(num_positions)
        read = read_logprobs(hidden, weight, targets, temperatures=ones, chunk_size=CHUNK)
        return torch.autograd.grad(read.logprobs.sum(), (hidden, weight))

    return lambda: by_loss(CHUNK), by_logprobs if other_chunk is None else lambda: by_loss(other_chunk)


def _total(logprobs: Tensor, entropies: Tensor, place: slice) -> Tensor:
    return logprobs.sum()


def layouts(model: str, dtype: str, num_tokens: int) -> Ways:
    """A pass of the body over two rows of equal length: as a flat row with our attention, and as rows with torch's."""
    body = load_causal_model(resolve_model(model), dtype=_DTYPES[dtype], device=torch.device("cpu"))
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, body.head_weight.shape[0], (2, num_tokens // 2)))
    (forest,) = plan_forests(list(rows.numpy()), num_tokens)

    def flat() -> None:
        with laid_out(forest.segments):
            forest.hidden(body).sum().backward()

    return flat, lambda: body.hidden(rows).sum().backward()


def body_passes(model: str, dtype: str, num_tokens: int, keep: bool) -> dict[str, float]:
    """Seconds of the body's forward and backward over rows of up to 512 tokens, the third pass of a fresh process."""
    if keep:
        keep_freed_memory()
    body = load_causal_model(resolve_model(model), dtype=_DTYPES[dtype], device=torch.device("cpu"))
    vocab_size, length = body.head_weight.shape[0], min(512, num_tokens)
    draw = np.random.default_rng(0)
    rows = [draw.integers(0, vocab_size, length) for _ in range(num_tokens // length)]
    (forest,) = plan_forests(rows, num_tokens)
    seconds = 0.0
    for _ in range(3):
        start = time.perf_counter()
        with laid_out(forest.segments):
            forest.hidden(body).sum().backward()
        body.network.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
    return {"pass_seconds": seconds}


def measure(model: str, *, scale: int, repetitions: int) -> dict[str, dict[str, list[float]]]:
    """Measure every row; `scale` divides lengths and positions, for tests."""
    ways: dict[str, Ways] = {f"float32 product, {n:,} rows: ours : torch's": product(n) for n in (8, 1024 // scale)}
    for name, dtype in _DTYPES.items():
        for num in (512 // scale, 1024 // scale, 4096 // scale):
            ways[f"attention, {num:,} tokens, {name}: ours : torch's"] = attention(num, dtype)
        num = 768 // scale
        ways[f"head, {num} positions, {name}: with the loss : log-probs first"] = head(num, dtype, other_chunk=None)
        ways[f"head, {num} positions, {name}: chunks of {CHUNK} : of 512"] = head(num, dtype, other_chunk=512)
    measured = {title: turns(pair, repetitions) for title, pair in ways.items()}
    for name in _DTYPES:
        pair = layouts(model, name, 1024 // scale)
        measured[f"the body, 2 x {512 // scale}, {name}: flat : rows with sdpa"] = turns(pair, min(repetitions, 3))
    for name in _DTYPES:
        for keep in (False, True):
            phase = functools.partial(body_passes, model, name, 1024 // scale, keep)
            title = f"the body, {name}, freed memory {'kept' if keep else 'given back'}"
            measured[title] = bench.repeat([phase] * min(repetitions, 2), title)
    return measured


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, write the document and print its table."""
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.bench_kernels", description=__doc__)
    parser.add_argument("--model", default=MODEL, help="whose body is run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=5, help="turns of each pair")
    parser.add_argument("--scale", type=int, default=1, help="divides all lengths")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    material = {
        "model": options.model,
        "threads": torch.get_num_threads(),
        "uses oneDNN": products.goes_to_onednn(torch.zeros(1)),
        "keeps freed memory": keep_freed_memory(),
    }
    measured = measure(options.model, scale=options.scale, repetitions=options.repetitions)
    document = bench.document("kernels", material, measured, options.repetitions, 0)
    bench.save(document, options.out)
    print(bench.table(document), end="")


if __name__ == "__main__":
    main()
