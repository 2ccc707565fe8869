"""The parts of a page as plain data: tables and readouts, ready for a template.

Not here: HTML (`templates/`), reading files (`run_folder`), the wording of the finding (`finding`), and trajectories
(`token_views`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from envecho.evaluation.results import Evaluation, Predictor, Readout
from envecho.reports import numbers
from envecho.reports.marks import Run, cut, mark_difference, mark_teacher_forced
from envecho.reports.numbers import Cell, Unit
from envecho.reports.palette import PREDICTOR_LABELS, ordered_pools, pool_title
from envecho.reports.schema import PREDICTORS

_COLUMNS: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("CE per token", "ce_per_token", "nats"),
    ("CE per byte", "ce_per_byte", "nats"),
    ("First views", "ce_first_view", "nats"),
    ("Derivable", "ce_derivable", "nats"),
    ("First choice right", "top1_accuracy", "share"),
    ("Swap gap", "action_swap_gap", "gap"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A table row: its header, its cells, and the predictor that colours it (empty: none)."""

    label: str
    cells: tuple[Cell, ...]
    predictor: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of one pool."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption, column heads and groups of rows."""

    caption: str
    head: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One predictor's answer in a readout; `left_out` are characters of the free-running text that are not shown."""

    label: str
    predictor: str
    exact: bool
    ce: str
    top1: str
    free: tuple[Run, ...]
    forced: tuple[Run, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ReadoutBlock:
    """One command, what the world said, and the answers."""

    command: str
    where: str
    kind: str
    actual: tuple[Run, ...]
    left_out: int
    answers: tuple[Answer, ...]


def headline_table(evaluation: Evaluation) -> Table:
    """Pools x predictors: every headline figure with its interval; the lowest cost of a pool is marked."""
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        results = evaluation.pools[pool]
        present: list[Predictor] = [name for name in PREDICTORS if name in results]
        best = {figure: _best([getattr(results[name], figure) for name in present]) for _, figure, _ in _COLUMNS[:4]}
        rows = [
            Row(
                label=PREDICTOR_LABELS[name],
                predictor=name,
                cells=tuple(
                    numbers.cell(stat, unit, best=stat is not None and stat.value == best.get(figure))
                    for _, figure, unit in _COLUMNS
                    for stat in [getattr(results[name], figure)]
                ),
            )
            for name in present
        ]
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    caption = "Held-out figures with 95 % intervals; nats at T = 1. The lowest cost of each pool is set bold."
    return Table(caption=caption, head=tuple(head for head, _, _ in _COLUMNS), groups=tuple(groups))


def _best(stats: Sequence[object]) -> float | None:
    values = [value for stat in stats if (value := getattr(stat, "value", None)) is not None]
    return min(values, default=None)


def operation_table(evaluation: Evaluation) -> Table:
    """Pools x operations: share of derivable tokens, CE per predictor, and how often the trained model is right."""
    present = _present(evaluation)
    head = ("Share", *(PREDICTOR_LABELS[name].capitalize() for name in present), "Trained: first choice right")
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        results = evaluation.pools[pool]
        operations = sorted({op for result in results.values() for op in result.by_operation})
        rows: list[Row] = []
        for operation in operations:
            found = {name: results[name].by_operation.get(operation) for name in results}
            shares = [result.share for result in found.values() if result]
            trained = found.get("trained")
            cells = [numbers.cell(result.ce if (result := found.get(name)) else None) for name in present]
            top1 = numbers.cell(trained.top1_accuracy if trained else None, "share")
            rows.append(Row(label=operation, cells=(Cell(text=numbers.share(shares[0])), *cells, top1)))
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    return Table(caption="Cross-entropy on derivable output by operation.", head=head, groups=tuple(groups))


def source_table(evaluation: Evaluation) -> Table:
    """Pools x sources: tokens, and CE per predictor."""
    present = _present(evaluation)
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        results = evaluation.pools[pool]
        sources = list(dict.fromkeys(source for result in results.values() for source in result.by_source))
        rows: list[Row] = []
        for source in sources:
            stats = {name: results[name].by_source.get(source) for name in results}
            counts = [stat.num_tokens for stat in stats.values() if stat]
            cells = [numbers.cell(stats.get(name)) for name in present]
            rows.append(Row(label=source, cells=(Cell(text=f"{max(counts, default=0):,}"), *cells)))
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    head = ("Tokens", *(PREDICTOR_LABELS[name].capitalize() for name in present))
    return Table(caption="Cross-entropy per token by who wrote the output.", head=head, groups=tuple(groups))


def _present(evaluation: Evaluation) -> list[Predictor]:
    return [name for name in PREDICTORS if any(name in results for results in evaluation.pools.values())]


def readout_block(readout: Readout) -> ReadoutBlock:
    """Lay out one readout; what a predictor got wrong is marked."""
    answers: list[Answer] = []
    for name in PREDICTORS:
        if name not in readout.predictions:
            continue
        prediction = readout.predictions[name]
        free, left_out = cut(mark_difference(prediction.text, readout.actual))
        forced, _ = cut(mark_teacher_forced(prediction.teacher_forced, readout.actual))
        answers.append(
            Answer(
                label=PREDICTOR_LABELS[name],
                predictor=name,
                exact=prediction.exact_match,
                ce=numbers.nats(prediction.ce_per_token),
                top1=numbers.share(prediction.top1_accuracy),
                free=tuple(free),
                forced=tuple(forced),
                left_out=left_out,
            )
        )
    actual, left_out = cut([Run(text=readout.actual)])
    kind = readout.view if readout.operation is None else f"{readout.view}: {readout.operation}"
    where = f"{pool_title(readout.pool)}, {readout.trajectory_id}, turn {readout.turn}"
    return ReadoutBlock(
        command=readout.command,
        where=where,
        kind=kind,
        actual=tuple(actual),
        left_out=left_out,
        answers=tuple(answers),
    )
