"""`train --world` and `eval --world`: pools that a live world gives, disjoint, kept, and collected once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envecho.cli.main import main
from envecho.errors import ConfigError
from envecho.recipes import world_pools
from envecho.recipes.collect import CollectConfig
from envecho.recipes.depot_start import make_depot_start
from envecho.recipes.world_pools import LiveWorld, collect_world_pools, live_run_config
from envecho.trajectory.store import read_trajectories
from envecho.worlds.depot.suite import DepotSuite


def run(*args: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, args)))
    return int(ended.value.code or 0)


def test_pools_of_a_live_world_share_no_task(tmp_path: Path) -> None:
    """Catches a held-out figure measured on tasks that were trained on."""
    config = CollectConfig(world="depot", policy="explore", num_episodes=12, max_turns=2)
    paths = collect_world_pools(config, tmp_path, num_small=4)
    tasks = {name: {t.task_id for t in read_trajectories(path)} for name, path in paths.items()}
    assert {name: len(found) for name, found in tasks.items()} == {"train": 12, "validation": 4, "held_out": 4}
    assert not tasks["train"] & tasks["validation"]
    assert not tasks["train"] & tasks["held_out"]


def test_pools_that_are_there_are_kept_and_others_are_refused(tmp_path: Path) -> None:
    """Catches a run that is resumed on episodes collected anew, or on those of another world."""
    config = CollectConfig(world="depot", policy="explore", num_episodes=4, max_turns=2)
    paths = collect_world_pools(config, tmp_path, num_small=2)
    before = {name: path.read_bytes() for name, path in paths.items()}
    assert {
        name: path.read_bytes() for name, path in collect_world_pools(config, tmp_path, num_small=2).items()
    } == before
    with pytest.raises(ConfigError, match="other options"):
        collect_world_pools(config.model_copy(update={"seed": 1}), tmp_path, num_small=2)


def test_pools_of_a_small_split_divide_its_tasks(tmp_path: Path) -> None:
    """Catches pools that overlap silently because task numbers start over, and laps that draw the same episode."""
    config = CollectConfig(world="depot", policy="explore", num_episodes=90, max_turns=2)
    paths = collect_world_pools(config, tmp_path, num_small=4)
    train = list(read_trajectories(paths["train"]))
    tasks = {t.task_id for t in train}
    assert (len(train), len(tasks)) == (90, 70)
    assert not tasks & {t.task_id for t in read_trajectories(paths["validation"])}
    said = {(t.task_id, *(m.content for m in t.messages if m.role == "assistant")) for t in train}
    assert len(said) > len(tasks)


def test_splits_that_overlap_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a server whose split `test` holds the tasks of `train` too."""
    monkeypatch.setattr(DepotSuite, "task_id", lambda *_: "the same task")
    config = CollectConfig(world="depot", policy="explore", num_episodes=4, max_turns=2)
    with pytest.raises(ConfigError, match="its splits overlap"):
        collect_world_pools(config, tmp_path, num_small=2)


def test_a_wrong_configuration_costs_no_episode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches an hour of collecting in front of the message about a mistyped key."""
    monkeypatch.setattr(world_pools, "collect_world_pools", lambda *_, **__: pytest.fail("collected"))
    live = LiveWorld(world="depot", num_episodes=4)
    with pytest.raises(ConfigError, match="stepz"):
        live_run_config(live, None, tmp_path, ["run.stepz=3"])
    file = tmp_path / "own.toml"
    file.write_text('[data]\ntrain = "x.parquet"\n[run]\nsteps = 1\n')
    with pytest.raises(ConfigError, match=r"has \[data\]"):
        live_run_config(live, file, tmp_path, [])


def test_a_configuration_with_rollouts_gets_the_world_of_the_command(tmp_path: Path) -> None:
    """Catches `--world` that is ignored where the policy acts itself."""
    file = tmp_path / "own.toml"
    file.write_text('[rollout]\nworld = "terminal"\n[run]\nsteps = 1\n')
    live = LiveWorld(world="http://127.0.0.1:1", num_episodes=4, world_map=Path("map.toml"))
    found = live_run_config(live, file, tmp_path, [])
    assert found.rollout is not None
    assert (found.rollout.world, found.world.map) == ("http://127.0.0.1:1", Path("map.toml"))


def test_one_command_trains_on_a_live_world_and_one_evaluates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches `train --world` and `eval --world` that do not run from their options alone."""
    model = tmp_path / "model"
    model.mkdir()
    make_depot_start(model, num_plans=1, steps_per_plan=2, num_even_steps=1, hidden_size=32)
    out, small = tmp_path / "run", ("--set", "run.steps=2", "--set", f"model.name={model}")
    assert run("train", "--world", "depot", "--episodes", "6", "--out", out, *small) == 0
    printed = capsys.readouterr().out
    assert "validation env CE" in printed
    best = json.loads((out / "summary.json").read_text())
    assert best["steps"] == 2
    checkpoint = next((out / "checkpoints").glob("step-*"))
    assert f"envecho eval --model {checkpoint}" in printed
    assert (
        run("eval", "--model", checkpoint, "--world", "depot", "--num", "3", "--out", tmp_path / "eval", "--json") == 0
    )
    pools = json.loads(capsys.readouterr().out)["pools"]
    assert "held_out" in str(pools)
    assert run("eval", "--model", checkpoint, "--world", "depot", "--num", "3", "--out", tmp_path / "eval") == 1
    assert run("train", "--out", tmp_path / "nothing") == 2
    assert run("eval", "--model", checkpoint) == 2
