"""Writes the pages: one run, several runs side by side, and trajectories alone.

Not here: what the parts say (`finding`, `blocks`, `charts`) and how they look (`templates/`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from envecho.reports import numbers
from envecho.reports.blocks import headline_table, operation_table, readout_block, source_table, token_block
from envecho.reports.charts import chart_style, operations_chart, png_bytes, training_chart
from envecho.reports.comparison import compare_runs
from envecho.reports.finding import find
from envecho.reports.html import render, write_page
from envecho.reports.policy import policy_section
from envecho.reports.policy_chart import policy_chart
from envecho.reports.run_folder import RunFolder, read_run_folder
from envecho.reports.svg import InlineSvg, inline_svg
from envecho.tokens.view import TokenView
from envecho.trajectory import SOURCES, Source

MAX_READOUTS_OPEN: Final = 4
MAX_VIEWS: Final = 12


@dataclass(frozen=True, kw_only=True)
class _Picture:
    """One picture in the page (wide and narrow) and as PNG."""

    wide: InlineSvg
    narrow: InlineSvg
    png: bytes


def write_report(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Write `report.html` of a run folder, with `chart.png` and `operations.png` beside it; return its path.

    `out` is another place for the page; its pictures then carry its name (`x.html`, `x-chart.png`). Parts that the
    folder lacks are named in the page, with the command that makes them.

    Raises:
        DataError: the folder is no run folder, or a file in it has an unknown format, version or key.
    """
    run = read_run_folder(Path(run_dir))
    path = Path(out) if out is not None else run.path / "report.html"
    pictures = _pictures(run)
    context = _report_context(run) | {
        name: {"wide": Markup(picture.wide.markup), "narrow": Markup(picture.narrow.markup)}
        for name, picture in pictures.items()
    }
    css = "".join(picture.wide.css + picture.narrow.css for picture in pictures.values())
    write_page(path, render("report.html", context, chart_css=css))
    for name, picture in pictures.items():
        stem = "" if path.stem == "report" else f"{path.stem}-"
        path.with_name(f"{stem}{name}.png").write_bytes(picture.png)
    return path


def write_comparison(run_dirs: Sequence[str | Path], out: str | Path) -> Path:
    """Write one page with the headline figures of several runs: each seed, their mean and median; return its path.

    Raises:
        DataError: a folder has no `summary.json` of a known version.
    """
    groups = compare_runs([Path(folder) for folder in run_dirs])
    return write_page(Path(out), render("comparison.html", {"title": "Runs side by side", "groups": groups}))


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
    blocks = [token_block(view, unit=unit, weights=w) for view, w in zip(views, of_view, strict=True)]
    present = {token.source for view in views for token in view.tokens}
    search = search or PageSearch()
    context = {
        "title": title,
        "views": blocks,
        "search": search,
        "has_redacted": Source.REDACTED in present,
        "sources": [
            (source.value, source.role, not search.sources or source in search.sources)
            for source in SOURCES
            if source in present
        ],
    }
    return write_page(Path(out), render("tokens.html", context))


def _report_context(run: RunFolder) -> dict[str, Any]:
    evaluation, summary = run.evaluation, run.summary
    readouts = [readout_block(readout) for readout in evaluation.readouts] if evaluation else []
    views = evaluation.token_views if evaluation else ()
    return {
        "title": f"What the model learnt: {run.path.resolve().name}",
        "name": run.path.resolve().name,
        "finding": find(run),
        "missing": run.missing,
        "chart": None,
        "operations": None,
        "course": None,
        "fared": policy_section(run.metrics),
        "headline": headline_table(evaluation) if evaluation and evaluation.pools else None,
        "by_operation": operation_table(evaluation) if evaluation and evaluation.pools else None,
        "by_source": source_table(evaluation) if evaluation and evaluation.pools else None,
        "readouts": readouts[:MAX_READOUTS_OPEN],
        "more_readouts": readouts[MAX_READOUTS_OPEN:],
        "views": [token_block(view) for view in views[:MAX_VIEWS]],
        "num_views_left_out": max(len(views) - MAX_VIEWS, 0),
        "summary": summary,
        "facts": _facts(run),
        "phases": [
            (phase.name, numbers.duration(phase.seconds), numbers.gigabytes(phase.peak_memory_bytes))
            for phase in (summary.phases if summary else ())
        ],
        "config": run.config,
        "command": (summary.command if summary else None) or "envecho train config.toml --out NEW_FOLDER",
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
    speeds = [row.tokens_per_second for row in (run.metrics.train if run.metrics else ()) if row.tokens_per_second]
    if speeds:
        facts.append(("environment tokens per second (median)", f"{median(speeds):,.0f}"))
    if run.metrics and run.metrics.num_skipped:
        facts.append(("lines of metrics.jsonl not read", str(run.metrics.num_skipped)))
    return facts


def _pictures(run: RunFolder) -> dict[str, _Picture]:
    pictures: dict[str, _Picture] = {}
    metrics, evaluation = run.metrics, run.evaluation
    if metrics and policy_section(metrics):
        pictures["course"] = _picture(
            "course",
            lambda narrow: policy_chart(metrics, narrow=narrow),
            title="The run step by step",
            description="Its figures are in the tables below",
        )
    elif (metrics and (metrics.train or metrics.validation)) or (evaluation and evaluation.pools):
        pictures["chart"] = _picture(
            "chart",
            lambda narrow: training_chart(metrics, evaluation, narrow=narrow),
            title="Cross-entropy over training",
            description="Its figures are in the table of held-out figures below",
        )
    if evaluation and any(r.by_operation for pool in evaluation.pools.values() for r in pool.values()):
        pictures["operations"] = _picture(
            "operations",
            lambda narrow: operations_chart(evaluation, narrow=narrow),
            title="Cross-entropy by operation",
            description="Its figures are in the table under the picture",
        )
    return pictures


def _picture(name: str, draw: Callable[[bool], Figure], *, title: str, description: str) -> _Picture:
    """Draw it wide and narrow; ids in the page begin with its first two letters."""
    with chart_style(name):
        wide, narrow = draw(False), draw(True)
        return _Picture(
            wide=inline_svg(wide, prefix=f"{name[:2]}w", title=title, description=description),
            narrow=inline_svg(narrow, prefix=f"{name[:2]}n", title=title, description=description),
            png=png_bytes(wide),
        )
