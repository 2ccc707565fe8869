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

    A suite with splits of other names gives the pools from one of them, each its own tasks. What was collected stands
    in `OUT/pools.json`; pools that are there already, collected in the same way, are kept.

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
    for name, (split, first, number) in plan.items():
        say(f"{name}: {number} episodes of {config.world}, policy {config.policy}, split {split}")
        asked = config.model_copy(update={"split": split, "first_task": first, "num_episodes": number})
        counts[name] = {"split": split, "first_task": first, **collect_to_file(asked, paths[name])}
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


def _plan(suite: TaskSuite, config: CollectConfig, *, num_small: int) -> dict[str, tuple[str, int, int]]:
    """Return split, first task and number of episodes of each pool, so that no two pools share a task."""
    train = config.split or ("train" if "train" in suite.splits else suite.splits[0])
    others = [split for split in suite.splits if split != train]
    validation = "validation" if "validation" in others else train
    held_out = next((split for split in others if split != "validation"), train)
    wanted = {"train": (train, config.num_episodes), "validation": (validation, num_small)}
    wanted["held_out"] = (held_out, num_small)
    next_of: dict[str, int] = {}
    plan: dict[str, tuple[str, int, int]] = {}
    for name, (split, number) in wanted.items():
        plan[name] = (split, next_of.get(split, 0), number)
        next_of[split] = next_of.get(split, 0) + number
    for split, number in next_of.items():
        known = suite.num_tasks(split)
        shared = [name for name, (of_split, _, _) in plan.items() if of_split == split]
        if known is not None and number > known and len(shared) > 1:
            raise ConfigError(
                f"{suite.name} has {known} tasks in its split {split!r}, and {', '.join(shared)} need {number} that"
                " differ: lower --episodes"
            )
    return plan
