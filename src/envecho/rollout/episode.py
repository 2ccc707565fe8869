"""The episode loop: a policy and a world make one `Trajectory`; `collect` runs many side by side.

A timed-out, errored or length-cut episode is data: its transcript is kept, its stop reason says what happened. Not
here: how a policy chooses, how a world answers, what is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from envecho.errors import EngineError, WorldError
from envecho.seam import Observation, Policy, World
from envecho.trajectory import Message, Segment, Source, StopReason, Trajectory


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


def run_episode(job: EpisodeJob, *, max_turns: int = 16, timeout_s: float | None = None) -> Trajectory:
    """Run one episode to its end and return its record; only bugs raise.

    Args:
        job: what to run.
        max_turns: the most actions that the policy may take.
        timeout_s: the most seconds that one action may take; None leaves it to the world.
    """
    messages: list[Message] = []
    reward: float | None = None
    world = job.make_world()
    policy = job.make_policy()
    try:
        stop, reward = _run(world, policy, job.seed, messages, _Bounds(max_turns=max_turns, timeout_s=timeout_s))
    except WorldError as error:
        messages.append(harness_error(error))
        stop = StopReason.WORLD_ERROR
    except EngineError as error:
        messages.append(harness_error(error))
        stop = StopReason.POLICY_ERROR
    finally:
        world.close()
    return Trajectory(
        id=job.id,
        task_id=job.task_id,
        group_id=job.group_id,
        messages=tuple(messages),
        reward=reward,
        stop_reason=stop,
        metadata=dict(job.metadata),
    )


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    max_turns: int
    timeout_s: float | None


def _run(
    world: World, policy: Policy, seed: int, messages: list[Message], bounds: _Bounds
) -> tuple[StopReason, float | None]:
    messages.extend(opening_messages(world.reset(seed=seed)))
    for _ in range(bounds.max_turns):
        turn = policy.act(messages)
        if turn.finished:
            return StopReason.COMPLETED, None
        messages.append(turn.message)
        observation = world.step(turn.message.content, timeout_s=bounds.timeout_s)
        messages.append(answer_message(observation, turn.observation_labels))
        if observation.done:
            reason = StopReason.TIMEOUT if observation.timed_out else StopReason.COMPLETED
            return reason, observation.reward
    return StopReason.MAX_TURNS, None


def opening_messages(observation: Observation) -> list[Message]:
    """Return the messages of a world's first observation: what the system says, and the task."""
    system = tuple(segment for segment in observation.segments if segment.source is Source.SYSTEM)
    rest = tuple(segment for segment in observation.segments if segment.source is not Source.SYSTEM)
    opening = [Message(role="system", segments=system)] if system else []
    return [*opening, Message(role="user", segments=rest, labels=dict(observation.labels))]


def answer_message(observation: Observation, labels: Mapping[str, str]) -> Message:
    """Return the message of a world's answer, its labels joined with the policy's.

    A failed or cut answer is no longer what the policy announced.
    """
    spoiled = {Source.STDERR, Source.TRUNCATION_NOTICE, Source.TIMEOUT_NOTICE, Source.TOOL_ERROR}
    if labels and any(segment.source in spoiled for segment in observation.segments):
        labels = {"view": "other"}
    return Message(role="user", segments=observation.segments, labels={**observation.labels, **labels})


def harness_error(error: Exception) -> Message:
    """Return the message that keeps what went wrong where an answer should stand."""
    return Message(role="user", segments=(Segment(source=Source.HARNESS_ERROR, text=str(error)),))


def collect(
    jobs: Sequence[EpisodeJob], *, max_turns: int = 16, timeout_s: float | None = None, num_workers: int = 4
) -> Iterator[Trajectory]:
    """Run the jobs side by side in threads and yield their trajectories in the order of `jobs`."""
    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        yield from pool.map(lambda job: run_episode(job, max_turns=max_turns, timeout_s=timeout_s), jobs)
