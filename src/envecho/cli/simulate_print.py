"""How `envecho simulate` prints: one turn with model and world side by side, and the figures of a batch.

Texts of models and worlds are shown with control characters made visible, never as markup. Not here: the verb.
"""

from __future__ import annotations

from typing import Any, Final

from rich.table import Table
from rich.text import Text

from envecho.cli.printing import print_parts
from envecho.evaluation.results import Stat
from envecho.evaluation.simulation import MODES, ModelResult, Simulation
from envecho.recipes.simulate_live import Turn
from envecho.reports.marks import Run, mark_difference
from envecho.tokens.view import visible_text

HELP: Final = """\
Type an action as the world takes it: a command, a call {"name": ..., "arguments": {...}}, or `answer: ...`.
:free     what the model reads: what the world really said (guided), or its own words (free); typed again, back
:task     what the task says; `:task 3` starts task 3
:help     this
:quit     the end"""

_MISS: Final = "black on yellow"


def print_turn(turn: Turn) -> None:
    """Print one turn: what the model said, what the world said, what differs, and the scores."""
    table = Table(show_lines=False, expand=False, title=Text(_score(turn)), title_justify="left", title_style="")
    table.add_column("the model says")
    said = turn.guess.text + (" …" if turn.guess.cut else "")
    if turn.truth is None:
        table.add_row(_text([Run(text=said)]))
    else:
        table.add_column("the world says")
        table.add_row(
            _text(mark_difference(said, turn.truth.text)), _text(mark_difference(turn.truth.text, turn.guess.text))
        )
    print_parts(table, soft_wrap=False)
    if turn.over is not None:
        reward = "" if turn.reward is None else f", reward {turn.reward:g}"
        print_parts(Text(f"the episode is over ({turn.over.value}{reward}); `:task` and a number starts another"))


def turn_row(turn: Turn) -> dict[str, Any]:
    """Return one turn as a JSON object."""
    guess, truth = turn.guess, turn.truth
    compared = truth is not None
    return {
        "number": turn.number,
        "mode": "free" if turn.free else "guided",
        "command": turn.command,
        "said": guess.text,
        "cut": guess.cut,
        "looks_failed": guess.failed,
        "truth": truth.text if compared else None,
        "failed": truth.failed if compared else None,
        "exact": guess.exact if compared else None,
        "similarity": guess.similarity if compared else None,
        "nats": turn.nats,
        "num_tokens": turn.num_tokens,
        "over": None if turn.over is None else turn.over.value,
        "reward": turn.reward,
    }


def _score(turn: Turn) -> str:
    parts = [f"{turn.number}", "free" if turn.free else "guided"]
    if turn.truth is not None:
        same = "= exact" if turn.guess.exact else "≠ differs"
        parts += [same, f"similarity {turn.guess.similarity:.2f}"]
        if turn.nats is not None and turn.num_tokens:
            parts.append(f"truth {turn.nats / turn.num_tokens:.2f} nats per token")
        if turn.truth.failed is not None and turn.guess.failed != turn.truth.failed:
            parts.append("a failure not foreseen" if turn.truth.failed else "a failure that was none")
    if turn.guess.cut:
        parts.append("cut at the bound")
    return " · ".join(parts)


def _text(runs: list[Run]) -> Text:
    text = Text()
    for run in runs:
        shown = run.text.replace("\n", "↵\n") if run.miss else run.text
        text.append(visible_text(shown), style=_MISS if run.miss else "")
    text.rstrip()
    return text if text.plain else Text("(nothing)", style="dim")


def print_simulation(simulation: Simulation) -> None:
    """Print the figures of a batch: each model in both modes, the similarity by answer, and plan-ahead."""
    title = Text(
        f"{len(simulation.observations)} answers in {simulation.num_trajectories} episodes of "
        f"{simulation.num_tasks} tasks [95 % interval over tasks]"
    )
    table = Table(title=title, title_justify="left")
    columns = [(role, mode, result.modes[mode]) for role, result in simulation.results.items() for mode in MODES]
    table.add_column("")
    for role, mode, _ in columns:
        table.add_column(f"{role}, {mode}", justify="right")
    rows = {
        "exact match": "exact_match",
        "begins right": "begins_right",
        "edit similarity": "similarity",
        "failure told right": "failure_accuracy",
        "failures foreseen": "failures_foreseen",
        "false alarms": "false_alarms",
    }
    for label, field in rows.items():
        table.add_row(label, *(_cell(getattr(found, field)) for *_, found in columns))
    for label, field in {"cut at the bound": "num_cut", "not asked": "num_not_asked"}.items():
        table.add_row(label, *(str(getattr(found, field)) for *_, found in columns))
    print_parts(table, soft_wrap=False)
    for role, result in simulation.results.items():
        print_parts(Text(f"{role}: truth {_cell(result.ce_per_token)} nats per token; similarity by answer"))
        print_parts(Text(f"  {_drift(result)}"))
    for mode, stat in simulation.differences.items():
        print_parts(Text(f"similarity of model minus base, {mode}: {_cell(stat)}"))
    if simulation.num_unknown_phrases:
        unknown = simulation.num_unknown_phrases
        print_parts(Text(f"{unknown} answers hold phrases of another harness: compared whole"))
    if simulation.num_failure_unknown:
        unknown = simulation.num_failure_unknown
        print_parts(Text(f"{unknown} answers do not say whether the action failed: failure is not judged there"))
    _print_plan_ahead(simulation)


def _drift(result: ModelResult) -> str:
    def value(stat: Stat | None) -> str:
        return "-" if stat is None else f"{stat.value:.2f}"

    return "  ".join(f"{p.number}: {value(p.guided)} / {value(p.free)}" for p in result.drift) + "  (guided / free)"


def _print_plan_ahead(simulation: Simulation) -> None:
    plan = simulation.plan_ahead
    if plan is None:
        return
    reasons = "; ".join(f"{count} {reason.removeprefix('num_')}" for reason, count in plan.left_out.items())
    print_parts(Text(f"plan-ahead: {len(plan.pairs)} pairs; states left out: {reasons or 'none'}"))
    for role, result in plan.results.items():
        parts = f"by words {_cell(result.by_words)}, by odds {_cell(result.by_odds)}"
        print_parts(Text(f"  {role}: right {_cell(result.accuracy)} (chance 0.50); {parts}"))


def _cell(stat: Stat | None) -> str:
    if stat is None:
        return "-"
    interval = "" if stat.low is None else f" [{stat.low:.2f}, {stat.high:.2f}]"
    return f"{stat.value:.2f}{interval}"
