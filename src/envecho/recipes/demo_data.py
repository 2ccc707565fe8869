"""The demo's pools: what the model trains on, what selects a checkpoint, and two held-out pools that judge it.

`train` has one explorer episode on each of its boxes. `validation` has boxes of its own and selects. `new_commands` is
a second episode on training boxes without any derivable command of the first; `new_boxes` is on boxes that nothing else
touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from envecho.errors import WorldError
from envecho.recipes.terminal_jobs import explore_jobs, planned_commands
from envecho.rollout import EpisodeJob, collect
from envecho.trajectory import StopReason, Trajectory
from envecho.trajectory.store import write_trajectories

HELD_OUT = ("new_commands", "new_boxes")
POOLS = ("train", "validation", *HELD_OUT)
Pools = Mapping[str, Sequence[Trajectory]]


def demo_jobs(*, num_train: int, num_validation: int, num_held_out: int, seed: int) -> dict[str, list[EpisodeJob]]:
    """Return the episodes of each pool; `num_held_out` is per held-out pool and at most `num_train`."""
    seen = planned_commands("train", num_train, seed=seed)
    return {
        "train": explore_jobs("train", num_train, seed=seed),
        "validation": explore_jobs("validation", num_validation, seed=seed),
        "new_commands": explore_jobs("train", num_held_out, seed=seed, episode=1, exclude=seen),
        "new_boxes": explore_jobs("new_boxes", num_held_out, seed=seed),
    }


def collect_pools(
    jobs: Mapping[str, Sequence[EpisodeJob]], advance: Callable[[int], None]
) -> dict[str, list[Trajectory]]:
    """Run every episode in its sandbox.

    Raises:
        WorldError: an episode could not be run to its end; the demo's commands all end at once.
    """
    pools: dict[str, list[Trajectory]] = {}
    for name, pool_jobs in jobs.items():
        pools[name] = []
        for trajectory in collect(pool_jobs, max_turns=32):
            if trajectory.stop_reason is not StopReason.COMPLETED:
                last = trajectory.messages[-1].content if trajectory.messages else "nothing was said"
                raise WorldError(f"{trajectory.id} stopped with {trajectory.stop_reason.value}: {last}")
            pools[name].append(trajectory)
            advance(1)
    return pools


def write_pools(pools: Pools, folder: Path) -> dict[str, Path]:
    """Write each pool as `folder/<name>.parquet` and return the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.parquet" for name in pools}
    for name, path in paths.items():
        write_trajectories(path, pools[name])
    return paths
