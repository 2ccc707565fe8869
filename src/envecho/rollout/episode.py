"""Episodes of policies that need no engine, scripts above all: `run_episode` runs one, `collect` many side by side.

A timed-out, errored or length-cut episode is data: its transcript is kept, its stop reason says what happened. Not
here: how a policy chooses, how a world answers, what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from envecho.rollout.crew import Crew
from envecho.rollout.limits import Rules, WorldLimits
from envecho.rollout.live import LiveEpisode, Surroundings, alone
from envecho.rollout.play import Action, play
from envecho.rollout.protocol import ToolProtocol, structured_call
from envecho.seam import Policy, World
from envecho.trajectory import StopReason, Trajectory

_WINDOW = 4
"""How many times the number of workers an episode may be ahead of the one that is yielded next."""


@dataclass(frozen=True, kw_only=True)
class EpisodeJob:
    """One episode to run: a world and a policy of its own, made when it starts."""

    id: str
    task_id: str
    seed: int
    make_world: Callable[[], World]
    make_policy: Callable[[], Policy]
    group_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


def run_episode(
    job: EpisodeJob,
    *,
    max_turns: int = 16,
    timeout_s: float | None = None,
    tool_protocol: ToolProtocol = "text",
    limits: WorldLimits | None = None,
) -> Trajectory:
    """Run one episode to its end in this thread and return its record; only bugs raise.

    Nobody watches a single episode: a world that never returns hangs it. `collect` leaves such a world alone.

    Args:
        job: what to run.
        max_turns: the most actions that the policy may take.
        timeout_s: the most seconds that one action may take; None leaves it to the world.
        tool_protocol: how tools and calls stand in the messages (`protocol`).
        limits: deadlines and attempts; None: the defaults.
    """
    rules = Rules(
        max_turns=max_turns, command_seconds=timeout_s, tool_protocol=tool_protocol, limits=limits or WorldLimits()
    )
    episode = LiveEpisode(job, rules, world_seed=job.seed, around=alone())
    play(episode, _PolicyActor(job))
    return episode.record()


def collect(
    jobs: Sequence[EpisodeJob],
    *,
    max_turns: int = 16,
    timeout_s: float | None = None,
    num_workers: int = 4,
    tool_protocol: ToolProtocol = "text",
    limits: WorldLimits | None = None,
) -> Iterator[Trajectory]:
    """Run the jobs side by side, `num_workers` at a time, and yield their trajectories in the order of `jobs`.

    Every job gives a trajectory, whatever its world does: one that hangs beyond its deadline is left alone, recorded
    with what was said so far, and closed in the background.
    """
    limits = limits or WorldLimits()
    rules = Rules(max_turns=max_turns, command_seconds=timeout_s, tool_protocol=tool_protocol, limits=limits)

    def make(number: int, around: Surroundings) -> LiveEpisode:
        return LiveEpisode(jobs[number], rules, world_seed=jobs[number].seed, around=around)

    with Crew(
        len(jobs),
        make,
        lambda episode, number: play(episode, _PolicyActor(jobs[number])),
        num_live=num_workers,
        num_workers=num_workers,
        grace_seconds=limits.grace_seconds,
        window=_WINDOW * num_workers,
    ) as crew:
        for number in range(len(jobs)):
            yield crew.take(number)


@final
class _PolicyActor:
    """The turns of a policy, which is made once the world has stated its task."""

    def __init__(self, job: EpisodeJob) -> None:
        self._job = job
        self._policy: Policy | None = None

    def act(self, episode: LiveEpisode, turn: int) -> Action | StopReason:
        if self._policy is None:
            self._policy = self._job.make_policy()
        said = self._policy.act(episode.messages)
        if said.finished:
            return StopReason.COMPLETED
        message = structured_call(said.message, number=turn) if episode.template_tools else said.message
        return Action(message=message, labels=said.observation_labels)
