"""A run with `[model.lora]`: it learns, resumes bit for bit, and its checkpoints are models like any other."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_run import tiny_config
from torch import equal

from envecho.training.loop import train

MODEL = {"lora": {"rank": 4, "alpha": 8}, "packing": True}


def bits(checkpoint: Path) -> str:
    digest = hashlib.sha256()
    for name in ("model.safetensors", "adapter/adapter_model.safetensors", "optimizer.safetensors"):
        digest.update((checkpoint / name).read_bytes())
    return digest.hexdigest()


def test_a_lora_run_learns_in_its_adapter_alone(tmp_path: Path):
    """Catches a run whose checkpoint is the base model, and one that moves what it says is frozen."""
    config = tiny_config(tmp_path, model=MODEL, optimizer={"learning_rate": 1e-2}, run={"steps": 12})
    result = train(config, tmp_path / "out")
    assert result.best_env_ce < result.base_env_ce - 0.05
    assert result.best_checkpoint is not None
    before = load_file(Path(config.model.name) / "model.safetensors")
    after = load_file(result.best_checkpoint / "model.safetensors")
    assert before.keys() == after.keys()
    moved = {name for name in before if not equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj." in name}


def test_kills_at_random_moments_change_no_bit_of_a_lora_run(tmp_path: Path):
    """Catches an adapter, a moment or a start that a new process does not get back."""
    config = tiny_config(tmp_path, model=MODEL, run={"steps": 12, "checkpoint_every": 2})
    train(config, tmp_path / "alone")
    out, hits = tmp_path / "killed", 0
    for life in range(3):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                train(config, out, resume=life > 0)
                status = 0
            finally:
                os._exit(status)
        until = time.monotonic() + 30
        while not list(out.glob(f"checkpoints/step-{2 * life + 2:06d}")) and time.monotonic() < until:
            time.sleep(0.005)
        os.kill(child, signal.SIGKILL)
        hits += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    assert hits
    train(config, out, resume=True)
    assert bits(out / "checkpoints" / "step-000012") == bits(tmp_path / "alone" / "checkpoints" / "step-000012")


def test_a_run_can_start_from_the_adapter_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches an `adapter/` that is for others alone; having no tokenizer, it takes that of its base."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = train(tiny_config(tmp_path, model=MODEL, run={"steps": 2}), tmp_path / "out")
    assert result.best_checkpoint is not None
    adapter = shutil.copytree(result.best_checkpoint / "adapter", tmp_path / "adapter")
    further = train(tiny_config(tmp_path, model={"name": str(adapter)}, run={"steps": 2}), tmp_path / "further")
    assert further.base_env_ce == pytest.approx(result.best_env_ce, abs=1e-4)
