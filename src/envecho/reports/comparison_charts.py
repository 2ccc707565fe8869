"""Curves of several runs in one picture: one colour per configuration, the mean and interval over its seeds.

Not here: which runs belong together (`comparison`), and the picture of one run (`charts`, `policy_chart`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from envecho.reports.charts import Points, draw_legend, finite_points, running_mean
from envecho.reports.palette import COLOURS, SERIES
from envecho.reports.schema import Metrics
from envecho.tokens.view import visible_text

MIN_SEEDS: Final = 3
"""Seeds that a band needs: of two, a 95 % interval of a mean reaches over the whole picture."""

_PANELS: Final = (
    ("own_ce", "Environment CE, training", False),
    ("held_out_ce", "Environment CE, held out", False),
    ("own_solved", "Own rollouts solved", True),
    ("held_out_solved", "Held-out tasks solved", True),
)
"""Attribute of `RunCurves`, title, and whether it is a share."""


@dataclass(frozen=True, kw_only=True)
class RunCurves:
    """What one run's metrics hold step by step; training figures as running means."""

    own_ce: Points
    held_out_ce: Points
    own_solved: Points
    held_out_solved: Points

    @classmethod
    def of(cls, metrics: Metrics) -> RunCurves:
        """Take the curves out of the metrics; held out is the validation pool, or the pool of an on-policy run."""
        looks, validation = metrics.evaluation, metrics.validation
        return cls(
            own_ce=running_mean(finite_points((row.step, row.env_ce) for row in metrics.train)),
            held_out_ce=finite_points((row.step, row.env_ce) for row in (looks or validation)),
            own_solved=running_mean(finite_points((row.step, row.solve_rate) for row in metrics.train)),
            held_out_solved=finite_points((row.step, row.solve_rate) for row in looks),
        )

    @property
    def has_points(self) -> bool:
        """Whether there is anything to draw."""
        return any(getattr(self, name) for name, _, _ in _PANELS)


@dataclass(frozen=True, kw_only=True)
class CurveGroup:
    """The runs of one configuration."""

    label: str
    runs: tuple[RunCurves, ...]


@dataclass(frozen=True, kw_only=True)
class Band:
    """The mean over runs at each step that all of them have, and the ends of its 95 % interval (None: too few)."""

    steps: list[int]
    means: list[float]
    low: list[float] | None
    high: list[float] | None


def seed_band(curves: Sequence[Points]) -> Band:
    """Return mean and interval over runs, by Student's distribution with as many degrees of freedom as runs but one."""
    tables = [dict(points) for points in curves]
    steps = sorted(set.intersection(*(set(table) for table in tables))) if tables else []
    values = np.array([[table[step] for step in steps] for table in tables])
    if not steps:
        return Band(steps=[], means=[], low=None, high=None)
    means = values.mean(axis=0)
    if len(tables) < MIN_SEEDS:
        return Band(steps=steps, means=means.tolist(), low=None, high=None)
    from scipy.stats import t

    half = t.ppf(0.975, len(tables) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(tables))
    return Band(steps=steps, means=means.tolist(), low=(means - half).tolist(), high=(means + half).tolist())


def curves_chart(groups: Sequence[CurveGroup], *, narrow: bool = False) -> Figure:
    """Draw each figure that some run has in a panel: every run thinly, the mean of each group, and its interval."""
    panels = [panel for panel in _PANELS if any(getattr(run, panel[0]) for group in groups for run in group.runs)]
    columns = 1 if narrow or len(panels) == 1 else 2
    num_rows = -(-len(panels) // columns)
    legend = 24 * (len(groups) if narrow else -(-len(groups) // 2)) + 14
    height = num_rows * 300 + legend
    figure = Figure(figsize=((370 if narrow else 1000) / 72, height / 72))
    axes: list[Axes] = list(figure.subplots(num_rows, columns, squeeze=False).flat)
    last = max(
        [s for g in groups for run in g.runs for name, _, _ in _PANELS for s, _ in getattr(run, name)], default=1
    )
    for (name, title, is_share), ax in zip(panels, axes, strict=False):
        for place, group in enumerate(groups):
            _draw_group(ax, [getattr(run, name) for run in group.runs], COLOURS[SERIES[place % len(SERIES)]].light)
        ax.set_title(title)
        ax.set_xlabel("optimiser step")
        ax.set_ylim(0, 1.02 if is_share else max(ax.get_ylim()[1], 0.1))
        ax.set_xticks([tick for tick in MaxNLocator(5, integer=True).tick_values(0, last) if 0 <= tick <= last])
        ax.grid(visible=False, axis="x")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    handles = [
        Line2D(
            [], [], color=COLOURS[SERIES[place % len(SERIES)]].light, linewidth=2, label=_legend_label(group, narrow)
        )
        for place, group in enumerate(groups)
    ]
    draw_legend(figure, handles, narrow=narrow, columns=1 if narrow else 2)
    bottom = (legend + 44) / height
    figure.subplots_adjust(
        left=0.12 if narrow else 0.05, right=0.985, top=1 - 30 / height, bottom=bottom, hspace=0.42, wspace=0.12
    )
    return figure


def _legend_label(group: CurveGroup, narrow: bool) -> str:
    return visible_text(group.label).replace("\n", " ")[: 44 if narrow else 70]


def _draw_group(ax: Axes, curves: Sequence[Points], colour: str) -> None:
    curves = [points for points in curves if points]
    if not curves:
        return
    if len(curves) > 1:
        for points in curves:
            ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.8, alpha=0.35)
    band = seed_band(curves)
    if band.low is not None and band.high is not None:
        ax.fill_between(band.steps, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
    is_sparse = len(band.steps) < 30
    ax.plot(band.steps, band.means, color=colour, linewidth=2, marker="o" if is_sparse else "", markersize=4)
