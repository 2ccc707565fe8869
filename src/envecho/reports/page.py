"""Writes the pages: one run or evaluation, several side by side, and trajectories alone.

Not here: what the parts say (`finding`, `evaluation_parts`, `policy`, `comparison`) and how they look (`templates/`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.reports import numbers
from envecho.reports.charts import training_chart
from envecho.reports.comparison import compare_folders, comparison_pictures
from envecho.reports.evaluation_parts import evaluation_parts, evaluation_pictures
from envecho.reports.finding import find
from envecho.reports.html import render, write_page
from envecho.reports.pictures import Picture, draw, joint_css, write_pngs
from envecho.reports.policy import policy_section
from envecho.reports.policy_chart import policy_chart
from envecho.reports.run_folder import RunFolder, read_run_folder
from envecho.reports.run_views import run_views
from envecho.reports.token_views import PageView, view_section
from envecho.tokens.view import TokenView
from envecho.trajectory import Source

_PICTURES = ("course", "chart", "attribution", "classes", "controls", "operations")


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` of a run or evaluation folder, with its pictures beside it as PNG; return its path.

    `out` is another place for the page; its pictures then carry its name (`x.html`, `x-chart.png`). Parts that a run
    lacks are named in the page, with the command that makes them.

    Raises:
        DataError: the folder is no run folder, or a file in it has an unknown format, version or key.
    """
    run = read_run_folder(Path(run_dir))
    path = Path(out) if out is not None else run.path / "report.html"
    pictures = _run_pictures(run) | evaluation_pictures(run.evaluation)
    context = _report_context(run) | dict.fromkeys(_PICTURES) | pictures
    write_page(path, render("report.html", context, chart_css=joint_css(pictures)))
    write_pngs(pictures, path)
    return path


def write_comparison(folders: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page that sets runs and evaluations side by side, with its pictures beside it; return its path.

    Seeds of one configuration form one group with intervals over them; evaluations of the same trajectories are
    compared pairwise, token by token of the same tasks.

    Raises:
        DataError: a folder holds nothing to compare, or a file in it has an unknown format, version or key.
    """
    path = Path(out)
    comparison = compare_folders([Path(folder) for folder in folders])
    pictures = comparison_pictures(comparison)
    context = {"title": "Side by side", "comparison": comparison, "curves": None, "pools": None} | pictures
    write_page(path, render("comparison.html", context, chart_css=joint_css(pictures)))
    write_pngs(pictures, path)
    return path


@dataclass(frozen=True, kw_only=True)
class PageSearch:
    """What the search box of a page of trajectories holds at first, and whose text is shown; empty: everybody's."""

    find: str = ""
    is_pattern: bool = False
    sources: frozenset[Source] = frozenset()


def write_token_page(
    views: Sequence[TokenView],
    out: str | Path,
    *,
    title: str,
    unit: str = "tokens",
    weights: Sequence[NDArray[np.floating[Any]] | None] | None = None,
    search: PageSearch | None = None,
) -> Path:
    """Write coloured trajectories as a page of their own, which can be searched and filtered by source.

    Args:
        unit: `characters` for views of whole segments.
        weights: one array `[token]` per view: what an objective made of its tokens; None where nobody said.
    """
    of_view = weights or [None] * len(views)
    section = view_section(
        [PageView(view=view, unit=unit, weights=weight) for view, weight in zip(views, of_view, strict=True)]
    )
    context = {"title": title, "section": section, "search": search or PageSearch()}
    return write_page(Path(out), render("tokens.html", context))


def _report_context(run: RunFolder) -> dict[str, Any]:
    evaluation, summary = run.evaluation, run.summary
    return {
        "title": f"What the model learnt: {run.path.resolve().name}",
        "kind": "evaluation" if run.is_evaluation else "run",
        "name": run.path.resolve().name,
        "finding": find(run),
        "missing": run.missing,
        "fared": policy_section(run.metrics, run.looks),
        "evaluation": evaluation_parts(evaluation),
        "tokens": run_views(run),
        "search": PageSearch(),
        "summary": summary,
        "facts": _facts(run),
        "phases": [
            (phase.name, numbers.duration(phase.seconds), numbers.gigabytes(phase.peak_memory_bytes))
            for phase in (summary.phases if summary else ())
        ],
        "config": run.config,
        "command": (summary.command if summary else None) or run.command,
    }


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    """Return what is known of how the run was made, as (what, value)."""
    facts: list[tuple[str, str]] = []
    if run.summary:
        made = run.summary
        facts = [
            ("model", made.model),
            ("seed", str(made.seed)),
            ("optimiser steps", f"{made.steps:,}"),
            ("wall clock", numbers.duration(made.wall_seconds)),
            ("memory at most", numbers.gigabytes(made.peak_memory_bytes)),
            *((f"{role} tokens", f"{count:,}") for role, count in made.tokens.items()),
        ]
    if run.evaluation:
        facts += [(f"predictor {name}", model) for name, model in run.evaluation.models.items()]
    speeds = [row.tokens_per_second for row in (run.metrics.train if run.metrics else ()) if row.tokens_per_second]
    if speeds:
        facts.append(("environment tokens per second (median)", f"{median(speeds):,.0f}"))
    if run.metrics and run.metrics.num_skipped:
        facts.append(("lines of metrics.jsonl not read", str(run.metrics.num_skipped)))
    return facts


def _run_pictures(run: RunFolder) -> dict[str, Picture]:
    metrics, evaluation = run.metrics, run.evaluation
    if metrics and policy_section(metrics):
        course = draw(
            "course",
            lambda narrow: policy_chart(metrics, run.looks, narrow=narrow),
            title="The run step by step",
            description="Its figures are in the tables below",
        )
        return {"course": course}
    if run.is_evaluation:
        return {}
    if (metrics and (metrics.train or metrics.validation)) or (evaluation and evaluation.pools):
        chart = draw(
            "chart",
            lambda narrow: training_chart(metrics, evaluation, narrow=narrow),
            title="Cross-entropy over training",
            description="Its figures are in the table of held-out figures below",
        )
        return {"chart": chart}
    return {}
