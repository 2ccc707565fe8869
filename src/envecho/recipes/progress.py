"""One progress bar on stderr, with rate and time left, for jobs that last over two seconds."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def progress_bar(name: str, *, total: int) -> Generator[Callable[[int], None]]:
    """Show a bar while the block runs; the block receives a function that advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=total)
        yield lambda count: progress.advance(task, count)


def say(line: str) -> None:
    """Print one line of progress on stderr."""
    Console(stderr=True, highlight=False).print(line)


@contextmanager
def working(name: str) -> Generator[None]:
    """Show a spinner and the seconds so far while a block without countable parts runs."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(name, total=None)
        yield


@contextmanager
def counting(name: str) -> Generator[Callable[[int], None]]:
    """Show how many and how fast while a block runs whose end is not known; it receives a function that counts on."""
    columns = (SpinnerColumn(), TextColumn("{task.description} {task.completed:,.0f}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)
        yield lambda count: progress.advance(task, count)
