"""Pools of episodes from a live world, for a run that has no trajectories yet: `envecho train --world WORLD`.

A scripted policy acts (`explore` by default), so nothing has to be graded and no policy has to exist. Training,
validation and held-out pools share no task. Not here: episodes (`collect`) and training itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from envecho.errors import ConfigError
from envecho.recipes.collect import CollectConfig, collect_to_file, open_collect_suite
from envecho.recipes.progress import say
from envecho.seam import TaskSuite
from envecho.training.config import RunConfig, overridden, read_document

POOLS: Final = ("train", "validation", "held_out")
RECORD: Final = "pools.json"

DEFAULT_RUN: Final[Mapping[str, Any]] = {
    "objective": {"use_rl": False, "world_model_coeff": 1.0, "normalizer": "global_token_mean"},
    "optimizer": {"learning_rate": 1e-4, "warmup_steps": 4},
    "run": {"steps": 40, "trajectories_per_step": 4, "validate_every": 10, "checkpoint_every": 0},
}
"""What `envecho train --world WORLD` trains without a configuration: the environment term alone, without a grader."""


def pool_paths(out: Path) -> dict[str, Path]:
    """Return where the pools of a run folder lie, by name."""
    return {name: out / "trajectories" / f"{name}.parquet" for name in POOLS}


def collect_world_pools(config: CollectConfig, out: Path, *, num_small: int) -> dict[str, Path]:
    """Collect `config.num_episodes` episodes to train on, and `num_small` for each of validation and held-out.

    Where the world's splits do not give a pool of its own, pools divide the tasks of one split. What was collected
    stands in `OUT/pools.json`; pools that are there already, collected in the same way, are kept.

    Raises:
        ConfigError: the pools that are there were collected otherwise, or the world has too few tasks.
    """
    paths = pool_paths(out)
    record = {"config": config.model_dump(mode="json"), "num_small": num_small}
    known = out / RECORD
    if known.is_file() and all(path.is_file() for path in paths.values()):
        if json.loads(known.read_text(encoding="utf-8"))["asked"] != record:
            raise ConfigError(f"{known}: the pools there were collected with other options; take another --out")
        return paths
    counts: dict[str, Any] = {}
    plan = _plan(open_collect_suite(config), config, num_small=num_small)
    for name, asked in plan.items():
        say(f"{name}: {asked.num_episodes} episodes of {config.world}, policy {config.policy}, split {asked.split}")
        where = {"split": asked.split, "first_task": asked.first_task, "num_tasks": asked.num_tasks}
        counts[name] = where | collect_to_file(asked, paths[name])
    known.write_text(json.dumps({"asked": record, "pools": counts}, indent=1) + "\n", encoding="utf-8")
    return paths


@dataclass(frozen=True, kw_only=True)
class LiveWorld:
    """What `envecho train --world` says: the world, and how many episodes an explorer collects in it."""

    world: str
    num_episodes: int
    world_map: Path | None = None
    seed_actions: Path | None = None


def live_run_config(live: LiveWorld, config: Path | None, out: Path, overrides: Iterable[str]) -> RunConfig:
    """Return the configuration of a run in a live world.

    Where the file has `[rollout]`, its world is replaced and the policy acts. Else an explorer's episodes become the
    run's pools, in `OUT/trajectories`; without a file the rest is `DEFAULT_RUN`.

    Raises:
        ConfigError: the configuration is wrong, or names pools of its own beside the world.
    """
    document = overridden(DEFAULT_RUN if config is None else read_document(config), overrides)
    options = {"map": live.world_map, "seed_actions": live.seed_actions}
    if "rollout" in document:
        document["rollout"] = dict(document["rollout"]) | {"world": live.world}
        document["world"] = dict(document.get("world", {})) | {k: str(v) for k, v in options.items() if v is not None}
        return RunConfig.from_document(document)
    if document.get("data"):
        raise ConfigError("--world collects the pools of the run, and the configuration has [data]: leave one out")
    # The pools are not there yet; a wrong configuration should not cost their collection.
    paths = pool_paths(out)
    document["data"] = {
        "train": str(paths["train"]),
        "validation": str(paths["validation"]),
        "held_out": [str(paths["held_out"])],
    }
    table = document.pop("world", {})
    checked = RunConfig.from_document(document)
    asked = CollectConfig(
        world=live.world,
        policy="explore",
        num_episodes=live.num_episodes,
        seed=checked.run.seed,
        world_map=live.world_map or table.get("map"),
        seed_actions=live.seed_actions or table.get("seed_actions"),
        image=table.get("image"),
        allow=tuple(table.get("allow", ())),
    )
    collect_world_pools(asked, out, num_small=max(2, live.num_episodes // 8))
    return checked


_HELD_OUT_SPLITS: Final = ("held_out", "new_data", "new_boxes", "test", "eval")
_SMALL_SHARE: Final = 8


def _plan(suite: TaskSuite, config: CollectConfig, *, num_small: int) -> dict[str, CollectConfig]:
    """Return what to collect for each pool, so that no two pools share a task.

    Pools of one finite split divide its tasks between them, an eighth for each small pool.
    """
    train = config.split or ("train" if "train" in suite.splits else suite.splits[0])
    others = [split for split in suite.splits if split != train]
    validation = "validation" if "validation" in others else train
    held_out = next((split for split in _HELD_OUT_SPLITS if split in others), train)
    wanted = {
        "train": (train, config.num_episodes),
        "validation": (validation, num_small),
        "held_out": (held_out, num_small),
    }
    plan: dict[str, CollectConfig] = {}
    for split in dict.fromkeys(split for split, _ in wanted.values()):
        pools = {name: number for name, (of_split, number) in wanted.items() if of_split == split}
        first = 0
        for name, num_tasks in _divided(suite, split, pools).items():
            change = {"split": split, "first_task": first, "num_tasks": num_tasks, "num_episodes": pools[name]}
            plan[name] = config.model_copy(update=change)
            first += num_tasks
    _refuse_shared_tasks(suite, plan)
    return {name: plan[name] for name in POOLS}


def _divided(suite: TaskSuite, split: str, pools: Mapping[str, int]) -> dict[str, int]:
    """Return how many tasks of a split each of its pools gets."""
    known = suite.num_tasks(split)
    if known is None or known >= sum(pools.values()):
        return dict(pools)
    if known < len(pools):
        raise ConfigError(
            f"{suite.name} has {known} tasks in its split {split!r}, and {', '.join(pools)} need one each at least"
        )
    small = max(1, known // _SMALL_SHARE)
    sizes = dict.fromkeys(pools, small)
    largest = max(pools, key=lambda name: pools[name])
    sizes[largest] = known - small * (len(pools) - 1)
    return sizes


def _refuse_shared_tasks(suite: TaskSuite, plan: Mapping[str, CollectConfig]) -> None:
    pool_of: dict[str, str] = {}
    for name, config in plan.items():
        for number in range(config.first_task, config.first_task + (config.num_tasks or 0)):
            task = suite.task_id(config.split or "", number)
            if pool_of.setdefault(task, name) != name:
                raise ConfigError(
                    f"the task {task!r} of {suite.name} would be in the pools {pool_of[task]} and {name}: its splits "
                    "overlap; collect the pools with envecho collect, and name them in [data]"
                )
