"""The probe `exit_status`: will the command fail? Asked before the world answers.

Where the harness states the status before the output, the phrase itself is asked: the statuses of failure that the pool
knows against 0. Anywhere else the status is far away, behind an output that the model would have to write first. There
the question is how the answer opens. Failures open in ways that successes do not: with the name of a program of the
command and a colon (`cat:`), as any failure may (`bash:`, a traceback) where the pool has one that does, or, where
nothing was printed, with the phrase of a status other than 0. A model holds a command to fail where it gives more than
half of its probability to such openings. That is the probability of an event, so nothing is tuned.

Commands that fail after an output that opens otherwise, and successes that open like a failure, are counted and left
out: for them the event is not the failure. Truth is the recorded status. Not here: the phrases (`probe_status`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from envecho.evaluation.facts_status import exit_status
from envecho.evaluation.probe_asking import Choice
from envecho.evaluation.probe_commands import ParsedCommand, parse_command
from envecho.evaluation.probe_record import Exchange, shell_exchanges
from envecho.evaluation.probe_status import StatusHabit, StatusPhrase, opening_segments, status_habit, status_phrase
from envecho.trajectory import Source, Trajectory

_GENERAL: Final = (
    *("bash:", "/bin/bash:", "-bash:", "sh:", "/bin/sh:", "zsh:"),
    *("Traceback (most recent call last):", "usage:", "Usage:"),
)
"""How failures open whatever was run; asked of a pool are those that open one of its failures."""


def exit_questions(trajectories: Sequence[Trajectory]) -> tuple[list[Choice], Counter[str]]:
    """Return a question for each command whose status is known and whose opening tells it; and why others have none."""
    exchanges = [exchange for trajectory in trajectories for exchange in shell_exchanges(trajectory)]
    habit = status_habit(exchange.answer for exchange in exchanges)
    questions: list[Choice] = []
    if not habit.failures:
        # Nothing is known of how a failure would look, and one class alone asks nothing.
        return questions, Counter({"num_without_failures": len(exchanges)})
    counts: Counter[str] = Counter()
    failed = [exchange for exchange in exchanges if _status(exchange, habit)]
    general = tuple(opening for opening in _GENERAL if any(_shown(e).startswith(opening) for e in failed))
    for exchange in exchanges:
        found = _question(exchange, habit, general)
        if isinstance(found, Choice):
            questions.append(found)
        else:
            counts[found] += 1
    return questions, counts


def _question(exchange: Exchange, habit: StatusHabit, general: tuple[str, ...]) -> Choice | str:
    status, parsed = _status(exchange, habit), parse_command(exchange.command)
    if status is None:
        return "num_without_status"
    if habit.leads:
        phrase = status_phrase(exchange.answer)
        # An exception or a notice before the phrase would give the answer away.
        return "num_interrupted" if phrase is None or not phrase.leads else _leading(exchange, phrase, habit)
    if parsed is None:
        return "num_unread_commands"
    openings = failure_openings(parsed, habit, general)
    if _shown(exchange).startswith(openings) != bool(status):
        return "num_failed_otherwise" if status else "num_succeeded_otherwise"
    return _choice(exchange, opening_segments(exchange.answer), Source.STDERR, bool(status), openings, ())


def _shown(exchange: Exchange) -> str:
    """An answer without what stands before it."""
    return "".join(segment.text for segment in exchange.answer.segments[opening_segments(exchange.answer) :])


def _status(exchange: Exchange, habit: StatusHabit) -> int | None:
    """The status of a command: what is stated, or 0 where the silence of its harness says so."""
    stated = habit.status(exchange.answer)
    silent = exit_status(exchange.answer, exchange.trajectory, habit)
    return 0 if stated is None and silent == "0" else stated


def _leading(exchange: Exchange, phrase: StatusPhrase, habit: StatusHabit) -> Choice:
    yes = tuple(dict.fromkeys(phrase.saying(failure) for failure in habit.failures))
    return _choice(exchange, phrase.place, Source.STATUS, bool(phrase.status), yes, (phrase.saying(0),))


def _choice(
    exchange: Exchange, opening: int, source: Source, truth: bool, yes: tuple[str, ...], no: tuple[str, ...]
) -> Choice:
    shown = exchange.answer.segments[:opening]
    return Choice(
        trajectory=exchange.trajectory,
        turn=exchange.turn - 1,
        command=exchange.command,
        history=exchange.trajectory.messages[: exchange.turn],
        reply=exchange.answer.model_copy(update={"segments": shown}),
        source=source,
        truth=truth,
        yes=yes,
        no=no,
    )


def failure_openings(command: ParsedCommand, habit: StatusHabit, general: tuple[str, ...]) -> tuple[str, ...]:
    """Return how the answer to a command opens where it fails: with a program of it, as `general` says, or at once with
    the phrase of a failure.

    None is the beginning of another, so they exclude each other and their probabilities add up.
    """
    names = [f"{program}:" for program in command.programs]
    phrases = [habit.trailing.saying(status).lstrip("\n") for status in habit.failures] if habit.trailing else []
    openings = sorted({*names, *general, *phrases}, key=lambda opening: (len(opening), opening))
    kept: list[str] = []
    for opening in openings:
        if not opening.startswith(tuple(kept)):
            kept.append(opening)
    return tuple(kept)
