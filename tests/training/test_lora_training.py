"""A run with `[model.lora]`: it learns, resumes bit for bit, and its checkpoints are models like any other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_run import tiny_config
from torch import equal

from envecho.training.loop import train

MODEL = {"lora": {"rank": 4, "alpha": 8}, "packing": True}


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


def test_ten_kills_at_random_change_no_bit_of_a_lora_run(tmp_path: Path):
    """Catches an adapter, a moment or a start that a new process does not get back."""
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("kill_at_random.py")), str(tmp_path), json.dumps(MODEL)],
        capture_output=True,
        text=True,
        timeout=110,
        # Forking is safe as long as no thread of a maths library lives in the parent.
        env={**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["same_bits"]
    assert result["kills"] == 10


def test_a_run_can_start_from_the_adapter_of_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Catches an `adapter/` that is for others alone; having no tokenizer, it takes that of its base."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    result = train(tiny_config(tmp_path, model=MODEL, run={"steps": 2}), tmp_path / "out")
    assert result.best_checkpoint is not None
    adapter = shutil.copytree(result.best_checkpoint / "adapter", tmp_path / "adapter")
    further = train(tiny_config(tmp_path, model={"name": str(adapter)}, run={"steps": 2}), tmp_path / "further")
    assert further.base_env_ce == pytest.approx(result.best_env_ce, abs=1e-4)
