"""A folder of tasks as a suite: splits, refusals, and the reference solution as actions."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.errors import ConfigError
from envecho.worlds.options import SuiteOptions
from envecho.worlds.tasks import HarborTaskWorld, open_tasks, read_task
from envecho.worlds.tasks.shell_lines import top_level_commands
from envecho.worlds.tasks.suite import oracle_commands, split_of


def test_a_task_stays_in_its_split_when_others_come_and_go(write_task, tmp_path: Path):
    """Catches splits by position, under which a new task moves held-out ones into training."""
    for number in range(30):
        write_task(name=f"task-{number}")
    whole = open_tasks(tmp_path / "tasks", SuiteOptions())
    splits = {task: split for split in whole.splits for task in _names(whole, split)}
    assert 5 <= list(splits.values()).count("held_out") <= 14
    few = open_tasks(tmp_path / "tasks", SuiteOptions(families=tuple(f"task-{n}" for n in range(0, 30, 3))))
    for split in few.splits:
        assert all(splits[name] == split for name in _names(few, split))


def test_metadata_says_the_split(write_task):
    """Catches a hash that overrules what the author says."""
    for split in ("train", "held_out"):
        assert split_of(read_task(write_task({"task.toml": f"[metadata]\nsplit = '{split}'\n"}))) == split


def test_refused_tasks_are_listed_with_their_reasons(write_task, tmp_path: Path):
    """Catches a task that silently falls out of the suite."""
    write_task(name="good")
    write_task({"environment/Dockerfile": "FROM nginx\nWORKDIR /app\n"}, name="web")
    suite = open_tasks(tmp_path / "tasks", SuiteOptions())
    assert suite.runnable == ("good",)
    assert dict(suite.refused) == {"web": ("FROM nginx: needs image nginx",)}
    with pytest.raises(
        ConfigError, match="none of 1 tasks can run in this sandbox; web: FROM nginx: needs image nginx"
    ):
        open_tasks(tmp_path / "tasks", SuiteOptions(families=("web",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SuiteOptions(families=("smal",)), "no task has the category or name 'smal'. Did you mean 'small'"),
        (SuiteOptions(sandbox="unsafe-host"), "tasks run in bubblewrap or harbor:PROVIDER, found 'unsafe-host'"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(write_task, tmp_path: Path, options: SuiteOptions, message: str):
    """Catches an option that is dropped without a word."""
    write_task()
    with pytest.raises(ConfigError, match=message):
        open_tasks(tmp_path / "tasks", options)


def test_an_empty_split_and_an_unknown_policy_are_named(write_task, tmp_path: Path):
    """Catches a division by zero where all tasks are in one split."""
    write_task({"task.toml": "[metadata]\nsplit = 'train'\n"})
    suite = open_tasks(tmp_path / "tasks", SuiteOptions())
    with pytest.raises(ConfigError, match="no task in the split 'held_out'"):
        suite.make_world("held_out", 0)
    with pytest.raises(ConfigError, match="oracle and explore, found 'solve'"):
        suite.scripted_policy("train", 0, policy="solve", seed=0)
    with pytest.raises(ConfigError, match="splits train, held_out, found 'test'"):
        suite.num_tasks("test")


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("#!/bin/bash\nset -euo pipefail\n# why\nls\n\ncat a \\\n  b\n", ["ls", "cat a \\\n  b"]),
        ("for n in 1 2; do\n  echo $n\ndone\necho 'a\nb'\n", ["for n in 1 2; do\n  echo $n\ndone", "echo 'a\nb'"]),
        ("cat >x <<'END'\n# kept\n\nEND\nls\n", ["cat >x <<'END'\n# kept\n\nEND", "ls"]),
        ("f() {\n  ls\n}\nf\n", ["f() {\n  ls\n}", "f"]),
        ("if true; then\n", None),
        ("", []),
    ],
)
def test_a_script_is_cut_where_bash_ends_a_command(script: str, commands: list[str] | None):
    """Catches half a here-document or half a loop sent as one action."""
    assert top_level_commands(script) == commands


@pytest.mark.parametrize("line", ['cd "$(dirname "$0")"', "bash /solution/more.sh", "exit 0", "true\n" * 30])
def test_a_solution_that_needs_its_file_is_one_action_that_still_solves(write_task, line: str):
    """Catches an oracle that fails because its script was torn apart."""
    folder = write_task({"solution/solve.sh": f"#!/bin/bash\necho yes >/app/answer.txt\n{line}\n"})
    (folder / "solution" / "more.sh").write_text("true\n")
    commands = oracle_commands(read_task(folder), most=15)
    assert len(commands) == 1
    world = HarborTaskWorld(read_task(folder))
    world.reset()
    assert world.step(commands[0]).metadata["exit_status"] == 0
    assert world.step("done").reward == 1.0


def test_a_task_without_a_solution_has_no_oracle(write_task, tmp_path: Path):
    """Catches an empty script that passes for a solution."""
    write_task({"solution/solve.sh": None, "task.toml": "[metadata]\nsplit = 'train'\n"})
    suite = open_tasks(tmp_path / "tasks", SuiteOptions())
    with pytest.raises(ConfigError, match="task small has no solution/solve"):
        suite.scripted_policy("train", 0, policy="oracle", seed=0)


def _names(suite, split: str) -> set[str]:
    return {suite.task_id(split, number).removeprefix("tasks/") for number in range(suite.num_tasks(split))}
