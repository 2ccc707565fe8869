"""`envecho study` end to end on a tiny random model: arms x seeds through the real `train`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from study_material import ECHO, changed, study_document, write_document, write_material

from envecho.cli.main import main
from envecho.errors import ConfigError, DataError, EngineError
from envecho.recipes.study import run_study
from envecho.recipes.study_config import study_from_document
from envecho.recipes.study_records import gather_records, read_records
from envecho.recipes.study_report import report_study
from envecho.recipes.study_work import Task, work


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("study-material"))


@pytest.fixture(scope="session")
def finished(material: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature study, run without interruption."""
    out = tmp_path_factory.mktemp("study")
    run_study(study_from_document(study_document(material)), out, num_workers=0)
    return out


def report(document: dict[str, Any], out: Path) -> dict[str, Any]:
    return report_study(study_from_document(document), out, command="envecho study mini.toml --out runs/mini")


def without_times(document: dict[str, Any]) -> dict[str, Any]:
    arms = {
        name: {key: value for key, value in arm.items() if key != "mean_wall_seconds"}
        for name, arm in document["arms"].items()
    }
    return {**document, "arms": arms}


def test_a_study_runs_every_arm_and_seed_and_says_its_figures(material: Path, finished: Path):
    """Catches arms that share a folder or a configuration, and looks that are missing from the figures."""
    found = report(study_document(material), finished)
    assert list(found["arms"]) == ["grpo", "echo"]
    for arm in found["arms"].values():
        assert arm["seeds"] == [0, 1]
        assert [look["step"] for look in arm["looks"]] == [0, 1, 2]
        assert arm["final"]["env_ce"]["num_seeds"] == 2
        assert arm["final"]["solve_rate"]["num_tasks"] == 3
    records = read_records(finished / "runs.jsonl")
    assert all(look.trained is not None and look.trained[1] == 4 for record in records for look in record.looks)
    grpo, echo = found["arms"]["grpo"], found["arms"]["echo"]
    assert echo["looks"][0] | {"step": 0} == grpo["looks"][0]
    assert echo["final"]["env_ce"] != grpo["final"]["env_ce"]
    assert grpo["difference"] is None
    expected = echo["final"]["env_ce"]["value"] - grpo["final"]["env_ce"]["value"]
    assert echo["difference"]["env_ce"]["value"] == pytest.approx(expected)
    assert {path.name for path in finished.iterdir()} >= {"study.json", "study.md", "curves.svg", "differences.png"}


def test_arms_are_paired_they_see_the_same_tasks_in_the_same_order(material: Path, finished: Path):
    """Catches arms whose first step, taken from equal weights, is over other tasks or other samples."""
    rows = [
        next(row for row in map(json.loads, path.read_text().splitlines()) if row["kind"] == "train")
        for path in (finished / arm / "seed-0/phase-0/metrics.jsonl" for arm in ("grpo", "echo"))
    ]
    assert rows[0]["num_action_tokens"] == rows[1]["num_action_tokens"]
    assert rows[0]["num_warning_tokens"] == rows[1]["num_warning_tokens"]
    configs = [(finished / arm / "seed-0/phase-0/config.toml").read_text() for arm in ("grpo", "echo")]
    differing = set(configs[0].splitlines()) ^ set(configs[1].splitlines())
    assert {line.split(" = ")[0] for line in differing} == {"world_model_coeff", "world_loss_target"}


def test_trap_28_the_env_ce_of_the_lambda_0_arm_is_always_logged(material: Path, finished: Path):
    """Catches a study whose plain GRPO has no environment CE, after which nobody can say that it stays flat."""
    grpo = report(study_document(material), finished)["arms"]["grpo"]
    assert all(look["env_ce"]["value"] > 0 for look in grpo["looks"])
    assert grpo["env_ce_change_percent"] is not None
    document = study_document(material)
    with pytest.raises(ConfigError, match=r"arm grpo, phase 0: .* environment CE of every arm"):
        changed(document, base_evaluation={"data": []})
    with pytest.raises(ConfigError, match="environment CE of every arm"):
        changed(document, base_evaluation={"every": 0})


def test_report_only_remakes_every_file_byte_for_byte_from_runs_jsonl_alone(
    material: Path, finished: Path, tmp_path: Path
):
    """Catches a figure that needs the run folders, and a bootstrap or picture that differs from run to run."""
    report(study_document(material), finished)
    shutil.copy(finished / "runs.jsonl", tmp_path)
    report(study_document(material), tmp_path)
    names = ("runs.jsonl", "study.json", "study.md", "curves.svg", "curves.png", "differences.svg", "differences.png")
    for name in names:
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_finished_study_runs_nothing_again(material: Path, finished: Path):
    """Catches a study that trains finished runs once more, or takes their folders for the only sign of them."""
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("metrics.jsonl")}
    run_study(study_from_document(study_document(material)), finished, num_workers=0)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("metrics.jsonl")} == before


def test_a_seed_and_an_arm_added_later_run_alone(material: Path, finished: Path, tmp_path: Path):
    """Catches an addition that trains everything again, or that is refused as another study."""
    shutil.copy(finished / "runs.jsonl", tmp_path)
    document = study_document(material)
    document["study"]["seeds"] = [0, 1, 2]
    third = {"name": "env-only", "label": "environment term only", "set": {**ECHO, "objective.use_rl": False}}
    document["arms"].append(third)
    study = study_from_document(document)
    run_study(study, tmp_path, arms=["grpo"], seeds=[2], num_workers=0)
    run_study(study, tmp_path, arms=["env-only"], seeds=[0], num_workers=0)
    run = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("metrics.jsonl")}
    assert run == {"grpo/seed-2/phase-0", "env-only/seed-0/phase-0"}
    found = report(document, tmp_path)["arms"]
    assert {name: arm["seeds"] for name, arm in found.items()} == {"grpo": [0, 1, 2], "echo": [0, 1], "env-only": [0]}
    assert found["echo"]["difference"]["env_ce"]["num_seeds"] == 2
    with pytest.raises(ConfigError, match="seed 3 is not stated"):
        run_study(study, tmp_path, seeds=[3], num_workers=0)


def test_trap_26_one_seed_refuses_an_interval_and_says_so(material: Path, finished: Path, tmp_path: Path):
    """Catches a single-seed comparison that looks firm, and figures without the number of seeds that they are over."""
    lines = [line for line in (finished / "runs.jsonl").read_text().splitlines() if json.loads(line)["seed"] == 0]
    (tmp_path / "runs.jsonl").write_text("\n".join(lines) + "\n")
    echo = report(study_document(material), tmp_path)["arms"]["echo"]
    stats = [*echo["final"].values(), *echo["difference"].values(), echo["env_ce_change_percent"]]
    for stat in stats:
        assert (stat["num_seeds"], stat["low"], stat["high"]) == (1, None, None)
    table = (tmp_path / "study.md").read_text()
    assert "one seed, no interval" in table
    assert "Arms with one seed have no interval" in table
    both = report(study_document(material), finished)["arms"]["echo"]["difference"]["env_ce"]
    assert both["low"] < both["value"] < both["high"]


def test_a_changed_base_is_an_error_that_names_the_keys(material: Path, finished: Path, tmp_path: Path):
    """Catches runs of two configurations that are averaged as one arm, with and without their folders."""
    other = changed(study_document(material), base_optimizer={"learning_rate": 1e-4})
    with pytest.raises(ConfigError, match=r"optimizer\.learning_rate"):
        run_study(other, finished, num_workers=0)
    shutil.copy(finished / "runs.jsonl", tmp_path)
    with pytest.raises(ConfigError, match=r"arm grpo, seed 0, phase 0 .*optimizer\.learning_rate"):
        gather_records(other, tmp_path)
    assert gather_records(study_from_document(study_document(material)), finished)


def test_phases_start_from_the_last_weights_before_and_count_their_steps(material: Path, tmp_path: Path):
    """Catches a second phase from the starting model, and looks of two phases at the same step."""
    document = study_document(material)
    sft = {"data.train": [str(material / "held_out.parquet")], "objective.policy.loss": "sft",
           "objective.use_rl": True, "objective.world_model_coeff": 0.0, "optimizer.learning_rate": 0.03}  # fmt: skip
    document["arms"][1] = {
        "name": "sft",
        "label": "SFT, then GRPO",
        "phases": [
            {"steps": 3, "set": sft, "drop": ["rollout", "evaluation"]},
            {"steps": 2, "set": {"objective.world_model_coeff": 0.0}},
        ],
    }
    study = study_from_document(document)
    run_study(study, tmp_path, seeds=[0], num_workers=0)
    (_, record) = gather_records(study, tmp_path)
    assert record.steps == 5
    assert [look.step for look in record.looks] == [3, 4, 5]
    config = (tmp_path / "sft/seed-0/phase-1/config.toml").read_text()
    assert "sft/seed-0/phase-0/checkpoints/step-000003" in config
    looks = {record.arm: record.looks for record in gather_records(study, tmp_path)}
    assert looks["sft"][0].env_nll != looks["grpo"][0].env_nll


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
@pytest.mark.timeout(240)
def test_a_study_that_is_stopped_continues_to_the_same_figures(
    material: Path, finished: Path, tmp_path: Path, stop: signal.Signals
):
    """Catches a study that starts over, leaves processes behind that write on, or ends in other figures."""
    config, out = write_document(tmp_path / "mini.toml", study_document(material)), tmp_path / "out"
    # A shell that runs the tests in the background hands SIGINT down as ignored; a terminal does not.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    code = f"from envecho.cli.main import main; main(['study', {str(config)!r}, '--out', {str(out)!r}])"
    command = [sys.executable, "-c", f"if __name__ == '__main__':\n    {heard}; {code}"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    begun = out / "grpo/seed-0/phase-0/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not begun.is_file() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(stop)
    assert process.wait(30) != 0
    while any(_is_running(int(child)) for child in children) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(_is_running(int(child)) for child in children)
    assert begun.is_file()
    assert len(list(out.rglob("summary.json"))) < 4
    run_study(study_from_document(study_document(material)), out, num_workers=0)
    assert without_times(report(study_document(material), out)) == without_times(
        report(study_document(material), finished)
    )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def test_a_failed_run_is_named_and_the_others_go_on(tmp_path: Path):
    """Catches a study that loses a night because its first run fails, or that hides the failure."""
    tasks = [
        Task(name="bad", run=_fail, log=tmp_path / "bad.log"),
        Task(name="good", run=_print, log=tmp_path / "good.log"),
    ]
    with pytest.raises(EngineError, match=r"1 of 2 failed: bad .*bad\.log"):
        work(tasks, num_workers=1, threads=1)
    assert "no such luck" in (tmp_path / "bad.log").read_text()
    assert "hello" in (tmp_path / "good.log").read_text()


def _fail() -> None:
    raise ValueError("no such luck")


def _print() -> None:
    print("hello", flush=True)


def test_the_cost_of_each_arm_is_measured_before_the_runs(finished: Path):
    """Catches an estimate without the evaluations, or steps of the probe that stay behind as a run."""
    for arm in ("grpo", "echo"):
        cost = json.loads((finished / "cost" / f"{arm}.json").read_text())
        (phase,) = cost["phases"]
        expected = 2 * phase["train_seconds"] + 3 * phase["evaluation_seconds"]
        assert cost["run_seconds"] == pytest.approx(expected)
    assert {path.name for path in (finished / "cost").iterdir()} == {"grpo.json", "echo.json"}


def test_the_command_reports_from_the_records(
    material: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Catches a verb that needs the run folders for --report-only, or prints progress on stdout."""
    config = write_document(tmp_path / "mini.toml", study_document(material))
    shutil.copy(finished / "runs.jsonl", tmp_path)
    arguments = ["study", str(config), "--out", str(tmp_path), "--report-only"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--json"])
    assert stop.value.code == 0
    assert json.loads(capsys.readouterr().out)["format"] == "envecho.study"
    with pytest.raises(SystemExit):
        main(arguments)
    assert capsys.readouterr().out == (tmp_path / "study.md").read_text()
    (tmp_path / "runs.jsonl").unlink()
    with pytest.raises(DataError, match="no arm has a finished run"):
        report(study_document(material), tmp_path)
