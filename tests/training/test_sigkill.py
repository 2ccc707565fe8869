"""A run that is killed at any moment continues as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from envecho.training.checkpoints import Checkpoints, TrainingState
from envecho.training.metrics import MetricsLog

SCRIPT = Path(__file__).with_name("kill_at_random.py")


def test_ten_kills_at_random_end_in_the_same_bits_as_none(tmp_path: Path):
    """Catches a torn checkpoint that is taken for a whole one, lost state, and metrics that repeat or lack steps."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
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
    assert len(set(result["steps_left"])) > 2


def test_what_a_kill_left_half_done_is_removed_and_never_read(tmp_path: Path):
    """Catches a resume from a half-written or half-deleted folder."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(2, lambda folder: (folder / "model").touch() or None, state=TrainingState(step=2))
    checkpoints.write(5, lambda folder: (folder / "model").touch() or None, state=TrainingState(step=5))
    for name in (".tmp-000007", ".tmp-step-000001"):
        (checkpoints.folder / name).mkdir()
        (checkpoints.folder / name / "training_state.json").write_text("{")
    assert checkpoints.steps(resumable=True) == [2, 5]
    checkpoints.clean(after=2)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["step-000002"]


def test_a_failing_write_leaves_the_checkpoint_before_it(tmp_path: Path):
    """Catches a full disk that destroys the last good checkpoint."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(2, lambda folder: (folder / "model").write_text("good") and None, state=TrainingState(step=2))

    def fail(folder: Path) -> None:
        (folder / "model").write_text("half")
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        checkpoints.write(2, fail, state=TrainingState(step=2))
    assert (checkpoints.path(2) / "model").read_text() == "good"


def test_the_best_model_that_an_older_checkpoint_names_survives_pruning(tmp_path: Path):
    """Catches a kill after a new best model was written: the run resumes before it and needs the old one."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step, best in ((1, None), (2, None), (4, 2), (6, 2)):
        state = TrainingState(step=step, best_step=best) if step != 2 else None
        checkpoints.write(step, lambda folder: (folder / "model").touch() or None, state=state)
    checkpoints.write(7, lambda folder: (folder / "model").touch() or None)
    checkpoints.prune(best=7)
    assert checkpoints.steps(resumable=False) == [2, 4, 6, 7]


def test_rows_after_the_checkpoint_and_a_torn_last_line_are_dropped(tmp_path: Path):
    """Catches a resumed run whose curve shows a step twice, or a log that no reader can parse."""
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in (1, 2, 3):
        log.append({"kind": "train", "step": step, "loss": 0.5})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')
    log.truncate(after=2)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]
    with pytest.raises(ValueError, match="Out of range float"):
        log.append({"kind": "train", "step": 3, "loss": float("nan")})
