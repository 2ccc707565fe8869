"""Pictures of many figures with intervals: one dot per predictor and row, a panel per pool; and the bars of a saving.

In the style of the other pictures (`charts`), wide and narrow. Not here: the tables under them (`evaluation_tables`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from envecho.evaluation.results import TOKEN_CLASSES, Attribution, Evaluation, Predictor, PredictorResult, Stat
from envecho.reports.charts import draw_legend
from envecho.reports.palette import (
    COLOURS,
    CONTROL_LABELS,
    PART_LABELS,
    PREDICTOR_LABELS,
    ordered_pools,
    pool_label,
    pool_title,
)
from envecho.reports.schema import PREDICTORS
from envecho.tokens.view import visible_text

_INK, _MUTED, _RULE = (COLOURS[name].light for name in ("ink", "muted", "rule"))
_MARKERS: Final[Mapping[Predictor, str]] = {"base": "o", "trained": "o", "ngram": "s", "ppm": "D"}
_ROW: Final = 44
"""Height of a row in points."""

_BEHIND: Final = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
"""A label's own ground, so that no grid line crosses it."""

Rows = Mapping[str, Mapping[Predictor, Stat]]


@dataclass(frozen=True, kw_only=True)
class DotPanel:
    """One pool's rows, each with a figure per predictor."""

    title: str
    rows: Rows


def operations_chart(evaluation: Evaluation, *, narrow: bool = False) -> Figure:
    """Draw CE on derivable output by operation, a panel per pool, a dot with its interval per predictor."""
    panels = [
        DotPanel(title=pool_title(pool), rows=_by_row(evaluation.pools[pool], _operations))
        for pool in ordered_pools(evaluation.pools)
    ]
    return dots_chart(panels, narrow=narrow)


def _operations(result: PredictorResult) -> dict[str, Stat]:
    return {name: result.by_operation[name].ce for name in sorted(result.by_operation)}


def classes_chart(evaluation: Evaluation, *, narrow: bool = False) -> Figure:
    """Draw CE on the harness's phrases and on each class of the world's tokens."""
    panels = [
        DotPanel(title=pool_title(pool), rows=_by_row(evaluation.pools[pool], _classes))
        for pool in ordered_pools(evaluation.pools)
    ]
    return dots_chart(panels, narrow=narrow)


def _classes(result: PredictorResult) -> dict[str, Stat]:
    found = result.slices.get("token_class", {})
    stats = {name: found[name].ce for name in TOKEN_CLASSES if name in found}
    return {"phrases": result.ce_boilerplate, **stats} if result.ce_boilerplate else stats


def has_classes(evaluation: Evaluation) -> bool:
    """Whether any pool was sliced by token class."""
    return any("token_class" in result.slices for results in evaluation.pools.values() for result in results.values())


def controls_chart(evaluation: Evaluation, *, narrow: bool = False) -> Figure:
    """Draw what each control costs; a predictor that does not use what was changed stands at 0."""
    panels = [
        DotPanel(title=pool_title(pool), rows=_by_row(evaluation.pools[pool], _controls))
        for pool in ordered_pools(evaluation.pools)
    ]
    return dots_chart(panels, narrow=narrow, label="more nats per token of the same output")


def _controls(result: PredictorResult) -> dict[str, Stat]:
    found = {label: result.controls[name].gap for name, label in CONTROL_LABELS.items() if name in result.controls}
    return {label: gap for label, gap in found.items() if gap}


def has_controls(evaluation: Evaluation) -> bool:
    """Whether any predictor's control has a gap."""
    return any(_controls(result) for results in evaluation.pools.values() for result in results.values())


def _by_row(
    results: Mapping[Predictor, PredictorResult], figures: Callable[[PredictorResult], Mapping[str, Stat]]
) -> Rows:
    rows: dict[str, dict[Predictor, Stat]] = {}
    for name in PREDICTORS:
        if name in results:
            for row, stat in figures(results[name]).items():
                rows.setdefault(row, {})[name] = stat
    return rows


def dots_chart(panels: Sequence[DotPanel], *, narrow: bool = False, label: str = "nats per token") -> Figure:
    """Draw the panels side by side (narrow: one below the other), with the same rows in each."""
    names = list(dict.fromkeys(row for panel in panels for row in panel.rows))
    points = max(len(names), 1) * _ROW
    height = (points + 70) * len(panels) + 110 if narrow else points + 130
    figure = Figure(figsize=((370 if narrow else 1000) / 72, height / 72))
    shape = (len(panels), 1) if narrow else (1, len(panels))
    axes: list[Axes] = list(figure.subplots(*shape, squeeze=False, sharex=True, sharey=not narrow).flat)
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(ax, panel.rows, names)
        ax.set_title(panel.title)
    axes[-1].set_xlim(left=min(0.0, axes[-1].get_xlim()[0]) if _has_negative(panels) else 0)
    for ax in axes if not narrow else axes[-1:]:
        ax.set_xlabel(label)
    present: list[Predictor] = [
        name for name in PREDICTORS if any(name in stats for panel in panels for stats in panel.rows.values())
    ]
    handles = [Line2D([], [], label=PREDICTOR_LABELS[name], **_dot(name)) for name in present]
    draw_legend(figure, handles, narrow=narrow)
    longest = max((len(_row_label(name)) for name in names), default=0)
    left = min(0.4, 0.06 + 0.0215 * longest) if narrow else 0.02 + 0.0078 * longest
    bottom = (50 + 20 * len(handles)) / height if narrow else 78 / height
    figure.subplots_adjust(
        left=left, right=0.985, top=1 - 34 / height, bottom=bottom, wspace=0.06, hspace=70 / max(points, 1)
    )
    return figure


def _has_negative(panels: Sequence[DotPanel]) -> bool:
    return any(
        min(stat.value, stat.low or 0) < 0
        for panel in panels
        for stats in panel.rows.values()
        for stat in stats.values()
    )


def _row_label(name: str, most: int = 18) -> str:
    return visible_text(name).replace("\n", " ")[:most]


def _dot(name: Predictor) -> dict[str, Any]:
    colour = COLOURS[name].light
    face = "white" if name == "base" else colour
    size = 7 if name in ("base", "trained") else 5
    return {"color": colour, "marker": _MARKERS[name], "markersize": size, "markerfacecolor": face,
            "markeredgewidth": 1.6, "linestyle": "none"}  # fmt: skip


def _draw_panel(ax: Axes, rows: Rows, names: Sequence[str]) -> None:
    for row, label in enumerate(names):
        for place, name in enumerate(PREDICTORS):
            stat = rows.get(label, {}).get(name)
            if stat is None:
                continue
            y = row + (place - 1.5) * 0.17
            if stat.low is not None and stat.high is not None:
                ax.plot([stat.low, stat.high], [y, y], color=COLOURS[name].light, linewidth=1.5)
            ax.plot([stat.value], [y], **_dot(name))
    ax.set_yticks(range(len(names)), [_row_label(name) for name in names])
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.tick_params(axis="y", labelcolor=_INK, labelsize=12)
    ax.grid(visible=False, axis="y")
    ax.axvline(0, color=_MUTED, linewidth=1)
    for row in range(1, len(names)):
        ax.axhline(row - 0.5, color=_RULE, linewidth=1)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One attribution, and how a picture names it: its pool, and which model is set against which."""

    pool: str
    pair: str
    attribution: Attribution


def attribution_bars(evaluation: Evaluation) -> list[Bar]:
    """Return the evaluation's attributions, hardest pool first."""
    return [
        Bar(
            pool=pool_label(pool),
            pair=f"{PREDICTOR_LABELS[item.predictor]} against {PREDICTOR_LABELS[item.reference]}",
            attribution=item,
        )
        for pool in ordered_pools({item.pool for item in evaluation.attributions})
        for item in evaluation.attributions
        if item.pool == pool
    ]


def attribution_chart(bars: Sequence[Bar], *, narrow: bool = False) -> Figure:
    """Draw where savings lie: a bar per pool and pair, what became cheaper to the right of 0, what dearer to the left.

    The mark is the whole saving with its interval.
    """
    row = 84 if narrow else 50
    height = row * len(bars) + (190 if narrow else 100)
    figure = Figure(figsize=((370 if narrow else 1000) / 72, height / 72))
    ax = figure.subplots()
    for place, bar in enumerate(bars):
        _draw_bar(ax, place, bar.attribution, 0.27 if narrow else 0.44)
        names = [_row_label(name, 50) for name in (bar.pool, bar.pair)]
        label = "\n".join(names) if narrow else ": ".join(names)
        ax.text(
            0.0,
            place - 0.3,
            label,
            color=_INK,
            va="bottom",
            transform=ax.get_yaxis_transform(),
            fontsize=12,
            bbox=_BEHIND,
        )
    ax.axvline(0, color=_MUTED, linewidth=1)
    ax.set_ylim(len(bars) - 0.5, -0.8)
    ax.set_yticks([])
    ax.grid(visible=False, axis="y")
    ax.set_xlabel(
        "nats saved per token" if narrow else "nats saved per token of all that the world and its harness said"
    )
    handles = [Patch(color=COLOURS[name].light, label=label) for name, label in PART_LABELS.items()]
    whole = Line2D([], [], color=_INK, marker="o", markersize=5, linewidth=1.5, label="the whole saving")
    figure.legend(
        handles=[*handles, whole],
        loc="lower left",
        bbox_to_anchor=(0.0, 0.0),
        ncols=1 if narrow else 6,
        handlelength=1.2,
        columnspacing=1.4,
    )
    figure.subplots_adjust(left=0.02, right=0.98, top=1 - 6 / height, bottom=(165 if narrow else 74) / height)
    return figure


def _draw_bar(ax: Axes, place: int, attribution: Attribution, thickness: float) -> None:
    ends = {True: 0.0, False: 0.0}
    for name in PART_LABELS:
        part = attribution.parts.get(name)
        if part is None:
            continue
        value = part.saved.value
        ax.barh(place, value, left=ends[value >= 0], height=thickness, color=COLOURS[name].light)
        ends[value >= 0] += value
    saved = attribution.saved
    if saved.low is not None and saved.high is not None:
        ax.plot([saved.low, saved.high], [place, place], color=_INK, linewidth=1.5)
    ax.plot([saved.value], [place], color=_INK, marker="o", markersize=5, markerfacecolor="white", markeredgewidth=1.5)
