"""The whole demo on a model of few weights: every phase runs, every file is there, every pool is what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from envecho.cli.collect import command as collect_command
from envecho.errors import ConfigError
from envecho.evaluation import read_evaluation
from envecho.recipes.demo import BUDGETS, DemoConfig, run_demo
from envecho.recipes.demo_data import demo_jobs
from envecho.recipes.demo_print import print_summary
from envecho.recipes.phases import PhaseBudget, PhaseClock
from envecho.recipes.terminal_jobs import planned_commands
from envecho.trajectory.store import read_trajectories

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def demo_run(tiny_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One short demo run on the tiny model."""
    out = tmp_path_factory.mktemp("demo") / "run"
    return out, run_demo(DemoConfig.short(seed=0, model=str(tiny_dir)), out)


def test_the_run_folder_holds_what_the_design_names(demo_run: tuple[Path, dict[str, Any]]):
    """Catches a phase that forgot its file."""
    out, _ = demo_run
    names = {path.name for path in out.iterdir()}
    assert {
        "config.toml",
        "metrics.jsonl",
        "evaluation.json",
        "sums.parquet",
        "summary.json",
        "report.html",
        "chart.png",
    } <= names
    assert {path.stem for path in (out / "trajectories").iterdir()} == {
        "train",
        "validation",
        "new_commands",
        "new_boxes",
    }


def test_the_summary_has_the_shape_that_the_design_states(demo_run: tuple[Path, dict[str, Any]]):
    """Catches a renamed key: scripts of users read this file."""
    out, summary = demo_run
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["format"], summary["version"]) == ("envecho.summary", 1)
    assert set(summary["tokens"]) == {"context", "action", "env_output", "warning"}
    assert set(summary["pools"]) == {"new_commands", "new_boxes"}
    for measures in summary["pools"].values():
        assert set(measures) == {"base", "trained", "ngram"}
        assert measures["ngram"]["action_swap_gap"] is None
        assert measures["base"]["num_tokens"] == measures["trained"]["num_tokens"] == measures["ngram"]["num_tokens"]
    assert [phase["name"] for phase in summary["phases"]] == list(BUDGETS)


def test_the_evaluation_reads_back_with_readouts_before_and_after(demo_run: tuple[Path, dict[str, Any]]):
    """Catches readouts that show different commands before and after training."""
    evaluation = read_evaluation(demo_run[0] / "evaluation.json")
    assert evaluation.readouts
    assert all(set(readout.predictions) == {"base", "trained"} for readout in evaluation.readouts)
    assert evaluation.token_views
    saved = {(a.pool, a.reference): a for a in evaluation.attributions}
    assert {("new_boxes", "base"), ("new_commands", "ngram")} <= set(saved)
    assert "copied" in saved["new_boxes", "base"].parts
    assert evaluation.facts["new_boxes"].num_env_tokens == evaluation.pools["new_boxes"]["base"].num_tokens


def test_a_run_folder_in_use_is_not_touched(demo_run: tuple[Path, dict[str, Any]], tiny_dir: Path):
    """Catches a second `make demo` that silently deletes the first one's result."""
    out, _ = demo_run
    before = (out / "summary.json").read_bytes()
    with pytest.raises(ConfigError, match="--overwrite"):
        run_demo(DemoConfig.short(seed=1, model=str(tiny_dir)), out)
    assert (out / "summary.json").read_bytes() == before


def test_printing_the_summary_names_the_report(
    demo_run: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    """Catches a result that a user has to search for."""
    out, summary = demo_run
    print_summary(summary, out)
    printed = capsys.readouterr().out
    assert "report.html" in printed.replace("\n", "")
    assert "action-swap gap" in printed


def test_pools_share_no_box_but_the_one_that_says_so():
    """Catches validation or test boxes that training saw (METHOD trap 25)."""
    jobs = demo_jobs(num_train=20, num_validation=5, num_held_out=5, seed=3)
    boxes = {name: {job.seed for job in pool} for name, pool in jobs.items()}
    assert boxes["new_commands"] <= boxes["train"]
    for name in ("validation", "new_boxes"):
        assert not boxes[name] & boxes["train"]
    assert not boxes["validation"] & boxes["new_boxes"]


def test_runs_of_two_seeds_share_no_box():
    """Catches seeds that are no independent repetitions."""
    first, second = (demo_jobs(num_train=20, num_validation=5, num_held_out=5, seed=seed) for seed in (0, 1))
    boxes = [{job.seed for pool in jobs.values() for job in pool} for jobs in (first, second)]
    assert not boxes[0] & boxes[1]


def test_new_commands_were_not_drawn_on_their_box_in_training(demo_run: tuple[Path, dict[str, Any]]):
    """Catches a held-out command that training showed with its answer."""
    seen = planned_commands("train", 2, seed=0)
    for trajectory in read_trajectories(demo_run[0] / "trajectories" / "new_commands.parquet"):
        box = trajectory.metadata["box_seed"]
        asked = {
            command.content
            for command, answer in zip(trajectory.messages[2::2], trajectory.messages[3::2], strict=True)
            if answer.labels["view"] == "derivable"
        }
        assert asked
        assert not asked & seen[box]


def test_a_phase_over_its_budget_is_named():
    """Catches a budget that nothing is held against."""
    clock = PhaseClock()
    with clock.phase("slow"):
        pass
    budget = PhaseBudget(seconds=-1.0, peak_memory_bytes=1)
    assert len(clock.over_budget({"slow": budget, "never": budget})) == 2


def test_collect_writes_oracle_episodes_that_solve_their_tasks(tmp_path: Path):
    """Catches the front door of `envecho collect`: options, file, counts."""
    out = tmp_path / "oracle.parquet"
    arguments = ["--policy", "oracle", "--num", "3", "--out", str(out), "--json"]
    result = CliRunner().invoke(collect_command, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["mean_reward"] == 1.0
    assert [trajectory.reward for trajectory in read_trajectories(out)] == [1.0] * 3


def test_collect_keeps_a_file_that_exists_and_guesses_a_misspelt_world(tmp_path: Path):
    """Catches data lost to a repeated command, and an error that does not help."""
    out = tmp_path / "there.parquet"
    out.write_text("mine")
    arguments = ["--policy", "oracle", "--num", "1", "--out", str(out)]
    with pytest.raises(ConfigError, match="--overwrite"):
        CliRunner().invoke(collect_command, arguments, catch_exceptions=False)
    assert out.read_text() == "mine"
    with pytest.raises(ConfigError, match="Did you mean 'terminal'"):
        CliRunner().invoke(collect_command, [*arguments, "--overwrite", "--world", "terminl"], catch_exceptions=False)


def test_the_budgets_in_the_docs_are_those_of_the_code():
    """Catches a budget that was raised without a word."""
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \|$", (DOCS / "demo.md").read_text(), re.M)
    documented = {name: (float(seconds), int(gigabytes) * 10**9) for name, seconds, gigabytes in rows}
    assert documented == {name: (b.seconds, b.peak_memory_bytes) for name, b in BUDGETS.items()}
