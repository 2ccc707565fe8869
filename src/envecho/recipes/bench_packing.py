"""`python -m envecho.recipes.bench_packing`: how much of a step is padding, and what packed and flat rows save.

    envecho collect --world depot --policy explore --num 256 --out depot.parquet
    python -m envecho.recipes.bench_packing --pool depot=depot.parquet --timed depot --out results/bench/packing.json

Shares are of the lengths of a pool's sequences alone, over steps drawn from it. Times are of `forward_backward` of one
step by a random Llama with the widths of SmolLM2-135M, two layers and a small vocabulary (a head is read at few
positions, however rows are laid out), one after the other: processor seconds of padded rows that are packed under a
mask, and of flat rows, which is what the engine does on a CPU, over those of padded rows. Token ids are random, so
nothing is shared. Not here: GPUs, where the padding is the same and the time is not; beginnings that are shared
(`bench_prefixes`).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.engines.local import LocalEngine
from envecho.engines.micro_batches import padding_share
from envecho.engines.pretrained import resolve_model
from envecho.losses import WeightedBatch
from envecho.recipes import bench
from envecho.recipes.progress import say
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory.store import read_trajectories

MODEL: Final = "smollm2-135m"
STEPS: Final = (16, 64)
"""Sequences of a step."""
TOKENS: Final = (1024, 8192, 32768)
"""Tokens of a micro-batch: the default on a laptop, and what GPUs hold."""
TIMED: Final = (16, 8192)
NUM_DRAWS: Final = 20
_VOCAB: Final = 512


def lengths_of(pool: Path, tokenizer: ChatTokenizer) -> list[int]:
    """Tokens of every sequence of a pool."""
    return [len(s) for trajectory in read_trajectories(pool) for s in tokenize_trajectory(trajectory, tokenizer)]


def shares(lengths: Sequence[int], *, num: int, tokens: int, seed: int) -> dict[str, list[float]]:
    """Padding in percent, plain and packed, of `NUM_DRAWS` steps of `num` sequences drawn from a pool."""
    drawn = [draw_step(lengths, num, seed + number) for number in range(NUM_DRAWS)]
    return {
        "padding_percent": [100 * padding_share(step, tokens) for step in drawn],
        "packed_padding_percent": [100 * padding_share(step, tokens, packing=True) for step in drawn],
    }


def draw_step(lengths: Sequence[int], num: int, seed: int) -> list[int]:
    """Return the lengths of a step, without a repetition where the pool has that many."""
    return np.random.default_rng(seed).choice(lengths, num, replace=len(lengths) < num).tolist()


def times(lengths: Sequence[int], *, tokens: int, repetitions: int) -> dict[str, list[float]]:
    """Return processor seconds in percent of padded rows, once for each repetition after a first."""
    batch = _batch(lengths)
    with tempfile.TemporaryDirectory() as name:
        save_two_layers(Path(name), vocab_size=_VOCAB)
        padded, packed, flat = (
            LocalEngine(name, device="cpu", compute_dtype="float32", tokens_per_micro_batch=tokens, packing=packing)
            for packing in (False, True, False)
        )
    padded.lays_flat = packed.lays_flat = False
    found: list[list[float]] = []
    for _ in range(1 + repetitions):
        base, *others = (processor_seconds(engine, batch) for engine in (padded, packed, flat))
        found.append([100 * seconds / base for seconds in others])
    return {
        name: [values[place] for values in found[1:]]
        for place, name in enumerate(("packed_time_percent", "flat_time_percent"))
    }


def save_two_layers(folder: Path, *, vocab_size: int) -> None:
    """Write a random Llama with the widths of SmolLM2-135M and two layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=576,
        intermediate_size=1536,
        num_attention_heads=9,
        num_key_value_heads=3,
        num_hidden_layers=2,
        max_position_embeddings=65536,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def processor_seconds(engine: LocalEngine, batch: WeightedBatch) -> float:
    """Return what `forward_backward` takes; its gradient adds up in the engine."""
    start = time.process_time()
    engine.forward_backward(batch)
    return time.process_time() - start


def _batch(lengths: Sequence[int]) -> WeightedBatch:
    generator, num = torch.Generator().manual_seed(0), sum(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths])
    targets = (torch.rand(num, generator=generator) < 0.5) & (positions > 0)
    zeros = torch.zeros(num)
    return WeightedBatch(
        token_ids=torch.randint(0, _VOCAB, (num,), generator=generator),
        positions=positions,
        sequence_index=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        policy_weights=zeros,
        advantages=zeros,
        env_weights=targets / num,
        env_targets=targets,
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=torch.full((num,), torch.nan),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the pools, write the document and print its table."""
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.bench_packing", description=__doc__)
    parser.add_argument("--pool", action="append", required=True, metavar="NAME=FILE", help="a pool of trajectories")
    parser.add_argument("--timed", action="append", default=[], metavar="NAME", help="a pool whose step is timed, too")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=3, help="timed steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    tokenizer = ChatTokenizer.from_pretrained(resolve_model(MODEL))
    measured: dict[str, dict[str, list[float]]] = {}
    material: dict[str, object] = {"model": MODEL, "draws": NUM_DRAWS, "threads": torch.get_num_threads()}
    for name, _, file in (pool.partition("=") for pool in options.pool):
        lengths = lengths_of(Path(file), tokenizer)
        material[name] = {"sequences": len(lengths), "mean": round(float(np.mean(lengths))), "longest": max(lengths)}
        for num, tokens in ((num, tokens) for num in STEPS for tokens in TOKENS):
            found = shares(lengths, num=num, tokens=tokens, seed=options.seed)
            if name in options.timed and (num, tokens) == TIMED:
                step = draw_step(lengths, num, options.seed)
                found |= times(step, tokens=tokens, repetitions=options.repetitions)
            title = f"{name}, {num} sequences, {tokens:,} tokens"
            say(f"{title}: {found['padding_percent'][0]:.1f} %")
            measured[title] = found
    document = bench.document("packing", material, measured, options.repetitions, options.seed)
    bench.save(document, options.out)
    print(bench.table(document), end="")


if __name__ == "__main__":
    main()
