"""The training curve with held-out points, and what all pictures of a report have in common: style, legend, PNG.

Each is drawn wide (screens, PNG) or narrow (phones). Colours are the light ones of `palette`; `svg` turns them into CSS
variables. Not here: reading files, inlining (`svg`), and the other
pictures (`dot_charts`, `policy_chart`, `comparison_charts`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from envecho.evaluation.results import Evaluation, Predictor, PredictorResult, Stat
from envecho.reports.palette import COLOURS, PREDICTOR_LABELS, ordered_pools, pool_label
from envecho.reports.schema import COPIERS, Metrics

_INK, _MUTED, _RULE = (COLOURS[name].light for name in ("ink", "muted", "rule"))
_POOL_MARKERS: Final = ("o", "s", "^", "D", "v", "P")
_STYLE: Final[dict[str, Any]] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.titlepad": 12,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _RULE,
    "grid.linewidth": 1,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 12,
}


BAND: Final = 21
"""Steps that the band of a curve is made of; a curve of fewer steps has none."""

Points = list[tuple[int, float]]
"""(step, value) pairs in the order of their steps."""


@contextmanager
def chart_style(salt: str) -> Generator[None]:
    """Draw and save under the report's style; `salt` makes the ids in the SVG repeatable and unlike another chart's."""
    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style), warnings.catch_warnings():
        # A tool's name may hold characters that the PNG's font lacks; a box is drawn for them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def png_bytes(figure: Figure) -> bytes:
    """Return the figure as a PNG on white, two pixels per unit."""
    out = BytesIO()
    figure.savefig(out, format="png", dpi=144, facecolor="white", metadata={"Software": None})
    return out.getvalue()


@dataclass(frozen=True, kw_only=True)
class _Panel:
    """One panel of the training chart: which figure of each file it shows."""

    title: str
    figure: str
    train: Sequence[tuple[int, float]]
    validation: Sequence[tuple[int, float]]


def training_chart(metrics: Metrics | None, evaluation: Evaluation | None, *, narrow: bool = False) -> Figure:
    """Draw training and validation CE over steps, with base -> trained and the best copier for each held-out pool.

    Left: all output. Right: output that earlier output determines. Nats per token at T = 1.
    """
    metrics = metrics or Metrics()
    panels = [
        _Panel(
            title="All output",
            figure="ce_per_token",
            train=finite_points((row.step, row.env_ce) for row in metrics.train),
            validation=finite_points((row.step, row.env_ce) for row in metrics.validation),
        ),
        _Panel(
            title="Output that earlier output determines",
            figure="ce_derivable",
            train=(),
            validation=finite_points((row.step, row.env_ce_derivable) for row in metrics.validation),
        ),
    ]
    size = (370 / 72, 740 / 72) if narrow else (1000 / 72, 396 / 72)
    figure = Figure(figsize=size)
    axes = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
    last = max([row.step for row in (*metrics.train, *metrics.validation)], default=1) or 1
    for panel, ax in zip(panels, axes, strict=True):
        _draw_panel(ax, panel, evaluation, last)
        ax.set_xlim((-0.26 if narrow else -0.13) * last, (1.2 if narrow else 1.11) * last)
    axes[0].set_ylabel("nats per token")
    draw_legend(figure, _training_legend(metrics, evaluation), narrow=narrow)
    if narrow:
        figure.subplots_adjust(left=0.12, right=0.99, top=0.955, bottom=0.235, hspace=0.34)
    else:
        figure.subplots_adjust(left=0.05, right=0.995, top=0.915, bottom=0.25, wspace=0.1)
    return figure


def finite_points(rows: Iterable[tuple[int, float | None]]) -> Points:
    """Return the (step, value) pairs that have a finite value."""
    return [(step, value) for step, value in rows if value is not None and math.isfinite(value)]


def _window(num_steps: int) -> int:
    """The width of a running mean: odd, so that a step has as many values before it as behind it."""
    return max(1, num_steps // 20) // 2 * 2 + 1


def running_mean(points: Sequence[tuple[int, float]]) -> Points:
    """Return at each step the mean of the `_window` values around it, of fewer at both ends."""
    half = _window(len(points)) // 2
    values = [value for _, value in points]
    parts = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    return [(step, sum(part) / len(part)) for (step, _), part in zip(points, parts, strict=True)]


def running_band(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float], list[float]]:
    """Return steps, and the 10 % and 90 % quantiles of the `BAND` values around each, fewer at the ends."""
    values = np.array([value for _, value in points])
    half = max(1, min(BAND, len(values)) // 2)
    parts = [values[max(0, place - half) : place + half + 1] for place in range(len(values))]
    low, high = (([float(np.quantile(part, q)) for part in parts]) for q in (0.1, 0.9))
    return [step for step, _ in points], low, high


def draw_smoothed(ax: Axes, points: Points, colour: str) -> None:
    """Draw each step's value faintly, the running mean over it, and the band that holds four of five steps."""
    if not points:
        return
    ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.6, alpha=0.16)
    if len(points) >= BAND:
        ax.fill_between(*running_band(points), color=colour, alpha=0.14, linewidth=0)
    ax.plot(*zip(*running_mean(points), strict=True), color=colour, linewidth=1.4, alpha=0.75)


def _draw_panel(ax: Axes, panel: _Panel, evaluation: Evaluation | None, last: int) -> None:
    trained = COLOURS["trained"].light
    draw_smoothed(ax, list(panel.train), trained)
    if panel.validation:
        marker = "o" if len(panel.validation) < 40 else ""
        ax.plot(*zip(*panel.validation, strict=True), color=trained, linewidth=2, marker=marker, markersize=3.5)
    left: list[tuple[float, str]] = []
    right: list[tuple[float, str]] = []
    for place, pool in enumerate(ordered_pools(evaluation.pools) if evaluation else []):
        results = evaluation.pools[pool] if evaluation else {}
        base, done = (_stat(results.get(name), panel.figure) for name in ("base", "trained"))
        marker = _POOL_MARKERS[place % len(_POOL_MARKERS)]
        if base and done:
            ax.plot([0, last], [base.value, done.value], color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
        if base:
            _held_out_point(ax, 0, base, "base", marker)
            left.append((base.value, _MUTED))
        if done:
            _held_out_point(ax, last, done, "trained", marker)
            right.append((done.value, trained))
        copier = best_copier(results, panel.figure)
        if copier:
            name, value = copier[0], copier[1].value
            ax.plot([0, last], [value, value], color=COLOURS[name].light, linewidth=1.2, linestyle=(0, (1, 1.6)))
            ax.plot([last], [value], color=COLOURS[name].light, marker=marker, markersize=4)
            right.append((value, COLOURS[name].light))
    ax.set_ylim(0, max(ax.get_ylim()[1], 0.1))
    ax.set_xticks([tick for tick in MaxNLocator(5, integer=True).tick_values(0, last) if 0 <= tick <= last])
    ax.set_title(panel.title)
    ax.set_xlabel("optimiser step")
    ax.grid(visible=False, axis="x")
    _value_labels(ax, left, x=-0.025 * last, align="right")
    _value_labels(ax, right, x=1.025 * last, align="left")


def _held_out_point(ax: Axes, x: float, stat: Stat, predictor: Predictor, marker: str) -> None:
    colour = COLOURS[predictor].light
    if stat.low is not None and stat.high is not None:
        ax.plot([x, x], [stat.low, stat.high], color=colour, linewidth=1.5, solid_capstyle="butt")
    face = "white" if predictor == "base" else colour
    ax.plot([x], [stat.value], color=colour, marker=marker, markersize=7, markerfacecolor=face, markeredgewidth=1.6)


def _value_labels(ax: Axes, values: list[tuple[float, str]], *, x: float, align: str) -> None:
    """Write numbers beside their points, pushed apart so that none covers another."""
    apart = ax.get_ylim()[1] * 0.062
    at = -math.inf
    for value, colour in sorted(values):
        at = max(value, at + apart)
        ax.text(x, at, f"{value:.2f}", color=colour, ha=align, va="center", fontsize=12)


def _stat(result: PredictorResult | None, figure: str) -> Stat | None:
    return getattr(result, figure) if result else None


def best_copier(results: dict[Predictor, PredictorResult], figure: str) -> tuple[Predictor, Stat] | None:
    """Return the copier with the lowest cross-entropy, or None where no copier was measured."""
    found: list[tuple[Predictor, Stat]] = [
        (name, stat) for name in COPIERS if (stat := _stat(results.get(name), figure))
    ]
    return min(found, key=lambda item: item[1].value) if found else None


def _training_legend(metrics: Metrics, evaluation: Evaluation | None) -> list[Line2D]:
    trained = COLOURS["trained"].light
    handles: list[Line2D] = []
    if metrics.train:
        width = _window(len(finite_points((row.step, row.env_ce) for row in metrics.train)))
        label = "training" if width == 1 else f"training, mean of {width} steps"
        handles.append(Line2D([], [], color=trained, linewidth=1.2, alpha=0.6, label=label))
    if metrics.validation:
        handles.append(Line2D([], [], color=trained, linewidth=2, marker="o", markersize=3.5, label="validation"))
    pools = ordered_pools(evaluation.pools) if evaluation else []
    for place, pool in enumerate(pools):
        style: dict[str, Any] = {
            "marker": _POOL_MARKERS[place % len(_POOL_MARKERS)],
            "linestyle": (0, (2, 3)),
            "linewidth": 1,
        }
        handles.append(Line2D([], [], color=_MUTED, label=f"{pool_label(pool)}, base to trained", **style))
    copiers = {
        found[0]
        for pool in pools
        for figure in ("ce_per_token", "ce_derivable")
        if evaluation and (found := best_copier(evaluation.pools[pool], figure))
    }
    for name in COPIERS:
        if name in copiers:
            style: dict[str, Any] = {"linestyle": (0, (1, 1.6)), "linewidth": 1.2}
            handles.append(Line2D([], [], color=COLOURS[name].light, label=PREDICTOR_LABELS[name], **style))
    return handles


def draw_legend(figure: Figure, handles: Sequence[Line2D], *, narrow: bool, columns: int | None = None) -> None:
    """Write the legend at the foot of a picture."""
    if not handles:
        return
    if columns is None:
        columns = 1 if narrow else len(handles) if len(handles) < 5 else 3
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.0, 0.0), ncols=columns, handlelength=2.2, columnspacing=1.6
    )
