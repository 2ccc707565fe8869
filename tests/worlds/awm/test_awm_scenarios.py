"""Reading the Agent World Model's files: what belongs together, and what is refused with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from awm_files import lines

from envecho.errors import DataError
from envecho.worlds.awm import read_scenarios

DATABASE = {"tables": [{"ddl": "CREATE TABLE a (id INTEGER)"}]}


def test_files_beside_the_environments_are_joined_by_the_plain_name(environments: Path) -> None:
    """Would catch scenarios lost because one file writes "Notes App 1" and the other notes_app_1."""
    notes, rooms = read_scenarios(environments)
    assert (notes.name, rooms.name) == ("notes_app_1", "rooms_2")
    assert notes.database is not None
    assert notes.database.is_file()
    assert rooms.database is None
    assert rooms.schema is not None
    assert rooms.sample is not None
    assert set(notes.verifiers) == {0, 1}
    assert "num_rooms" in rooms.verifiers[0]
    assert len(rooms.tasks) == 3


def test_a_line_may_hold_everything_itself(tmp_path: Path) -> None:
    """Would catch a reader that insists on seven files for one scenario."""
    file = tmp_path / "one.jsonl"
    lines(file, {"scenario": "A b", "full_code": "app = 1", "tasks": ["Look."], "db_schema": DATABASE})
    (scenario,) = read_scenarios(file)
    assert (scenario.name, scenario.tasks, scenario.verifiers) == ("a_b", ("Look.",), {})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"full_code": " "}, "expected Python in full_code"),
        ({"tasks": None}, "has no tasks: expected gen_tasks.jsonl"),
        ({"tasks": [1]}, "has no tasks"),
        ({"db_schema": None, "db_path": "./outputs/a.db"}, "outputs/a.db' is no file here"),
        ({"scenario": "!!"}, "expected a name in scenario"),
    ],
)
def test_a_scenario_that_lacks_something_is_refused_with_its_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Would catch a scenario that fails only when an episode of it starts."""
    good = {"scenario": "a", "full_code": "app = 1", "tasks": ["Look."], "db_schema": DATABASE}
    file = tmp_path / "envs.jsonl"
    lines(file, {**good, "scenario": "first"}, {**good, **change})
    with pytest.raises(DataError, match=message) as caught:
        read_scenarios(file)
    assert "envs.jsonl" in str(caught.value)
    assert "2" in str(caught.value)


def test_what_is_no_file_of_scenarios_is_refused(tmp_path: Path) -> None:
    """Would catch an empty suite from an empty or foreign file."""
    file = tmp_path / "envs.jsonl"
    with pytest.raises(DataError, match="cannot read"):
        read_scenarios(file)
    for text, message in (("", "found none"), ("{", "expected a JSON object"), ("[1]", "found list")):
        file.write_text(text)
        with pytest.raises(DataError, match=message):
            read_scenarios(file)
    good = {"scenario": "a", "full_code": "app = 1", "tasks": ["Look."], "db_schema": DATABASE}
    lines(file, good, {**good, "scenario": "A"})
    with pytest.raises(DataError, match="twice"):
        read_scenarios(file)
