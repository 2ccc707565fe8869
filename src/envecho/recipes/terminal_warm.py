"""The warm start of hybrid runs in the terminal world: a pretrained model learns to type commands, elsewhere.

A small chat model that is asked for one command per line chats. It imitates here, on action tokens alone, how tasks of
families that it will NOT be trained on are solved, and how an explorer looks around, on boxes of their own
(`new_boxes`); the world's answers are read and never trained. Not here: the hybrid run (`envecho.training`), and what
the families ask (`envecho.worlds.terminal.families`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from envecho.recipes.collect import CollectConfig, collect_to_file
from envecho.training.config import RunConfig
from envecho.training.loop import train
from envecho.training.progress import show_progress
from envecho.training.summary import write_summary
from envecho.worlds.terminal.families import FAMILIES

HYBRID_FAMILIES = ("count_level", "first_error", "read_setting", "script_status", "find_request")
"""What hybrid runs are meant to train on."""


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """What is imitated, and how.

    `num_oracle` episodes solve tasks of all families but `HYBRID_FAMILIES`, `num_demonstrations` solve tasks of these;
    `num_explore` are an explorer's; `num_held_out` explorer episodes on `validation` boxes are kept to look at. The
    learning rate is linear to 0 over `steps` of `trajectories_per_step` episodes; `trainable` is that of `[model]`.
    """

    model: str = "smollm2-135m"
    num_oracle: int = 180
    num_demonstrations: int = 20
    num_explore: int = 24
    num_held_out: int = 12
    steps: int = 36
    trajectories_per_step: int = 12
    learning_rate: float = 1e-4
    trainable: str = "all"


def make_warm_start(folder: Path, start: WarmStart, *, seed: int = 0) -> None:
    """Fill an existing folder with `model/`, the pools, `held_out.parquet`, and `warm/`, the run of the imitation.

    Raises:
        ConfigError: a family is unknown.
        EngineError: the model cannot be found or loaded.
        WorldError: the sandbox cannot start.
    """
    others = tuple(name for name in FAMILIES if name not in HYBRID_FAMILIES)
    pools = {
        "oracle": CollectConfig(
            policy="oracle", split="new_boxes", families=others, num_episodes=start.num_oracle, seed=seed
        ),
        "demonstrations": CollectConfig(
            policy="oracle",
            split="new_boxes",
            families=HYBRID_FAMILIES,
            num_episodes=start.num_demonstrations,
            seed=seed + 1,
        ),
        "explore": CollectConfig(policy="explore", split="new_boxes", num_episodes=start.num_explore, seed=seed),
        "held_out": CollectConfig(policy="explore", split="validation", num_episodes=start.num_held_out),
    }
    for name, pool in pools.items():
        collect_to_file(pool, folder / f"{name}.parquet")
    config = RunConfig.from_document(
        {
            "model": {"name": start.model, "trainable": start.trainable},
            "data": {"train": [str(folder / f"{name}.parquet") for name in pools if name != "held_out"]},
            "objective": {"use_rl": True, "world_model_coeff": 0.0, "policy": {"loss": "sft"}},
            "optimizer": {"learning_rate": start.learning_rate, "warmup_steps": max(1, start.steps // 10)},
            "run": {
                "steps": start.steps,
                "trajectories_per_step": start.trajectories_per_step,
                "seed": seed,
                "checkpoint_every": 0,
            },
        }
    )
    with show_progress() as on_event:
        result = train(config, folder / "warm", on_event=on_event)
    write_summary(config, result, folder / "warm")
    os.replace(result.best_checkpoint, folder / "model")
