"""The drift picture: edit similarity by answer of the episode, after the true history and after own words.

Not here: inlining (`svg`), and what the figures mean (`envecho.evaluation.simulation`).
"""

from __future__ import annotations

from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from envecho.evaluation.results import Predictor
from envecho.evaluation.simulation import MODES, DriftPoint, Mode, ModelRole, Simulation
from envecho.reports.palette import COLOURS

_COLOUR_OF: Final[dict[ModelRole, Predictor]] = {"base": "base", "model": "trained"}
_LINES: Final[dict[Mode, dict[str, Any]]] = {
    "guided": {"linestyle": "-", "marker": "o"},
    "free": {"linestyle": (0, (3, 2)), "marker": "s", "markerfacecolor": "white"},
}
_WORDS: Final[dict[Mode, str]] = {"guided": "after the true history", "free": "after its own words"}


def drift_chart(simulation: Simulation, *, narrow: bool = False) -> Figure:
    """Draw a line per model and mode; bars are 95 % intervals over tasks, where there are any."""
    figure = Figure(figsize=(370 / 72, 400 / 72) if narrow else (1000 / 72, 360 / 72))
    axes = figure.subplots()
    num_lines = len(simulation.results) * len(MODES)
    place = 0
    for role, result in simulation.results.items():
        for mode in MODES:
            _draw(axes, result.drift, role, mode, shift=(place - (num_lines - 1) / 2) * 0.06)
            place += 1
    axes.set_ylim(0, 1.03)
    axes.set_xlabel("answer of the episode")
    axes.set_title("Edit similarity to what the world said")
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.grid(visible=False, axis="x")
    bottom = 46 + 24 * (num_lines if narrow else 1)
    height = 400 if narrow else 360
    figure.legend(loc="lower left", bbox_to_anchor=(0, 0), ncols=1 if narrow else num_lines, handlelength=2.6)
    figure.subplots_adjust(left=0.1 if narrow else 0.04, right=0.99, top=1 - 36 / height, bottom=(bottom + 16) / height)
    return figure


def _draw(axes: Axes, drift: tuple[DriftPoint, ...], role: ModelRole, mode: Mode, *, shift: float) -> None:
    colour = COLOURS[_COLOUR_OF[role]].light
    found = [(point.number + shift, getattr(point, mode)) for point in drift if getattr(point, mode) is not None]
    for x, stat in found:
        if stat.low is not None and stat.high is not None:
            axes.plot([x, x], [stat.low, stat.high], color=colour, linewidth=1, alpha=0.45)
    name = "base model" if role == "base" else "model"
    xs, ys = [x for x, _ in found], [stat.value for _, stat in found]
    axes.plot(xs, ys, color=colour, linewidth=1.8, markersize=5, label=f"{name}, {_WORDS[mode]}", **_LINES[mode])
