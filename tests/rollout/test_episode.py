"""The episode loop keeps every transcript and says how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envecho.errors import EngineError, WorldError
from envecho.rollout import EpisodeJob, collect, run_episode
from envecho.seam import Observation, PolicyTurn
from envecho.trajectory import Segment, Source, StopReason, Trajectory
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.boxes import make_box
from envecho.worlds.terminal.families import make_task


def _job(lines: list[tuple[str, dict[str, str]]], *, make_world=None, make_policy=None) -> EpisodeJob:
    task = make_task(make_box(3), "count_level")
    return EpisodeJob(
        id="episode",
        task_id=task.id,
        seed=0,
        make_world=make_world or (lambda: TerminalWorld(lambda _: task)),
        make_policy=make_policy or (lambda: ScriptedPolicy(lines)),
    )


class _BreakingWorld:
    """A world whose second step fails, as a sandbox does whose machine is taken away."""

    def __init__(self) -> None:
        self.steps, self.closed = 0, 0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        return Observation(segments=(Segment(source=Source.TASK, text="look"),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        self.steps += 1
        if self.steps == 2:
            raise WorldError("the sandbox is gone")
        return Observation(segments=(Segment(source=Source.STDOUT, text="ok\n"),))

    @property
    def state(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        self.closed += 1


class _BreakingPolicy:
    def act(self, messages: Any) -> PolicyTurn:
        raise EngineError("the engine is gone")


def _observations(trajectory: Trajectory) -> list[list[Source]]:
    return [[s.source for s in m.segments] for m in trajectory.messages if m.role == "user"][1:]


def test_an_episode_opens_with_system_and_task_and_labels_only_its_observations() -> None:
    """Would catch a system prompt that lands in a user turn, and labels on the wrong message."""
    trajectory = run_episode(_job([("echo hi", {"view": "first"})]))
    assert [m.role for m in trajectory.messages] == ["system", "user", "assistant", "user"]
    assert [s.source for s in trajectory.messages[0].segments] == [Source.SYSTEM]
    assert [m.labels for m in trajectory.messages] == [{}, {}, {}, {"call": "valid", "view": "first"}]
    assert trajectory.messages[3].content == "hi\n"
    assert trajectory.stop_reason is StopReason.COMPLETED


def test_a_label_falls_where_the_answer_failed() -> None:
    """Would catch an error message that is scored as derivable output."""
    trajectory = run_episode(_job([("cat missing", {"view": "derivable", "operation": "slice"})]))
    assert trajectory.messages[3].labels == {"call": "valid", "view": "other"}


def test_a_world_that_breaks_leaves_a_transcript_with_its_reason() -> None:
    """Would catch an exception that throws the whole episode away (METHOD trap 24)."""
    world = _BreakingWorld()
    trajectory = run_episode(_job([("a", {}), ("b", {}), ("c", {})], make_world=lambda: world))
    assert trajectory.stop_reason is StopReason.WORLD_ERROR
    assert _observations(trajectory) == [[Source.STDOUT], [Source.HARNESS_ERROR]]
    assert world.closed == 1


def test_a_policy_that_breaks_leaves_a_transcript_with_its_reason() -> None:
    """Would catch an engine error that is reported as a fault of the world."""
    trajectory = run_episode(_job([], make_policy=_BreakingPolicy))
    assert trajectory.stop_reason is StopReason.POLICY_ERROR
    assert trajectory.messages[-1].segments[0].source is Source.HARNESS_ERROR


def test_a_timed_out_command_keeps_what_it_printed_and_the_episode_goes_on() -> None:
    """Would catch a wall-clock timeout that loses the transcript (METHOD trap 24)."""
    trajectory = run_episode(_job([("echo before; sleep 30", {}), ("echo after", {})]), timeout_s=0.5)
    first, second = _observations(trajectory)
    assert first == [Source.STDOUT, Source.TIMEOUT_NOTICE]
    assert second == [Source.STDOUT]
    assert trajectory.messages[-1].content == "after\n"


def test_an_episode_that_runs_out_of_turns_says_so() -> None:
    """Would catch a length-cut episode that claims to be complete."""
    trajectory = run_episode(_job([("true", {})] * 5), max_turns=3)
    assert trajectory.stop_reason is StopReason.MAX_TURNS
    assert len(_observations(trajectory)) == 3


def test_episodes_side_by_side_come_back_in_order_and_do_not_share_a_shell() -> None:
    """Would catch trajectories mixed up between workers."""
    jobs = [_job([(f"x={n}", {}), ("echo $x", {})]) for n in range(8)]
    assert [t.messages[-1].content for t in collect(jobs)] == [f"{n}\n" for n in range(8)]
