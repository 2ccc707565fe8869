"""Training in a served world over loopback: the same rollouts, losses and weights as in process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_policy import policy_config

from envecho.training.loop import train
from envecho.trajectory.store import read_trajectories

SERVE = "from envecho.cli.main import main; main()"
RUN = {"steps": 2, "checkpoint_every": 2, "keep_rollouts_every": 1}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-c", SERVE, "serve", "depot", "--max-turns", "2", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        yield json.loads(server.stdout.readline())["url"]
        server.send_signal(signal.SIGTERM)


def step_rows(out: Path) -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == "train"]


def test_a_served_world_trains_the_same_weights_as_the_world_in_process(address: str, tmp_path: Path) -> None:
    """Catches a server or client that changes a word, a source, a reward or the order of what a policy meets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, world in (("near", "depot"), ("far", address)):
            config = policy_config(tmp_path / "policy", rollout={"world": world}, run=RUN)
            train(config, tmp_path / name)
    finally:
        torch.set_num_threads(threads)
    near, far = (
        load_file(tmp_path / name / "checkpoints" / "step-000002" / "model.safetensors") for name in ("near", "far")
    )
    assert near.keys() == far.keys()
    assert all(torch.equal(near[name], far[name]) for name in near)
    here, there = step_rows(tmp_path / "near"), step_rows(tmp_path / "far")
    for key in ("env_ce", "solve_rate", "num_env_tokens", "num_rollouts_graded", "invalid_call_fraction", "num_lost"):
        assert [row[key] for row in here] == [row[key] for row in there], key
    for one, other in zip(
        read_trajectories(tmp_path / "near" / "trajectories"),
        read_trajectories(tmp_path / "far" / "trajectories"),
        strict=True,
    ):
        assert other.messages == one.messages
        assert (other.task_id, other.reward, other.stop_reason) == (one.task_id, one.reward, one.stop_reason)
