"""How the report writes figures: nats, shares, times, sizes, and a figure with its interval.

Not here: computing any of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from envecho.evaluation.results import Stat

Unit = Literal["nats", "share", "gap", "sum"]

MISSING: Final = "–"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A table cell: the figure, and under it the interval (empty where there is none).

    `value` is what a column is sorted by, where the text does not say it as exactly.
    """

    text: str
    interval: str = ""
    best: bool = False
    value: float | None = None


def nats(value: float | None, digits: int = 2) -> str:
    """Return nats with fixed digits, so that columns line up."""
    return MISSING if value is None else f"{value:.{digits}f}"


def gap(value: float | None, digits: int = 2) -> str:
    """Return a difference in nats with its sign."""
    return MISSING if value is None else f"{value:+.{digits}f}".replace("-", "−")


def share(value: float | None) -> str:
    """Return a fraction as a percentage."""
    return MISSING if value is None else f"{100 * value:.1f} %".replace("-", "−")


def write(value: float | None, unit: Unit) -> str:
    """Return a figure as the tables write it: three decimals, a percentage, or one decimal for sums of nats."""
    if unit == "share":
        return share(value)
    return gap(value, 3) if unit == "gap" else nats(value, 1 if unit == "sum" else 3)


def cell(stat: Stat | None, unit: Unit = "nats", *, best: bool = False) -> Cell:
    """Return a figure with its interval as a table cell."""
    if stat is None:
        return Cell(text=MISSING)
    known = stat.low is not None and stat.high is not None
    interval = f"{write(stat.low, unit)} to {write(stat.high, unit)}" if known else ""
    return Cell(text=write(stat.value, unit), interval=interval, best=best, value=stat.value)


def share_cell(value: float | None) -> Cell:
    """Return a fraction as a table cell without an interval."""
    return Cell(text=share(value), value=value)


def count_cell(count: int) -> Cell:
    """Return a count as a table cell."""
    return Cell(text=f"{count:,}", value=count)


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
