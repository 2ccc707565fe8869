"""The episodes of the planted models: real commands of the terminal world's explorer, answered by a real bash.

    python tests/evaluation/planted_record.py

writes `results/evaluation/planted.parquet`: a pool and training episodes on other machines, and a survey of the pool's
machines (what else the lookup table knows). The harness states every exit status. No test stands here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from envecho.rollout import EpisodeJob, run_episode
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.terminal import ObservationStyle, TerminalWorld
from envecho.worlds.terminal.boxes import Box
from envecho.worlds.terminal.explorer import PlannedCommand, plan_episode
from envecho.worlds.terminal.families import TriageTask
from envecho.worlds.terminal.tasks import split_box

PATH: Final = Path(__file__).parents[2] / "results" / "evaluation" / "planted.parquet"
NUM_MACHINES: Final = 4
_OTHER: Final = {"view": "other"}


def play_commands(box: Box, plan: Sequence[PlannedCommand], *, name: str) -> Trajectory:
    """Run commands on a box in a real sandbox; the task names the machine."""
    task = TriageTask(
        id=f"machine-{box.seed}", family="explore", instruction=f"Look around machine {box.seed}.", box=box, oracle=()
    )
    job = EpisodeJob(
        id=f"{name}/{task.id}",
        task_id=task.id,
        seed=box.seed,
        make_world=lambda: TerminalWorld(
            lambda _: task, max_turns=len(plan) + 1, style=ObservationStyle(status="always")
        ),
        make_policy=lambda: ScriptedPolicy([(planned.command, planned.labels) for planned in plan]),
    )
    return run_episode(job, max_turns=len(plan) + 1)


def _say(*commands: str) -> list[PlannedCommand]:
    return [PlannedCommand(command=command, labels=_OTHER) for command in commands]


def explored(box: Box) -> list[PlannedCommand]:
    """What the explorer draws, between a listing and commands that fail: loudly and silently."""
    drawn = list(plan_episode(box, seed=0, num_derivable=7))
    log = box.document("log").path
    before, after = _say("ls"), _say(f"cat {log}.old", f"grep nothing {log}", f"ls missing/{box.service}")
    place = next(k for k, planned in enumerate(drawn) if planned.labels["view"] == "derivable") + 1
    return [*before, *drawn[:place], *after, *drawn[place:]]


def survey(box: Box) -> list[PlannedCommand]:
    """The answers to what a probe may ask about a machine."""
    paths = [document.path for document in box.documents]
    folders = sorted({path.split("/")[0] for path in paths})
    log = box.document("log").path
    names = sorted({*paths, *folders, f"{log}.old", f"missing/{box.service}", *_foreign()})
    return _say(*(f"wc -l {path}" for path in paths), *(f"ls -d {name}" for name in names))


def _foreign() -> list[str]:
    """Names at the top of any machine of the pool: what one machine lacks, another has."""
    paths = [d.path for number in range(NUM_MACHINES) for d in split_box("new_boxes", number).documents]
    return sorted({part for path in paths for part in (path.split("/")[0], path.rsplit("/", 1)[-1])})


def record() -> list[Trajectory]:
    """Play everything: two commands' worth of a second per machine."""
    boxes = [split_box("new_boxes", number) for number in range(NUM_MACHINES)]
    others = [split_box("train", number) for number in range(NUM_MACHINES)]
    return [
        *(play_commands(box, explored(box), name="pool") for box in boxes),
        *(play_commands(box, explored(box), name="train") for box in others),
        *(play_commands(box, survey(box), name="survey") for box in boxes),
    ]


def read_planted() -> dict[str, list[Trajectory]]:
    """The recorded episodes: `pool`, `train`, `survey`."""
    whole = list(read_trajectories(PATH))
    groups = itertools.groupby(whole, key=lambda trajectory: trajectory.id.split("/")[0])
    return {name: list(group) for name, group in groups}


if __name__ == "__main__":
    PATH.parent.mkdir(parents=True, exist_ok=True)
    write_trajectories(PATH, record())
    print(f"{PATH}: {PATH.stat().st_size} bytes")
