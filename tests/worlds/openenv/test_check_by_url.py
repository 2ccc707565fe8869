"""`envecho check-world URL`: a known environment is checked, for an unknown one a map is proposed first."""

from __future__ import annotations

import importlib
import json
import tomllib

import pytest
from click.testing import CliRunner, Result


def check(*arguments: str) -> Result:
    command = importlib.import_module("envecho.cli.check-world").command
    return CliRunner().invoke(command, list(arguments))


def test_a_known_environment_is_checked_over_its_server(url: str):
    """Catches a kit that asks of a server what only a world in process can do."""
    result = check(f"{url}/coding_env", "--action", "print(1)", "--action", "x = 2", "--json")
    report = json.loads(result.stdout)
    assert report["proposed_map"] is None
    (checks,) = report["worlds"].values()
    failed = {entry["name"]: entry["message"] for entry in checks if entry["status"] == "failed"}
    assert failed == {}, failed
    assert {entry["name"] for entry in checks if entry["status"] == "passed"} >= {
        "reset states the task",
        "max_turns end the episode",
        "concurrent instances are independent",
    }


@pytest.mark.filterwarnings("ignore:.*does not name")
def test_an_unknown_environment_gets_a_map_to_edit_before_its_checks(url: str):
    """Catches a user who is left alone with an environment that nobody knows."""
    result = check(f"{url}/maze", "--action", '{"move": "north"}')
    proposal, _, checks = result.stdout.partition("\nmaze")
    assert proposal.startswith("No map knows the environment at ")
    assert "action" in tomllib.loads(proposal.split("\n\n", 1)[1])
    assert "step answers typed segments" in checks
