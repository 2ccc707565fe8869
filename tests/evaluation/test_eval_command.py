"""`envecho eval` on a tiny real model: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pool_builders import box_episode, write_pool

from envecho.cli.eval import command
from envecho.errors import ConfigError
from envecho.evaluation import Evaluation, read_evaluation


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    held_out = write_pool(folder / "new_boxes.parquet", [box_episode(number) for number in range(2)])
    return held_out, write_pool(folder / "train.parquet", [box_episode(number) for number in range(10, 14)])


def run(*args: str | Path):
    return CliRunner().invoke(command, [str(arg) for arg in args], catch_exceptions=False)


def test_a_model_is_measured_beside_its_base_and_the_baselines(tiny_dir: Path, data: tuple[Path, Path], tmp_path: Path):
    """Catches a command that prints one thing and writes another, or leaves a control out."""
    held_out, train = data
    args = ("--model", tiny_dir, "--base", tiny_dir, "--data", held_out, "--train", train, "--out", tmp_path)
    done = run(*args, "--json")
    assert done.exit_code == 0
    printed = Evaluation.model_validate_json(done.stdout)
    assert printed == read_evaluation(tmp_path / "evaluation.json")
    results = printed.pools["new_boxes"]
    assert set(results) == {"base", "trained", "ngram", "ppm"}
    assert results["base"] == results["trained"]
    assert results["trained"].action_swap_gap is not None
    assert results["ngram"].action_swap_gap is None
    assert {c.reference for c in printed.comparisons} == {"base", "ngram", "ppm"}
    assert {r.operation for r in printed.readouts} == {"slice", "filter", "count"}
    assert set(printed.readouts[0].predictions) == {"base", "trained"}
    (view,) = printed.token_views
    assert view.predictors == ("base", "trained", "ngram", "ppm")
    with pytest.raises(ConfigError, match="pass --overwrite"):
        run(*args)
    assert json.loads((tmp_path / "evaluation.json").read_text()) == json.loads(done.stdout)


def test_people_get_a_table_with_the_figures_and_what_was_left_out(tiny_dir: Path, data: tuple[Path, Path]):
    """Catches figures that only the JSON has, and swaps that were left out in silence."""
    done = run("--model", tiny_dir, "--data", data[0])
    assert done.exit_code == 0
    for text in ("new_boxes", "derivable", "first view", "swap gap", "trained", "slice", "filter", "count", "swaps:"):
        assert text in done.stdout


def test_two_pools_of_one_name_are_refused(tiny_dir: Path, data: tuple[Path, Path], tmp_path: Path):
    """Catches a pool that silently takes another's place."""
    twin = write_pool(tmp_path / "new_boxes.parquet", [box_episode(3)])
    with pytest.raises(ConfigError, match="two --data are named 'new_boxes'"):
        run("--model", tiny_dir, "--data", data[0], "--data", twin)


def test_models_of_two_tokenizers_are_refused(
    tiny_dir: Path, data: tuple[Path, Path], tmp_path: Path, smollm2_tokenizer
):
    """Catches nats per token of one tokenizer compared with those of another."""
    from shutil import copytree

    other = copytree(tiny_dir, tmp_path / "other")
    (other / "chat_template.jinja").write_text(smollm2_tokenizer.chat_template + "{# changed #}")
    with pytest.raises(ConfigError, match="different tokenizers or chat templates"):
        run("--model", tiny_dir, "--base", other, "--data", data[0])
