"""How the command fared that an observation answers: `0`, `nonzero` or `timeout`, where the trace says so.

Not here: the phrases in which harnesses state an exit status (`probe_status`).
"""

from __future__ import annotations

from typing import Final

from envecho.evaluation.probe_status import StatusHabit, is_whole, status_habit, status_phrase
from envecho.trajectory import CALL_LABEL, CallOutcome, Message, Role, Source, Trajectory

EXIT_STATUSES: Final = ("0", "nonzero", "timeout")

_SHELL_OUTPUT: Final = frozenset({Source.STDOUT, Source.STDERR})
_SILENT_WORLD: Final = "terminal"
"""The world of ours that states a status where it is not 0, and only there (`ObservationStyle`)."""


def exit_status(answer: Message, trajectory: Trajectory, habit: StatusHabit) -> str | None:
    """Return how the command of an observation fared; None where nothing says so.

    A status is read where the harness states it. Where it states none, the command succeeded if the answer is whole,
    is a shell's output alone, and the harness is one that speaks of failures only: the terminal world, or that of an
    episode that states several failures and never a success (`habit`, of this episode).
    """
    if any(segment.source is Source.TIMEOUT_NOTICE and segment.text.strip() for segment in answer.segments):
        return "timeout"
    phrase = status_phrase(answer)
    if phrase is not None:
        return "nonzero" if phrase.status else "0"
    if not _is_shell_output(answer) or (habit.status(answer) is None and not _silent_success(answer, trajectory)):
        return None
    return "0"


def episode_habit(trajectory: Trajectory) -> StatusHabit:
    """Return how the harness of an episode states exit statuses."""
    return status_habit(message for message in trajectory.messages if message.role != "assistant")


def _is_shell_output(answer: Message) -> bool:
    spoken = {segment.source for segment in answer.segments if segment.source.role is Role.ENV_OUTPUT}
    return bool(spoken) and spoken <= _SHELL_OUTPUT


def _silent_success(answer: Message, trajectory: Trajectory) -> bool:
    ours = trajectory.metadata.get("world") == _SILENT_WORLD
    carried_out = answer.labels.get(CALL_LABEL) == CallOutcome.VALID
    return ours and carried_out and is_whole(answer)
