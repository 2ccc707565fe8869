"""An evaluation as tables for a terminal of 100 columns.

Not here: the numbers (`envecho.evaluation`), and the page (`envecho.reports`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from envecho.evaluation.results import (
    COMPRESSORS,
    TOKEN_CLASSES,
    Attribution,
    Comparison,
    Control,
    Evaluation,
    Predictor,
    PredictorResult,
    Probe,
    Stat,
)

PIPED_WIDTH: Final = 100

_Results = Mapping[Predictor, PredictorResult]

_FIGURES: Final = {
    "all tokens": "ce_per_token",
    "per byte": "ce_per_byte",
    "trajectory mean": "ce_per_trajectory",
    "trajectory sum": "nats_per_trajectory",
    "first view": "ce_first_view",
    "derivable": "ce_derivable",
    "boilerplate": "ce_boilerplate",
    "swap gap": "action_swap_gap",
    "top-1 share": "top1_accuracy",
}


def print_evaluation(evaluation: Evaluation) -> None:
    """Print every pool: figures, slices, controls, probes, comparisons and attributions."""
    console = Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    for number, (pool, results) in enumerate(evaluation.pools.items()):
        if number:
            console.print()
        console.print(_heading(pool, evaluation))
        models: _Results = {name: result for name, result in results.items() if name not in COMPRESSORS}
        parts = [
            _figures(models, evaluation.temperature),
            _classes(models),
            _operations(models),
            _controls(models),
            _probes(models),
        ]
        for part in parts:
            if part.row_count:
                console.print(part)
        for line in (
            *_compressed(results),
            *_sentences(pool, evaluation),
            *_left_out(results),
            *_floor(pool, evaluation),
        ):
            console.print(line)


def _heading(pool: str, evaluation: Evaluation) -> Text:
    heading = Text(pool, style="bold")
    facts = evaluation.facts.get(pool)
    if facts is not None:
        heading.append(
            f": {facts.num_trajectories:,} trajectories of {facts.num_tasks:,} tasks, {facts.num_env_tokens:,} "
            f"environment tokens, {facts.num_boilerplate_tokens:,} of boilerplate",
            style="not bold",
        )
    return heading


def _table(title: str, *columns: str, num_texts: int = 1) -> Table:
    """A table whose first `num_texts` columns are words, and the others numbers."""
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < num_texts else "right", no_wrap=number < num_texts)
    return table


def _figures(results: _Results, temperature: float | None) -> Table:
    rows = dict(_FIGURES)
    if temperature is not None:
        rows[f"all tokens at T = {temperature:g}"] = "ce_at_temperature"
    table = _table("nats per token at T = 1 [95 % interval over tasks]", "", *results)
    for row, attribute in rows.items():
        stats = [getattr(result, attribute) for result in results.values()]
        if any(stat is not None for stat in stats):
            # Four intervals do not fit beside each other.
            table.add_row(row, *(_cell(stat, "\n" if len(results) > 3 else " ") for stat in stats))
    return table


def _classes(results: _Results) -> Table:
    table = _table("by token class: nats per token (top-1)", "class", "share", *results)
    for key in TOKEN_CLASSES:
        found = [result.slices.get("token_class", {}).get(key) for result in results.values()]
        share = next((f.share for f in found if f is not None), None)
        if share is not None:
            table.add_row(key, f"{share:.0%}", *(_pair(f) for f in found))
    return table


def _operations(results: _Results) -> Table:
    table = _table("derivable output by operation: nats per token (top-1)", "operation", "share", *results)
    shares = {operation: found.share for r in results.values() for operation, found in r.by_operation.items()}
    for operation, share in shares.items():
        found = [result.by_operation.get(operation) for result in results.values()]
        table.add_row(operation, f"{share:.0%}", *(_pair(f) for f in found))
    return table


def _controls(results: _Results) -> Table:
    asked = {name: result for name, result in results.items() if result.controls}
    table = _table("controls: what the change costs, nats per token of the same true output", "control", *asked)
    controls: dict[Control, None] = {}
    for result in asked.values():
        controls |= dict.fromkeys(result.controls)
    for control in controls:
        table.add_row(control.replace("_", " "), *(_cell(r.controls[control].gap) for r in asked.values()))
    return table


def _probes(results: _Results) -> Table:
    asked = {name: result for name, result in results.items() if result.probes}
    table = _table("probes: what the model says when it is asked", "probe", "measure", "questions", *asked, num_texts=2)
    rows: dict[tuple[Probe, str], None] = {}
    for result in asked.values():
        rows |= dict.fromkeys(
            (probe, measure) for probe, of_probe in result.probes.items() for measure in of_probe.measures
        )
    for probe, measure in rows:
        found = [result.probes.get(probe) for result in asked.values()]
        count = next(f.num_questions for f in found if f is not None)
        stats = [None if f is None else f.measures.get(measure) for f in found]
        table.add_row(probe.replace("_", " "), measure.replace("_", " "), f"{count:,}", *(_cell(s) for s in stats))
    return table


def _pair(found: Any) -> str:
    """The cost of a slice, and its accuracy where that is known."""
    if found is None:
        return "-"
    return f"{found.ce.value:.3f}" + ("" if found.top1_accuracy is None else f" ({found.top1_accuracy.value:.0%})")


def _cell(stat: Stat | None, separator: str = " ") -> str:
    if stat is None:
        return "-"
    places, places_of_ends = (3, 2) if abs(stat.value) < 100 else (0, 0)
    value = f"{stat.value:.{places}f}"
    if stat.low is None:
        return value
    return f"{value}{separator}[{stat.low:.{places_of_ends}f}, {stat.high:.{places_of_ends}f}]"


def _compressed(results: _Results) -> list[str]:
    found = {name: results[name].ce_per_byte for name in COMPRESSORS if name in results}
    if not found:
        return []
    return ["nats per byte of a compressor: " + ", ".join(f"{name} {_cell(stat)}" for name, stat in found.items())]


def _sentences(pool: str, evaluation: Evaluation) -> list[str]:
    """The comparisons, and the attribution against the base model (without one, against each baseline)."""
    lines = [_comparison(comparison) for comparison in evaluation.comparisons if comparison.pool == pool]
    found = [attribution for attribution in evaluation.attributions if attribution.pool == pool]
    against_base = [attribution for attribution in found if attribution.reference == "base"]
    return lines + [_attribution(attribution) for attribution in against_base or found]


def _comparison(comparison: Comparison) -> str:
    ratio, difference = _cell(comparison.ratio), _cell(comparison.difference)
    names = f"{comparison.predictor} / {comparison.reference}"
    return f"{names} on {comparison.tokens} tokens: {ratio}; difference {difference}"


def _attribution(found: Attribution) -> str:
    """Say in one sentence where the difference lies."""
    parts = [
        f"{part.saved.value:+.3f} {name}" + ("" if part.share is None else f" ({part.share:.0%})")
        for name, part in found.parts.items()
    ]
    who = f"{found.predictor} against {found.reference}"
    return f"{who}: {found.saved.value:+.3f} nats saved per token, boilerplate counted in; of these {', '.join(parts)}"


def _left_out(results: _Results) -> list[str]:
    counts = results["trained"].swap_counts
    if counts is None or not counts.num_observations:
        return []
    return [
        f"swaps: {counts.num_draws} draws over {counts.num_observations} derivable observations; left out: "
        f"{counts.num_without_candidate} without another command, {counts.num_unaligned} with other tokens"
    ]


def _floor(pool: str, evaluation: Evaluation) -> list[str]:
    found = evaluation.floors.get(pool)
    if found is None:
        return []
    return [
        f"floor over {found.num_runs} runs of the same actions: share of observations alike "
        f"{_cell(found.identical_observations)}; of tokens in lines that differ {_cell(found.different_tokens)}"
    ]
