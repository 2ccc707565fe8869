"""An on-policy run in miniature: the depot, its tokenizer, and a small Llama that has learnt to say commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from envecho.recipes.depot_start import make_depot_start
from envecho.rollout import EpisodeJob, run_episode
from envecho.training.config import RunConfig
from envecho.trajectory.store import write_trajectories
from envecho.worlds.depot.suite import DepotSuite


def write_policy(folder: Path) -> Path:
    """Write a small model that has just learnt to say `go COLOUR`, and a held-out pool of random walks."""
    model = folder / "model"
    if not model.is_dir():
        model.mkdir(parents=True)
        make_depot_start(model, num_plans=1, steps_per_plan=80, num_even_steps=4, hidden_size=32, learning_rate=5e-3)
        suite = DepotSuite()
        jobs = [
            EpisodeJob(
                id=f"walk-{n}",
                task_id=suite.task_id("held_out", n),
                seed=n,
                make_world=lambda n=n: suite.make_world("held_out", n),
                make_policy=lambda n=n: suite.scripted_policy("held_out", n, policy="explore", seed=n),
            )
            for n in range(4)
        ]
        write_trajectories(folder / "walks.parquet", map(run_episode, jobs))
    return model


def policy_document(folder: Path, **tables: dict[str, Any]) -> dict[str, Any]:
    """The TOML document of a short on-policy run; `tables` update single keys."""
    base: dict[str, dict[str, Any]] = {
        "model": {
            "name": str(write_policy(folder)),
            "device": "cpu",
            "compute_dtype": "float32",
            "tokens_per_micro_batch": 512,
        },
        "rollout": {
            "world": "depot",
            "tasks_per_step": 3,
            "rollouts_per_task": 4,
            "max_turns": 2,
            "max_tokens_per_turn": 4,
            "episodes_per_batch": 5,
        },
        "objective": {"world_model_coeff": 0.1},
        "optimizer": {"learning_rate": 1e-3, "schedule": "constant"},
        "run": {"steps": 4, "checkpoint_every": 2},
    }
    return {name: {**base.get(name, {}), **tables.get(name, {})} for name in {**base, **tables}}


def policy_config(folder: Path, **tables: dict[str, Any]) -> RunConfig:
    """The configuration of a short on-policy run."""
    return RunConfig.from_document(policy_document(folder, **tables))
