"""Replay: the actions of stored trajectories, taken again on a live world.

Task and tools come from the live world, never from the file; only what the policy did does. An import of another
harness's episode can be replayed as well as an episode of our own. Not here: running the jobs (`episode`), and what
differs (`replay_report`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from envecho.errors import ConfigError
from envecho.rollout.episode import EpisodeJob
from envecho.seam import TaskSuite, World
from envecho.trajectory import Message, Source, Trajectory
from envecho.worlds.explore.history import Exchange, exchanges
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.tool_calls import ANSWER_PREFIX, Unparsed, parse_action

MOST_SEARCHED: Final = 1000
"""How many tasks of a split are looked at for the id of a stored trajectory."""

_CUT: Final = re.compile(r"\[the reply was cut after \d+ tokens and not carried out\]")
"""What `envecho.rollout.protocol.cut_notice` says; a test keeps the two together."""

_CARRIED_LABELS: Final = ("view", "operation")
"""What an explorer knew of its own command holds again when the same commands are taken in the same order."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a task is in a suite."""

    split: str
    number: int


Elsewhere = Callable[[Trajectory], "tuple[str, Callable[[], World]] | None"]
"""Returns task id and maker of the world of a trajectory whose task is none of a suite; None where it has one."""


def replay_jobs(
    trajectories: Iterable[Trajectory],
    suite: TaskSuite,
    *,
    place: Place | None = None,
    elsewhere: Elsewhere | None = None,
) -> list[EpisodeJob]:
    """Return one job for each stored trajectory: its actions, on the task of the suite that it was played on.

    The task is that of `place` where it is given; else that of the metadata (`world`, `split`, `task`) where it has the
    trajectory's id; else the one task of this id among the first `MOST_SEARCHED` of each split. An id of the suite that
    ends in `/` and the stored one is the same task: an import knows no prefix of ours. `elsewhere` is asked before the
    suite, for episodes without a task (an explorer's on a box).

    Raises:
        ConfigError: no task is found for a trajectory, or more than one, or it has no action.
    """
    stored = list(trajectories)
    index = _Index(suite)
    jobs: list[EpisodeJob] = []
    for trajectory in stored:
        other = elsewhere(trajectory) if elsewhere and place is None else None
        if other is not None:
            task_id, make_world = other
            jobs.append(_job(trajectory, task_id, make_world, {"world": suite.name}))
            continue
        found = place or _stated(trajectory, suite) or index.find(trajectory)
        jobs.append(_task_job(trajectory, suite, found))
    return jobs


def actions_of(trajectory: Trajectory) -> list[str]:
    """Return what the policy did, as texts that a world takes; structured calls are written out.

    A turn that was cut before its end was not carried out, and is left out. A last message without a call, after
    structured calls, is the final answer: `answer: TEXT`.
    """
    return [text for text, _ in _scripted(trajectory)]


def carried_out(trajectory: Trajectory) -> list[Exchange]:
    """Return the actions that a world got, each with its answers: without turns that the rollout cut."""
    _, history = exchanges(trajectory.messages)
    return [exchange for exchange in history if not any(_is_cut_notice(answer) for answer in exchange.answers)]


def _is_cut_notice(answer: Message) -> bool:
    return any(s.source is Source.FORMAT_WARNING and _CUT.fullmatch(s.text) for s in answer.segments)


def _scripted(trajectory: Trajectory) -> list[tuple[str, Mapping[str, str]]]:
    history = carried_out(trajectory)
    lines: list[tuple[str, Mapping[str, str]]] = []
    for exchange in history:
        labels = {key: value for answer in exchange.answers for key, value in answer.labels.items()}
        carried = {key: labels[key] for key in _CARRIED_LABELS if key in labels}
        lines.append((exchange.text, carried))
    is_structured = any(message.tool_calls for message in trajectory.messages)
    if is_structured and lines and not history[-1].answers and isinstance(parse_action(lines[-1][0]), Unparsed):
        lines[-1] = (f"{ANSWER_PREFIX} {lines[-1][0].strip()}", {})
    return lines


def _task_job(trajectory: Trajectory, suite: TaskSuite, place: Place) -> EpisodeJob:
    return _job(
        trajectory,
        suite.task_id(place.split, place.number),
        lambda: suite.make_world(place.split, place.number),
        {"world": suite.name, "split": place.split, "task": place.number},
    )


def _job(trajectory: Trajectory, task_id: str, make_world: Callable[[], World], facts: Mapping[str, Any]) -> EpisodeJob:
    lines = _scripted(trajectory)
    if not lines:
        raise ConfigError(f"trajectory {trajectory.id!r} has no action to replay; leave it out with `envecho filter`")
    return EpisodeJob(
        id=f"replay/{trajectory.id}",
        task_id=task_id,
        seed=facts.get("task", 0),
        make_world=make_world,
        make_policy=lambda: ScriptedPolicy(lines),
        metadata={**facts, "policy": "replay", "replayed": trajectory.id},
    )


# --- which task -----------------------------------------------------------------------------------------------------


def _stated(trajectory: Trajectory, suite: TaskSuite) -> Place | None:
    """The place that the metadata state, where the task there is the trajectory's."""
    split, number = trajectory.metadata.get("split"), trajectory.metadata.get("task")
    if trajectory.metadata.get("world") != suite.name or split not in suite.splits or not _is_number(number):
        return None
    if not _is_same(suite.task_id(str(split), cast(int, number)), trajectory.task_id):
        return None
    return Place(split=str(split), number=cast(int, number))


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_same(known: str, stored: str) -> bool:
    return known == stored or known.endswith(f"/{stored}")


class _Index:
    """The first tasks of a suite by id; they are named once, and only when a trajectory needs it."""

    def __init__(self, suite: TaskSuite) -> None:
        self._suite = suite
        self._places: list[tuple[str, Place]] | None = None

    def find(self, trajectory: Trajectory) -> Place:
        """Return the one task with the trajectory's id."""
        places = self._named()
        exact = [place for name, place in places if name == trajectory.task_id]
        found = exact or [place for name, place in places if _is_same(name, trajectory.task_id)]
        if len(found) == 1:
            return found[0]
        what = f"task {trajectory.task_id!r} of trajectory {trajectory.id!r}"
        if not found:
            some = ", ".join(repr(name) for name, _ in places[:2])
            raise ConfigError(
                f"{what} is none of the {len(places)} tasks of {self._suite.name!r} that were looked at ({some}, ...); "
                "say which task it is by split and number"
            )
        where = ", ".join(f"{place.split} {place.number}" for place in found[:4])
        raise ConfigError(f"{what} may be any of {where} of {self._suite.name!r}; say which by split and number")

    def _named(self) -> Sequence[tuple[str, Place]]:
        if self._places is None:
            suite = self._suite
            self._places = []
            for split in suite.splits:
                count = suite.num_tasks(split)
                for number in range(MOST_SEARCHED if count is None else min(count, MOST_SEARCHED)):
                    self._places.append((suite.task_id(split, number), Place(split=split, number=number)))
        return self._places
