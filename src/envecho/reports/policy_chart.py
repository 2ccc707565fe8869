"""The picture of an on-policy run: what it solved, what the world cost it, and how varied it stayed.

In the style of the other pictures (`charts`), wide and narrow. Not here: the tables beside it (`policy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from envecho.evaluation.results import Stat
from envecho.reports.charts import Points, draw_smoothed, finite_points, running_mean
from envecho.reports.looks import Look
from envecho.reports.palette import COLOURS
from envecho.reports.schema import Metrics

_OWN, _HELD_OUT, _ALARM = COLOURS["trained"].light, COLOURS["env_output"].light, COLOURS["warning"].light
_VARIETY: Final[tuple[tuple[str, str, str, Any], ...]] = (
    ("distinct_command_fraction", "distinct commands", COLOURS["action"].light, "-"),
    ("distinct_output_fraction", "distinct outputs", COLOURS["env_output"].light, (0, (5, 2))),
    ("zero_variance_fraction", "groups without variance", COLOURS["muted"].light, (0, (1, 1.6))),
)


def policy_chart(metrics: Metrics, intervals: Mapping[int, Look], *, narrow: bool = False) -> Figure:
    """Draw solve rates, environment CE and variety over steps; a line where an alarm began.

    `intervals` are those of the held-out looks, by step.
    """
    figure = Figure(figsize=(370 / 72, 1000 / 72) if narrow else (1000 / 72, 372 / 72))
    solved, cost, variety = figure.subplots(3, 1) if narrow else figure.subplots(1, 3)
    rows, looks = metrics.train, metrics.evaluation
    _curves(
        solved,
        finite_points((row.step, row.solve_rate) for row in rows),
        finite_points((look.step, look.solve_rate) for look in looks),
        {step: look.solve_rate for step, look in intervals.items()},
    )
    _curves(
        cost,
        finite_points((row.step, row.env_ce) for row in rows),
        finite_points((look.step, look.env_ce) for look in looks),
        {step: look.env_ce for step, look in intervals.items()},
    )
    for key, _, colour, line in _VARIETY:
        points = finite_points((row.step, getattr(row, key)) for row in rows)
        if points:
            variety.plot(*zip(*running_mean(points), strict=True), color=colour, linestyle=line, linewidth=1.6)
    last = max([row.step for row in (*rows, *looks)], default=1) or 1
    titles = ("Tasks solved", "Environment CE, nats per token", "Variety of what it did")
    for ax, title in zip((solved, cost, variety), titles, strict=True):
        for alarm in metrics.alarms:
            ax.axvline(alarm.step, color=_ALARM, linewidth=1.2, linestyle=(0, (4, 2)))
        ax.set_title(title)
        ax.set_xlabel("optimiser step")
        ax.set_xlim(-0.03 * last, 1.03 * last)
        ax.set_ylim(0, 1.02 if ax is not cost else max(ax.get_ylim()[1], 0.1))
        ax.set_xticks([tick for tick in MaxNLocator(5, integer=True).tick_values(0, last) if 0 <= tick <= last])
        ax.grid(visible=False, axis="x")
    _legend(figure, metrics, narrow=narrow)
    if narrow:
        figure.subplots_adjust(left=0.12, right=0.98, top=0.965, bottom=0.155, hspace=0.36)
    else:
        figure.subplots_adjust(left=0.04, right=0.99, top=0.91, bottom=0.25, wspace=0.15)
    return figure


def _curves(ax: Axes, own: Points, held_out: Points, intervals: Mapping[int, Stat | None]) -> None:
    draw_smoothed(ax, own, _OWN)
    if held_out:
        ax.plot(*zip(*held_out, strict=True), color=_HELD_OUT, linewidth=2, marker="o", markersize=5)
    for step, stat in intervals.items():
        if stat is not None and stat.low is not None and stat.high is not None:
            ax.plot([step, step], [stat.low, stat.high], color=_HELD_OUT, linewidth=1.5)


def _legend(figure: Figure, metrics: Metrics, *, narrow: bool) -> None:
    handles: Sequence[Line2D] = [
        Line2D([], [], color=_OWN, linewidth=1.6, label="own rollouts"),
        *([Line2D([], [], color=_HELD_OUT, linewidth=2, marker="o", label="held out")] if metrics.evaluation else []),
        *(Line2D([], [], color=c, linestyle=line, linewidth=1.6, label=name) for _, name, c, line in _VARIETY),
        *([Line2D([], [], color=_ALARM, linestyle=(0, (4, 2)), label="alarm")] if metrics.alarms else []),
    ]
    figure.legend(
        handles=handles, loc="lower left", ncols=2 if narrow else len(handles), handlelength=2.2, columnspacing=1.6
    )
