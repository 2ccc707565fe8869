"""What a report says of an on-policy run: held-out looks, the course of the policy's health, and every alarm.

Plain data from `metrics.jsonl`, in the same words for a good and for a bad run. Not here: the picture
(`policy_chart`), and runs on stored trajectories (`finding`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from envecho.evaluation.results import Stat
from envecho.reports import numbers
from envecho.reports.blocks import Group, Row, Table
from envecho.reports.looks import Look
from envecho.reports.numbers import Cell, Unit
from envecho.reports.schema import AlarmRow, EvaluationRow, Metrics, TrainRow

WINDOW: Final = 10
"""Steps that the first and the last column of the health table are the mean of, or half the run where it is shorter."""

FIGURES: Final[tuple[tuple[str, str, Unit], ...]] = (
    ("solve_rate", "own rollouts solved", "share"),
    ("env_ce", "environment CE of training episodes, nats", "nats"),
    ("warning_ce", "warning CE of training episodes, nats", "nats"),
    ("action_entropy", "action entropy, nats", "nats"),
    ("distinct_command_fraction", "distinct commands", "share"),
    ("distinct_output_fraction", "distinct outputs", "share"),
    ("invalid_call_fraction", "calls that the world did not know", "share"),
    ("unparsed_call_fraction", "turns that could not be read", "share"),
    ("zero_variance_fraction", "groups whose rewards are all equal", "share"),
    ("without_observation_fraction", "rollouts without an observation", "share"),
    ("mean_turns", "turns of an episode", "nats"),
    ("clip_fraction", "clipped action tokens", "share"),
    ("sampler_mismatch", "sampler against trainer, nats per action token", "nats"),
    ("policy_grad_norm", "gradient norm of the policy term", "nats"),
    ("env_grad_norm", "gradient norm of the environment term", "nats"),
    ("grad_cosine", "cosine of the two gradients", "gap"),
    ("effective_lambda", "effective lambda", "nats"),
)


@dataclass(frozen=True, kw_only=True)
class PolicySection:
    """`sentence` is the finding; `looks` and `health` are tables; `alarms` are (step, name, reason)."""

    sentence: str
    looks: Table | None
    health: Table
    alarms: tuple[tuple[int, str, str], ...]


def policy_section(metrics: Metrics | None, looks: Mapping[int, Look] | None = None) -> PolicySection | None:
    """Return what is said of a run with rollouts, None where there were none; `looks` by step have intervals."""
    rows = [
        row for row in (metrics.train if metrics else ()) if row.solve_rate is not None or row.mean_turns is not None
    ]
    if metrics is None or not rows:
        return None
    return PolicySection(
        sentence=_sentence(rows, metrics.evaluation),
        looks=_looks(metrics.evaluation, looks or {}),
        health=_health(rows),
        alarms=tuple(map(_alarm, metrics.alarms)),
    )


def _sentence(rows: Sequence[TrainRow], looks: Sequence[EvaluationRow]) -> str:
    known = [look for look in looks if look.solve_rate is not None]
    if len(known) < 2:
        first, last = rows[0].solve_rate, rows[-1].solve_rate
        return (
            f"Of its own rollouts on training tasks the policy solves {numbers.share(last)} at step {rows[-1].step};"
            f" at step {rows[0].step} it solved {numbers.share(first)}. No held-out task was looked at."
        )
    first, last = known[0], known[-1]
    sentence = (
        f"On the {last.split} split the policy solves {numbers.share(last.solve_rate)} of {last.num_episodes} episodes"
        f" after {last.step} steps; before the first step it solved {numbers.share(first.solve_rate)}."
    )
    if first.env_ce is not None and last.env_ce is not None:
        sentence += (
            f" What the world answers in the held-out pool costs it {numbers.nats(last.env_ce)} nats per token;"
            f" it cost {numbers.nats(first.env_ce)}."
        )
    return sentence


def _looks(looks: Sequence[EvaluationRow], intervals: Mapping[int, Look]) -> Table | None:
    if not looks:
        return None
    rows = tuple(
        Row(
            label=f"step {look.step}",
            cells=(
                _with_interval(look.solve_rate, of_step and of_step.solve_rate, "share"),
                numbers.count_cell(look.num_episodes),
                _with_interval(look.env_ce, of_step and of_step.env_ce, "nats"),
            ),
        )
        for look in looks
        for of_step in [intervals.get(look.step)]
    )
    caption = "Looks at held-out tasks and the held-out pool. They select nothing: the last weights are the run's."
    return Table(
        caption=f"{caption} Intervals are over tasks." if intervals else caption,
        head=("Episodes solved", "Episodes", "Environment CE, nats per token"),
        groups=(Group(label=f"Split {looks[-1].split}", rows=rows),),
    )


def _with_interval(value: float | None, stat: Stat | None, unit: Unit) -> Cell:
    """The figure of the metrics, with the interval of the look's own document where there is one."""
    if stat is not None:
        return numbers.cell(stat, unit)
    return numbers.share_cell(value) if unit == "share" else Cell(text=numbers.nats(value, 3), value=value)


def _health(rows: Sequence[TrainRow]) -> Table:
    width = max(1, min(WINDOW, len(rows) // 2))
    parts = (rows[:width], rows[-width:])
    found: list[Row] = []
    for key, label, unit in FIGURES:
        means = [mean_of_known([getattr(row, key) for row in part]) for part in parts]
        if means != [None, None]:
            cells = tuple(Cell(text=numbers.write(mean, unit), value=mean) for mean in means)
            found.append(Row(label=label, cells=cells))
    steps = "step" if width == 1 else f"{width} steps"
    return Table(
        caption="The health of the run; each figure is defined in docs/metrics.md",
        head=(f"First {steps}", f"Last {steps}"),
        groups=(Group(label="Own rollouts and gradients, means over steps", rows=tuple(found)),),
    )


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _alarm(row: AlarmRow) -> tuple[int, str, str]:
    return row.step, row.name.replace("_", " "), row.reason
