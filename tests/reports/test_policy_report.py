"""The page of an on-policy run: its looks, its health, and its alarms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page

from envecho.reports import write_report


def row(step: int, **keys: Any) -> dict[str, Any]:
    health = {"solve_rate": step / 10, "env_ce": 3 - step / 10, "mean_turns": 2.0, "distinct_command_fraction": 0.5}
    return {"kind": "train", "step": step, "tokens_per_second": 100.0} | health | keys


def look(step: int, solved: float | None, env_ce: float | None) -> dict[str, Any]:
    return {"kind": "evaluation", "step": step, "split": "validation", "num_episodes": 40, "solve_rate": solved,
            "env_ce": env_ce}  # fmt: skip


HOSTILE = "CE fell <script>alert(1)</script> \x1b[31m"
ROWS = [
    look(0, 0.25, 3.125),
    *(row(step) for step in range(1, 5)),
    {"kind": "alarm", "step": 4, "name": "role_confusion", "reason": HOSTILE, "lambda_scale": None},
    look(4, 0.5, 2.5),
]


def page_of(tmp_path: Path, rows: list[dict[str, Any]]) -> Page:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.toml").write_text("[run]\nsteps = 4\n")
    return Page(write_report(folder))


def test_the_finding_is_of_the_first_and_the_last_look(tmp_path: Path):
    """Catches a finding from training tasks where held-out ones were looked at."""
    page = page_of(tmp_path, ROWS)
    assert "On the validation split the policy solves 50.0 % of 40 episodes after 4 steps" in page.words
    assert "before the first step it solved 25.0 %" in page.words
    assert "costs it 2.50 nats per token; it cost 3.12." in page.words
    assert [a["id"] for t, a in page.tags if t == "section" and "id" in a] == ["policy", "made", "definitions"]
    assert (tmp_path / "run/course.png").read_bytes().startswith(b"\x89PNG")
    assert "envecho eval --model" not in page.words


def test_health_is_the_mean_of_the_first_and_of_the_last_steps(tmp_path: Path):
    """Catches windows that overlap, and figures that were not measured shown as 0."""
    words = page_of(tmp_path, ROWS).words
    assert "own rollouts solved15.0 %35.0 %" in words
    assert "cosine" not in words


def test_alarms_are_told_in_their_words_and_do_nothing(tmp_path: Path):
    """Catches an alarm that the page leaves out, and a reason that quotes the policy and runs."""
    page = page_of(tmp_path, ROWS)
    assert "step 4: role confusion" in page.words
    assert "CE fell <script>alert(1)</script> ␛[31m" in page.words
    assert page.count("script") == 1


@pytest.mark.parametrize("rows", [[row(1)], [row(1, solve_rate=None)], [look(0, None, None), row(1)]])
def test_a_run_that_has_just_begun_has_a_page(tmp_path: Path, rows: list[dict[str, Any]]):
    """Catches a crash on one step, ungraded rollouts, or a look without a figure."""
    page = page_of(tmp_path, rows)
    assert "No held-out task was looked at" in page.words
    assert "No alarm was raised." in page.words
