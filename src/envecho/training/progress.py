"""A bar on standard error while a run goes on: loss, env CE, tokens per second, time left.

Where standard error is no terminal, a line every ten seconds instead. Not here: what is logged (`health`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from envecho.training.loop import OnEvent

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress() -> Generator[OnEvent]:
    """Give `train`'s `on_event`, drawn on standard error until the block ends."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield _Lines(console).show
        return
    columns = (
        TextColumn("train"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bar(progress).show


class _Bar:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def show(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "start":
            self._task = self._progress.add_task("", total=event["num_steps"], completed=event["step"])
        elif event["kind"] == "train" and self._task is not None:
            self._progress.update(self._task, completed=event["step"], description=_describe(event))
        elif event["kind"] == "validation":
            self._progress.console.print(_describe_validation(event))


class _Lines:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_steps = 0
        self._started = self._last = time.monotonic()
        self._first_step = 0

    def show(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "start":
            self._num_steps, self._first_step = event["num_steps"], event["step"]
            self._started = time.monotonic()
        elif event["kind"] == "validation":
            self._console.print(_describe_validation(event))
        elif event["kind"] == "train":
            now, step = time.monotonic(), event["step"]
            if now - self._last < _SECONDS_BETWEEN_LINES and step < self._num_steps:
                return
            self._last = now
            left = (now - self._started) / (step - self._first_step) * (self._num_steps - step)
            self._console.print(f"step {step}/{self._num_steps}  {_describe(event)}  {left:.0f} s left")


def _describe(row: Mapping[str, Any]) -> str:
    env_ce = "-" if row["env_ce"] is None else f"{row['env_ce']:.3f}"
    return f"loss {row['loss']:.4f}  env CE {env_ce}  {row['tokens_per_second']:.0f} tok/s"


def _describe_validation(row: Mapping[str, Any]) -> str:
    derivable = row["env_ce_derivable"]
    tail = "" if derivable is None else f", derivable {derivable:.3f}"
    return f"step {row['step']}: validation env CE {row['env_ce']:.3f}{tail} nats per token"
