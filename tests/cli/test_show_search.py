"""`envecho show --find` and `--source`: the list, one trajectory, and JSON show what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from envecho.cli.show import command
from envecho.errors import ConfigError, DataError
from envecho.trajectory import Message, Segment, Source, ToolCall, Trajectory
from envecho.trajectory.store import write_trajectories


def show(*args: object) -> Result:
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def episode(number: int, *parts: tuple[Source, str]) -> Trajectory:
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="Find the error."),))
    acting = Message(role="assistant", segments=(Segment(source=Source.POLICY, text="cat log"),))
    observed = Message(role="user", segments=tuple(Segment(source=source, text=text) for source, text in parts))
    return Trajectory(id=f"episode-{number}", task_id="t", messages=(task, acting, observed))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "episodes.parquet"
    episodes = [
        episode(0, (Source.STDOUT, "ERROR disk\nERROR fan\n"), (Source.STATUS, "[exit status 0]")),
        episode(1, (Source.STDOUT, "all is well\n"), (Source.STATUS, "[exit status 0]")),
        episode(2, (Source.STDERR, "cat: log: No such file (error 2)\n")),
    ]
    write_trajectories(path, episodes)
    return path


def rows(*args: object) -> list[dict[str, object]]:
    return json.loads(show(*args, "--json").stdout)["trajectories"]


def test_the_list_holds_only_what_contains_the_text_with_the_number_of_hits(file: Path):
    """Catches a list that shows the others too, renumbers what is left, or counts trajectories for hits."""
    assert [(row["index"], row["hits"]) for row in rows(file, "--find", "fan")] == [(0, 1)]
    # The task says "error" once in each.
    assert [(row["index"], row["hits"]) for row in rows(file, "--find", "error")] == [(0, 3), (1, 1), (2, 2)]
    assert "hits" not in rows(file)[0]


def test_text_and_source_together_search_in_that_source_alone(file: Path):
    """Catches a hit in the task for somebody who searches what the world said."""
    found = rows(file, "--find", "error", "--source", "stdout", "--source", "stderr")
    assert [(row["index"], row["hits"]) for row in found] == [(0, 2), (2, 1)]
    assert [row["index"] for row in rows(file, "--source", "stderr")] == [2]


def test_patterns_are_searched_with_regex_alone(file: Path):
    """Catches a pattern that is taken for text, and text that is taken for a pattern."""
    assert [row["index"] for row in rows(file, "--find", r"^ERROR \w+$", "--regex")] == [0]
    assert rows(file, "--find", r"^ERROR \w+$") == []
    assert [row["index"] for row in rows(file, "--find", "(error 2)")] == [2]
    assert show(file, "--regex").exit_code == 2


def test_the_summary_of_a_search_says_of_how_many(file: Path):
    """Catches three hits that look like a file of three trajectories."""
    out = show(file, "--find", "fan").stdout
    assert "1 of 3 trajectories, 3 turns, 1 hits" in out
    summary = json.loads(show(file, "--find", "fan", "--json").stdout)["summary"]
    assert (summary["num_in_file"], summary["num_trajectories"], summary["num_hits"]) == (3, 1, 1)


def test_one_trajectory_shows_only_the_words_of_the_source(file: Path):
    """Catches a filter that hides nothing, or hides what was asked for."""
    out = show(file, "--index", 0, "--source", "status").stdout
    assert "turn 2 · status\n[exit status 0]\n" in out
    assert "ERROR disk" not in out
    assert "cat log" not in out


def test_hits_in_one_trajectory_have_their_places(file: Path):
    """Catches hits that are counted in the list and nowhere to be found in the trajectory."""
    (view,) = json.loads(show(file, "--index", 0, "--find", "error", "--json").stdout)["views"]
    found = [(view["tokens"][hit["token"]]["text"][a:b]) for hit in view["hits"] for a, b in hit["ranges"]]
    assert found == ["error", "ERROR", "ERROR"]
    assert "3 hits" in show(file, "--index", 0, "--find", "error").stdout


def test_calls_are_searched_too(tmp_path: Path):
    """Catches a search that never finds a command, because it stands in a call's arguments."""
    call = ToolCall(name="bash", arguments='{"command": "grep -c needle log"}')
    path = tmp_path / "calls.parquet"
    messages = (Message(role="assistant", segments=(), tool_calls=(call,)),)
    write_trajectories(path, [Trajectory(id="1", task_id="t", messages=messages)])
    assert [row["hits"] for row in rows(path, "--find", "needle", "--source", "policy")] == [1]


def test_a_mistyped_source_is_an_error_with_a_guess(file: Path):
    """Catches an empty list for a typing error."""
    with pytest.raises(ConfigError, match="Did you mean 'stderr'"):
        show(file, "--source", "sterr")


def test_a_page_of_a_search_holds_the_trajectories_with_hits_and_the_search(file: Path, tmp_path: Path):
    """Catches a page of the first trajectories, whatever was searched for."""
    page = tmp_path / "page.html"
    show(file, "--find", "No such", "--source", "stderr", "--html", page)
    text = page.read_text()
    assert "episode-2" in text
    assert "episode-0" not in text
    assert 'value="No such"' in text
    assert 'value="stderr" checked' in text
    assert 'value="task">' in text
    with pytest.raises(DataError, match="no trajectory holds"):
        show(file, "--find", "nowhere", "--html", page)
