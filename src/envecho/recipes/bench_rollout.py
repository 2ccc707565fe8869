"""`envecho bench rollout`: what the loop itself costs per step, over worlds that do nothing, or sleep, or are served.

A script acts in N worlds at once (`collect`), or a model that says nothing, in no time, is decoded for them
(`rollout`); so what is left beside the worlds' own time is ours. Every phase runs in a fresh process. Not here: real
models (`bench_decode`) and real worlds.
"""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

from envecho.errors import EngineError
from envecho.recipes import bench
from envecho.recipes.bench_decode import MATERIAL as DECODE_MATERIAL
from envecho.recipes.bench_decode import decode_phases
from envecho.recipes.bench_worlds import TAIL_EVERY, TAIL_FACTOR, Clock, NullSuite, NullWorld, SilentEngine, TimedWorld
from envecho.rollout import EpisodeJob, RolloutJob, RolloutParams, RolloutStats, Schedule, collect, rollout
from envecho.seam import TaskSuite
from envecho.tokens import ChatTokenizer
from envecho.trajectory import StopReason
from envecho.worlds.scripts import ScriptedPolicy

_MIN_STEPS: Final = 2000
_MIN_SLEPT: Final = 100
_MIN_SERVED: Final = 500
_ROUNDS: Final = 4
_DECODE_SECONDS: Final = 0.02
_UNEQUAL_SECONDS: Final = 0.05
_MODEL: Final = "smollm2-135m"
_SCHEDULES: Final[tuple[Schedule, ...]] = ("lockstep", "ready")
_MOST_REFILLED: Final = 64


def bench_rollout(
    *,
    worlds: Sequence[int],
    steps: int,
    step_seconds: Sequence[float],
    parts: Sequence[str],
    repetitions: int,
    seed: int,
    model: str,
) -> dict[str, Any]:
    """Measure the loop for each number of worlds at once, and a real model's decoding.

    Args:
        worlds: how many worlds run at once.
        steps: actions of an episode.
        step_seconds: how long a world in this process sleeps in a step; those of the model sleep the longest of them.
        parts: which of `script`, `served`, `model`, `refill` and `decode` to measure.
        repetitions: how often each phase runs.
        seed: the first world's seed.
        model: the real model of `decode`.
    """
    measured: dict[str, dict[str, list[float]]] = {}

    def measure(title: str, phase: bench.Phase) -> None:
        measured[title] = bench.repeat([phase] * repetitions, title)

    for seconds in step_seconds if "script" in parts else ():
        for num in worlds:
            measure(f"script, {_named(seconds)}, {_of(num)}", functools.partial(run_scripts, num, steps, seconds, seed))
    if "served" in parts:
        with null_server(steps, max(worlds)) as url:
            for num in worlds:
                measure(f"script, served, {_of(num)}", functools.partial(run_served, num, steps, url, seed))
    for schedule in _SCHEDULES if "model" in parts else ():
        for num in worlds:
            phase = functools.partial(run_model, num, steps, max(step_seconds), schedule, seed)
            measure(f"model, slow tail, {schedule}, {_of(num)}", phase)
    for num in worlds if "refill" in parts else ():
        if 1 < num <= _MOST_REFILLED:
            for schedule in _SCHEDULES:
                title = f"unequal episodes, {'rows refilled' if schedule == 'ready' else 'lockstep'}, {_of(num)}"
                measure(title, functools.partial(run_unequal, num, steps, schedule, seed))
    if "decode" in parts:
        for title, phase in decode_phases(model, seed).items():
            measure(title, phase)
    material = {
        "steps": steps,
        "step_seconds": list(step_seconds),
        "decode_seconds": _DECODE_SECONDS,
        "decode": DECODE_MATERIAL if "decode" in parts else "",
        "tail": f"one step in {TAIL_EVERY} takes {TAIL_FACTOR} times as long",
    }
    return bench.document("rollout", material, measured, repetitions, seed)


def _named(seconds: float) -> str:
    return f"{seconds * 1000:g} ms a step" if seconds else "null world"


def _of(num: int) -> str:
    return f"{num} world{'s' if num > 1 else ''}"


# --- phases, each in a process of its own -------------------------------------------------------------------------


def run_scripts(num: int, steps: int, seconds: float, seed: int) -> dict[str, float]:
    """A script in `num` worlds of this process."""
    clock = Clock()
    jobs = [
        EpisodeJob(
            id=f"e-{n}",
            task_id="null",
            seed=seed + n,
            make_world=lambda: TimedWorld(lambda: NullWorld(num_steps=steps, seconds=seconds), clock),
            make_policy=lambda: ScriptedPolicy.oracle(["go"] * steps),
        )
        for n in range(_num_episodes(num, steps, max(_MIN_SLEPT if seconds else _MIN_STEPS, _ROUNDS * num * steps)))
    ]
    return _collected(jobs, num, steps, clock)


def run_served(num: int, steps: int, url: str, seed: int) -> dict[str, float]:
    """A script in `num` sessions of a served world."""
    from envecho.worlds.openenv.suite import open_openenv
    from envecho.worlds.options import SuiteOptions

    suite, clock = open_openenv(url, SuiteOptions(max_turns=steps + 1)), Clock()
    first = suite.make_world("train", 0)  # the client's libraries are loaded when it first connects
    first.reset()
    first.close()
    jobs = [
        EpisodeJob(
            id=f"e-{n}",
            task_id="null",
            seed=seed + n,
            make_world=lambda: TimedWorld(lambda: suite.make_world("train", 0), clock),
            make_policy=lambda: ScriptedPolicy.oracle(["go"] * steps),
        )
        for n in range(_num_episodes(num, steps, _MIN_SERVED))
    ]
    return _collected(jobs, num, steps, clock)


def run_model(num: int, steps: int, seconds: float, schedule: Schedule, seed: int) -> dict[str, float]:
    """A model that says nothing, whose turn batches take 20 ms, in `num` worlds of which some steps take long."""
    from envecho.engines.pretrained import resolve_model

    tokenizer, clock = ChatTokenizer.from_pretrained(resolve_model(_MODEL)), Clock()
    jobs = [
        RolloutJob(
            id=f"e-{n}",
            task_id="null",
            key=(n,),
            world_seed=seed + n,
            make_world=lambda n=n: TimedWorld(
                lambda: NullWorld(num_steps=steps, seconds=seconds, tail=True, number=n), clock
            ),
        )
        for n in range(2 * num)
    ]
    params = RolloutParams(
        max_turns=steps,
        max_tokens_per_turn=1,
        max_context_tokens=1_000_000,
        episodes_per_batch=num,
        num_workers=num,
        schedule=schedule,
        ready_seconds=_DECODE_SECONDS,
    )
    engine: Any = SilentEngine(_DECODE_SECONDS)
    start, worked = time.perf_counter(), time.process_time()
    records = rollout(jobs, engine, tokenizer, params)
    found = _found(clock, num, time.perf_counter() - start, time.process_time() - worked)
    _check(len(records) * steps == len(clock.steps), RolloutStats.of(records))
    return found


def run_unequal(num: int, steps: int, schedule: Schedule, seed: int) -> dict[str, float]:
    """Episodes of half to one and a half times `steps`, four for each of `num` rows, in worlds that answer at once.

    `row_occupancy` is the share of the rows that draw, over all batches but as many at the end as an episode has steps.
    """
    from envecho.engines.pretrained import resolve_model

    tokenizer, draw = ChatTokenizer.from_pretrained(resolve_model(_MODEL)), random.Random(seed)
    lengths = [draw.randint(max(1, steps // 2), steps + steps // 2) for _ in range(4 * num)]
    jobs = [
        RolloutJob(
            id=f"e-{n}",
            task_id="null",
            key=(n,),
            world_seed=seed + n,
            make_world=lambda n=n: NullWorld(num_steps=lengths[n], number=n),
        )
        for n in range(len(lengths))
    ]
    params = RolloutParams(
        max_turns=max(lengths),
        max_tokens_per_turn=1,
        max_context_tokens=1_000_000,
        episodes_per_batch=num,
        num_workers=num,
        schedule=schedule,
    )
    engine = SilentEngine(_UNEQUAL_SECONDS)
    sampler: Any = engine
    start = time.perf_counter()
    records = rollout(jobs, sampler, tokenizer, params)
    seconds = time.perf_counter() - start
    _check(sum(engine.batch_sizes) == sum(lengths), RolloutStats.of(records))
    # At the end both run out of episodes.
    counted = engine.batch_sizes[: -max(lengths)] or engine.batch_sizes
    return {
        "steps_per_second": sum(lengths) / seconds,
        "row_occupancy": sum(counted) / (len(counted) * num),
    }


def _num_episodes(num: int, steps: int, least: int) -> int:
    return num * math.ceil(max(least, num * steps) / (num * steps))


def _collected(jobs: Sequence[EpisodeJob], num: int, steps: int, clock: Clock) -> dict[str, float]:
    start, worked = time.perf_counter(), time.process_time()
    records = list(collect(jobs, max_turns=steps, num_workers=num))
    found = _found(clock, num, time.perf_counter() - start, time.process_time() - worked)
    completed = all(record.stop_reason is StopReason.COMPLETED for record in records)
    _check(completed and len(clock.steps) == len(jobs) * steps, RolloutStats.of(records))
    return found


def _found(clock: Clock, num: int, seconds: float, worked: float) -> dict[str, float]:
    steps, gaps, ends = sorted(clock.steps), sorted(clock.gaps), sorted(clock.starts_and_ends)
    return {
        "steps_per_second": len(steps) / seconds,
        "world_fraction": (sum(steps) + sum(ends)) / (seconds * num),
        "gap_microseconds_p50": 1e6 * gaps[len(gaps) // 2],
        "gap_microseconds_p95": 1e6 * gaps[int(0.95 * len(gaps))],
        "step_milliseconds_p50": 1e3 * steps[len(steps) // 2],
        "step_milliseconds_p95": 1e3 * steps[int(0.95 * len(steps))],
        "start_and_end_milliseconds_p50": 1e3 * ends[len(ends) // 2],
        "processor_microseconds": 1e6 * worked / len(steps),
        "num_threads": float(clock.most_threads),
    }


def _check(is_whole: bool, stats: RolloutStats) -> None:
    if not is_whole:
        raise EngineError(f"the episodes that were to be measured did not all run to their end: {stats.row()}")


# --- the server ---------------------------------------------------------------------------------------------------


@contextmanager
def null_server(steps: int, num_sessions: int) -> Generator[str]:
    """Serve the null world in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_serve, args=(theirs, steps, num_sessions))
    process.start()
    theirs.close()
    try:
        yield ours.recv()
    except EOFError:
        raise EngineError("the server of the null world did not start; its error stands above") from None
    finally:
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGTERM)
        process.join()


def _serve(connection: Connection, steps: int, num_sessions: int) -> None:
    from envecho.worlds.openenv.server import make_app
    from envecho.worlds.openenv.server_run import run_server

    suite: TaskSuite = NullSuite(steps)
    app = make_app(suite, max_sessions=2 * num_sessions)
    run_server(app, host="127.0.0.1", port=0, public=False, on_ready=connection.send)
