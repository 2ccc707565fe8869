"""What a run shows on standard error while it goes on: a bar, and of an on-policy run its health, redrawn at each step.

Where standard error is no terminal, a line every ten seconds instead. Evaluations and alarms are lines that stay. Not
here: what is logged (`health`), and how the health of a run is drawn (`live_view`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, final

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from envecho.training.live_view import HealthView
from envecho.training.loop import OnEvent

_SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def show_progress(console: Console | None = None) -> Generator[OnEvent]:
    """Give `train`'s `on_event`, drawn on standard error (or `console`) until the block ends."""
    console = console or Console(stderr=True, highlight=False)
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
    progress, view = Progress(*columns), HealthView()
    with Live(Group(progress, view), console=console, transient=True, refresh_per_second=4) as live:
        yield _View(live.console, progress, view).show


@final
class _View:
    """A bar, and under it the health of an on-policy run."""

    def __init__(self, console: Console, progress: Progress, view: HealthView) -> None:
        self._console, self._progress, self._view = console, progress, view
        self._task: TaskID | None = None

    def show(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "start":
            self._task = self._progress.add_task("", total=event["num_steps"], completed=event["step"])
        elif event["kind"] == "train" and self._task is not None:
            self._progress.update(self._task, completed=event["step"], description=_describe(event))
            self._view.add(event)
        else:
            _print_event(self._console, event)


@final
class _Lines:
    """A line now and then, for logs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._num_steps = 0
        self._started = self._last = time.monotonic()
        self._first_step = 0

    def show(self, event: Mapping[str, Any]) -> None:
        if event["kind"] == "start":
            self._num_steps, self._first_step = event["num_steps"], event["step"]
            self._started = time.monotonic()
        elif event["kind"] == "train":
            now, step = time.monotonic(), event["step"]
            if now - self._last < _SECONDS_BETWEEN_LINES and step < self._num_steps:
                return
            self._last = now
            left = (now - self._started) / (step - self._first_step) * (self._num_steps - step)
            self._console.print(f"step {step}/{self._num_steps}  {_describe(event)}  {left:.0f} s left")
        else:
            _print_event(self._console, event)


def _describe(row: Mapping[str, Any]) -> str:
    env_ce = "-" if row["env_ce"] is None else f"{row['env_ce']:.3f}"
    solved = f"solved {row['solve_rate']:.0%}  " if row.get("solve_rate") is not None else ""
    return f"{solved}loss {row['loss']:.4f}  env CE {env_ce}  {row['tokens_per_second']:.0f} tok/s"


def _print_event(console: Console, event: Mapping[str, Any]) -> None:
    """Print what is worth a line that stays; checkpoints are not."""
    if event["kind"] == "validation":
        derivable = event["env_ce_derivable"]
        tail = "" if derivable is None else f", derivable {derivable:.3f}"
        console.print(f"step {event['step']}: validation env CE {event['env_ce']:.3f}{tail} nats per token")
    elif event["kind"] == "evaluation":
        solved = "nothing graded" if event["solve_rate"] is None else f"solved {event['solve_rate']:.1%}"
        env_ce = "" if event["env_ce"] is None else f", held-out env CE {event['env_ce']:.3f} nats per token"
        console.print(f"step {event['step']}: {solved} of {event['num_episodes']} {event['split']} episodes{env_ce}")
    elif event["kind"] == "alarm":
        console.print(
            f"step {event['step']}: ALARM {event['name']}: {event['reason']}",
            style="bold",
            markup=False,
            soft_wrap=True,
        )
