"""TensorBoard and trackio get the numbers of `metrics.jsonl`, once each, also when a run continues."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_run import tiny_config

from envecho.errors import ConfigError
from envecho.training.loop import train
from envecho.training.trackers import numbers, open_trackers


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("material")


class Killed(Exception):
    """Stands for a run that ends in the middle."""


def tracked_run(material: Path, out: Path, names: list[str], *, killed_after: int | None = None, resume: bool = False):
    config = tiny_config(material)
    with open_trackers(names, out, config) as track:

        def on_event(event: Any) -> None:
            track(event)
            if event["kind"] == "train" and event["step"] == killed_after:
                raise Killed

        train(config, out, resume=resume, on_event=on_event)


def logged(out: Path, kind: str, name: str) -> list[tuple[int, float]]:
    rows = map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    return [(row["step"], row[name]) for row in rows if row["kind"] == kind]


def test_numbers_are_those_of_the_row_by_path():
    """Catches a null that becomes 0, a nested table that is dropped, and words that are taken for numbers."""
    row = {"kind": "train", "step": 3, "loss": 1.5, "env_ce": None, "by": {"stdout": 2, "x": None}, "why": "no"}
    assert numbers(row) == {"train/loss": 1.5, "train/by/stdout": 2.0}


def test_tensorboard_shows_every_row_once_after_a_resume(material: Path, tmp_path: Path):
    """Catches steps behind the last checkpoint that are drawn twice, and a writer that is never flushed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    with pytest.raises(Killed):
        tracked_run(material, out, ["tensorboard"], killed_after=3)
    tracked_run(material, out, ["tensorboard"], resume=True)
    board = EventAccumulator(str(out / "tensorboard"))
    board.Reload()
    for kind, name in (("train", "loss"), ("train", "grad_norm"), ("validation", "env_ce")):
        shown = [(event.step, event.value) for event in board.Scalars(f"{kind}/{name}")]
        assert [step for step, _ in shown] == [step for step, _ in logged(out, kind, name)]
        assert [value for _, value in shown] == pytest.approx([v for _, v in logged(out, kind, name)], rel=1e-6)
    assert "train/env_ce_by_source/stdout" in board.Tags()["scalars"]


def test_trackio_gets_every_row(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Catches a greeting on stdout, where a command's result stands, and rows that are lost when the run ends."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    for module in [name for name in sys.modules if name.split(".")[0] == "trackio"]:
        monkeypatch.delitem(sys.modules, module)  # it reads its folder when it is imported
    out = tmp_path / "my-run"
    tracked_run(material, out, ["trackio"])
    assert capsys.readouterr().out == ""
    (file,) = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, step, metrics from metrics order by step").fetchall()
    assert {name for name, _, _ in rows} == {"my-run"}
    shown = {(step, value) for _, step, text in rows for key, value in json.loads(text).items() if key == "train/loss"}
    assert shown == set(logged(out, "train", "loss"))


def test_a_tracker_that_is_not_installed_is_an_error_before_the_run(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Catches an hour of training that ends in an import error."""
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'envecho\[track\]'"):
        tracked_run(material, tmp_path / "run", ["tensorboard"])
    assert not (tmp_path / "run").exists()
