"""`envecho collect`: replays, tool protocols, and what it says of episodes and tasks that do not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from envecho.cli.main import main
from envecho.trajectory import Source
from envecho.trajectory.store import read_trajectories

ROOT = Path(__file__).parents[2]
DOCKERFILE = "FROM ubuntu:24.04\nRUN apt-get install -y ffmpeg2000\n"


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["collect", *map(str, args)])
    return int(ended.value.code or 0)


@pytest.mark.parametrize("world", ["terminal", "tools"])
def test_an_explorers_episodes_are_replayed_the_same(
    world: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a replay on another task, box or database than the episode was played on."""
    stored, again = tmp_path / "stored.parquet", tmp_path / "again.parquet"
    assert run("--world", world, "--policy", "explore", "--num", 2, "--out", stored) == 0
    capsys.readouterr()
    assert run("--world", world, "--policy", f"replay:{stored}", "--out", again, "--json") == 0
    replay = json.loads(capsys.readouterr().out)["replay"]
    assert (replay["num_episodes"], replay["equal_fraction"]) == (2, 1.0)
    for one, other in zip(read_trajectories(stored), read_trajectories(again), strict=True):
        assert (other.task_id, other.metadata["replayed"]) == (one.task_id, one.id)
        assert [m.content for m in other.messages[1:]] == [m.content for m in one.messages[1:]]


def test_a_replay_says_what_the_live_world_answers_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a report that calls episodes equal whose answers differ (tickets are drawn anew in every episode)."""
    stored = tmp_path / "stored.parquet"
    options = ("--world", "depot-tickets", "--max-turns", 2)
    assert run(*options, "--policy", "explore", "--num", 3, "--out", stored) == 0
    assert run(*options, "--policy", f"replay:{stored}", "--out", tmp_path / "again.parquet") == 0
    printed = capsys.readouterr().out
    assert "3 episodes replayed, 0 equal throughout; 0.0% of the turns answered as before" in printed
    assert "ticket" in printed


def test_tools_stand_in_the_text_or_in_the_schema_and_never_in_both(tmp_path: Path) -> None:
    """Catches tools that a template renders a second time, and calls that no template sees."""
    files = {protocol: tmp_path / f"{protocol}.parquet" for protocol in ("text", "template")}
    for protocol, file in files.items():
        options = ("--world", "tools", "--policy", "oracle", "--num", 1, "--tool-protocol", protocol)
        assert run(*options, "--out", file) == 0
    (text,), (template,) = (list(read_trajectories(file)) for file in files.values())
    assert "arguments" in text.messages[0].content
    assert not text.tools
    assert template.tools
    assert "arguments" not in template.messages[0].content
    acted = next(m for m in template.messages if m.role == "assistant")
    assert acted.tool_calls[0].name in {tool["function"]["name"] for tool in template.tools}
    answer = template.messages[template.messages.index(acted) + 1]
    assert (answer.role, answer.segments[0].source) == ("tool", Source.TOOL_RESULT)
    assert text.reward == template.reward == 1.0


def test_a_task_that_cannot_run_here_is_named_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a task that is left out without a word."""
    tasks = tmp_path / "tasks"
    shutil.copytree(ROOT / "examples" / "tasks" / "count-log-levels", tasks / "count")
    shutil.copytree(ROOT / "examples" / "tasks" / "count-log-levels", tasks / "video")
    (tasks / "video" / "environment" / "Dockerfile").write_text(
        "FROM ubuntu:24.04\nRUN apt-get install -y ffmpeg2000\n"
    )
    assert run("--world", tasks, "--policy", "oracle", "--num", 1, "--out", tmp_path / "out.parquet") == 0
    said = capsys.readouterr().err
    assert "left out: task video does not run here" in " ".join(said.split())
    assert "ffmpeg2000" in said


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback where an address is mistyped."""
    assert run("--world", "http://127.0.0.1:9", "--policy", "explore", "--out", tmp_path / "x.parquet") == 1
    said = capsys.readouterr().err
    assert said.strip().startswith("error: ")
    assert "127.0.0.1:9" in said
    assert "Traceback" not in said
