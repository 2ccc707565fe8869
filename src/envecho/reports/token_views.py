"""Trajectories as a page draws them: the first as HTML, all of them as compact data for the page's script.

A page of 200 trajectories holds 200,000 tokens. As elements they would take seconds to lay out, so only the chosen one
is: the script (`templates/tokens.js`) draws it from the data that `view_data` writes, in the markup of
`templates/_token_view.html`. Not here: what a token is (`envecho.tokens.view`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from envecho.reports import numbers
from envecho.reports.numbers import Cell
from envecho.reports.palette import ROLE_LABELS, pool_title
from envecho.reports.schema import PREDICTORS
from envecho.tokens.view import NLL_LEVELS, TokenView, count_roles, count_sources, nll_level, visible_text
from envecho.trajectory import SOURCES, Role, Source

MAX_TOKENS: Final = 4000
"""Tokens of one trajectory that a page draws; the rest is counted in a line below."""

MAX_SHADES: Final = 4
"""Predictors that can shade a trajectory; `templates/tokens.css` has a rule for each."""

MAX_VIEWS: Final = 200
"""Trajectories that a page holds; the rest is counted."""

MAX_DATA: Final = 12_000_000
"""Characters of data that a page holds for its trajectories; those that come later are counted."""

DIGITS: Final = 3
"""Decimals of a token's nats in the page, in its shade as in its words."""


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

    `num_trained` is None where nobody said what is trained. `cells` are its row in the list of trajectories.
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


@dataclass(frozen=True, kw_only=True)
class ListedView:
    """A row of the list of trajectories: its name, its cells (turns, tokens, nats), and its data for the script."""

    label: str
    cells: tuple[Cell, ...]
    data: Markup


@dataclass(frozen=True, kw_only=True)
class ViewSection:
    """What a page shows of trajectories: the first drawn, and where there are more, a list with `head` to choose from.

    `facts` is what all data have in common; `sources` are (source, role) of those that wrote anything.
    """

    first: TokenBlock
    listed: tuple[ListedView, ...]
    head: tuple[str, ...]
    facts: Markup
    sources: tuple[tuple[str, str], ...]
    num_left_out: int
    is_shaded: bool
    has_weights: bool
    has_redacted: bool


Weights = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class PageView:
    """A view for a page; `unit` is `characters` for one of whole segments.

    `weights` `[token]` are what an objective made of the tokens; None where nobody said.
    """

    view: TokenView
    unit: str = "tokens"
    weights: Weights | None = None


def view_section(views: Sequence[PageView], *, num_left_out: int = 0) -> ViewSection | None:
    """Lay out the trajectories of a page, None without any; `num_left_out` others were not even given."""
    if not views:
        return None
    kept: list[ListedView] = []
    names = list(dict.fromkeys(name for item in views for name in shading_predictors(item.view)))
    room = MAX_DATA
    for item in views[:MAX_VIEWS]:
        data = view_data(item.view, unit=item.unit, weights=item.weights)
        room -= len(data)
        if room < 0 and kept:
            break
        kept.append(ListedView(label=view_label(item.view), cells=_cells(item.view, names), data=data))
    shown = views[: len(kept)]
    present = {token.source for item in shown for token in item.view.tokens}
    first = views[0]
    return ViewSection(
        first=token_block(first.view, unit=first.unit, weights=first.weights),
        listed=tuple(kept) if len(kept) > 1 else (),
        head=("Turns", "Pieces of text", *(f"{name}, nats per token" for name in names)),
        facts=_script_json({"sources": [[s.value, s.role.value] for s in SOURCES], "levels": NLL_LEVELS}),
        sources=tuple((source.value, source.role.value) for source in SOURCES if source in present),
        num_left_out=num_left_out + len(views) - len(kept),
        is_shaded=bool(names),
        has_weights=any(item.weights is not None for item in shown),
        has_redacted=Source.REDACTED in present,
    )


def view_label(view: TokenView) -> str:
    """Return how a page names the trajectory: its pool in plain words, and its id."""
    return f"{pool_title(view.pool)}, {view.trajectory_id}" if view.pool else view.trajectory_id


def shading_predictors(view: TokenView) -> tuple[str, ...]:
    """Return the predictors that can shade the view, ours first."""
    known = [name for name in PREDICTORS if name in view.predictors]
    return (*known, *(name for name in view.predictors if name not in known))[:MAX_SHADES]


def _cells(view: TokenView, names: Sequence[str]) -> tuple[Cell, ...]:
    cells = [len({token.turn for token in view.tokens if token.turn >= 0}), len(view.tokens)]
    means: list[float | None] = []
    for name in names:
        nats = [x for token in view.tokens if (x := token.nll.get(name)) is not None]
        means.append(sum(nats) / len(nats) if nats else None)
    return (*(Cell(text=f"{count:,}") for count in cells), *(Cell(text=numbers.nats(mean, DIGITS)) for mean in means))


def token_block(view: TokenView, *, unit: str = "tokens", weights: Weights | None = None) -> TokenBlock:
    """Lay out one trajectory; `weights` `[token]` above 0 are marked as trained."""
    predictors = shading_predictors(view)
    shown = view.model_copy(update={"tokens": view.tokens[:MAX_TOKENS]})
    turns = tuple(
        (str(turn) if turn >= 0 else "", tuple(_span(shown, place, predictors, weights) for place, _ in run))
        for turn, run in shown.turns()
    )
    roles, sources = token_counts(view, unit=unit)
    return TokenBlock(
        label=view_label(view),
        unit=unit,
        predictors=predictors,
        chosen=_chosen(predictors),
        turns=turns,
        roles=roles,
        sources=sources,
        num_left_out=max(len(view.tokens) - MAX_TOKENS, 0),
        num_trained=None if weights is None else int((weights > 0).sum()),
    )


def _chosen(predictors: tuple[str, ...]) -> str:
    return "trained" if "trained" in predictors else "".join(predictors[:1])


def _span(view: TokenView, place: int, predictors: tuple[str, ...], weights: Weights | None) -> TokenSpan:
    token = view.tokens[place]
    classes = ["t", token.source.role.value]
    title = [token.source.value, f"turn {token.turn}"]
    if token.source is Source.REDACTED:
        classes.append("redacted")
    if weights is not None and weights[place] > 0:
        classes.append("trained")
        title.append(f"trained, weight {float(weights[place]):.3g}")
    for number, name in enumerate(predictors):
        nll = _rounded(token.nll.get(name))
        if nll is None:
            continue
        classes.append(f"p{number}-{nll_level(nll)}")
        title.append(f"{name} {nll:.{DIGITS}f} nats, p = {_probability(nll)}")
    return TokenSpan(
        lines=tuple(token.text.split("\n")),
        classes=" ".join(classes),
        source=token.source.value,
        title=" · ".join(title),
    )


def _rounded(nll: float | None) -> float | None:
    return None if nll is None else round(nll * 10**DIGITS) / 10**DIGITS


def _probability(nll: float) -> str:
    percent = 100 * math.exp(-nll)
    if percent >= 0.1:
        return f"{percent:.1f} %"
    mantissa, exponent = f"{percent:.1e}".split("e")
    return f"{mantissa}e{int(exponent)} %"


def view_data(view: TokenView, *, unit: str = "tokens", weights: Weights | None = None) -> Markup:
    """Return the view as JSON for a script tag of a type that no browser runs.

    Every text has passed `visible_text`. Of two tokens, the second trained and scored by one predictor:

        {"label": "t1", "unit": "tokens", "predictors": ["base"], "chosen": "base",
         "turns": [[0, 1], [1, 1]],             turn, number of tokens
         "sources": [[1, 1], [5, 1]],           place in the list of sources, number of tokens
         "texts": ["Count.", "3\\n"],
         "nll": [[[1, 250]]],                   per predictor, runs: place of the first token, then thousandths of a nat
         "weights": [["", 1], ["0.25", 1]],     weight, number of tokens; or null
         "left": 0, "trained": 1,               tokens that are not drawn; trained ones, or null
         "roles": [...], "counts": [...]}       as `token_counts`
    """
    roles, counts = token_counts(view, unit=unit)
    tokens = view.tokens[:MAX_TOKENS]
    predictors = shading_predictors(view)
    record: dict[str, Any] = {
        "label": visible_text(view_label(view)),
        "unit": unit,
        "predictors": [visible_text(name) for name in predictors],
        "chosen": visible_text(_chosen(predictors)),
        "turns": _run_lengths(token.turn for token in tokens),
        "sources": _run_lengths(token.source.code for token in tokens),
        "texts": [visible_text(token.text) for token in tokens],
        "nll": [_scored_runs([token.nll.get(name) for token in tokens]) for name in predictors],
        "weights": None,
        "left": len(view.tokens) - len(tokens),
        "trained": None,
        "roles": roles,
        "counts": counts,
    }
    if weights is not None:
        said = (f"{float(weight):.3g}" if weight > 0 else "" for weight in weights[: len(tokens)])
        record |= {"weights": _run_lengths(said), "trained": int((weights > 0).sum())}
    return _script_json(record)


def token_counts(
    view: TokenView, *, unit: str
) -> tuple[tuple[tuple[Role, str, int], ...], tuple[tuple[str, Role, int, str], ...]]:
    """Return (role, label, count) of every role, and (source, role, count, share) of every source that wrote."""
    characters = unit == "characters"
    sources = count_sources(view, characters=characters)
    total = sum(sources.values()) or 1
    roles = count_roles(view, characters=characters)
    return (
        tuple((role, ROLE_LABELS[role], count) for role, count in roles.items()),
        tuple((s.value, s.role, count, f"{100 * count / total:.1f} %") for s, count in sources.items()),
    )


def _run_lengths(values: Iterable[Any]) -> list[list[Any]]:
    return [[value, sum(1 for _ in run)] for value, run in groupby(values)]


def _scored_runs(values: Sequence[float | None]) -> list[list[int]]:
    runs: list[list[int]] = []
    for place, nll in enumerate(values):
        if nll is None:
            continue
        if place == 0 or values[place - 1] is None:
            runs.append([place])
        runs[-1].append(round(nll * 10**DIGITS))
    return runs


def _script_json(record: Any) -> Markup:
    """Return JSON in which nothing can end a script tag, open a comment, or be read as markup."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)
