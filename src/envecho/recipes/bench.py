"""`envecho bench import` and `store`: rates and peak memory on material that the command makes itself.

Every phase runs in a fresh process, so that its peak memory is its own and no cache is warm; figures are medians over
repetitions, with the smallest and the largest. Not here: the phases (`bench_phases`) and the material.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import platform
import statistics
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from envecho.errors import EngineError
from envecho.recipes import bench_phases as phases
from envecho.recipes.phases import peak_memory_bytes
from envecho.recipes.progress import say
from envecho.recipes.study_work import end_with_parent

Measured = dict[str, float]
Phase = Callable[[], Measured]

UNITS: Final = {
    "megabytes_per_second": "MB/s",
    "megabytes_per_processor_second": "MB per processor second",
    "trajectories_per_second": "trajectories/s",
    "tokens_per_second": "tokens/s per core",
    "microseconds_per_trajectory": "µs per trajectory",
    "steps_per_second": "steps/s",
    "world_fraction": "worlds at work, share of the time",
    "gap_microseconds_p50": "answer to next action, µs, p50",
    "gap_microseconds_p95": "p95 of it",
    "step_milliseconds_p50": "step of a world, ms, p50",
    "step_milliseconds_p95": "p95 of it",
    "start_and_end_milliseconds_p50": "start and end of a world, ms, p50",
    "processor_microseconds": "processor, µs per step",
    "num_threads": "threads",
    "padding_percent": "padding, % of computed tokens",
    "packed_padding_percent": "packed, %",
    "packed_time_percent": "time packed, % of padded",
    "flat_time_percent": "time flat, % of padded",
    "prompt_percent": "prompts, % of tokens",
    "computed_percent": "computed, % of tokens",
    "shared_time_percent": "time shared, % of not shared",
    "row_occupancy": "rows that draw, share of all",
    "ratio_to_generate": "seconds per token, ours / `generate`",
    "drawn_per_second": "tokens drawn/s",
    "read_tokens": "prompt tokens read, per episode",
    "shown_tokens": "prompt tokens shown, per episode",
    "evaluation_seconds": "evaluation, processor s",
    "bare_seconds": "bare pass, processor s",
    "wall_milliseconds": "on the clock, ms",
    "processor_milliseconds": "processor, ms",
    "limit_milliseconds": "limit, ms",
    "overhead_milliseconds": "beyond it, processor ms per trajectory",
    "pass_seconds": "seconds of a pass",
    "ratio": "ratio",
    "ratio_low": "from",
    "ratio_high": "to",
    "peak_memory_bytes": "peak memory",
    "bytes_on_disk": "bytes on disk",
}


def bench_import(*, num_bytes: int, repetitions: int, seed: int, model: str, folder: Path | None) -> dict[str, Any]:
    """Measure importing with one and two processes, and chat text to masks.

    Args:
        num_bytes: size of the traces, over three formats.
        repetitions: how often each phase runs.
        seed: draws the material; each repetition of tokenising gets text of its own.
        model: whose tokenizer and chat template.
        folder: where the material lies while it is measured; None: the system's for temporary files.
    """
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        say("making traces")
        material = _run(functools.partial(phases.make_traces, place / "traces", num_bytes, seed))
        measured = {
            f"import, {num} process{'es' if num > 1 else ''}": repeat(
                [functools.partial(phases.import_traces, place / "traces", place / "out.parquet", num)] * repetitions
            )
            for num in (1, 2)
        }
        for form in phases.FORMATS:
            every = [
                functools.partial(phases.tokenise, place / f"text-{form}", form, model, seed + 1 + number)
                for number in range(repetitions)
            ]
            measured[f"text to masks, {form}"] = repeat(every)
    return document("import", {**material, "model": model}, measured, repetitions, seed)


def bench_store(*, num: int, repetitions: int, seed: int, folder: Path | None) -> dict[str, Any]:
    """Measure writing, reading, filtering and splitting a store of `num` small trajectories."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        store = place / "store"
        steps: dict[str, Phase] = {
            "write": functools.partial(phases.write_store, store, num, seed),
            "iterate": functools.partial(phases.iterate_store, store),
            "filter: reward and source": functools.partial(phases.filter_store, store, "stderr"),
            "filter: one task": functools.partial(phases.filter_store, store, "task"),
            "copy what passes": functools.partial(phases.copy_store, store, place / "copy"),
            "split": functools.partial(phases.split, store, place / "split"),
        }
        measured = {title: repeat([phase] * repetitions, title) for title, phase in steps.items()}
        size = sum(file.stat().st_size for file in store.glob("*.parquet"))
    return document("store", {"num_trajectories": num, "bytes_on_disk": size}, measured, repetitions, seed)


def repeat(every: Sequence[Phase], title: str = "") -> dict[str, list[float]]:
    """Run each phase in a process of its own and return its figures by name, in order."""
    found: dict[str, list[float]] = {}
    for number, phase in enumerate(every, start=1):
        measured = _run(phase)
        say(
            f"{title or _title(phase)} {number}/{len(every)}: "
            + ", ".join(f"{k} {v:,.1f}" for k, v in measured.items())
        )
        for key, value in measured.items():
            found.setdefault(key, []).append(value)
    return found


def _title(phase: Phase) -> str:
    return phase.func.__name__ if isinstance(phase, functools.partial) else phase.__name__


def _run(phase: Phase) -> Measured:
    """Run a phase in a process of its own and return what it measured, with the peak memory of that process."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_in_process, args=(theirs, phase))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        process.join()
        raise EngineError(f"{_title(phase)} ended with status {process.exitcode}; its error stands above") from None
    finally:
        process.join()


def _in_process(connection: Connection, phase: Phase) -> None:
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    measured = phase()
    connection.send({**measured, "peak_memory_bytes": peak_memory_bytes() + measured.pop("workers_bytes", 0)})


def document(
    name: str,
    material: Mapping[str, Any],
    measured: Mapping[str, Mapping[str, list[float]]],
    repetitions: int,
    seed: int,
) -> dict[str, Any]:
    """Return a measurement as it is written: what was measured, where, and medians with their spread."""
    return {
        "format": f"envecho.bench.{name}",
        "version": 1,
        "seed": seed,
        "repetitions": repetitions,
        "machine": describe(),
        "material": dict(material),
        "results": {
            title: {
                key: {"median": statistics.median(values), "min": min(values), "max": max(values)}
                for key, values in found.items()
            }
            for title, found in measured.items()
        },
    }


def describe() -> dict[str, Any]:
    """Return what the figures depend on: processor, cores, load of others, and versions."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.is_file()
        else []
    )
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
    } | {name: version(name) for name in ("envecho", "pyarrow", "pydantic", "tokenizers", "transformers")}


def save(document: Mapping[str, Any], out: Path) -> None:
    """Write the document."""
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(document: Mapping[str, Any]) -> str:
    """Return the results as a Markdown table: medians, with the smallest and the largest in brackets."""
    results: Mapping[str, Mapping[str, Mapping[str, float]]] = document["results"]
    keys = [key for key in UNITS if any(key in found for found in results.values())]
    lines = [f"| | {' | '.join(UNITS[key] for key in keys)} |", "|---" * (len(keys) + 1) + "|"]
    for title, found in results.items():
        cells = [_cell(key, found[key]) if key in found else "" for key in keys]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(key: str, value: Mapping[str, float]) -> str:
    low, middle, high = (_number(key, value[name]) for name in ("min", "median", "max"))
    return f"**{middle}** ({low} to {high})" if low != high else f"**{middle}**"


def _number(key: str, value: float) -> str:
    if key == "peak_memory_bytes":
        return f"{value / 1e6:,.0f} MB"
    if key == "num_threads":
        return f"{value:,.0f}"
    if key.startswith("ratio"):
        return f"{value:.3f}"
    if key in ("world_fraction", "row_occupancy") or 0 < value < 0.1:
        return f"{value:.2g}"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"
