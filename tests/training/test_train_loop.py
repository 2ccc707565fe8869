"""`train`: what it writes, what it refuses, and that it continues bit for bit."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from tiny_run import episode, silent_episode, tiny_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from envecho.engines.local import LocalEngine
from envecho.errors import ConfigError, DataError, EngineError
from envecho.seam import AdamParams
from envecho.training.data import step_order
from envecho.training.loop import train
from envecho.trajectory.store import write_trajectories


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny model and its pools."""
    folder = tmp_path_factory.mktemp("material")
    tiny_config(folder)
    return folder


def rows(out: Path, kind: str = "train") -> list[dict[str, Any]]:
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["kind"] == kind]


def without_times(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in ("seconds", "tokens_per_second")} for row in found]


def weights(checkpoint: Path) -> dict[str, Any]:
    files = ("model.safetensors", "optimizer.safetensors")
    return {f"{file}:{name}": value.numpy() for file in files for name, value in load_file(checkpoint / file).items()}


def assert_same_bits(one: Path, other: Path) -> None:
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


RUINOUS = {"learning_rate": 10.0, "schedule": "constant", "warmup_steps": 100}
"""A rate that rises from useful to absurd, so that the best step is an early one."""


class Stop(Exception):
    """Ends a run from inside, as a crash would."""


def stop_at(step: int):
    def on_event(event: Any) -> None:
        if event["kind"] == "train" and event["step"] == step:
            raise Stop

    return on_event


def test_a_run_writes_its_folder_and_learns(material: Path, tmp_path: Path):
    """Catches a loop that steps without learning, or a folder that the other rooms cannot read."""
    out, events = tmp_path / "run", []
    config = tiny_config(material, run={"steps": 20})
    result = train(config, out, on_event=events.append)
    assert result.best_env_ce < 0.9 * result.base_env_ce
    assert {path.name for path in out.iterdir()} == {"config.toml", "metrics.jsonl", "checkpoints"}
    assert [row["step"] for row in rows(out)] == list(range(1, 21))
    assert [row["step"] for row in rows(out, "validation")] == list(range(0, 21, 2))
    assert rows(out)[-1]["env_ce"] < rows(out)[0]["env_ce"]
    AutoModelForCausalLM.from_pretrained(result.best_checkpoint)
    assert AutoTokenizer.from_pretrained(result.best_checkpoint).chat_template
    assert Counter(event["kind"] for event in events) == {"start": 1, "train": 20, "validation": 11, "checkpoint": 10}


def test_metrics_count_what_was_trained(material: Path, tmp_path: Path):
    """Catches counts or means over other tokens than the selected ones, and a CE that is not that of the loss."""
    train(tiny_config(material), tmp_path)
    for row in rows(tmp_path):
        assert row["loss"] == pytest.approx(row["env_ce"], rel=1e-5)  # global token mean at lambda 1
        assert row["num_env_tokens"] == row["num_env_output_tokens"] > 0
        assert row["env_ce_by_source"].keys() == {"stdout"}
        assert row["env_ce_by_source"]["stdout"] == pytest.approx(row["env_ce"])
        assert row["effective_lambda"] is None
    assert [row["learning_rate"] for row in rows(tmp_path)] == pytest.approx(
        [3e-3 * min(1, step / 2) * (1 - (step - 1) / 6) for step in range(1, 7)]
    )
    for row in rows(tmp_path, "validation"):
        assert row["env_ce_derivable"] > 0
        assert row["env_ce_derivable"] != row["env_ce"]


def test_stored_runs_of_one_command_are_compared_over_the_whole_pool(material: Path, tmp_path: Path):
    """Catches a comparison within a step, where stored runs of one task seldom meet."""
    one = {"run": {"trajectories_per_step": 1, "validate_every": 0}}
    train(tiny_config(material, **one), tmp_path / "plain")
    train(tiny_config(material, objective={"noise": {"disagreement_weight": 0.5}}, **one), tmp_path / "quiet")
    plain, quiet = rows(tmp_path / "plain")[0], rows(tmp_path / "quiet")[0]
    assert plain["num_env_tokens_disagreeing"] == 0
    assert 0 < quiet["num_env_tokens_disagreeing"] < quiet["num_env_tokens"]
    assert quiet["env_ce"] == plain["env_ce"]
    assert 0.5 * plain["loss"] < quiet["loss"] < plain["loss"]


def test_every_epoch_shows_each_trajectory_once_and_no_step_shows_one_twice():
    """Catches an order that skips or repeats trajectories where an epoch ends inside a step."""
    steps = [step_order(11, step, trajectories_per_step=3, seed=5) for step in range(1, 9)]
    for epoch in (steps[:4], steps[4:]):
        assert sorted(index for step in epoch for index in step) == list(range(11))
    assert steps[:4] != steps[4:]
    assert steps == [step_order(11, step, trajectories_per_step=3, seed=5) for step in range(1, 9)]
    assert steps[0] != step_order(11, 1, trajectories_per_step=3, seed=6)


@pytest.mark.parametrize("stopped_at", [1, 3, 4, 6])
def test_a_resumed_run_ends_in_the_same_bits(material: Path, tmp_path: Path, stopped_at: int):
    """Catches anything that a checkpoint forgets: moments, data order, schedule, best model, counts."""
    config = tiny_config(material)
    whole = train(config, tmp_path / "whole")
    with pytest.raises(Stop):
        train(config, tmp_path / "parts", on_event=stop_at(stopped_at))
    parts = train(config, tmp_path / "parts", resume=True)
    assert_same_bits(tmp_path / "whole/checkpoints/step-000006", tmp_path / "parts/checkpoints/step-000006")
    for kind in ("train", "validation"):
        assert without_times(rows(tmp_path / "parts", kind)) == without_times(rows(tmp_path / "whole", kind))
    assert (parts.best_step, parts.best_env_ce, parts.num_tokens) == (
        whole.best_step,
        whole.best_env_ce,
        whole.num_tokens,
    )
    finished = train(config, tmp_path / "parts", resume=True)
    assert finished.best_env_ce == whole.best_env_ce


def test_the_best_model_is_chosen_on_validation_and_the_engine_holds_it(material: Path, tmp_path: Path):
    """Catches a last model reported as the best one (here a rising rate ruins it), and selection on other pools."""
    config = tiny_config(material, optimizer=RUINOUS, run={"steps": 8})
    engine = LocalEngine(material / "model", device="cpu", compute_dtype="float32")
    result = train(config, tmp_path, engine=engine)
    looks = {row["step"]: row["env_ce"] for row in rows(tmp_path, "validation") if row["step"] > 0}
    assert result.best_step == min(looks, key=looks.__getitem__) < 8
    assert result.best_env_ce == looks[result.best_step]
    (tmp_path / "held").mkdir()
    engine.save_model(tmp_path / "held")
    held, best = load_file(tmp_path / "held/model.safetensors"), load_file(result.best_checkpoint / "model.safetensors")
    assert all(bool((held[name] == best[name]).all()) for name in best)


def test_checkpoints_keep_the_last_two_and_the_best(material: Path, tmp_path: Path):
    """Catches a disk that fills up, and a best model that is deleted because it is old."""
    config = tiny_config(material, optimizer=RUINOUS, run={"steps": 10, "validate_every": 1})
    result = train(config, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == sorted({result.best_checkpoint.name, "step-000008", "step-000010"})
    assert result.best_step < 8


def test_without_checkpoints_only_the_best_model_is_written(material: Path, tmp_path: Path):
    """Catches optimiser states on the disk of a run that asked for none, and a run that ends without any model."""
    result = train(tiny_config(material, run={"checkpoint_every": 0}), tmp_path / "a")
    assert [path.name for path in (tmp_path / "a/checkpoints").iterdir()] == [result.best_checkpoint.name]
    assert not (result.best_checkpoint / "optimizer.safetensors").exists()
    blind = train(tiny_config(material, run={"checkpoint_every": 0}, data={"validation": []}), tmp_path / "b")
    assert (blind.best_step, blind.best_env_ce) == (6, None)
    assert (blind.best_checkpoint / "model.safetensors").is_file()


def test_a_step_without_signal_is_counted_and_changes_nothing(material: Path, tmp_path: Path):
    """Catches a refusal, or a NaN from 0/0, where a real batch happens to have no observation (trap 19)."""
    data = tmp_path / "one_silent.parquet"
    write_trajectories(data, [episode(0), silent_episode(1)])
    config = tiny_config(material, data={"train": str(data)}, run={"trajectories_per_step": 1, "steps": 4})
    result = train(config, tmp_path / "run")
    silent = [row for row in rows(tmp_path / "run") if row["num_env_tokens"] == 0]
    assert result.num_steps_without_signal == len(silent) == 2
    assert all((row["env_ce"], row["grad_norm"], row["loss"]) == (None, 0, 0) for row in silent)


def test_a_run_in_which_no_position_is_selected_is_refused_at_the_start(material: Path, tmp_path: Path):
    """Catches ECHO configured and gradient absent (trap 23): hours of steps that train nothing."""
    write_trajectories(tmp_path / "silent.parquet", [silent_episode(0), silent_episode(1)])
    config = tiny_config(material, data={"train": str(tmp_path / "silent.parquet")})
    with pytest.raises(ConfigError, match=r"world_loss_target = 'env_only'.* selects no token"):
        train(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="selects no token"):
        train(tiny_config(material, objective={"source_coeffs": {"stdout": 0.0}}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_which_no_gradient_flows_is_refused_at_its_first_step(material: Path, tmp_path: Path):
    """Catches an engine whose weights no loss reaches (trap 23)."""

    class Numb:
        """An engine that forgets the gradient before each step."""

        def __init__(self, inner: LocalEngine) -> None:
            self._inner = inner

        def __getattr__(self, name: str):
            return getattr(self._inner, name)

        def optim_step(self, params: AdamParams) -> float:
            return 0.0

    engine = Numb(LocalEngine(material / "model", device="cpu", compute_dtype="float32"))
    with pytest.raises(EngineError, match=r"no gradient flows: step 1 weighs \d+ tokens"):
        train(tiny_config(material), tmp_path, engine=engine)


def test_pools_that_share_a_trajectory_are_refused(material: Path, tmp_path: Path):
    """Catches a checkpoint chosen on the held-out set (trap 25), and training on what judges it."""
    shared = tmp_path / "shared.parquet"
    write_trajectories(shared, [episode(300), episode(101)])
    with pytest.raises(ConfigError, match=r"'episode-101' is in \[data\] validation and in \[data\] held_out"):
        train(tiny_config(material, data={"held_out": [str(shared)]}), tmp_path / "run")
    with pytest.raises(ConfigError, match=r"'episode-101' is in \[data\] train and in \[data\] validation"):
        train(tiny_config(material, data={"train": str(shared)}), tmp_path / "run")
    write_trajectories(tmp_path / "twice.parquet", [episode(1), episode(1)])
    with pytest.raises(DataError, match="2 trajectories with 1 ids"):
        train(tiny_config(material, data={"train": str(tmp_path / "twice.parquet")}), tmp_path / "run")


def test_an_existing_run_needs_resume_or_overwrite(material: Path, tmp_path: Path):
    """Catches a run that is mixed into or replaced by another without being asked."""
    config = tiny_config(material)
    train(config, tmp_path)
    (tmp_path / "trajectories").mkdir()
    (tmp_path / "evaluation.json").write_text("{}")
    with pytest.raises(ConfigError, match="--resume to continue it, --overwrite to replace it"):
        train(config, tmp_path)
    other = tiny_config(material, optimizer={"learning_rate": 1e-4})
    with pytest.raises(ConfigError, match=r"another run: optimizer\.learning_rate differ"):
        train(other, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="exclude each other"):
        train(config, tmp_path, resume=True, overwrite=True)
    train(other, tmp_path, overwrite=True)
    assert rows(tmp_path)[1]["learning_rate"] == pytest.approx(1e-4 * 5 / 6)
    assert (tmp_path / "trajectories").is_dir()
    assert not (tmp_path / "evaluation.json").exists()


def test_data_that_changed_since_the_run_is_refused(material: Path, tmp_path: Path):
    """Catches a resumed run whose order points into other trajectories than before."""
    data = tmp_path / "train.parquet"
    write_trajectories(data, [episode(0), episode(1)])
    config = tiny_config(material, data={"train": str(data)})
    with pytest.raises(Stop):
        train(config, tmp_path / "run", on_event=stop_at(3))
    write_trajectories(data, [episode(0), episode(2)])
    with pytest.raises(ConfigError, match="trained on other data"):
        train(config, tmp_path / "run", resume=True)


def test_long_trajectories_become_windows(material: Path, tmp_path: Path):
    """Catches a context limit that cuts observations away instead of training each once."""
    whole = train(tiny_config(material, run={"steps": 4}), tmp_path / "whole")
    windows = train(tiny_config(material, run={"steps": 4}, data={"max_tokens": 60}), tmp_path / "windows")
    assert windows.num_tokens == whole.num_tokens
    assert sum(row["num_sequences"] for row in rows(tmp_path / "windows")) > sum(
        row["num_sequences"] for row in rows(tmp_path / "whole")
    )
