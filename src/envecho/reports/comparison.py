"""Several runs side by side: each seed's headline figures, their mean and median, per pool.

Runs are grouped by model and number of steps: a mean over unlike runs means nothing. Not here: paired statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Final

from envecho.errors import DataError
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.numbers import Cell
from envecho.reports.palette import ordered_pools, pool_title
from envecho.reports.schema import Summary, read_summary

_COLUMNS: Final[tuple[tuple[str, str, str], ...]] = (
    ("Derivable, base", "base", "ce_derivable"),
    ("Derivable, trained", "trained", "ce_derivable"),
    ("Derivable, best copier", "ngram", "ce_derivable"),
    ("First views, base", "base", "ce_first_view"),
    ("First views, trained", "trained", "ce_first_view"),
    ("Swap gap, base", "base", "action_swap_gap"),
    ("Swap gap, trained", "trained", "action_swap_gap"),
    ("First choice right, base", "base", "top1_accuracy"),
    ("First choice right, trained", "trained", "top1_accuracy"),
)


@dataclass(frozen=True, kw_only=True)
class RunGroup:
    """Runs that differ in their seed alone, as one table."""

    label: str
    table: Table


def compare_runs(folders: Sequence[Path]) -> list[RunGroup]:
    """Read each run's `summary.json` and return a table per group of like runs.

    Raises:
        DataError: a folder has no `summary.json` of a known version.
    """
    runs: dict[tuple[str, int], list[tuple[str, Summary]]] = {}
    for folder in folders:
        path = folder / "summary.json"
        if not path.is_file():
            raise DataError("expected summary.json, found none; `envecho demo` writes it", file=folder)
        summary = read_summary(path)
        runs.setdefault((summary.model, summary.steps), []).append((folder.resolve().name, summary))
    return [
        RunGroup(label=f"{model}, {steps:,} steps", table=_table(members)) for (model, steps), members in runs.items()
    ]


def _table(members: list[tuple[str, Summary]]) -> Table:
    pools = ordered_pools({pool for _, summary in members for pool in summary.pools})
    groups = [Group(label=pool_title(pool), rows=tuple(_rows(members, pool))) for pool in pools]
    caption = "Headline figures per seed; nats per token at T = 1."
    return Table(caption=caption, head=tuple(head for head, _, _ in _COLUMNS), groups=tuple(groups))


def _rows(members: list[tuple[str, Summary]], pool: str) -> list[Row]:
    values = [[_value(summary, pool, who, figure) for _, who, figure in _COLUMNS] for _, summary in members]
    rows = [
        Row(label=f"seed {summary.seed} ({name})", cells=_cells(row))
        for (name, summary), row in zip(members, values, strict=True)
    ]
    if len(members) > 1:
        rows += [_over(values, "mean", mean), _over(values, "median", median)]
    return rows


def _over(values: list[list[float | None]], label: str, fold: Callable[[list[float]], float]) -> Row:
    columns = [[value for value in column if value is not None] for column in zip(*values, strict=True)]
    return Row(label=f"{label} of {len(values)}", cells=_cells([fold(c) if c else None for c in columns], best=True))


def _value(summary: Summary, pool: str, who: str, figure: str) -> float | None:
    measures = {str(name): measure for name, measure in summary.pools.get(pool, {}).items()}
    return getattr(measures[who], figure) if who in measures else None


def _cells(values: Sequence[float | None], *, best: bool = False) -> tuple[Cell, ...]:
    write: dict[str, Callable[[float | None], str]] = {
        "top1_accuracy": numbers.share,
        "action_swap_gap": lambda x: numbers.gap(x, 3),
    }
    return tuple(
        Cell(text=write.get(figure, lambda x: numbers.nats(x, 3))(value), best=best)
        for (_, _, figure), value in zip(_COLUMNS, values, strict=True)
    )
