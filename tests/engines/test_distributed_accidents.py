"""Several processes when one of them fails: rank 0 says which and why, nothing hangs, nothing is left behind."""

from __future__ import annotations

import os
import time
from pathlib import Path

import distributed_accidents
import pytest
from distributed_jobs import torchrun

SCRIPT = Path(distributed_accidents.__file__)


def left_behind(out: Path) -> list[int]:
    """The process ids of ranks that still run, after a moment of patience."""
    pids = [int(file.read_text()) for file in out.glob("rank-*.pid")]
    assert len(pids) == 2
    for _ in range(50):
        running = [pid for pid in pids if _runs(pid)]
        if not running:
            return []
        time.sleep(0.1)
    return pids


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_bad_data_of_one_rank_is_an_error_that_names_it_and_training_can_go_on(tiny_llama: Path, tmp_path: Path):
    """Catches ranks that wait for one that has raised, and half of a batch left in the gradient."""
    done = torchrun(2, SCRIPT, "bad_data", tiny_llama, tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert (tmp_path / "error.txt").read_text().startswith("rank 1 of 2: the loss needs sampling_logprobs")
    nothing, norm = (tmp_path / "norms.txt").read_text().split()
    assert float(nothing) == 0
    assert float(norm) > 0
    assert left_behind(tmp_path) == []


def test_a_rank_that_breaks_in_a_pass_ends_the_run_with_its_reason(tiny_llama: Path, tmp_path: Path):
    """Catches a hang in a collective, and an error on rank 0 that speaks of sockets alone."""
    done = torchrun(2, SCRIPT, "out_of_memory", tiny_llama, tmp_path, timeout=90)
    assert done.returncode != 0
    told = "rank 1 failed: MemoryError: there is no room for the activations"
    assert (tmp_path / "error.txt").read_text() == told
    assert (tmp_path / "again.txt").read_text() == f"the engine ended when {told}"
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("accident", ["killed", "rank_zero_killed"])
def test_a_killed_rank_ends_the_run_and_no_process_is_left(accident: str, tiny_llama: Path, tmp_path: Path):
    """Catches workers that wait for verbs of a process that is gone, and a rank 0 that waits for its workers."""
    started = time.monotonic()
    done = torchrun(2, SCRIPT, accident, tiny_llama, tmp_path, timeout=90)
    assert done.returncode != 0
    assert "SIGKILL" in done.stderr
    assert time.monotonic() - started < 55
    assert left_behind(tmp_path) == []


def test_a_command_without_an_engine_ends_on_all_ranks():
    """Catches workers that wait for rank 0 although its command was over at once, well or badly."""
    shown = torchrun(2, "-m", "envecho", "--version", timeout=60)
    assert shown.returncode == 0, shown.stderr[-2000:]
    assert shown.stdout.count("envecho") == 1
    wrong = torchrun(2, "-m", "envecho", "train", "no-such-file.toml", "--out", "nowhere", timeout=60)
    assert wrong.returncode != 0
    assert wrong.stderr.count("no-such-file.toml") == 1
