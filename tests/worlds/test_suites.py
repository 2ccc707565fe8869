"""Worlds by name: their task families and what they refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.cli.main import main
from envecho.errors import ConfigError
from envecho.trajectory.store import read_trajectories
from envecho.worlds.suites import open_suite


def test_families_restrict_the_tasks_of_every_split():
    """Catches a restriction that one split ignores, or that changes the box behind a number."""
    suite = open_suite("terminal", families=["owner_of", "set_timeout"])
    everything = open_suite("terminal")
    for split in ("train", "validation"):
        tasks = [suite.task_id(split, number).split("/") for number in range(4)]
        assert [task[1] for task in tasks] == ["owner_of", "set_timeout"] * 2
        assert [task[2] for task in tasks] == [everything.task_id(split, n).split("/")[2] for n in range(4)]


@pytest.mark.parametrize(
    ("world", "family", "message"),
    [("terminal", "owner", "no task family 'owner'.*Did you mean 'owner_of'"), ("depot", "x", "no task families")],
)
def test_an_unknown_family_is_named(world: str, family: str, message: str):
    """Catches a family that is dropped silently, after which other tasks are trained than were asked for."""
    with pytest.raises(ConfigError, match=message):
        open_suite(world, families=[family])


def test_collect_takes_families(tmp_path: Path):
    """Catches an option that the command reads and does not hand on."""
    out = tmp_path / "pool.parquet"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "collect",
                "--policy",
                "oracle",
                "--families",
                "find_request, set_timeout",
                "--num",
                "3",
                "--out",
                str(out),
            ]
        )
    assert ended.value.code == 0
    names = [trajectory.task_id.split("/")[1] for trajectory in read_trajectories(out)]
    assert names == ["find_request", "set_timeout", "find_request"]
