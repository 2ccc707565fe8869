"""The two pictures of a study: curves over steps, and differences from the arm that the others are compared to.

They are drawn from `study.json`'s figures in the style of the reports. Not here: the figures (`study_analysis`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from envecho.reports.charts import chart_style, png_bytes
from envecho.reports.palette import COLOURS

_HUES: Final = ("#5d6671", "#3b49b8", "#0064a6", "#00704f", "#a5650a", "#85548f", "#b0413e", "#4a7c8c", "#7a6a00")
_LINES: Final = ("-", (0, (5, 2)), (0, (1, 1.5)))
_NO_METADATA: Final = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_PANELS: Final = (
    ("solve_rate", "Held-out tasks solved", "share"),
    ("train_solve_rate", "Training tasks solved", "share of own rollouts"),
    ("env_ce", "Held-out environment CE", "nats per token"),
)


def study_pictures(arms: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the study's pictures by file name, as SVG and PNG; equal figures give equal bytes."""
    shown = {name: arm for name, arm in arms.items() if arm["seeds"]}
    pictures: dict[str, bytes] = {}
    for name, draw in (("curves", _draw_curves), ("differences", _draw_differences)):
        with chart_style(f"study-{name}"):
            figure = draw(shown)
            if figure is not None:
                pictures[f"{name}.svg"] = _svg_bytes(figure)
                pictures[f"{name}.png"] = png_bytes(figure)
    return pictures


def _svg_bytes(figure: Figure) -> bytes:
    out = BytesIO()
    figure.savefig(out, format="svg", facecolor="white", metadata=_NO_METADATA)
    return out.getvalue()


def _draw_curves(arms: Mapping[str, Any]) -> Figure:
    rows = -(-len(arms) // 3)
    height = 400 + 22 * rows
    figure = Figure(figsize=(1200 / 72, height / 72))
    axes: Sequence[Axes] = figure.subplots(1, 3)
    for ax, (key, title, unit) in zip(axes, _PANELS, strict=True):
        for place, arm in enumerate(arms.values()):
            steps = [look["step"] for look in arm["looks"] if key in look]
            stats = [look[key] for look in arm["looks"] if key in look]
            colour, line = _HUES[place % len(_HUES)], _LINES[place // len(_HUES) % len(_LINES)]
            label = f"{arm['label']} (n = {len(arm['seeds'])})"
            ax.plot(steps, [stat["value"] for stat in stats], color=colour, linestyle=line, linewidth=1.8, label=label)
            if stats and all(stat["low"] is not None for stat in stats):
                low, high = ([stat[end] for stat in stats] for end in ("low", "high"))
                ax.fill_between(steps, low, high, color=colour, alpha=0.1, linewidth=0)
        ax.set_title(title)
        ax.set_xlabel("optimiser step")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set_ylabel(unit)
        ax.set_ylim(bottom=0)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower left", ncols=3)
    figure.subplots_adjust(left=0.05, right=0.99, top=0.92, bottom=(60 + 22 * rows) / height, wspace=0.2)
    return figure


def _draw_differences(arms: Mapping[str, Any]) -> Figure | None:
    """One row per arm with a difference; None where no arm has one."""
    shown = [arm for arm in arms.values() if arm["difference"] and arm["difference"]["solve_rate"]]
    if not shown:
        return None
    height = 110 + 34 * len(shown)
    figure = Figure(figsize=(1200 / 72, height / 72))
    axes: Sequence[Axes] = figure.subplots(1, 3, sharey=True)
    for ax, (key, title, unit) in zip(axes, _PANELS, strict=True):
        ax.axvline(0, color=COLOURS["muted"].light, linewidth=1)
        for row, arm in enumerate(shown):
            stat = arm["difference"][key]
            if stat is None:
                continue
            if stat["low"] is not None:
                ax.plot([stat["low"], stat["high"]], [row, row], color=COLOURS["trained"].light, linewidth=2)
            ax.plot([stat["value"]], [row], color=COLOURS["trained"].light, marker="o", markersize=6)
        ax.set_title(title)
        ax.set_xlabel(f"difference at the end, {unit}")
        ax.xaxis.set_major_locator(MaxNLocator(5))
    axes[0].set_yticks(range(len(shown)), [arm["label"] for arm in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)
    figure.subplots_adjust(left=0.22, right=0.985, top=1 - 34 / height, bottom=56 / height, wspace=0.06)
    return figure
