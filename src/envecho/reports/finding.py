"""The finding in plain words, and the headline tiles, made from the figures alone.

The words are the same whether the result is good or bad: they state costs and ratios, never a judgement. Not here: how
they look (`templates/report.html`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from envecho.evaluation.results import Predictor, PredictorResult, Stat
from envecho.reports import numbers
from envecho.reports.answers import attribution_sentence
from envecho.reports.charts import best_copier
from envecho.reports.palette import PREDICTOR_LABELS, ordered_pools, pool_label
from envecho.reports.policy import policy_section
from envecho.reports.run_folder import RunFolder
from envecho.reports.schema import Metrics

_BAR: Final = 100


@dataclass(frozen=True, kw_only=True)
class TileRow:
    """One line of a tile: who, the figure, and the length of its bar in percent (None: no bar)."""

    label: str
    text: str
    bar: float | None = None
    predictor: str = ""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A headline figure with what it is to be compared with."""

    title: str
    figure: str
    unit: str
    rows: tuple[TileRow, ...]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence, where the saving lies, one line of ratios (or why there is none), and the tiles.

    `measured_on` says what the tiles were measured on.
    """

    sentence: str
    learnt: str
    ratios: str
    measured_on: str
    tiles: tuple[Tile, ...]


def find(run: RunFolder) -> Finding:
    """Return the finding on the hardest pool that was measured; without one, what the training curve says."""
    pools = ordered_pools(run.evaluation.pools) if run.evaluation else []
    if not run.evaluation or not pools:
        course = policy_section(run.metrics, run.looks)
        return Finding(
            sentence=course.sentence if course else _curve_sentence(run.metrics),
            learnt="",
            ratios=_NOT_CONTROLLED if course else _NOT_MEASURED,
            measured_on="",
            tiles=_cost_tiles(run),
        )
    pool = pools[0]
    results = run.evaluation.pools[pool]
    name, what = ("ce_derivable", "output that earlier output determines")
    if not any(getattr(result, name) for result in results.values()):
        name, what = ("ce_per_token", "what the world answers")
    return Finding(
        sentence=_sentence(pool, what, name, results),
        learnt=attribution_sentence(run.evaluation, pool),
        ratios=_ratios(name, results),
        measured_on=_measured_on(pool, results),
        tiles=(*_held_out_tiles(name, results), *_cost_tiles(run)),
    )


_NOT_CONTROLLED: Final = (
    "One run says nothing of another seed, and a lower cost alone is not knowledge: envecho study compares arms over"
    " seeds, envecho eval measures against controls."
)
_NOT_MEASURED: Final = "Nothing held out has been measured yet, so this says nothing about new commands or new boxes."


def _curve_sentence(metrics: Metrics | None) -> str:
    rows = [row for row in (metrics.train if metrics else ()) if row.env_ce is not None]
    if not rows:
        return "This run has no figures yet."
    first, last = rows[0].env_ce, rows[-1].env_ce
    return (
        f"On its training episodes, what the world answers costs the model {numbers.nats(last)} nats per token at step "
        f"{rows[-1].step}; at step {rows[0].step} it cost {numbers.nats(first)}."
    )


def _value(results: Mapping[Predictor, PredictorResult], predictor: Predictor, name: str) -> float | None:
    stat: Stat | None = getattr(results[predictor], name) if predictor in results else None
    return stat.value if stat else None


def _sentence(pool: str, what: str, name: str, results: dict[Predictor, PredictorResult]) -> str:
    trained, base = _value(results, "trained", name), _value(results, "base", name)
    copier = best_copier(results, name)
    who = [("the trained model", trained), ("the base model", base), ("the best copier", copier and copier[1].value)]
    costs = [f"{label} {numbers.nats(value)}" for label, value in who if value is not None]
    if not costs:
        return f"On {pool_label(pool)} no figure was measured."
    sentence = f"On {pool_label(pool)}, {what} costs {costs[0]} nats per token"
    sentence += "".join(f", {cost}" for cost in costs[1:])
    swap = _value(results, "trained", "action_swap_gap")
    if swap is not None:
        sentence += f"; swapping the command costs the trained model {numbers.nats(abs(swap))} "
        sentence += "more" if swap >= 0 else "less"
    return sentence + "."


def _ratios(name: str, results: dict[Predictor, PredictorResult]) -> str:
    trained, base = _value(results, "trained", name), _value(results, "base", name)
    copier = best_copier(results, name)
    if trained is None:
        return "The trained model was not measured on this pool."
    parts = [f"{trained / base:.2f} of the base model’s"] if base else []
    parts += [f"{trained / copier[1].value:.2f} of the best copier’s"] if copier and copier[1].value else []
    return f"The trained model’s cost is {' and '.join(parts)}." if parts else ""


def _measured_on(pool: str, results: dict[Predictor, PredictorResult]) -> str:
    stats = [stat for result in results.values() if (stat := result.ce_per_token)]
    if not stats:
        return ""
    return f"Held-out figures: {pool_label(pool)}, {stats[0].num_tokens:,} tokens of {stats[0].num_tasks:,} tasks."


def _held_out_tiles(name: str, results: dict[Predictor, PredictorResult]) -> list[Tile]:
    copier = best_copier(results, name)
    others: list[Predictor] = ["base", *([copier[0]] if copier else [])]
    tiles: list[Tile] = []
    trained = _value(results, "trained", name)
    if trained is not None:
        what = "Derivable output" if name == "ce_derivable" else "All output"
        rows = _rows(results, ["trained", *others], name)
        tiles.append(Tile(title=what, figure=numbers.nats(trained), unit="nats per token", rows=rows))
    swap = _value(results, "trained", "action_swap_gap")
    if swap is not None:
        rows = _rows(results, ["trained", "base"], "action_swap_gap")
        tiles.append(
            Tile(title="Cost of a swapped command", figure=numbers.gap(swap), unit="nats per token", rows=rows)
        )
    top1 = _value(results, "trained", "top1_accuracy")
    if top1 is not None:
        rows = _rows(results, ["trained", *others], "top1_accuracy")
        tiles.append(Tile(title="First choice is right", figure=numbers.share(top1), unit="of all tokens", rows=rows))
    return tiles


def _rows(results: dict[Predictor, PredictorResult], names: list[Predictor], figure: str) -> tuple[TileRow, ...]:
    write = {"top1_accuracy": numbers.share, "action_swap_gap": numbers.gap}.get(figure, numbers.nats)
    values: list[tuple[Predictor, float]] = [
        (name, value) for name in names if (value := _value(results, name, figure)) is not None
    ]
    longest = 1.0 if figure == "top1_accuracy" else max((abs(value) for _, value in values), default=0) or 1.0
    return tuple(
        TileRow(
            label=PREDICTOR_LABELS[name],
            text=write(value),
            bar=round(_BAR * max(value, 0) / longest, 1),
            predictor=name,
        )
        for name, value in values
    )


def _cost_tiles(run: RunFolder) -> tuple[Tile, ...]:
    if run.summary is None:
        return ()
    rows = (
        TileRow(label="memory at most", text=numbers.gigabytes(run.summary.peak_memory_bytes)),
        TileRow(label="optimiser steps", text=f"{run.summary.steps:,}"),
        TileRow(label="seed", text=str(run.summary.seed)),
    )
    time = numbers.duration(run.summary.wall_seconds)
    return (Tile(title="What it took", figure=time, unit="of wall clock", rows=rows),)
