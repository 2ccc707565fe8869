"""Evaluations side by side, and where two were made of the same trajectories, their paired differences.

A paired difference needs the sums of each trajectory (`sums.parquet`, which `envecho eval --out` writes beside
`evaluation.json`). Not here: the comparison itself (`envecho.evaluation.summary`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from envecho.errors import DataError
from envecho.evaluation.results import Comparison, Evaluation, Predictor
from envecho.evaluation.summary import attribute, compare_sums, first_predictor
from envecho.evaluation.sums import PoolSums, read_sums
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.dot_charts import Bar
from envecho.reports.evaluation_tables import attribution_table
from envecho.reports.numbers import Cell, Unit
from envecho.reports.palette import PREDICTOR_LABELS, ordered_pools, pool_label, pool_title
from envecho.reports.run_folder import RunFolder

SUMS: Final = "sums.parquet"

_MODELS: Final[tuple[Predictor, ...]] = ("base", "trained")

_COLUMNS: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("CE per token", "ce_per_token", "nats"),
    ("CE per byte", "ce_per_byte", "nats"),
    ("Harness’s phrases", "ce_boilerplate", "nats"),
    ("Derivable", "ce_derivable", "nats"),
    ("First choice right", "top1_accuracy", "share"),
    ("Swap gap", "action_swap_gap", "gap"),
)


@dataclass(frozen=True, kw_only=True)
class EvaluationsSideBySide:
    """Figures per pool and folder, paired differences against the first folder, and why others have none.

    `finding` says what the paired differences are on the hardest pool; empty where there is none.
    """

    finding: str
    figures: Table
    paired: Table | None
    attribution: Table | None
    bars: tuple[Bar, ...]
    notes: tuple[str, ...]


def compare_evaluations(folders: Sequence[tuple[str, RunFolder]]) -> EvaluationsSideBySide | None:
    """Set the evaluations of named folders side by side; None where none has a pool."""
    found = [(name, run.evaluation) for name, run in folders if run.evaluation and run.evaluation.pools]
    if not found:
        return None
    sums = {name: read_sums(run.path / SUMS) for name, run in folders if (run.path / SUMS).is_file()}
    without = [name for name, _ in found if name not in sums]
    notes: list[str] = []
    if without:
        notes.append(f"No paired difference without {SUMS}, which envecho eval --out writes: {', '.join(without)}.")
    pairs: list[tuple[str, str, Comparison]] = []
    bars: list[Bar] = []
    reference, *others = sums or [""]
    for name in others:
        label = f"{name} against {reference}"
        for pool in ordered_pools(set(sums[name]) & set(sums[reference])):
            pair = _pair_of(sums[name][pool], sums[reference][pool])
            if pair is None:
                continue
            try:
                pairs += [(pool, label, made) for made in compare_sums(pool, *pair.sums, **pair.names)]
                bars += _bars(pool, label, pair)
            except DataError as error:
                notes.append(f"{label} on {pool_label(pool)}: {error}")
    return EvaluationsSideBySide(
        finding=_finding(pairs),
        figures=_figures(found),
        paired=_paired(pairs),
        attribution=attribution_table(bars),
        bars=tuple(bars),
        notes=tuple(notes),
    )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """The sums of two models on one pool, and which predictor each is in its own evaluation."""

    sums: tuple[PoolSums, PoolSums]
    names: dict[Literal["predictor", "reference"], Predictor]


def _pair_of(ours: Mapping[Predictor, PoolSums], theirs: Mapping[Predictor, PoolSums]) -> _Pair | None:
    first, other = first_predictor(ours), first_predictor(theirs)
    if first is None or other is None:
        return None
    return _Pair(sums=(ours[first], theirs[other]), names={"predictor": first, "reference": other})


def _bars(pool: str, label: str, pair: _Pair) -> list[Bar]:
    """Where the difference lies; none where an evaluation has no token classes."""
    if not all("token_class" in sums.dimensions for sums in pair.sums):
        return []
    saving = attribute(pool, *pair.sums, **pair.names)
    return [Bar(pool=pool_label(pool), pair=label, attribution=saving)] if saving else []


def _finding(pairs: Sequence[tuple[str, str, Comparison]]) -> str:
    """The sentence is the same whichever of the two is cheaper."""
    everything = [pair for pair in pairs if pair[2].tokens == "all"]
    if not everything:
        return ""
    hardest = ordered_pools({pool for pool, _, _ in everything})[0]
    parts: list[str] = []
    for pool, label, comparison in everything:
        if pool != hardest:
            continue
        stat = comparison.difference
        known = stat.low is not None and stat.high is not None
        interval = f" (95 % interval {numbers.gap(stat.low, 3)} to {numbers.gap(stat.high, 3)})" if known else ""
        parts.append(f"{label} {numbers.gap(stat.value, 3)}{interval}")
    return f"On {pool_label(hardest)}, nats per token of what the world answers: {'; '.join(parts)}."


def _figures(found: Sequence[tuple[str, Evaluation]]) -> Table:
    columns: list[tuple[str, str, Unit]] = [
        (head, figure, unit)
        for head, figure, unit in _COLUMNS
        if any(getattr(r, figure) for _, made in found for of_pool in made.pools.values() for r in of_pool.values())
    ]
    groups = [
        Group(
            label=pool_title(pool),
            rows=tuple(
                Row(
                    label=f"{name}, {PREDICTOR_LABELS[predictor]}",
                    predictor=predictor,
                    cells=tuple(numbers.cell(getattr(results[predictor], figure), unit) for _, figure, unit in columns),
                )
                for name, made in found
                for results in [made.pools.get(pool, {})]
                for predictor in _MODELS
                if predictor in results
            ),
        )
        for pool in ordered_pools({pool for _, made in found for pool in made.pools})
    ]
    return Table(
        caption="Held-out figures of each evaluation with 95 % intervals; nats at T = 1.",
        head=tuple(head for head, _, _ in columns),
        groups=tuple(group for group in groups if group.rows),
    )


def _paired(pairs: Sequence[tuple[str, str, Comparison]]) -> Table | None:
    groups = [
        Group(
            label=pool_title(pool),
            rows=tuple(
                Row(
                    label=label,
                    cells=(
                        Cell(text=comparison.tokens),
                        numbers.count_cell(comparison.difference.num_tokens),
                        numbers.cell(comparison.difference, "gap"),
                        numbers.cell(comparison.ratio),
                    ),
                )
                for of_pool, label, comparison in pairs
                if of_pool == pool
            ),
        )
        for pool in ordered_pools({pool for pool, _, _ in pairs})
    ]
    caption = (
        "The same tokens by two models, with 95 % intervals over the same draws of tasks: below 0 the first named is"
        " the cheaper one."
    )
    head = ("Output", "Tokens", "Difference, nats per token", "Ratio")
    return Table(caption=caption, head=head, groups=tuple(groups)) if groups else None
