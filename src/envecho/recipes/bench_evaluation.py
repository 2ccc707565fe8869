"""`envecho bench evaluation`: what an evaluation costs beside a bare forward pass, and in how much memory.

    evaluation   stored trajectories -> records -> tokens -> scores -> what each token is -> sums -> figures
    bare         ids in memory -> body -> head at the same positions; nothing is made of the logits

Both read the same tokens of the same model on the same device, in batches planned by the same rule at the same size.
The bare pass is given its ids, makes no log-prob and keeps nothing: whoever scores a text at all does more than that.
They take turns, part by part of the material, so that the load of the machine falls on both; the interval of their
ratio is over parts. What does not depend on the model shows with a narrow one, whose own pass costs next to nothing:
its ratio says little, its milliseconds per trajectory all. Not here: controls and probes, passes of their own.
"""

from __future__ import annotations

import functools
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.engines.local import LocalEngine
from envecho.engines.micro_batches import PassOptions, plan_rows
from envecho.engines.model import CausalModel, load_causal_model
from envecho.engines.pretrained import resolve_model
from envecho.engines.quiet import quiet_transformers
from envecho.evaluation import PoolSums, evaluate_stream, join_sums, ratio_stat, summarize_sums
from envecho.evaluation.scores import SAID, pool_requests
from envecho.recipes import bench
from envecho.recipes.bench_material import ShellEpisodes
from envecho.recipes.depot_tokenizer import train_depot_tokenizer
from envecho.recipes.progress import say
from envecho.seam import ScoreRequest
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories

TOKENS: Final = (700, 1300)
"""An episode's tokens are drawn between these: 1,000 on average."""

CHUNK: Final = 256
"""Positions of which the bare pass has logits at once."""


def bench_evaluation(
    *, model: str, num: int, num_narrow: int, part: int, seed: int, folder: Path | None
) -> dict[str, Any]:
    """Measure `num` trajectories with a real model and `num_narrow` with a narrow one.

    Args:
        model: the real one.
        num, num_narrow: trajectories of about 1,000 tokens of each model.
        part: trajectories of a part; evaluation and bare pass take turns by parts.
        seed: draws the material and the narrow model.
        folder: where the material lies meanwhile; None: the system's for temporary files.
    """
    material: dict[str, Any] = {"model": model, "part": part, "threads": torch.get_num_threads()}
    measured: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        make_narrow_model(place / "narrow", seed=seed)
        models = {model: (resolve_model(model), num), "narrow": (place / "narrow", num_narrow)}
        for title, (where, count) in models.items():
            say(f"making trajectories for {title}")
            pool = place / f"pool-{len(measured)}"
            material[f"tokens per trajectory, {title}"] = write_parts(pool, where, num=count, part=part, seed=seed)
            name = f"{title}, {count:,} trajectories"
            measured[name] = bench.repeat([functools.partial(turn_about, _parts(pool), where)], name)
        for count in (num_narrow // 4, num_narrow):
            name = f"narrow, {count:,} trajectories in one stream"
            chosen = _parts(place / "pool-1")[: -(-count // part)]
            measured[name] = bench.repeat([functools.partial(stream, chosen, place / "narrow")], name)
    return bench.document("evaluation", material, measured, 1, seed)


def make_narrow_model(folder: Path, *, seed: int) -> None:
    """Write a random Llama of two layers of a width of 32 and 400 tokens."""
    torch.manual_seed(seed)
    tokenizer = train_depot_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
    )
    with quiet_transformers():
        LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _parts(pool: Path) -> list[Path]:
    return sorted(pool.glob("*.parquet"))


def write_parts(folder: Path, model: Path, *, num: int, part: int, seed: int) -> float:
    """Write episodes in files of `part` each and return their mean number of tokens."""
    tokenizer = ChatTokenizer.from_pretrained(model)
    lengths: list[int] = []

    def counted() -> Iterator[Trajectory]:
        for trajectory in episodes(num, tokenizer, seed=seed):
            lengths.append(sum(len(s) for s in tokenize_trajectory(trajectory, tokenizer)))
            yield trajectory

    folder.mkdir()
    found = counted()
    for number, chunk in enumerate(iter(lambda: list(itertools.islice(found, part)), [])):
        write_trajectories(folder / f"part-{number:05d}.parquet", chunk)
    return float(np.mean(lengths))


def episodes(num: int, tokenizer: ChatTokenizer, *, seed: int) -> Iterator[Trajectory]:
    """Yield episodes of a shell of about 1,000 tokens; four of each task."""
    source = ShellEpisodes(seed)
    rng = np.random.default_rng(seed)
    for number in range(num):
        left = int(rng.integers(*TOKENS))
        messages = [Message(role="user", segments=(Segment(source=Source.TASK, text=source.task()),))]
        left -= len(tokenizer.encode_text(messages[0].content)[0])
        while left > 100:
            said, shown, code = source.turns()[0]
            ids, _ = tokenizer.encode_text(shown)
            status = f"[exit status {code}]"
            shown = tokenizer.hf.decode(ids[: max(8, left - 80)])
            messages += [
                Message(role="assistant", segments=(Segment(source=Source.POLICY, text=said),)),
                Message(
                    role="user",
                    segments=(
                        Segment(source=Source.STDOUT, text=str(shown)),
                        Segment(source=Source.STATUS, text=status),
                    ),
                ),
            ]
            left -= len(ids) + len(tokenizer.encode_text(said + status)[0]) + 10
        yield Trajectory(id=f"e{number:06d}", task_id=f"task-{number // 4}", messages=tuple(messages))


def turn_about(parts: Sequence[Path], model: Path) -> dict[str, float]:
    """Evaluate and pass every part, in turns, and return seconds of processor and their ratio with its interval."""
    engine = LocalEngine(model, device="cpu", compute_dtype="float32", trains=False)
    plain = load_causal_model(model, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = ChatTokenizer.from_pretrained(model)
    given = [requests_of(path, tokenizer, engine.capabilities.max_context_tokens) for path in parts]
    bare_pass(plain, given[0][:2])
    evaluate_stream(engine, list(read_trajectories(parts[0]))[:2], tokenizer)
    seconds = np.zeros((2, len(parts)))
    sums: list[PoolSums] = []
    for number, path in enumerate(parts):
        for arm in (0, 1) if number % 2 else (1, 0):
            start = time.process_time()
            if arm:
                bare_pass(plain, given[number])
            else:
                sums.append(evaluate_stream(engine, read_trajectories(path), tokenizer))
            seconds[arm, number] = time.process_time() - start
    start = time.process_time()
    whole = join_sums(sums)
    summarize_sums(whole)
    seconds[0] += (time.process_time() - start) / len(parts)
    ratio = ratio_stat(seconds[0], seconds[1], np.arange(len(parts)))
    assert ratio is not None
    return {
        "evaluation_seconds": float(seconds[0].sum()),
        "bare_seconds": float(seconds[1].sum()),
        "overhead_milliseconds": 1e3 * float(seconds[0].sum() - seconds[1].sum()) / len(whole.trajectory_ids),
        "ratio": ratio.value,
        "ratio_low": float("nan") if ratio.low is None else ratio.low,
        "ratio_high": float("nan") if ratio.high is None else ratio.high,
    }


def requests_of(path: Path, tokenizer: ChatTokenizer, max_tokens: int) -> list[ScoreRequest]:
    """Return the ids of a file's episodes, and the positions that an evaluation reads."""
    sequences = [s for t in read_trajectories(path) for s in tokenize_trajectory(t, tokenizer, max_tokens=max_tokens)]
    return pool_requests(sequences, SAID)


@torch.no_grad()
def bare_pass(model: CausalModel, requests: Sequence[ScoreRequest]) -> int:
    """Run body and head over what an evaluation reads, and return at how many positions; logits are thrown away."""
    num_positions = 0
    inputs = [(request.token_ids, np.flatnonzero(request.read)) for request in requests]
    lengths = [int(read[-1]) if len(read) else 0 for _, read in inputs]
    for group in plan_rows(lengths, PassOptions().tokens_per_micro_batch):
        rows = np.zeros((len(group), max(lengths[number] for number in group)), dtype=np.int64)
        for row, number in enumerate(group):
            rows[row, : lengths[number]] = inputs[number][0][: lengths[number]]
        hidden = model.network.base_model(input_ids=torch.from_numpy(rows), use_cache=False).last_hidden_state
        states = torch.cat([hidden[row, torch.from_numpy(inputs[number][1] - 1)] for row, number in enumerate(group)])
        for start in range(0, len(states), CHUNK):
            logits = torch.nn.functional.linear(states[start : start + CHUNK], model.head_weight, model.head_bias)
            num_positions += len(logits)
    return num_positions


def stream(parts: Sequence[Path], model: Path) -> dict[str, float]:
    """Evaluate parts as one pool, for the peak of memory, and return the processor seconds of it."""
    engine = LocalEngine(model, device="cpu", compute_dtype="float32", trains=False)
    tokenizer = ChatTokenizer.from_pretrained(model)
    start = time.process_time()
    summarize_sums(evaluate_stream(engine, read_trajectories(parts), tokenizer))
    return {"evaluation_seconds": time.process_time() - start}
