"""What is known of a whole observation: which one it is, what it answers, how that fared, and what its labels say.

Not here: tokens (`facts`), and how an action and a status are read (`facts_actions`, `facts_status`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from envecho.errors import DataError
from envecho.evaluation.facts_actions import answered_action, repeated_turns
from envecho.evaluation.facts_status import episode_habit, exit_status
from envecho.evaluation.scores import VIEWS
from envecho.trajectory import Message, Role, Trajectory

TURN_BUCKETS: Final = ("1", "2", "3-4", "5-8", "9-16", "17+")
OUTCOMES: Final = ("solved", "partial", "failed")

_BUCKET_ENDS: Final = (1, 2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class MessageFacts:
    """The facts of one observation, as keys of their dimensions; None where nothing says so.

    `label` is the generator's `view`; `repeated` whether the same action was answered by the same text before, None
    where the action is unknown. `tool` is None, too, where several tools answer in one message.
    """

    turn: str
    outcome: str | None
    tool: str | None
    command: str | None
    exit_status: str | None
    label: str | None
    repeated: bool | None


def message_facts(trajectory: Trajectory) -> dict[int, MessageFacts]:
    """Return the facts of every observation of an episode, by turn.

    Raises:
        DataError: a label `view` is none of `VIEWS`.
    """
    messages = trajectory.messages
    turns = [turn for turn, message in enumerate(messages) if is_observation(message)]
    actions = {turn: answered_action(messages, turn) for turn in turns}
    repeated = repeated_turns(messages, actions)
    habit = episode_habit(trajectory)
    return {
        turn: MessageFacts(
            turn=turn_bucket(number),
            outcome=outcome(trajectory.reward),
            tool=actions[turn].tool,
            command=actions[turn].command,
            exit_status=exit_status(messages[turn], trajectory, habit),
            label=_label(trajectory, turn),
            repeated=None if actions[turn].text is None else turn in repeated,
        )
        for number, turn in enumerate(turns, 1)
    }


def _label(trajectory: Trajectory, turn: int) -> str | None:
    label = trajectory.messages[turn].labels.get("view")
    if label is not None and label not in VIEWS:
        found = f"{label!r} in trajectory {trajectory.id!r}"
        raise DataError(f"expected the view {', '.join(VIEWS)}, found {found}", turn=turn)
    return label


def is_observation(message: Message) -> bool:
    """Whether a message holds text that the environment or its harness said."""
    return any(segment.text and segment.source.role in (Role.ENV_OUTPUT, Role.WARNING) for segment in message.segments)


def turn_bucket(number: int) -> str:
    """Return the bucket of an episode's `number`-th observation, from 1."""
    return TURN_BUCKETS[sum(number > end for end in _BUCKET_ENDS)]


def outcome(reward: float | None) -> str | None:
    """Return what a reward says of an episode: 1 and more is solved, 0 and less failed; None where nobody graded."""
    if reward is None:
        return None
    return "solved" if reward >= 1 else "partial" if reward > 0 else "failed"
