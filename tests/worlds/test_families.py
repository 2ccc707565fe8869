"""Every task family: its oracle solves it, and doing nothing does not."""

from __future__ import annotations

import pytest

from envecho.rollout import EpisodeJob, run_episode
from envecho.trajectory import StopReason
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.boxes import make_box
from envecho.worlds.terminal.families import FAMILIES, TriageTask, make_task


def _run(task: TriageTask, commands: tuple[str, ...]):
    return run_episode(
        EpisodeJob(
            id=task.id,
            task_id=task.id,
            seed=0,
            make_world=lambda: TerminalWorld(lambda _: task),
            make_policy=lambda: ScriptedPolicy.oracle(commands),
        )
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_oracle_solves_its_task_in_a_real_shell(family: str, seed: int) -> None:
    """Would catch a verifier that disagrees with the shell, and an oracle that does not work on some box."""
    task = make_task(make_box(seed), family)
    trajectory = _run(task, task.oracle)
    assert (trajectory.reward, trajectory.stop_reason) == (1.0, StopReason.COMPLETED)


@pytest.mark.parametrize("family", FAMILIES)
def test_answering_at_once_is_not_rewarded(family: str) -> None:
    """Would catch a verifier that passes without the work."""
    assert _run(make_task(make_box(5), family), ("answer: done",)).reward == 0.0


def test_there_are_at_least_eight_families_with_an_answer_or_a_final_state_to_verify() -> None:
    """Would catch a family whose verifier checks nothing."""
    tasks = [make_task(make_box(0), family) for family in FAMILIES]
    assert len(tasks) >= 8
    assert all(task.expected is not None or task.checks for task in tasks)
    assert {bool(task.checks) for task in tasks} == {True, False}
