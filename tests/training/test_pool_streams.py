"""Training pools stream by: what stays of a trajectory are its tokens."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny_run import episode, tiny_config

from envecho.tokens import ChatTokenizer
from envecho.training import data as training_data
from envecho.training.data import load_data
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories, write_trajectories


@pytest.mark.parametrize(
    "filters", [{}, {"min_valid_call_fraction": 0.5, "correct_fraction": 0.5}], ids=["no filter", "filters"]
)
def test_a_training_pool_never_holds_more_than_the_trajectory_in_hand(
    filters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches a store of a hundred thousand episodes that lies in memory as objects, over twice its tokens."""
    config = tiny_config(tmp_path, objective={"filters": filters})
    graded = [episode(number).model_copy(update={"reward": float(number % 3 == 0)}) for number in range(70)]
    write_trajectories(tmp_path / "graded.parquet", graded)
    most_alive = 0

    def watched(paths: list[str]) -> Iterator[Trajectory]:
        nonlocal most_alive
        seen: list[weakref.ref[Trajectory]] = []
        for trajectory in read_trajectories(paths):
            seen.append(weakref.ref(trajectory))
            yield trajectory
            most_alive = max(most_alive, sum(ref() is not None for ref in seen))

    monkeypatch.setattr(training_data, "read_trajectories", watched)
    pools = config.data.model_copy(update={"train": (str(tmp_path / "graded.parquet"),), "validation": ()})
    data = load_data(pools, config.objective, ChatTokenizer.from_pretrained(config.model.name), max_tokens=256)
    assert len(data.train) == 70
    assert bool(data.excluded_env) == bool(filters)
    assert most_alive <= 3
