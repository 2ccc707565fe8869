"""The models that studies start from: `StartRecipe` and the recipes that a study can name.

A recipe fills a folder once per seed; all arms of the seed start from it, so that arms are paired. A new recipe is one
function and one line in `START_RECIPES`. Not here: what the arms do with it (`study`).
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from envecho.errors import ConfigError, did_you_mean
from envecho.recipes.study_config import Start

_STAMP = "start.json"


StartRecipe = Callable[..., None]
"""`recipe(folder, *, seed, **parameters)` fills the empty folder with `model/`, and with pools `NAME.parquet` if it
likes; the parameters are those of `[start.parameters]`, and every one has a default."""


def start_from_depot(
    folder: Path, *, seed: int, num_plans: int = 12, steps_per_plan: int = 150, num_even_steps: int = 60,
    hidden_size: int = 144, explorer_episodes: int = 4,
) -> None:  # fmt: skip
    """A transformer of a million weights that has seen other depots (`depot_start`), and two pools on the studied one.

    `oracle.parquet`: a shortest way for each training task. `held_out.parquet`: `explorer_episodes` walks of random
    doors for each held-out task, the same for every seed.
    """
    from envecho.recipes.depot_start import make_depot_start
    from envecho.rollout import EpisodeJob, run_episode
    from envecho.trajectory.store import write_trajectories
    from envecho.worlds.suites import open_suite

    model = folder / "model"
    model.mkdir()
    make_depot_start(
        model,
        seed=seed,
        num_plans=num_plans,
        steps_per_plan=steps_per_plan,
        num_even_steps=num_even_steps,
        hidden_size=hidden_size,
    )
    suite = open_suite("depot", max_turns=2)
    for name, split, policy, num_episodes in (
        ("oracle", "train", "oracle", 1),
        ("held_out", "held_out", "explore", explorer_episodes),
    ):
        jobs = [
            EpisodeJob(
                id=f"{name}/{suite.task_id(split, number)}/{again}",
                task_id=suite.task_id(split, number),
                seed=0,
                make_world=lambda split=split, number=number: suite.make_world(split, number),
                make_policy=lambda split=split, number=number, policy=policy, again=again: suite.scripted_policy(
                    split, number, policy=policy, seed=again
                ),
            )
            for number in range(suite.num_tasks(split) or 0)
            for again in range(num_episodes)
        ]
        write_trajectories(folder / f"{name}.parquet", map(run_episode, jobs))


def start_from_warm_terminal(
    folder: Path, *, seed: int, model: str = "smollm2-135m", num_oracle: int = 180, num_demonstrations: int = 20,
    steps: int = 36, learning_rate: float = 1e-4, trainable: str = "all",
) -> None:  # fmt: skip
    """A pretrained model that has learnt to type commands on tasks of other families, and a pool (`terminal_warm`).

    `held_out.parquet`: an explorer on boxes that no training touches.
    """
    from envecho.recipes.terminal_warm import WarmStart, make_warm_start

    start = WarmStart(
        model=model,
        num_oracle=num_oracle,
        num_demonstrations=num_demonstrations,
        steps=steps,
        learning_rate=learning_rate,
        trainable=trainable,
    )
    make_warm_start(folder, start, seed=seed)


START_RECIPES: dict[str, StartRecipe] = {"depot": start_from_depot, "terminal": start_from_warm_terminal}


def require_start(start: Start) -> None:
    """Check the recipe's name and parameters before anything slow happens.

    Raises:
        ConfigError: no recipe has this name, or it has no such parameter.
    """
    if start.recipe == "none":
        if start.parameters:
            raise ConfigError("[start] recipe is 'none', which has no parameters")
        return
    if start.recipe not in START_RECIPES:
        known = ["none", *START_RECIPES]
        raise ConfigError(
            f"no start recipe {start.recipe!r}; known: {', '.join(known)}.{did_you_mean(start.recipe, known)}"
        )
    takes = set(inspect.signature(START_RECIPES[start.recipe]).parameters) - {"folder", "seed"}
    for name in start.parameters:
        if name not in takes:
            raise ConfigError(
                f"[start.parameters] has an unknown key {name!r}; {start.recipe} has {', '.join(sorted(takes))}."
                f"{did_you_mean(name, takes)}"
            )


def start_is_made(start: Start, folder: Path) -> bool:
    """Whether the folder holds the start that this table asks for; True for `none`.

    Raises:
        ConfigError: it holds one that was made otherwise.
    """
    if start.recipe == "none":
        return True
    stamp = folder / _STAMP
    if not stamp.is_file():
        return False
    stored: Mapping[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
    if Start.model_validate(stored) != start:
        raise ConfigError(
            f"{folder} was made by {json.dumps(stored)}, [start] says {start.model_dump_json()};"
            " use the old values, or another --out"
        )
    return True


def make_start(start: Start, folder: Path, seed: int) -> None:
    """Fill `folder` by the recipe; it appears under its name only when it is whole."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    if temporary.exists():
        shutil.rmtree(temporary)
    temporary.mkdir(parents=True)
    START_RECIPES[start.recipe](temporary, seed=seed, **start.parameters)
    (temporary / _STAMP).write_text(start.model_dump_json() + "\n", encoding="utf-8")
    os.replace(temporary, folder)
