"""How an episode on a server ends: its finish actions are taken, and its reward is read as the map says.

Not here: when an episode ends (`world`), and rubrics on this side (`rubric`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from envecho.errors import WorldError
from envecho.trajectory import Segment, Source
from envecho.worlds.openenv.connection import Connection, Overdue, Refusal, Reply
from envecho.worlds.openenv.maps import EnvironmentMap, FinishStep, fill
from envecho.worlds.openenv.reading import clean, find, text_of

RewardReading = Literal["sum", "last", "max", "finish"]


@final
class Rewards:
    """The rewards of an episode; None where nothing was graded, which is not 0."""

    def __init__(self, read: RewardReading) -> None:
        self._read: RewardReading = read
        self._of_steps: list[float] = []
        self._of_finish: list[float] = []

    def add(self, reward: float | None) -> None:
        """Add the reward of a step."""
        self._of_steps += [] if reward is None else [reward]

    def add_finish(self, reward: float | None) -> None:
        """Add the reward of a finish action."""
        self._of_finish += [] if reward is None else [reward]

    def total(self) -> float | None:
        """Return the episode's reward."""
        rewards = self._of_finish if self._read == "finish" else [*self._of_steps, *self._of_finish]
        if not rewards:
            return None
        if self._read in ("last", "finish"):
            return rewards[-1]
        return sum(rewards) if self._read == "sum" else max(rewards)


@dataclass(frozen=True, kw_only=True)
class Finish:
    """What the finish actions answered: the grader's words (and a failure of it), and all of it for people."""

    segments: tuple[Segment, ...]
    told: tuple[dict[str, Any], ...]


def finish(
    connection: Connection, environment: EnvironmentMap, rewards: Rewards, *, answer: str | None, ended_by_world: bool
) -> Finish:
    """Take the finish actions in order; one that fails is said in the transcript, and the rest are still taken.

    After an episode that the environment ended itself only the reward of the finish actions may still be missing.
    """
    segments: list[Segment] = []
    told: list[dict[str, Any]] = []
    for step in environment.finish.steps:
        skipped = step.when == "answer" and answer is None
        if skipped or (ended_by_world and environment.reward.read != "finish" and not step.release):
            continue
        seconds = environment.connection.release_seconds if step.release else environment.finish.seconds
        action = _action(step, answer)
        try:
            reply = connection.step(action, seconds)
        except WorldError as error:
            reply = Refusal(code="LOST", message=str(error))
        told.append({"action": action, "answer": _told(reply)})
        if step.release:
            continue
        if isinstance(reply, Reply):
            if not step.graded_by or find(reply.observation, step.graded_by) is not None:
                rewards.add_finish(reply.reward)
            segments += _shown(step, reply)
        else:
            why = f"no answer within {reply.seconds:g} s" if isinstance(reply, Overdue) else reply.message
            segments.append(Segment(source=Source.HARNESS_ERROR, text=f"\n[the episode was not graded: {clean(why)}]"))
    return Finish(segments=tuple(segments), told=tuple(told))


def _action(step: FinishStep, answer: str | None) -> dict[str, Any]:
    template = step.action if answer is not None else _without_answer(step.action)
    return fill(template, {"answer": answer})


def _without_answer(template: Any) -> Any:
    """Leave out what stands for an answer that was not given."""
    if not isinstance(template, dict):
        return template
    return {key: _without_answer(value) for key, value in template.items() if value != "{answer}"}


def _shown(step: FinishStep, reply: Reply) -> Sequence[Segment]:
    texts = [text_of(find(reply.observation, path)) for path in step.show]
    return [Segment(source=Source.GRADER, text=f"\n{clean(text)}") for text in texts if text]


def _told(reply: Reply | Refusal | Overdue) -> dict[str, Any]:
    if isinstance(reply, Reply):
        return {"observation": dict(reply.observation), "reward": reply.reward, "done": reply.done}
    return {"error": reply.message if isinstance(reply, Refusal) else f"no answer within {reply.seconds:g} s"}
