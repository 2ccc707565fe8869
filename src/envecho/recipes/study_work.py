"""Runs tasks in processes of their own, some at once, in order; Ctrl-C stops them, and what they print goes to logs.

A task must survive being killed: the studies' runs resume from their checkpoints. Where the parent is killed, its
processes end too, so that two never write into one run folder. Not here: what a task does.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path

from envecho.errors import EngineError
from envecho.recipes.progress import say


@dataclass(frozen=True, kw_only=True)
class Task:
    """A job with a name and a log; `run` must be picklable (a `functools.partial` of a module's function)."""

    name: str
    run: Callable[[], None]
    log: Path


def work(tasks: Sequence[Task], *, num_workers: int, threads: int) -> None:
    """Run all tasks, `num_workers` at once in spawned processes with `threads` torch threads; 0: here, one by one.

    Raises:
        EngineError: tasks failed; the others were run all the same.
        KeyboardInterrupt: Ctrl-C; every process was ended first.
    """
    if num_workers == 0:
        for task in tasks:
            task.run()
        return
    context = multiprocessing.get_context("spawn")
    waiting = list(tasks)
    running: dict[int, tuple[SpawnProcess, Task, float]] = {}
    failed: list[Task] = []
    try:
        while waiting or running:
            while waiting and len(running) < num_workers:
                task = waiting.pop(0)
                process = context.Process(target=_in_process, args=(task, threads))
                process.start()
                running[process.sentinel] = (process, task, time.monotonic())
            for sentinel in wait(list(running)):
                assert isinstance(sentinel, int)
                process, task, started = running.pop(sentinel)
                process.join()
                done = process.exitcode == 0
                failed += [] if done else [task]
                word = "done" if done else f"FAILED, see {task.log}"
                left = len(waiting) + len(running)
                say(f"{task.name}: {word} after {(time.monotonic() - started) / 60:.1f} min; {left} left")
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            process.join()
    if failed:
        lines = "; ".join(f"{task.name} (log: {task.log})" for task in failed)
        raise EngineError(f"{len(failed)} of {len(tasks)} failed: {lines}; the same command tries them again")


def _in_process(task: Task, threads: int) -> None:
    # Ctrl-C reaches the whole process group; the parent ends us, so that nothing prints a traceback over its message.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    threading.Thread(target=end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(threads)
    task.run()


def end_with_parent() -> None:
    """Wait for the process that started this one to end, then end at once; the target of a daemon thread."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
