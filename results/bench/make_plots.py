"""Draw the plots of docs/performance.md from the committed measurements of training steps.

Run `python results/bench/make_plots.py`, and `make_table.py` after it, which shows what is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from envecho.recipes.bench_step_table import NAMES

RESULTS = Path(__file__).parent
IMAGES = RESULTS.parents[1] / "docs" / "images"
COLOURS = {"grpo": "#7fb3d5", "echo": "#1f618d", "all-logits": "#e59866", "trl": "#b03a2e", "body": "#b2babb"}


def draw_ratios(document: Mapping[str, Any], path: Path) -> None:
    """Draw the steps of each case as bars, over TRL's where it was measured, else over all logits."""
    cases: Sequence[Mapping[str, Any]] = document["cases"]
    names = [name for name in NAMES if all(name in case["subjects"] for case in cases)]
    base = "trl" if "trl" in names else "all-logits"
    figure = Figure(figsize=(8, 0.9 + 0.22 * len(cases) * (len(names) + 1)), layout="constrained")
    axes = figure.subplots()
    for number, case in enumerate(cases):
        whole = case["subjects"][base]["step_seconds"]["median"]
        for place, name in enumerate(names):
            value = case["subjects"][name]["step_seconds"]["median"] / whole
            row = number * (len(names) + 1) + place
            axes.barh(row, value, color=COLOURS[name], label=NAMES[name] if number == 0 else None)
            axes.text(value + 0.01, row, f"{value:.2f}", va="center", fontsize=7)
    middles = [number * (len(names) + 1) + (len(names) - 1) / 2 for number in range(len(cases))]
    axes.set_yticks(middles, [case["title"] for case in cases], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(f"time of a step, {NAMES[base]} = 1")
    axes.margins(x=0.08)
    figure.legend(fontsize=8, loc="outside upper center", ncols=len(names))
    _save(figure, path)


def draw_scaling(documents: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw seconds and peak memory over the tokens of a step, one line for each document and subject."""
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for (title, document), style in zip(documents.items(), ("-", "--"), strict=False):
        cases = document["cases"]
        tokens = [case["num_tokens"] for case in cases]
        for name in [name for name in NAMES if all(name in case["subjects"] for case in cases)]:
            found = [case["subjects"][name] for case in cases]
            look: dict[str, Any] = {"color": COLOURS[name], "linestyle": style, "marker": "o", "markersize": 3}
            label = f"{NAMES[name]}, {title}"
            left.plot(tokens, [subject["step_seconds"]["median"] for subject in found], label=label, **look)
            right.plot(tokens, [subject["peak_memory_bytes"] / 1e9 for subject in found], label=label, **look)
    left.set_yscale("log", base=2)
    left.yaxis.set_major_formatter("{x:g}")
    left.set_ylabel("seconds of a step")
    right.set_ylim(bottom=0)
    right.set_ylabel("peak memory, GB")
    for axes in (left, right):
        _tokens_axis(axes, sorted({case["num_tokens"] for found in documents.values() for case in found["cases"]}))
    left.legend(fontsize=8)
    _save(figure, path)


def _tokens_axis(axes: Axes, tokens: Sequence[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(tokens, [f"{num:,}" for num in tokens], fontsize=8)
    axes.set_xlabel("tokens of a step")
    axes.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    # The same figures make the same file.
    with rc_context({"svg.hashsalt": "envecho", "svg.fonttype": "none"}):
        figure.savefig(path, metadata={"Date": None})


def _read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def main() -> None:
    """Draw both plots."""
    draw_ratios(_read("step"), IMAGES / "bench-step-ratios.svg")
    lines = {"sequences of 2k": _read("step-scaling"), "one sequence": _read("step-sequence")}
    draw_scaling(lines, IMAGES / "bench-step-scaling.svg")


if __name__ == "__main__":
    main()
