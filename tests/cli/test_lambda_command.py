"""`envecho lambda`: the table of peers on a file, and a carried lambda."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.trajectory.store import write_trajectories

COMMAND = importlib.import_module("envecho.cli.lambda").command


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """Two trajectories of one command; the second answers at length."""

    def said(role: str, source: Source, text: str) -> Message:
        return Message(role=role, segments=(Segment(source=source, text=text),))

    rows = [
        Trajectory(
            id=str(k),
            task_id="t",
            messages=(
                said("user", Source.TASK, "List the files."),
                said("assistant", Source.POLICY, "ls -la"),
                said("user", Source.STDOUT, "a.log b.log\n" * (1 + 9 * k)),
            ),
        )
        for k in range(2)
    ]
    write_trajectories(tmp_path / "traces.parquet", rows)
    return tmp_path / "traces.parquet"


def run(*args: object) -> Result:
    return CliRunner().invoke(COMMAND, [*map(str, args)])


def test_the_table_and_the_carried_lambda_agree(traces: Path, tiny_dir: Path):
    """Catches a command that prints one rule's figure under another's name."""
    result = run(traces, "--model", tiny_dir, "--coeff", 0.05, "--from", "verl-token-mean", "--to", "echo-rl", "--json")
    report = json.loads(result.stdout)
    actions, observed = report["num_action_tokens"], report["num_env_output_tokens"]
    peers = {name: row["effective_lambda"] for name, row in report["peers"].items()}
    assert peers["verl-token-mean"] == pytest.approx(0.05 * observed / actions)
    assert peers["echo-rl"] == pytest.approx(0.05)
    assert report["carried"]["coeff"] == pytest.approx(0.05 * observed / actions)
    assert "single tokens do not" in report["carried"]["difference"]
    shown = run(traces, "--model", tiny_dir, "--from", "verl-token-mean", "--to", "echo-rl")
    assert f"write {report['carried']['coeff']:.6g}" in shown.stdout
    assert "prime-rl" in shown.stdout


def test_half_a_question_is_a_usage_error(traces: Path, tiny_dir: Path):
    """Catches --from without --to that is silently ignored."""
    assert run(traces, "--model", tiny_dir, "--from", "echo-rl").exit_code == 2


def test_what_echo_rls_generator_wrote_needs_no_model(tmp_path: Path):
    """Catches masks that are read as text, and lines of one file that are taken for the same rollout."""
    row = {
        "prompt_token_ids": [1, 2],
        "completion_token_ids": [3, 4, 5, 6, 7],
        "completion_masks": [1, 0, 0, 0, 0],
        "completion_warning_masks": [0, 1, 0, 0, 0],
        "completion_env_output_masks": [0, 0, 1, 1, 0],
    }
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join([json.dumps(row)] * 2))
    report = json.loads(run(rows, "--coeff", 0.3, "--json").stdout)
    assert (report["num_trajectories"], report["num_env_output_tokens"], report["num_warning_tokens"]) == (2, 4, 2)
    assert report["peers"]["echo-rl"]["effective_lambda"] == pytest.approx(0.3 * 2 / 3)
    assert report["peers"]["envecho-trl"]["effective_lambda"] == pytest.approx(0.3)
    rows.write_text('{"text": "no ids"}')
    failed = run(rows)
    assert failed.exit_code == 1
    assert "line 1" in str(failed.exception)
