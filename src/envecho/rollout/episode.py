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
from envecho.rollout.protocol import (
    ToolProtocol,
    action_text,
    answer_message,
    harness_error,
    opening_messages,
    stated_tools,
    structured_call,
    tool_names,
)
from envecho.seam import Policy, World
from envecho.trajectory import Message, StopReason, Trajectory


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
    job: EpisodeJob, *, max_turns: int = 16, timeout_s: float | None = None, tool_protocol: ToolProtocol = "text"
) -> Trajectory:
    """Run one episode to its end and return its record; only bugs raise.

    Args:
        job: what to run.
        max_turns: the most actions that the policy may take.
        timeout_s: the most seconds that one action may take; None leaves it to the world.
        tool_protocol: how tools and calls stand in the messages (`protocol`).
    """
    messages: list[Message] = []
    tools: list[dict[str, Any]] = []
    reward: float | None = None
    world = job.make_world()
    policy = job.make_policy()
    try:
        first = world.reset(seed=job.seed)
        tools += stated_tools(first)
        messages += opening_messages(first, tool_protocol=tool_protocol)
        as_tools = bool(tools) and tool_protocol == "template"
        stop, reward = _run(world, policy, messages, _Bounds(max_turns=max_turns, timeout_s=timeout_s), as_tools)
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
        tools=tuple(tools) if tool_protocol == "template" else (),
        reward=reward,
        stop_reason=stop,
        metadata={**job.metadata, **({"tools": tool_names(tuple(tools))} if tools else {})},
    )


@dataclass(frozen=True, kw_only=True)
class _Bounds:
    max_turns: int
    timeout_s: float | None


def _run(
    world: World, policy: Policy, messages: list[Message], bounds: _Bounds, as_tools: bool
) -> tuple[StopReason, float | None]:
    for number in range(bounds.max_turns):
        turn = policy.act(messages)
        if turn.finished:
            return StopReason.COMPLETED, None
        message = structured_call(turn.message, number=number) if as_tools else turn.message
        messages.append(message)
        observation = world.step(action_text(message), timeout_s=bounds.timeout_s)
        messages.append(answer_message(observation, turn.observation_labels, action=message, as_tool=as_tools))
        if observation.done:
            reason = StopReason.TIMEOUT if observation.timed_out else StopReason.COMPLETED
            return reason, observation.reward
    return StopReason.MAX_TURNS, None


def collect(
    jobs: Sequence[EpisodeJob],
    *,
    max_turns: int = 16,
    timeout_s: float | None = None,
    num_workers: int = 4,
    tool_protocol: ToolProtocol = "text",
) -> Iterator[Trajectory]:
    """Run the jobs side by side in threads and yield their trajectories in the order of `jobs`."""

    def run(job: EpisodeJob) -> Trajectory:
        return run_episode(job, max_turns=max_turns, timeout_s=timeout_s, tool_protocol=tool_protocol)

    with ThreadPoolExecutor(max_workers=num_workers) as pool:
        yield from pool.map(run, jobs)
