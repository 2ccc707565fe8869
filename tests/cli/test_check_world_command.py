"""`envecho check-world` on worlds by name, by module and by file."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from envecho.errors import ConfigError

MODULE = """
from envecho.worlds.depot import DepotTask, DepotWorld, make_plan
from envecho.seam import Observation


def make_world():
    return DepotWorld(DepotTask(id="d", plan=make_plan(0), start="kiln", goal="dock", max_moves=5))


class Rewards(DepotWorld):
    def __init__(self):
        super().__init__(DepotTask(id="d", plan=make_plan(0), start="kiln", goal="dock", max_moves=5))

    def step(self, action, timeout_s=None):
        import dataclasses

        return dataclasses.replace(super().step(action), reward=0.25)
"""


def check(*arguments: str) -> Result:
    """Run the verb."""
    command = importlib.import_module("envecho.cli.check-world").command
    return CliRunner().invoke(command, list(arguments), standalone_mode=True)


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of a user's, in the working directory."""
    (tmp_path / "users_worlds.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "users_worlds"


def test_a_world_of_ours_passes_with_actions_of_its_own_scripts():
    """Catches a command that needs actions where the world can say them, or checks no task."""
    result = check("depot", "--max-turns", "2", "--num", "2")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0] == "depot/plan-0/kiln-loft"
    assert lines.count("  passed  sources tile the observation") == 2
    assert lines.count("  passed  the oracle gets the highest reward") == 1
    assert lines[-1] == "37 passed, 8 skipped"


def test_a_broken_world_fails_and_says_why(module: str):
    """Catches a finding that leaves the exit status at 0."""
    result = check(f"{module}:Rewards", "--action", "go purple", "--action", "go blue")
    assert result.exit_code == 1
    assert "  failed  rewards come with the end\n          step('go purple') has reward 0.25" in result.output
    assert result.output.splitlines()[-1] == "18 passed, 1 failed, 7 skipped"


def test_a_world_of_a_users_own_module_is_checked_as_json(module: str):
    """Catches a report that a program cannot read, and promises that the world never made."""
    result = check(f"{module}:make_world", "--action", "go red", "--action", "go red", "--action", "nonsense", "--json")
    report = json.loads(result.stdout)
    assert report["passed"] is True, result.output
    assert report["world"] == f"{module}:make_world"
    (checks,) = report["worlds"].values()
    statuses = {entry["name"]: entry["status"] for entry in checks}
    assert statuses["max_turns end the episode"] == "skipped"
    assert statuses["step after done is an error"] == "passed"
    assert {entry["name"]: entry["status"] for entry in report["suite"]}["splits are disjoint"] == "passed"
    longer = check(f"{module}:make_world", "--action", "go red", "--action", "go green", "--max-turns", "4")
    assert longer.exit_code == 1
    assert "the episode goes on after 4 actions" in longer.output


def test_promises_reach_the_checks(module: str):
    """Catches an option that the command takes and does not hand on."""
    result = check(f"{module}:make_world", "--action", "go red", "--grader-text", "room", "--most-characters", "20")
    assert result.exit_code == 1
    assert "stated as the grader's" in result.output
    assert "expected at most 20" in result.output


def test_a_world_that_nothing_explores_needs_actions(module: str):
    """Catches a check of a text world with no action at all."""
    result = check(f"{module}:make_world")
    assert isinstance(result.exception, ConfigError)
    assert "no actions to check" in str(result.exception)
    seeds = Path("seeds.toml")
    seeds.write_text('[[action]]\ntext = "go red"\n[[action]]\ntext = "go blue"\n')
    assert check(f"{module}:make_world", "--seed-actions", str(seeds)).exit_code == 0


def test_the_world_of_tools_passes_every_check_of_calls():
    """Catches a world of ours whose tools or refusals a policy could not rely on."""
    result = check("tools")
    assert result.exit_code == 0, result.output
    for name in ("tools are valid schemas", "what cannot be called is answered", "max_turns end the episode"):
        assert f"  passed  {name}\n" in result.output
