"""How the report writes figures: nats, shares, times, sizes, and a figure with its interval.

Not here: computing any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from envecho.evaluation.results import Stat

Unit = Literal["nats", "share", "gap"]

MISSING: Final = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table cell: the figure, and under it the interval (empty where there is none)."""

    text: str
    interval: str = ""
    best: bool = False


def nats(value: float | None, digits: int = 2) -> str:
    """Return nats with fixed digits, so that columns line up."""
    return MISSING if value is None else f"{value:.{digits}f}"


def gap(value: float | None, digits: int = 2) -> str:
    """Return a difference in nats with its sign."""
    return MISSING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """Return a fraction as a percentage."""
    return MISSING if value is None else f"{100 * value:.1f} %"


def cell(stat: Stat | None, unit: Unit = "nats", *, best: bool = False) -> Cell:
    """Return a figure with its interval as a table cell."""
    if stat is None:
        return Cell(text=MISSING)
    write = {"nats": lambda x: nats(x, 3), "share": share, "gap": lambda x: gap(x, 3)}[unit]
    if stat.low is None or stat.high is None:
        return Cell(text=write(stat.value), best=best)
    return Cell(text=write(stat.value), interval=f"{write(stat.low)} to {write(stat.high)}", best=best)


def duration(seconds: float) -> str:
    """Return a time as people say it: `5 min 22 s`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    hours, rest = divmod(whole, 3600)
    minutes, last = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {last} s"


def gigabytes(num_bytes: int | None) -> str:
    """Return a size in GB (10^9 bytes)."""
    return MISSING if num_bytes is None else f"{num_bytes / 1e9:.1f} GB"
