"""Several folders side by side: seeds of one configuration as one group, their curves, health and alarms; evaluations.

Runs are grouped by what was configured: everything but the seed. A mean over unlike runs means nothing. Not here:
paired statistics of evaluations (`comparison_evaluations`) and pictures (`comparison_charts`).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, Final

from envecho.errors import DataError
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.comparison_charts import CurveGroup, RunCurves, curves_chart
from envecho.reports.comparison_evaluations import EvaluationsSideBySide, compare_evaluations
from envecho.reports.dot_charts import attribution_chart
from envecho.reports.numbers import Cell, Unit
from envecho.reports.palette import ordered_pools, pool_title
from envecho.reports.pictures import Picture, draw
from envecho.reports.policy import FIGURES, WINDOW, mean_of_known
from envecho.reports.run_folder import RunFolder, read_run_folder
from envecho.reports.schema import Summary

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
    """Runs that differ in their seed alone: their name, and the headline figures of those that have a summary."""

    label: str
    runs: tuple[RunFolder, ...]
    table: Table | None


@dataclass(frozen=True, kw_only=True)
class FolderComparison:
    """What a page of several folders holds; None or empty where the folders have nothing of it."""

    sentence: str
    groups: tuple[RunGroup, ...]
    health: Table | None
    alarms: tuple[tuple[str, int, str, str], ...]
    evaluations: EvaluationsSideBySide | None


def compare_folders(folders: Sequence[Path]) -> FolderComparison:
    """Read the folders and set them side by side.

    Raises:
        DataError: a folder holds none of summary.json, metrics.jsonl and evaluation.json, or one that is damaged.
    """
    runs = [read_run_folder(folder) for folder in folders]
    for run in runs:
        if not (run.summary or run.metrics or run.evaluation):
            raise DataError(
                "expected summary.json, metrics.jsonl or evaluation.json, found none; `envecho train`, `envecho demo` "
                "and `envecho eval --out` write them",
                file=run.path,
            )
    names = run_names(runs)
    groups = group_runs([run for run in runs if not run.is_evaluation], names)
    return FolderComparison(
        sentence=_sentence(groups, num_evaluations=sum(run.evaluation is not None for run in runs)),
        groups=tuple(groups),
        health=_health(groups, names),
        alarms=tuple(
            (names[run.path], alarm.step, alarm.name.replace("_", " "), alarm.reason)
            for run in runs
            for alarm in (run.metrics.alarms if run.metrics else ())
        ),
        evaluations=compare_evaluations([(names[run.path], run) for run in runs if run.evaluation]),
    )


def _sentence(groups: Sequence[RunGroup], *, num_evaluations: int) -> str:
    num_runs = sum(len(group.runs) for group in groups)
    counts = ((num_runs, "run"), (len(groups), "configuration"), (num_evaluations, "evaluation"))
    parts = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in counts if count]
    return " · ".join(parts)


def comparison_pictures(comparison: FolderComparison) -> dict[str, Picture]:
    """Draw the curves of the runs, and where the evaluations differ."""
    pictures: dict[str, Picture] = {}
    curves = [
        CurveGroup(label=group.label, runs=tuple(RunCurves.of(run.metrics) for run in group.runs if run.metrics))
        for group in comparison.groups
    ]
    curves = [group for group in curves if any(run.has_points for run in group.runs)]
    if curves:
        pictures["curves"] = draw(
            "curves",
            lambda narrow: curves_chart(curves, narrow=narrow),
            title="The runs step by step",
            description="The figures of the last steps are in the tables below",
        )
    bars = comparison.evaluations.bars if comparison.evaluations else ()
    if bars:
        pictures["pools"] = draw(
            "pools",
            lambda narrow: attribution_chart(bars, narrow=narrow),
            title="Where the evaluations differ",
            description="Its figures are in the table under the picture",
        )
    return pictures


def run_names(runs: Sequence[RunFolder]) -> dict[Path, str]:
    """Return a name per folder: its own, or with as many parents as it takes to tell them apart."""
    paths = [run.path.resolve() for run in runs]

    def named(depth: int) -> list[str]:
        return ["/".join(path.parts[-depth:]) for path in paths]

    deepest = max(len(path.parts) for path in paths)
    depth = next((depth for depth in range(1, deepest) if len(set(named(depth))) == len(set(paths))), deepest)
    return {run.path: name for run, name in zip(runs, named(depth), strict=True)}


def group_runs(runs: Sequence[RunFolder], names: Mapping[Path, str]) -> list[RunGroup]:
    """Group runs by their configuration without its seed, in the order in which they were given.

    The name of a group is what sets it apart from the others; of a configured path only the file's name counts.
    """
    found: dict[tuple[tuple[str, str], ...], list[RunFolder]] = {}
    for run in runs:
        found.setdefault(tuple(_configuration(run)), []).append(run)
    keys = [dict(key) for key in found]
    apart = [
        name for name in dict.fromkeys(name for key in keys for name in key) if len({k.get(name) for k in keys}) > 1
    ]
    groups: list[RunGroup] = []
    for key, members in zip(keys, found.values(), strict=True):
        label = ", ".join(f"{name} = {key[name]}" for name in apart if name in key)
        groups.append(RunGroup(label=label or _made(members), runs=tuple(members), table=_table(members, names)))
    return groups


def _made(members: Sequence[RunFolder]) -> str:
    made = next((run.summary for run in members if run.summary), None)
    seeds = "seed" if len(members) == 1 else "seeds"
    what = f"{made.model}, {made.steps:,} steps, " if made else ""
    return f"{what}{len(members)} {seeds}"


def _configuration(run: RunFolder) -> Iterator[tuple[str, str]]:
    if run.config is not None:
        try:
            yield from _flat(tomllib.loads(run.config))
        except tomllib.TOMLDecodeError as error:
            raise DataError(f"expected TOML, found none: {error}", file=run.path / "config.toml") from error
    elif run.summary is not None:
        yield "model", run.summary.model
        yield "run.steps", str(run.summary.steps)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif name != "seed":
            values: list[Any] = value if isinstance(value, list) else [value]
            yield f"{prefix}{name}", ", ".join(str(item).rsplit("/", 1)[-1] for item in values)


def _table(members: Sequence[RunFolder], names: Mapping[Path, str]) -> Table | None:
    made = [(names[run.path], run.summary) for run in members if run.summary and run.summary.pools]
    pools = ordered_pools({pool for _, summary in made for pool in summary.pools})
    groups = [Group(label=pool_title(pool), rows=tuple(_rows(made, pool))) for pool in pools]
    caption = "Headline figures per seed; nats per token at T = 1."
    heads = tuple(head for head, _, _ in _COLUMNS)
    return Table(caption=caption, head=heads, groups=tuple(groups)) if groups else None


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
        Cell(text=write.get(figure, lambda x: numbers.nats(x, 3))(value), best=best, value=value)
        for (_, _, figure), value in zip(_COLUMNS, values, strict=True)
    )


def _health(groups: Sequence[RunGroup], names: Mapping[Path, str]) -> Table | None:
    """Runs x figures: means over the last steps of each run, and how many alarms it raised."""
    rows_of = {run.path: run.metrics.train[-WINDOW:] for group in groups for run in group.runs if run.metrics}
    known: list[tuple[str, str, Unit]] = [
        (key, label, unit)
        for key, label, unit in FIGURES
        if any(getattr(row, key) is not None for rows in rows_of.values() for row in rows)
    ]
    found: list[Group] = []
    for group in groups:
        rows: list[Row] = []
        for run in group.runs:
            if not run.metrics or not run.metrics.train:
                continue
            cells = [
                Cell(text=numbers.write(value, unit), value=value)
                for key, _, unit in known
                for value in [mean_of_known([getattr(row, key) for row in rows_of[run.path]])]
            ]
            last = numbers.count_cell(run.metrics.train[-1].step)
            rows.append(Row(label=names[run.path], cells=(last, numbers.count_cell(len(run.metrics.alarms)), *cells)))
        if rows:
            found.append(Group(label=group.label, rows=tuple(rows)))
    head = ("Last step", "Alarms", *(label[:1].upper() + label[1:] for _, label, _ in known))
    caption = f"Means over the last {WINDOW} steps of each run, or all of a shorter one."
    return Table(caption=caption, head=head, groups=tuple(found)) if found else None
