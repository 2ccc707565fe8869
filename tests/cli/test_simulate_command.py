"""`envecho simulate` on a tiny real model and a real sandbox: the game with piped lines, and the batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from envecho.cli.simulate import command
from envecho.errors import ConfigError, DataError
from envecho.evaluation.simulation import Simulation, read_simulation
from envecho.recipes.terminal_jobs import explore_jobs
from envecho.rollout import collect
from envecho.trajectory.store import write_trajectories


def run(*args: str | Path, lines: str = ""):
    return CliRunner().invoke(command, [str(arg) for arg in args], input=lines, catch_exceptions=False)


def turns(stdout: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_a_game_shows_model_and_world_side_by_side(tiny_dir: Path):
    """Catches a game that only the model plays, a world without state, and orders that do nothing."""
    lines = "pwd\ncd /tmp\npwd\n:free\ncat nothere\n:task\n:nonsense\n:help\n:quit\nls\n"
    done = run("--model", tiny_dir, "--max-tokens", "4", lines=lines)
    assert done.exit_code == 0
    assert done.stdout.count("Look around.") == 2
    for text in ("guided> pwd", "the world says", "/tmp", "free> cat nothere", "No such file", "[exit status 1]"):
        assert text in done.stdout
    assert "free: the model reads its own words" in done.stdout
    assert "type an action" in done.stdout.lower()
    assert "no order 'nonsense'" in done.stderr
    assert "guided> ls" not in done.stdout
    assert "free> ls" not in done.stdout


def test_a_game_as_json_has_one_line_for_each_turn(tiny_dir: Path):
    """Catches figures that do not belong to the turn, and text on standard output that is no JSON."""
    done = run("--model", tiny_dir, "--max-tokens", "4", "--json", lines="echo a\ncat nothere\n:free\necho a\n")
    first, second, third = turns(done.stdout)
    assert [turn["mode"] for turn in (first, second, third)] == ["guided", "guided", "free"]
    assert (first["truth"], first["failed"], second["failed"]) == ("a\n", False, True)
    assert isinstance(first["nats"], float)
    assert first["num_tokens"] == third["num_tokens"] == 2
    assert first["nats"] != third["nats"]


def test_an_episode_that_its_world_ended_goes_on_with_another_task(tiny_dir: Path):
    """Catches a crash behind the last answer, and a task that starts with the old history."""
    lines = "answer: none\nls\n:task 1\n" + '{"name": "list_nothing", "arguments": {}}\n'
    done = run("--model", tiny_dir, "--world", "tools", "--max-tokens", "2", "--json", lines=lines)
    first, second = turns(done.stdout)
    assert (first["over"], first["reward"], first["truth"]) == ("completed", 0, None)
    assert "the episode is over" in done.stderr
    assert (second["number"], second["failed"]) == (1, True)
    assert '"error"' in str(second["truth"])


@pytest.mark.parametrize("world", [(), ("--policy", "oracle"), ("--world", "tools")])
def test_the_model_plays_alone_where_there_is_no_world(tiny_dir: Path, world: tuple[str, ...]):
    """Catches a sandbox that starts nevertheless, and figures against a truth that nobody stated."""
    args = ("--model", tiny_dir, "--no-world", "--max-tokens", "3", "--json", *world)
    done = run(*args, "--sandbox", "bubblewrap", lines="ls\n:free\nls\n")
    for turn in turns(done.stdout):
        assert turn["mode"] == "free"
        assert turn["truth"] is turn["exact"] is turn["nats"] is None


def test_a_world_whose_task_is_its_own_secret_needs_a_stored_opening(tiny_dir: Path, tmp_path: Path):
    """Catches a game that begins with nothing."""
    with pytest.raises(ConfigError, match="give a stored episode"):
        run("--model", tiny_dir, "--no-world", "--world", "depot", lines="look\n")
    stored = tmp_path / "boxes.parquet"
    write_trajectories(stored, collect(explore_jobs("train", 1, num_derivable=1)))
    done = run("--model", tiny_dir, "--no-world", "--data", stored, "--max-tokens", "2", lines="ls\n")
    assert "Look around." in done.stdout
    with pytest.raises(ConfigError, match="there are 1 stored episodes"):
        run("--model", tiny_dir, "--no-world", "--data", stored, "--task", "1", lines="ls\n")


def test_a_batch_writes_what_it_prints(tiny_dir: Path, tmp_path: Path):
    """Catches a page or a file that says something else than the terminal, and a command that makes another file."""
    out = tmp_path / "sim"
    args = ("--model", tiny_dir, "--base", tiny_dir, "--num", "2", "--answers", "2", "--max-tokens", "4")
    done = run(*args, "--plan-ahead", "--max-pairs", "2", "--out", out, "--json")
    assert done.exit_code == 0
    simulation = Simulation.model_validate_json(done.stdout)
    assert simulation == read_simulation(out / "simulation.json")
    assert simulation.results["base"] == simulation.results["model"]
    assert (simulation.num_trajectories, len(simulation.observations)) == (2, 4)
    assert simulation.plan_ahead is not None
    assert len(simulation.plan_ahead.pairs) <= 2
    assert len(simulation.plan_ahead.pairs) + sum(simulation.plan_ahead.left_out.values()) == 4
    assert "Which of two actions succeeds" in (out / "simulation.html").read_text()
    assert simulation.command == (
        f"envecho simulate --model {tiny_dir} --base {tiny_dir} --num 2 --answers 2 --max-tokens 4 --plan-ahead "
        f"--max-pairs 2 --out {out}"
    )
    with pytest.raises(ConfigError, match="pass --overwrite"):
        run(*args, "--out", out)
    printed = run("--model", tiny_dir, "--data", out / "trajectories.parquet", "--answers", "1", "--max-tokens", "4",
                  "--out", tmp_path / "again")  # fmt: skip
    for text in (
        "2 answers in 2 episodes",
        "model, guided",
        "model, free",
        "edit similarity",
        "not asked",
        "written to",
    ):
        assert text in printed.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--num", "2"), "--num is for a batch"),
        (("--plan-ahead",), "--plan-ahead is for a batch"),
        (("--data", "x.parquet"), "--data is for a batch"),
        (("--no-world", "--out", "x"), "--no-world is for playing"),
    ],
)
def test_options_of_the_other_use_are_refused(tiny_dir: Path, args: tuple[str, ...], message: str):
    """Catches an option that is silently ignored."""
    done = run("--model", tiny_dir, *args)
    assert done.exit_code == 2
    assert message in done.stderr


def test_episodes_without_an_answer_are_refused(tiny_dir: Path, tmp_path: Path):
    """Catches a page of nothing."""
    (episode,) = collect(explore_jobs("train", 1, num_derivable=1))
    stored = tmp_path / "empty.parquet"
    write_trajectories(stored, [episode.with_messages(episode.messages[:3])])
    with pytest.raises(DataError, match="expected episodes in which a world answers, found none in 1"):
        run("--model", tiny_dir, "--data", stored, "--out", tmp_path / "sim")
