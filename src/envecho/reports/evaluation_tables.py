"""The tables of an evaluation beyond its headline: attribution, pools, slices, controls, probes, floors, comparisons.

Not here: the headline and the readouts (`blocks`), what the figures answer (`answers`), and pictures (`dot_charts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, get_args

from envecho.evaluation.results import (
    COMPRESSORS,
    ControlResult,
    Dimension,
    Evaluation,
    Predictor,
    PredictorResult,
    Probe,
    SliceResult,
    Stat,
)
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.dot_charts import Bar
from envecho.reports.numbers import Cell, Unit
from envecho.reports.palette import CONTROL_LABELS, PART_LABELS, PREDICTOR_LABELS, ordered_pools, pool_title
from envecho.reports.schema import PREDICTORS

ALL_PREDICTORS: Final[tuple[Predictor, ...]] = (*PREDICTORS, *COMPRESSORS)

DIMENSIONS: Final[dict[Dimension, tuple[str, str]]] = {
    "token_class": ("By token class", "Class"),
    "boilerplate": ("The harness’s phrases, by who wrote them", "Source"),
    "source": ("By source", "Source"),
    "tool": ("By tool", "Tool"),
    "command": ("By command", "Command"),
    "turn": ("By turn", "Turn"),
    "exit_status": ("By exit status", "Status"),
    "outcome": ("By outcome of the episode", "Outcome"),
    "view": ("By first or repeated view", "View"),
    "repeat": ("By whether another run printed the same", "Repeat"),
}
"""Title and head of the first column of each dimension's table, in the order of the page."""

PROBE_LABELS: Final[dict[Probe, tuple[str, str]]] = {
    "exit_status": ("Will it fail?", "Whether a command fails, asked before its output is seen."),
    "file_exists": (
        "Is the file there?",
        "Whether ls finds a path, asked behind a real history: which of the two answers is likelier.",
    ),
    "line_count": ("How many lines?", "How many lines a file has, asked right after all of it was shown."),
    "free_running": (
        "What does it say?",
        "Recorded commands with short outputs: the model’s own answer against the true one.",
    ),
}
"""Title and caption of each probe's table."""

_MEASURES: Final = {
    "accuracy": "Right",
    "balanced_accuracy": "Right, balanced",
    "majority": "Always the commonest answer",
    "auc": "AUC",
    "exact_match": "Exact match",
    "edit_similarity": "Edit similarity",
}

_SIDE_BY_SIDE: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("ce_per_token", "Nats per token", "nats"),
    ("ce_boilerplate", "Nats per token of the harness’s phrases", "nats"),
    ("top1_accuracy", "First choice right", "share"),
)

_POOLED: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("ce_per_token", "Per token, all tokens alike", "nats"),
    ("ce_per_trajectory", "Per token, all trajectories alike", "nats"),
    ("nats_per_trajectory", "Per trajectory", "sum"),
    ("ce_per_byte", "Per byte", "nats"),
    ("ce_boilerplate", "Per token of the harness’s phrases", "nats"),
)


@dataclass(frozen=True, kw_only=True)
class TitledTable:
    """A table with a heading of its own, and what its first column is."""

    title: str
    corner: str
    table: Table


def attribution_table(bars: Sequence[Bar]) -> Table | None:
    """Pool and pair x part: nats saved with their interval, the share of the saving, and the share of the tokens."""
    groups: list[Group] = []
    for bar in bars:
        item = bar.attribution
        rows = [
            Row(
                label=PART_LABELS.get(name, name),
                cells=(
                    numbers.cell(part.saved, "gap"),
                    numbers.share_cell(part.share),
                    numbers.share_cell(part.tokens),
                ),
                predictor=name if name in PART_LABELS else "",
            )
            for name, part in sorted(item.parts.items(), key=lambda pair: _place(pair[0], PART_LABELS))
        ]
        whole = (numbers.cell(item.saved, "gap"), numbers.share_cell(None), numbers.share_cell(1.0))
        rows.append(Row(label="in all", cells=whole))
        groups.append(Group(label=f"{bar.pool[:1].upper()}{bar.pool[1:]}: {bar.pair}", rows=tuple(rows)))
    caption = (
        "Nats saved per token of all that the world and its harness said, with 95 % intervals; the parts add up to the"
        " whole. A share is negative where that part became dearer."
    )
    head = ("Nats saved per token", "Share of the saving", "Share of the tokens")
    return Table(caption=caption, head=head, groups=tuple(groups)) if groups else None


def _place(name: str, order: Iterable[str]) -> int:
    known = list(order)
    return known.index(name) if name in known else len(known)


def pools_table(evaluation: Evaluation) -> Table | None:
    """What each pool holds; None where the file does not say."""
    rows = [
        Row(
            label=pool_title(pool),
            cells=(
                Cell(text=facts.file),
                numbers.count_cell(facts.num_trajectories),
                numbers.count_cell(facts.num_tasks),
                numbers.count_cell(facts.num_env_tokens),
                numbers.count_cell(facts.num_boilerplate_tokens),
            ),
        )
        for pool in ordered_pools(evaluation.facts)
        for facts in [evaluation.facts[pool]]
    ]
    head = ("File", "Trajectories", "Tasks", "Tokens of the world", "Tokens of the harness’s phrases")
    return (
        Table(caption="What was measured on.", head=head, groups=(Group(label="", rows=tuple(rows)),)) if rows else None
    )


def side_by_side_table(evaluation: Evaluation) -> Table | None:
    """Predictors x pools: cross-entropy per token on each pool; None for fewer than two pools."""
    pools = ordered_pools(evaluation.pools)
    if len(pools) < 2:
        return None
    groups = [
        Group(label=title, rows=tuple(_side_by_side(evaluation, pools, figure, unit)))
        for figure, title, unit in _SIDE_BY_SIDE
    ]
    return Table(
        caption="The pools side by side, with 95 % intervals.",
        head=tuple(map(pool_title, pools)),
        groups=tuple(group for group in groups if group.rows),
    )


def _side_by_side(evaluation: Evaluation, pools: Sequence[str], figure: str, unit: Unit) -> Iterable[Row]:
    for name in present_predictors(evaluation):
        stats = [_figure(evaluation.pools[pool].get(name), figure) for pool in pools]
        if any(stats):
            cells = tuple(numbers.cell(stat, unit) for stat in stats)
            yield Row(label=PREDICTOR_LABELS[name], cells=cells, predictor=name)


def _figure(result: PredictorResult | None, name: str) -> Stat | None:
    return getattr(result, name) if result else None


def present_predictors(evaluation: Evaluation, order: Sequence[Predictor] = PREDICTORS) -> list[Predictor]:
    """Return the predictors that were measured on some pool."""
    return [name for name in order if any(name in results for results in evaluation.pools.values())]


def pooled_table(evaluation: Evaluation) -> Table | None:
    """Pools x predictors: the same nats pooled in each way that was measured; None in files of version 1."""
    columns: list[tuple[str, str, Unit]] = list(_POOLED)
    if evaluation.temperature is not None:
        columns.append(("ce_at_temperature", f"Per token at T = {evaluation.temperature:g}", "nats"))
    results = [result for of_pool in evaluation.pools.values() for result in of_pool.values()]
    columns = [column for column in columns if any(_figure(result, column[0]) for result in results)]
    if not any(name in ("ce_per_trajectory", "nats_per_trajectory", "ce_boilerplate") for name, _, _ in columns):
        return None
    groups = [
        Group(
            label=pool_title(pool),
            rows=tuple(
                Row(
                    label=PREDICTOR_LABELS[name],
                    predictor=name,
                    cells=tuple(
                        numbers.cell(_figure(evaluation.pools[pool][name], figure), unit) for figure, _, unit in columns
                    ),
                )
                for name in ALL_PREDICTORS
                if name in evaluation.pools[pool]
            ),
        )
        for pool in ordered_pools(evaluation.pools)
    ]
    caption = "The same nats, pooled in several ways. A compressor counts bytes alone; the context is its dictionary."
    return Table(caption=caption, head=tuple(head for _, head, _ in columns), groups=tuple(groups))


def slice_tables(evaluation: Evaluation) -> list[TitledTable]:
    """One table per dimension: share of the tokens, nats per token of each predictor, the trained model's accuracy."""
    names = present_predictors(evaluation)
    found: list[TitledTable] = []
    for dimension in get_args(Dimension):
        groups = [
            Group(label=pool_title(pool), rows=tuple(_slice_rows(evaluation, pool, dimension, names)))
            for pool in ordered_pools(evaluation.pools)
        ]
        groups = [group for group in groups if group.rows]
        if groups:
            title, corner = DIMENSIONS[dimension]
            heads = [PREDICTOR_LABELS[name].capitalize() for name in names]
            table = Table(
                caption=f"{title}: nats per token with 95 % intervals, and the share of the tokens that have one.",
                head=("Share", "Tokens", *heads, "Trained: first choice right"),
                groups=tuple(groups),
            )
            found.append(TitledTable(title=title, corner=corner, table=table))
    return sorted(found, key=lambda item: [title for title, _ in DIMENSIONS.values()].index(item.title))


def _slice_rows(evaluation: Evaluation, pool: str, dimension: Dimension, names: Sequence[Predictor]) -> Iterable[Row]:
    results = evaluation.pools[pool]
    slices: dict[Predictor, dict[str, SliceResult]] = {
        name: results[name].slices.get(dimension, {}) for name in names if name in results
    }
    for key in dict.fromkeys(key for of_predictor in slices.values() for key in of_predictor):
        found: dict[Predictor, SliceResult] = {name: of[key] for name, of in slices.items() if key in of}
        one = next(iter(found.values()))
        trained = found.get("trained")
        yield Row(
            label=key,
            cells=(
                numbers.share_cell(one.share),
                numbers.count_cell(one.ce.num_tokens),
                *(numbers.cell(found[name].ce if name in found else None) for name in names),
                numbers.cell(trained.top1_accuracy if trained else None, "share"),
            ),
        )


def controls_table(evaluation: Evaluation) -> Table | None:
    """Pool and control x predictor: the gap, and over how many observations."""
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        for control, label in CONTROL_LABELS.items():
            found: dict[Predictor, ControlResult] = {
                name: evaluation.pools[pool][name].controls[control]
                for name in ALL_PREDICTORS
                if name in evaluation.pools[pool] and control in evaluation.pools[pool][name].controls
            }
            rows = [
                Row(
                    label=PREDICTOR_LABELS[name],
                    predictor=name,
                    cells=(numbers.cell(result.gap, "gap"), Cell(text=counts_text(result.counts))),
                )
                for name, result in found.items()
            ]
            if rows:
                groups.append(Group(label=f"{pool_title(pool)}: {label}", rows=tuple(rows)))
    caption = (
        "What the same true output costs more, in nats per token, behind another command of the episode, without its"
        " command, and behind another episode."
    )
    return Table(caption=caption, head=("More nats per token", "Counts"), groups=tuple(groups)) if groups else None


def counts_text(counts: dict[str, int]) -> str:
    """Return counts by name as one line."""
    return ", ".join(f"{name.removeprefix('num_').replace('_', ' ')} {count:,}" for name, count in counts.items())


def probe_tables(evaluation: Evaluation) -> list[TitledTable]:
    """One table per probe: pools x predictors with every measure that the probe has."""
    found: list[TitledTable] = []
    for probe in get_args(Probe):
        results = [result for of_pool in evaluation.pools.values() for result in of_pool.values()]
        used = {name for result in results if probe in result.probes for name in result.probes[probe].measures}
        measures = [*(name for name in _MEASURES if name in used), *sorted(used - set(_MEASURES))]
        groups = [
            Group(label=pool_title(pool), rows=tuple(_probe_rows(evaluation.pools[pool], probe, measures)))
            for pool in ordered_pools(evaluation.pools)
        ]
        groups = [group for group in groups if group.rows]
        if groups:
            title, asked = PROBE_LABELS[probe]
            heads = [_MEASURES.get(name, name.replace("_", " ").capitalize()) for name in measures]
            table = Table(caption=asked, head=("Questions", *heads, "Counts"), groups=tuple(groups))
            found.append(TitledTable(title=title, corner="Predictor", table=table))
    return found


def _probe_rows(results: Mapping[Predictor, PredictorResult], probe: Probe, measures: Sequence[str]) -> Iterable[Row]:
    for name in ALL_PREDICTORS:
        found = results[name].probes.get(probe) if name in results else None
        if found:
            cells = [
                numbers.cell(found.measures.get(measure), "nats" if measure == "auc" else "share")
                for measure in measures
            ]
            left_out = Cell(text=counts_text(found.counts) or numbers.MISSING)
            counted = (numbers.count_cell(found.num_questions), *cells, left_out)
            yield Row(label=PREDICTOR_LABELS[name], predictor=name, cells=counted)


def floors_table(evaluation: Evaluation) -> Table | None:
    """Pools: what came out otherwise when the same actions were carried out again."""
    rows = [
        Row(
            label=pool_title(pool),
            cells=(
                numbers.cell(floor.different_tokens, "share"),
                numbers.cell(floor.identical_observations, "share"),
                numbers.count_cell(floor.num_runs),
            ),
        )
        for pool in ordered_pools(evaluation.floors)
        for floor in [evaluation.floors[pool]]
    ]
    caption = "The same actions carried out again in fresh sandboxes: what came out otherwise nobody could have known."
    head = ("Tokens in lines that differ", "Observations that are the same", "Runs")
    return Table(caption=caption, head=head, groups=(Group(label="", rows=tuple(rows)),)) if rows else None


def paired_table(evaluation: Evaluation) -> Table | None:
    """Pools: two predictors on the same tokens, as difference and ratio with paired intervals."""
    groups: list[Group] = []
    for pool in ordered_pools({item.pool for item in evaluation.comparisons}):
        rows = [
            Row(
                label=f"{PREDICTOR_LABELS[item.predictor]} against {PREDICTOR_LABELS[item.reference]}",
                cells=(
                    Cell(text="all" if item.tokens == "all" else "derivable"),
                    numbers.count_cell(item.difference.num_tokens),
                    numbers.cell(item.difference, "gap"),
                    numbers.cell(item.ratio),
                ),
            )
            for item in evaluation.comparisons
            if item.pool == pool
        ]
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    caption = "Two predictors on the same tokens, with paired 95 % intervals: below 0 the first is the cheaper one."
    head = ("Output", "Tokens", "Difference, nats per token", "Ratio")
    return Table(caption=caption, head=head, groups=tuple(groups)) if groups else None
