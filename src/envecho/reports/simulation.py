"""The page of a simulation: what a model said in the world's place, beside what the world said.

Not here: making one (`envecho.recipes.simulate`), the drift picture (`simulation_chart`), HTML (`templates/`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from envecho.evaluation.results import Predictor, Stat
from envecho.evaluation.simulation import (
    MODES,
    Choice,
    Guess,
    Mode,
    ModelRole,
    ModeResult,
    Observation,
    Pair,
    PlanAhead,
    Simulation,
    read_simulation,
)
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.charts import chart_style
from envecho.reports.html import render, write_page
from envecho.reports.marks import Run, cut, mark_difference
from envecho.reports.numbers import Cell, Unit
from envecho.reports.simulation_chart import drift_chart
from envecho.reports.svg import InlineSvg, inline_svg

MAX_OPEN: Final = 6
MAX_SHOWN: Final = 60
MAX_PAIRS: Final = 12

COLOUR_OF: Final[Mapping[ModelRole, Predictor]] = {"base": "base", "model": "trained"}
"""The predictor whose colour a model has on the page."""

_MODE_LABELS: Final[Mapping[Mode, str]] = {"guided": "after the true history", "free": "after its own words"}
_COLUMNS: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("Exact", "exact_match", "share"),
    ("Begins right", "begins_right", "share"),
    ("Similarity", "similarity", "nats"),
    ("Failure told", "failure_accuracy", "share"),
    ("Foreseen", "failures_foreseen", "share"),
    ("False alarms", "false_alarms", "share"),
)
"""Heading, figure, and how it is written: a similarity, like nats, as a plain number."""


@dataclass(frozen=True, kw_only=True)
class Said:
    """One guess as it is drawn: what differs from the truth is marked."""

    label: str
    predictor: str
    exact: bool
    how: str
    runs: tuple[Run, ...]
    left_out: int


@dataclass(frozen=True, kw_only=True)
class AnswerBlock:
    """One action, what the world said, and what each model said in each mode."""

    command: str
    where: str
    actual: tuple[Run, ...]
    left_out: int
    said: tuple[Said, ...]


@dataclass(frozen=True, kw_only=True)
class PairBlock:
    """Two actions in one state with their true answers, and each model's choice in words."""

    command: str
    other: str
    where: str
    answer: str
    other_answer: str
    choices: tuple[tuple[str, str, str, str, str], ...]


def write_simulation_page(simulation: Simulation | Path, out: Path) -> Path:
    """Write a simulation, or its `simulation.json`, as one self-contained HTML file; return its path.

    Raises:
        DataError: the file is none, or of an unknown version.
    """
    if isinstance(simulation, Path):
        simulation = read_simulation(simulation)
    wide, narrow = _pictures(simulation)
    blocks = [_answer_block(observation) for observation in simulation.observations[:MAX_SHOWN]]
    plan = simulation.plan_ahead
    context: dict[str, Any] = {
        "title": "The model in the world's place",
        "source": simulation.source,
        "finding": finding(simulation),
        "figures": _figures(simulation),
        "truth": _truth_costs(simulation),
        "drift": {"wide": Markup(wide.markup), "narrow": Markup(narrow.markup)},
        "answers": blocks[:MAX_OPEN],
        "more_answers": blocks[MAX_OPEN:],
        "num_answers_left_out": max(len(simulation.observations) - MAX_SHOWN, 0),
        "plan": None if plan is None else _plan_table(plan),
        "plan_left_out": [] if plan is None else _reasons(plan),
        "pairs": [] if plan is None else [_pair_block(pair) for pair in plan.pairs[:MAX_PAIRS]],
        "num_pairs_left_out": 0 if plan is None else max(len(plan.pairs) - MAX_PAIRS, 0),
        "facts": _facts(simulation),
        "command": simulation.command,
    }
    return write_page(out, render("simulation.html", context, chart_css=wide.css + narrow.css))


def finding(simulation: Simulation) -> str:
    """Return what was found in words that are the same for a good and a bad result."""
    sentences: list[str] = []
    for role, result in simulation.results.items():
        guided, free = (result.modes[mode] for mode in MODES)
        name, begins = role_label(role, capital=True), [_share(mode.begins_right) for mode in (guided, free)]
        sentences.append(
            f"{name} wrote {_share(guided.exact_match)} of the answers exactly as the world, and "
            f"{_share(free.exact_match)} when it read its own words instead of the world's; {begins[0]} and "
            f"{begins[1]} began with all that the world said; edit similarity "
            f"{_value(guided.similarity)} and {_value(free.similarity)}."
        )
        if simulation.plan_ahead is not None and (stat := simulation.plan_ahead.results[role].accuracy) is not None:
            sentences.append(
                f"Of two actions it told which one succeeds in {_share(stat)} of {stat.num_tokens} pairs "
                "(chance: 50 %)."
            )
    return " ".join(sentences)


def role_label(role: ModelRole, *, capital: bool = False) -> str:
    """Return a model's role in plain words."""
    label = "the base model" if role == "base" else "the model"
    return label[:1].upper() + label[1:] if capital else label


def _figures(simulation: Simulation) -> Table:
    groups: list[Group] = []
    for role, result in simulation.results.items():
        rows = [
            Row(label=_MODE_LABELS[mode], predictor=COLOUR_OF[role], cells=_cells(result.modes[mode])) for mode in MODES
        ]
        groups.append(
            Group(label=f"{role_label(role, capital=True)}: {_short(simulation.models[role], 60)}", rows=tuple(rows))
        )
    head = (*(head for head, *_ in _COLUMNS), "Cut", "Not asked")
    caption = f"{len(simulation.observations)} answers, with 95 % intervals over {simulation.num_tasks} tasks."
    return Table(caption=caption, head=head, groups=tuple(groups))


def _cells(result: ModeResult) -> tuple[Cell, ...]:
    shares = [numbers.cell(getattr(result, figure), unit) for _, figure, unit in _COLUMNS]
    counts = (result.num_cut, result.num_not_asked)
    return (*shares, *(Cell(text=f"{count:,}") for count in counts))


def _truth_costs(simulation: Simulation) -> list[str]:
    lines: list[str] = []
    for role, result in simulation.results.items():
        if result.ce_per_token is not None:
            cell = numbers.cell(result.ce_per_token)
            interval = f" ({cell.interval})" if cell.interval else ""
            lines.append(f"{role_label(role, capital=True)}: {cell.text} nats per token of the true output{interval}.")
    for mode, stat in simulation.differences.items():
        cell = numbers.cell(stat, "gap")
        interval = f" ({cell.interval})" if cell.interval else ""
        lines.append(f"Similarity of the model minus the base model's, {_MODE_LABELS[mode]}: {cell.text}{interval}.")
    return lines


def _pictures(simulation: Simulation) -> tuple[InlineSvg, InlineSvg]:
    with chart_style("drift"):
        wide, narrow = drift_chart(simulation), drift_chart(simulation, narrow=True)
        title, description = "Edit similarity by answer of the episode", "Its figures are in simulation.json"
        return (
            inline_svg(wide, prefix="drw", title=title, description=description),
            inline_svg(narrow, prefix="drn", title=title, description=description),
        )


def _answer_block(observation: Observation) -> AnswerBlock:
    actual, left_out = cut([Run(text=observation.text)])
    said: list[Said] = []
    for role, answers in observation.answers.items():
        guided, free = answers.guided, answers.free
        if guided is not None and free is not None and guided.text == free.text:
            said.append(_said(observation, role, "after either history", guided))
        else:
            said += [_said(observation, role, _MODE_LABELS["guided"], guided)]
            said += [_said(observation, role, _MODE_LABELS["free"], free)]
    cost = [
        f"{role_label(role)} {answers.nats / answers.num_tokens:.2f}"
        for role, answers in observation.answers.items()
        if answers.num_tokens
    ]
    truth = f" · nats per true token: {', '.join(cost)}" if cost else ""
    return AnswerBlock(
        command=observation.command,
        where=f"{observation.trajectory_id}, answer {observation.number}{truth}",
        actual=tuple(actual),
        left_out=left_out,
        said=tuple(said),
    )


def _said(observation: Observation, role: ModelRole, history: str, guess: Guess | None) -> Said:
    if guess is None:
        return Said(
            label=role_label(role), predictor=COLOUR_OF[role], exact=False,
            how=f"{history}: not asked", runs=(), left_out=0,
        )  # fmt: skip
    runs, left_out = cut(mark_difference(guess.text, observation.text))
    facts = [history, f"similarity {guess.similarity:.2f}"]
    facts += ["cut at the bound"] if guess.cut else []
    if observation.failed is not None and guess.failed != observation.failed:
        facts.append("a failure not foreseen" if observation.failed else "a failure that was none")
    return Said(
        label=role_label(role),
        predictor=COLOUR_OF[role],
        exact=guess.exact is True,
        how=", ".join(facts),
        runs=tuple(runs),
        left_out=left_out,
    )


# --- plan-ahead -----------------------------------------------------------------------------------------------------


def _plan_table(plan: PlanAhead) -> Table:
    rows = tuple(
        Row(
            label=role_label(role, capital=True),
            predictor=COLOUR_OF[role],
            cells=tuple(_counted(stat) for stat in (result.accuracy, result.by_words, result.by_odds)),
        )
        for role, result in plan.results.items()
    )
    caption = f"{_pairs(len(plan.pairs))}, with 95 % intervals over tasks; 50 % is chance."
    head = ("Right", "Decided by its words", "Decided by odds")
    return Table(caption=caption, head=head, groups=(Group(label="Pairs", rows=rows),))


def _counted(stat: Stat | None) -> Cell:
    cell = numbers.cell(stat, "share")
    if stat is None:
        return cell
    pairs = _pairs(stat.num_tokens)
    return Cell(text=cell.text, interval=f"{cell.interval}, {pairs}" if cell.interval else pairs)


def _pairs(count: int) -> str:
    return "1 pair" if count == 1 else f"{count:,} pairs"


_REASONS: Final[Mapping[str, str]] = {
    "num_failed_itself": "the recorded action failed itself",
    "num_failure_unknown": "nothing says whether the recorded action failed",
    "num_later_answers": "a further answer to the same action",
    "num_without_world": "no world is known in which another action could be carried out",
    "num_without_other": "no other action of the kind is known",
    "num_none_failed": "none of the other actions that were tried failed",
    "num_state_differs": "the replayed history was answered otherwise",
    "num_over_limit": "beyond the number of pairs asked for",
    "num_beyond_context_model": "history and answer do not fit in the model's context",
    "num_beyond_context_base": "history and answer do not fit in the base model's context",
}


def _reasons(plan: PlanAhead) -> list[tuple[str, int]]:
    return [(_REASONS.get(reason, reason), count) for reason, count in plan.left_out.items()]


def _pair_block(pair: Pair) -> PairBlock:
    origin = "both recorded" if pair.origin == "record" else "the second carried out in a fresh world"
    return PairBlock(
        command=pair.command,
        other=pair.other,
        where=f"{pair.trajectory_id}, turn {pair.turn} · {origin}",
        answer=_short(pair.answer),
        other_answer=_short(pair.other_answer),
        choices=tuple(_choice(role, choice) for role, choice in pair.choices.items()),
    )


def _choice(role: ModelRole, choice: Choice) -> tuple[str, str, str, str, str]:
    verdict = "undecided" if choice.right == 0.5 else "right" if choice.right == 1 else "wrong"
    by = "by its words" if choice.by == "words" else "by odds"
    return role_label(role), COLOUR_OF[role], f"{verdict}, {by}", _short(choice.succeeds), _short(choice.fails)


def _short(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


# --- how it was made ------------------------------------------------------------------------------------------------


def _facts(simulation: Simulation) -> list[tuple[str, str]]:
    facts = [(role_label(role), name) for role, name in simulation.models.items()]
    return [
        *facts,
        ("episodes", f"{simulation.num_trajectories:,} of {simulation.num_tasks:,} tasks"),
        ("answers", f"{len(simulation.observations):,}"),
        ("tokens of an answer at most", f"{simulation.max_tokens:,}"),
        ("answers longer than that, compared up to there", f"{simulation.num_long:,}"),
        ("answers with phrases of another harness, compared whole", f"{simulation.num_unknown_phrases:,}"),
        ("answers that do not say whether the action failed", f"{simulation.num_failure_unknown:,}"),
        ("seed", str(simulation.seed)),
    ]


def _share(stat: Stat | None) -> str:
    return "an unknown share" if stat is None else numbers.share(stat.value)


def _value(stat: Stat | None) -> str:
    return "unknown" if stat is None else f"{stat.value:.2f}"
