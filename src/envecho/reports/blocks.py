"""The parts of a page as plain data: tables, readouts and token views, ready for a template.

Not here: HTML (`templates/`), reading files (`run_folder`), and the wording of the finding (`finding`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envecho.evaluation.results import Evaluation, Predictor, Readout
from envecho.reports import numbers
from envecho.reports.marks import Run, cut, mark_difference, mark_teacher_forced
from envecho.reports.numbers import Cell, Unit
from envecho.reports.palette import PREDICTOR_LABELS, ROLE_LABELS, ordered_pools, pool_title
from envecho.reports.schema import PREDICTORS
from envecho.tokens.view import TokenView, count_roles, count_sources, nll_level
from envecho.trajectory import Role, Source

MAX_TOKENS: Final = 4000
"""Tokens of one trajectory that a page draws; the rest is counted in a line below."""

MAX_SHADES: Final = 4
"""Predictors that can shade a trajectory; `templates/style.css` has a rule for each."""

_COLUMNS: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("CE per token", "ce_per_token", "nats"),
    ("CE per byte", "ce_per_byte", "nats"),
    ("First views", "ce_first_view", "nats"),
    ("Derivable", "ce_derivable", "nats"),
    ("First choice right", "top1_accuracy", "share"),
    ("Swap gap", "action_swap_gap", "gap"),
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A table row: its header, its cells, and the predictor that colours it (empty: none)."""

    label: str
    cells: tuple[Cell, ...]
    predictor: str = ""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows of one pool."""

    label: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table with a caption, column heads and groups of rows."""

    caption: str
    head: tuple[str, ...]
    groups: tuple[Group, ...]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One predictor's answer in a readout; `left_out` are characters of the free-running text that are not shown."""

    label: str
    predictor: str
    exact: bool
    ce: str
    top1: str
    free: tuple[Run, ...]
    forced: tuple[Run, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class ReadoutBlock:
    """One command, what the world said, and the answers."""

    command: str
    where: str
    kind: str
    actual: tuple[Run, ...]
    left_out: int
    answers: tuple[Answer, ...]


@dataclass(frozen=True, kw_only=True)
class TokenSpan:
    """One drawn token: its text cut at newlines, CSS classes, who wrote it, and the line that hovering shows."""

    lines: tuple[str, ...]
    classes: str
    source: str
    title: str


@dataclass(frozen=True, kw_only=True)
class TokenBlock:
    """One drawn trajectory: tokens by turn, the predictors that can shade it (`chosen` does at first), and counts.

    `num_trained` is None where nobody said what is trained.
    """

    label: str
    unit: str
    predictors: tuple[str, ...]
    chosen: str
    turns: tuple[tuple[str, tuple[TokenSpan, ...]], ...]
    roles: tuple[tuple[Role, str, int], ...]
    sources: tuple[tuple[str, Role, int, str], ...]
    num_left_out: int
    num_trained: int | None


def headline_table(evaluation: Evaluation) -> Table:
    """Pools x predictors: every headline figure with its interval; the lowest cost of a pool is marked."""
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        results = evaluation.pools[pool]
        present: list[Predictor] = [name for name in PREDICTORS if name in results]
        best = {figure: _best([getattr(results[name], figure) for name in present]) for _, figure, _ in _COLUMNS[:4]}
        rows = [
            Row(
                label=PREDICTOR_LABELS[name],
                predictor=name,
                cells=tuple(
                    numbers.cell(stat, unit, best=stat is not None and stat.value == best.get(figure))
                    for _, figure, unit in _COLUMNS
                    for stat in [getattr(results[name], figure)]
                ),
            )
            for name in present
        ]
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    caption = "Held-out figures with 95 % intervals; nats at T = 1. The lowest cost of each pool is set bold."
    return Table(caption=caption, head=tuple(head for head, _, _ in _COLUMNS), groups=tuple(groups))


def _best(stats: Sequence[object]) -> float | None:
    values = [value for stat in stats if (value := getattr(stat, "value", None)) is not None]
    return min(values, default=None)


def operation_table(evaluation: Evaluation) -> Table:
    """Pools x operations: share of derivable tokens, CE per predictor, and how often the trained model is right."""
    present = _present(evaluation)
    head = ("Share", *(PREDICTOR_LABELS[name].capitalize() for name in present), "Trained: first choice right")
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        results = evaluation.pools[pool]
        operations = sorted({op for result in results.values() for op in result.by_operation})
        rows: list[Row] = []
        for operation in operations:
            found = {name: results[name].by_operation.get(operation) for name in results}
            shares = [result.share for result in found.values() if result]
            trained = found.get("trained")
            cells = [numbers.cell(result.ce if (result := found.get(name)) else None) for name in present]
            top1 = numbers.cell(trained.top1_accuracy if trained else None, "share")
            rows.append(Row(label=operation, cells=(Cell(text=numbers.share(shares[0])), *cells, top1)))
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    return Table(caption="Cross-entropy on derivable output by operation.", head=head, groups=tuple(groups))


def source_table(evaluation: Evaluation) -> Table:
    """Pools x sources: tokens, and CE per predictor."""
    present = _present(evaluation)
    groups: list[Group] = []
    for pool in ordered_pools(evaluation.pools):
        results = evaluation.pools[pool]
        sources = list(dict.fromkeys(source for result in results.values() for source in result.by_source))
        rows: list[Row] = []
        for source in sources:
            stats = {name: results[name].by_source.get(source) for name in results}
            counts = [stat.num_tokens for stat in stats.values() if stat]
            cells = [numbers.cell(stats.get(name)) for name in present]
            rows.append(Row(label=source, cells=(Cell(text=f"{max(counts, default=0):,}"), *cells)))
        groups.append(Group(label=pool_title(pool), rows=tuple(rows)))
    head = ("Tokens", *(PREDICTOR_LABELS[name].capitalize() for name in present))
    return Table(caption="Cross-entropy per token by who wrote the output.", head=head, groups=tuple(groups))


def _present(evaluation: Evaluation) -> list[Predictor]:
    return [name for name in PREDICTORS if any(name in results for results in evaluation.pools.values())]


def readout_block(readout: Readout) -> ReadoutBlock:
    """Lay out one readout; what a predictor got wrong is marked."""
    answers: list[Answer] = []
    for name in PREDICTORS:
        if name not in readout.predictions:
            continue
        prediction = readout.predictions[name]
        free, left_out = cut(mark_difference(prediction.text, readout.actual))
        forced, _ = cut(mark_teacher_forced(prediction.teacher_forced, readout.actual))
        answers.append(
            Answer(
                label=PREDICTOR_LABELS[name],
                predictor=name,
                exact=prediction.exact_match,
                ce=numbers.nats(prediction.ce_per_token),
                top1=numbers.share(prediction.top1_accuracy),
                free=tuple(free),
                forced=tuple(forced),
                left_out=left_out,
            )
        )
    actual, left_out = cut([Run(text=readout.actual)])
    kind = readout.view if readout.operation is None else f"{readout.view}: {readout.operation}"
    where = f"{pool_title(readout.pool)}, {readout.trajectory_id}, turn {readout.turn}"
    return ReadoutBlock(
        command=readout.command,
        where=where,
        kind=kind,
        actual=tuple(actual),
        left_out=left_out,
        answers=tuple(answers),
    )


def token_block(
    view: TokenView, *, unit: str = "tokens", weights: NDArray[np.floating[Any]] | None = None
) -> TokenBlock:
    """Lay out one trajectory; `unit` is `tokens`, or `characters` for a view of whole segments.

    `weights` `[token]` are what an objective made of the tokens; those above 0 are marked as trained.
    """
    characters = unit == "characters"
    known = [name for name in PREDICTORS if name in view.predictors]
    predictors = (*known, *(name for name in view.predictors if name not in known))[:MAX_SHADES]
    shown = view.model_copy(update={"tokens": view.tokens[:MAX_TOKENS]})
    turns = tuple(
        (str(turn) if turn >= 0 else "", tuple(_span(shown, place, predictors, weights) for place, _ in run))
        for turn, run in shown.turns()
    )
    sources = count_sources(view, characters=characters)
    total = sum(sources.values()) or 1
    roles = count_roles(view, characters=characters)
    pool = f"{pool_title(view.pool)}, " if view.pool else ""
    return TokenBlock(
        label=f"{pool}{view.trajectory_id}",
        unit=unit,
        predictors=predictors,
        chosen="trained" if "trained" in predictors else "".join(predictors[:1]),
        turns=turns,
        roles=tuple((role, ROLE_LABELS[role], count) for role, count in roles.items()),
        sources=tuple((s.value, s.role, count, f"{100 * count / total:.1f} %") for s, count in sources.items()),
        num_left_out=max(len(view.tokens) - MAX_TOKENS, 0),
        num_trained=None if weights is None else int((weights > 0).sum()),
    )


def _span(
    view: TokenView, place: int, predictors: tuple[str, ...], weights: NDArray[np.floating[Any]] | None
) -> TokenSpan:
    token = view.tokens[place]
    classes = ["t", token.source.role.value]
    title = [token.source.value, f"turn {token.turn}"]
    if token.source is Source.REDACTED:
        classes.append("redacted")
    if weights is not None and weights[place] > 0:
        classes.append("trained")
        title.append(f"trained, weight {float(weights[place]):.3g}")
    for number, name in enumerate(predictors):
        nll = token.nll.get(name)
        level = nll_level(nll)
        if nll is None or level is None:
            continue
        classes.append(f"p{number}-{level}")
        title.append(f"{name} {nll:.3f} nats, p = {_probability(nll)}")
    return TokenSpan(
        lines=tuple(token.text.split("\n")),
        classes=" ".join(classes),
        source=token.source.value,
        title=" · ".join(title),
    )


def _probability(nll: float) -> str:
    percent = 100 * math.exp(-nll)
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.1e} %"
