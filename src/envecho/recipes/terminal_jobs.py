"""Episode jobs in the terminal world: who acts on which box, for `collect` and for the demo.

Not here: running them (`envecho.rollout`), the boxes and what the explorer draws (`envecho.worlds.terminal`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from envecho.rollout import EpisodeJob
from envecho.rollout.replay import actions_of
from envecho.seam import World
from envecho.trajectory import Trajectory
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.terminal import ObservationStyle, TerminalWorld
from envecho.worlds.terminal.boxes import Box, make_box
from envecho.worlds.terminal.explorer import PlannedCommand, plan_episode
from envecho.worlds.terminal.families import TriageTask
from envecho.worlds.terminal.tasks import split_box

EXPLORE_INSTRUCTION = "Look around."


def explore_job(
    box: Box,
    plan: Iterable[PlannedCommand],
    *,
    name: str,
    sandbox: SandboxName,
    style: ObservationStyle | None = None,
) -> EpisodeJob:
    """Return the job that runs an explorer's plan on a box; its episodes are not graded."""
    task = TriageTask(
        id=f"terminal/explore/box-{box.seed}", family="explore", instruction=EXPLORE_INSTRUCTION, box=box, oracle=()
    )
    script = [(planned.command, planned.labels) for planned in plan]
    return EpisodeJob(
        id=f"{name}/box-{box.seed}",
        task_id=task.id,
        seed=box.seed,
        make_world=lambda: TerminalWorld(lambda _: task, sandbox=sandbox, max_turns=len(script) + 1, style=style),
        make_policy=lambda: ScriptedPolicy(script),
        metadata={"world": "terminal", "policy": "explore", "box_seed": box.seed},
    )


def explore_jobs(
    split: str,
    count: int,
    *,
    seed: int = 0,
    episode: int = 0,
    num_derivable: int = 8,
    exclude: Mapping[int, frozenset[str]] | None = None,
    sandbox: SandboxName = "bubblewrap",
    style: ObservationStyle | None = None,
) -> list[EpisodeJob]:
    """Return one explorer job for each of the first `count` boxes of a split.

    `episode` numbers the drawing on each box; `exclude` maps box seeds to commands that must not be drawn again;
    `style` is what the shell's answers show beside the output.
    """
    jobs: list[EpisodeJob] = []
    for number in range(count):
        box = split_box(split, number, seed=seed)
        plan = plan_episode(box, seed=episode, num_derivable=num_derivable, exclude=(exclude or {}).get(box.seed, ()))
        jobs.append(explore_job(box, plan, name=f"{split}-{episode}", sandbox=sandbox, style=style))
    return jobs


def planned_commands(
    split: str, count: int, *, seed: int = 0, episode: int = 0, num_derivable: int = 8
) -> dict[int, frozenset[str]]:
    """Return, by box seed, the derivable commands that `explore_jobs` with these arguments draws."""
    boxes = [split_box(split, number, seed=seed) for number in range(count)]
    return {
        box.seed: frozenset(
            planned.command
            for planned in plan_episode(box, seed=episode, num_derivable=num_derivable)
            if planned.labels.get("view") == "derivable"
        )
        for box in boxes
    }


def explored_box(trajectory: Trajectory, *, sandbox: SandboxName) -> tuple[str, Callable[[], World]] | None:
    """Return task and world of a stored explorer's episode, for a replay: a box without a task; None for any other."""
    seed = trajectory.metadata.get("box_seed")
    if not isinstance(seed, int):
        return None
    plan = [PlannedCommand(command=text) for text in actions_of(trajectory)]
    job = explore_job(make_box(seed), plan, name="replay", sandbox=sandbox)
    return job.task_id, job.make_world
