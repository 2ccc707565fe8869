"""`torchrun -m envecho train`: the command and its files are those of one process, whatever trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w
from safetensors.numpy import load_file
from tiny_policy import policy_document
from tiny_run import document, tiny_config


def envecho(processes: int, *arguments: str | Path) -> str:
    """Run the command line, under torchrun where there are several processes, and return what it printed."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), "-m", "envecho", *map(str, arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=180, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def config_file(path: Path, table: dict[str, Any]) -> Path:
    path.write_text(tomli_w.dumps(table))
    return path


def rows(run: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def same_weights(found: Path, expected: Path) -> None:
    a, b = load_file(found / "model.safetensors"), load_file(expected / "model.safetensors")
    assert a.keys() == b.keys()
    for name in b:
        np.testing.assert_allclose(a[name], b[name], atol=3e-5, err_msg=name)


def test_a_run_on_stored_rollouts_ends_in_the_weights_of_one_process_and_goes_on_alone(tmp_path: Path):
    """Catches a worker that runs the command too, a step of another size, and a checkpoint for two processes alone."""
    tiny_config(tmp_path)
    pools = {name: tmp_path / "data" / f"{name}.parquet" for name in ("train", "validation", "held_out")}
    config = config_file(tmp_path / "run.toml", document(tmp_path / "model", pools))
    printed = envecho(2, "train", config, "--out", tmp_path / "two")
    assert printed.count("best model:") == 1
    envecho(1, "train", config, "--out", tmp_path / "one")
    same_weights(tmp_path / "two" / "checkpoints" / "step-000006", tmp_path / "one" / "checkpoints" / "step-000006")
    for kind in ("train", "validation"):
        found, expected = rows(tmp_path / "two", kind), rows(tmp_path / "one", kind)
        assert [row.keys() for row in found] == [row.keys() for row in expected]
        np.testing.assert_allclose([row["env_ce"] for row in found], [row["env_ce"] for row in expected], rtol=1e-4)
    for checkpoint in (tmp_path / "two" / "checkpoints").glob("step-*"):
        if checkpoint.name != "step-000004":
            for file in checkpoint.iterdir():
                file.unlink()
            checkpoint.rmdir()
    resumed = envecho(1, "train", config, "--out", tmp_path / "two", "--resume")
    assert "best model:" in resumed
    same_weights(tmp_path / "two" / "checkpoints" / "step-000006", tmp_path / "one" / "checkpoints" / "step-000006")


def test_a_run_on_its_own_rollouts_rolls_out_once_and_trains_on_all_processes(tmp_path: Path):
    """Catches worlds that every process opens, and rollouts that depend on the number of processes."""
    table = policy_document(tmp_path, run={"steps": 2, "checkpoint_every": 2})
    config = config_file(tmp_path / "run.toml", table)
    for processes in (2, 1):
        envecho(processes, "train", config, "--out", tmp_path / str(processes))
    found, expected = rows(tmp_path / "2", "train"), rows(tmp_path / "1", "train")
    assert [row["num_policy_tokens"] for row in found] == [row["num_policy_tokens"] for row in expected]
    np.testing.assert_allclose([row["loss"] for row in found], [row["loss"] for row in expected], atol=1e-5)
    same_weights(tmp_path / "2" / "checkpoints" / "step-000002", tmp_path / "1" / "checkpoints" / "step-000002")
