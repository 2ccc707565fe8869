"""How a turn's action fared: `call_outcome` of the message that answers it.

A world states it in the label `call`; for traces without labels it follows from the sources of the answer. Rollout
filters (`envecho.objective`) and health metrics (`envecho.training`) read it from here. Not here: what a world accepts.
"""

from __future__ import annotations

from enum import StrEnum

from envecho.trajectory.record import Message, Trajectory
from envecho.trajectory.roles import Source

CALL_LABEL = "call"
"""The key in `Message.labels` (and `Observation.labels`) that states a `CallOutcome`."""


class CallOutcome(StrEnum):
    """What became of the action that a message answers.

    `VALID`: the world carried it out (a command may still fail in its own way). `INVALID`: it was read, and the world
    knows no such command or tool, or refuses its arguments. `UNPARSED`: the harness could not read an action.
    """

    VALID = "valid"
    INVALID = "invalid"
    UNPARSED = "unparsed"


def call_outcome(answer: Message) -> CallOutcome:
    """Return how the action fared that this message answers: its label, else what its sources say.

    Without a label: a format warning means `UNPARSED`, an API's own error means `INVALID`, anything else `VALID`.

    Raises:
        ValueError: the label `call` has another value.
    """
    stated = answer.labels.get(CALL_LABEL)
    if stated is not None:
        return CallOutcome(stated)
    sources = {segment.source for segment in answer.segments}
    if Source.FORMAT_WARNING in sources:
        return CallOutcome.UNPARSED
    return CallOutcome.INVALID if Source.TOOL_ERROR in sources else CallOutcome.VALID


def call_outcomes(trajectory: Trajectory) -> list[CallOutcome]:
    """Return the outcome of every action that got an answer, in order.

    An answer is the run of messages between an action and the next; the worst of its messages counts. An action that
    nothing answers (an episode's last answer) has no outcome and is not in the list.
    """
    worst_first = (CallOutcome.UNPARSED, CallOutcome.INVALID, CallOutcome.VALID)
    outcomes: list[CallOutcome] = []
    answers: list[Message] | None = None
    for message in (*trajectory.messages, None):
        if message is not None and message.role != "assistant":
            if answers is not None:
                answers.append(message)
            continue
        if answers:
            found = {call_outcome(answer) for answer in answers}
            outcomes.append(next(outcome for outcome in worst_first if outcome in found))
        answers = []
    return outcomes
