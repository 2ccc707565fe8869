"""The phases of the benchmarks; each runs in a fresh process and returns what it measured.

Making material and loading a tokenizer are not in the time. Not here: repetitions and reports (`bench`).
"""

from __future__ import annotations

import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from envecho.recipes.bench_material import FORMATS, small_trajectories, write_traces

__all__ = ["FORMATS"]

_TOKENISED_BYTES: Final = 8_000_000


def make_traces(folder: Path, num_bytes: int, seed: int) -> dict[str, float]:
    """Write the traces that are imported."""
    written = write_traces(folder, num_bytes=num_bytes, seed=seed)
    return {f"bytes of {name}": float(size) for name, size in written.items()} | {
        "num_files": float(sum(1 for _ in folder.iterdir()))
    }


def import_traces(folder: Path, out: Path, num_workers: int) -> dict[str, float]:
    """Import a folder into one file, as the command does."""
    from envecho.formats import ImportReport, import_batches
    from envecho.trajectory.store import TrajectoryWriter

    size = sum(path.stat().st_size for path in folder.iterdir())
    report = ImportReport()
    start, worked = time.perf_counter(), _processor_seconds()
    with TrajectoryWriter(out) as writer:
        for rows in import_batches([folder], report, num_workers=num_workers, spool=out.parent):
            writer.write_batch(rows)
    seconds = time.perf_counter() - start
    return {
        "megabytes_per_second": size / 1e6 / seconds,
        "megabytes_per_processor_second": size / 1e6 / (_processor_seconds() - worked),
        "trajectories_per_second": report.num_trajectories / seconds,
        "workers_bytes": float(num_workers * _largest_child() if num_workers > 1 else 0),
    }


def _processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    return sum(os.times()[:4])


def _largest_child() -> int:
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def tokenise(folder: Path, form: str, model: str, seed: int) -> dict[str, float]:
    """Turn fresh chat text of one format into ids, sources and the environment mask; processor time of one core."""
    from envecho.engines.pretrained import resolve_model
    from envecho.formats import ImportOptions, ImportReport
    from envecho.formats import import_traces as read
    from envecho.tokens import ChatTokenizer, env_target_mask, tokenize_trajectory

    write_traces(folder, num_bytes=_TOKENISED_BYTES, seed=seed)
    options = ImportOptions(calls_as_text=True)
    files = sorted(folder.glob("rows-*" if form == "messages" else f"{form}-*"))
    trajectories = list(read(files, ImportReport(), options=options))
    shutil.rmtree(folder)
    tokenizer = ChatTokenizer.from_pretrained(resolve_model(model))
    tokenize_trajectory(next(small_trajectories(1, seed=seed)), tokenizer)  # what is made once per tokenizer
    num_tokens = num_targets = 0
    start = time.process_time()
    for trajectory in trajectories:
        for sequence in tokenize_trajectory(trajectory, tokenizer):
            num_tokens += len(sequence)
            num_targets += int(env_target_mask(sequence).sum())
    seconds = time.process_time() - start
    if not num_targets:
        raise ValueError(f"{form}: no token of the environment")
    return {"tokens_per_second": num_tokens / seconds, "trajectories_per_second": len(trajectories) / seconds}


def write_store(store: Path, num: int, seed: int) -> dict[str, float]:
    """Write small trajectories into a folder of shards; making them is not in the time."""
    from envecho.trajectory.store import TrajectoryWriter

    shutil.rmtree(store, ignore_errors=True)
    seconds = 0.0
    with TrajectoryWriter(store) as writer:
        for trajectory in small_trajectories(num, seed=seed):
            start = time.perf_counter()
            writer.write(trajectory)
            seconds += time.perf_counter() - start
        start = time.perf_counter()
    return _rates(num, seconds + time.perf_counter() - start)


def iterate_store(store: Path) -> dict[str, float]:
    """Read every trajectory."""
    from envecho.trajectory.store import read_trajectories

    start = time.perf_counter()
    num = sum(1 for _ in read_trajectories(store))
    return _rates(num, time.perf_counter() - start)


def filter_store(store: Path, what: str) -> dict[str, float]:
    """Read the solved ones that hold an error, or those of one task; rates are of all rows that were looked at."""
    from envecho.trajectory.filters import TrajectoryFilter
    from envecho.trajectory.store import count_trajectories, read_trajectories

    num = count_trajectories(store)
    where: Mapping[str, Any] = {"min_reward": 1.0, "sources": ["stderr"]}
    if what == "task":
        middle = num // 16
        where = {"task_ids": [f"owner{middle % 997}__repo{middle % 997}-{middle}"]}
    start = time.perf_counter()
    found = sum(1 for _ in read_trajectories(store, where=TrajectoryFilter(**where)))
    seconds = time.perf_counter() - start
    if not 0 < found < num:
        raise ValueError(f"{found} of {num} passed the filter {where}")
    return _rates(num, seconds)


def copy_store(store: Path, out: Path) -> dict[str, float]:
    """Copy the solved ones, as `envecho filter` does."""
    from envecho.trajectory.filters import TrajectoryFilter
    from envecho.trajectory.store import TrajectoryWriter, count_trajectories, read_batches

    start = time.perf_counter()
    with TrajectoryWriter(out, overwrite=True) as writer:
        for rows in read_batches(store, where=TrajectoryFilter(min_reward=1.0)):
            writer.write_batch(rows)
    return _rates(count_trajectories(store), time.perf_counter() - start)


def split(store: Path, out: Path) -> dict[str, float]:
    """Split by everything that is known, as `envecho split` does."""
    from envecho.recipes.split import SplitPlan, split_store

    start = time.perf_counter()
    document = split_store([store], out, SplitPlan(shares={"held_out": 0.1, "validation": 0.1}), overwrite=True)
    return _rates(document["num_trajectories"], time.perf_counter() - start)


def _rates(num: int, seconds: float) -> dict[str, float]:
    return {"trajectories_per_second": num / seconds, "microseconds_per_trajectory": 1e6 * seconds / num}
