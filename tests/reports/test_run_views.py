"""What a run kept beside its metrics: rollouts as trajectories to look at, and looks with their intervals."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from page_reader import Page

from envecho.errors import DataError
from envecho.reports import write_report
from envecho.reports.looks import read_looks
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.store import write_trajectories


def episode(name: str, reward: float | None) -> Trajectory:
    answer = Message(role="user", segments=(Segment(source=Source.STDOUT, text=f"answer of {name}\n"),))
    action = Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls"),))
    return Trajectory(id=name, task_id=name, reward=reward, messages=(action, answer))


def run_folder(path: Path) -> Path:
    (path / "trajectories").mkdir(parents=True)
    row = {"kind": "train", "step": 1, "env_ce": 2.0, "solve_rate": 0.5, "mean_turns": 2.0}
    look = {"kind": "evaluation", "step": 1, "split": "validation", "num_episodes": 4, "solve_rate": 0.5, "env_ce": 1.0}
    (path / "metrics.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(look) + "\n")
    return path


def look_document(**changes: object) -> str:
    tasks = [{"task_id": "a", "rewards": [1.0, 0.0]}, {"task_id": "b", "rewards": [0.0, None]}]
    costs = [{"task_id": task, "nll_sum": nats, "num_tokens": 10} for task, nats in (("a", 8.0), ("b", 12.0))]
    return json.dumps(
        {"format": "envecho.policy-evaluation", "version": 1, "step": 1, "split": "validation", "temperature": 1.0,
         "tasks": tasks, "env_ce_by_trajectory": costs, **changes}
    )  # fmt: skip


def test_rollouts_of_all_steps_can_be_looked_at(tmp_path: Path):
    """Catches a run whose rollouts are not on its page, or lose their step or reward."""
    run = run_folder(tmp_path / "run")
    for step, reward in ((1, 0.0), (20, 1.0)):
        write_trajectories(run / "trajectories" / f"step-{step:06d}.parquet", [episode(f"e{step}", reward)])
    write_trajectories(run / "trajectories" / "train.parquet", [episode("stored", None)])
    page = Page(write_report(run))
    assert [view["label"] for view in page.views] == ["step 1, e1, reward 0", "step 20, e20, reward 1"]
    assert page.views[1]["texts"] == ["ls", "answer of e20\n"]
    assert "tokens" in page.sections


def test_rollouts_beyond_the_page_are_counted(tmp_path: Path):
    """Catches the first step alone on the page, and rollouts that vanish without a word."""
    run = run_folder(tmp_path / "run")
    for step in range(1, 61):
        write_trajectories(
            run / "trajectories" / f"step-{step:06d}.parquet", [episode(f"e{step}-{k}", 0.0) for k in range(5)]
        )
    page = Page(write_report(run))
    assert len(page.views) == 200
    assert (page.views[0]["label"], page.views[-1]["label"]) == ("step 1, e1-0, reward 0", "step 60, e60-3, reward 0")
    assert "100 more trajectories are not on this page." in page.words


def test_a_look_has_the_interval_of_its_own_document(tmp_path: Path):
    """Catches ungraded episodes counted as failures, and intervals over episodes in place of tasks."""
    run = run_folder(tmp_path / "run")
    (run / "evaluations").mkdir()
    (run / "evaluations" / "step-000001.json").write_text(look_document())
    look = read_looks(run / "evaluations")[1]
    assert look.solve_rate is not None
    assert look.env_ce is not None
    assert (look.solve_rate.value, look.solve_rate.num_tasks) == (pytest.approx(1 / 3), 2)
    assert (look.env_ce.value, look.env_ce.num_tasks) == (1.0, 2)
    page = Page(write_report(run))
    assert "Intervals are over tasks." in page.words
    assert "0.800 to 1.200" in page.words


def test_a_look_of_another_version_is_refused_by_name(tmp_path: Path):
    """Catches a newer document that is drawn with wrong meanings."""
    (tmp_path / "step-000001.json").write_text(look_document(version=2))
    with pytest.raises(DataError, match=r"step-000001\.json: expected format 'envecho\.policy-evaluation' version 1"):
        read_looks(tmp_path)
