"""`envecho eval` on a tiny real model: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pool_builders import box_episode, write_pool

from envecho.cli.eval import command
from envecho.errors import ConfigError, DataError
from envecho.evaluation import Evaluation, read_evaluation, read_sums, summarize_sums


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
    assert set(results) == {"base", "trained", "ngram", "ppm", "zstd", "lzma"}
    assert results["base"] == results["trained"]
    for name in ("base", "trained", "ngram", "ppm"):
        assert set(results[name].slices["token_class"]) == {"copied", "predictable", "novel"}
    assert set(results["trained"].controls) == {"action_swap", "action_blank", "observation_shuffle"}
    assert set(results["trained"].probes) == {"exit_status", "file_exists", "line_count", "free_running"}
    assert {(a.predictor, a.reference) for a in printed.attributions} == {
        ("trained", "base"),
        ("trained", "ngram"),
        ("trained", "ppm"),
    }
    assert printed.models == {"base": str(tiny_dir), "trained": str(tiny_dir)}
    assert printed.facts["new_boxes"].num_env_tokens == results["trained"].num_tokens
    sums = read_sums(tmp_path / "sums.parquet")["new_boxes"]
    assert {name: summarize_sums(found).ce_per_token for name, found in sums.items()} == {
        name: result.ce_per_token for name, result in results.items() if name in sums
    }
    assert "<html" in (tmp_path / "report.html").read_text()
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
    for text in ("2 trajectories of 2 tasks", "boilerplate", "copied", "novel", "action blank", "free running", "zstd"):
        assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if "/" not in line) <= 100


def test_two_pools_of_one_name_are_refused(tiny_dir: Path, data: tuple[Path, Path], tmp_path: Path):
    """Catches a pool that silently takes another's place."""
    twin = write_pool(tmp_path / "new_boxes.parquet", [box_episode(3)])
    with pytest.raises(ConfigError, match="two --data are named 'new_boxes'"):
        run("--model", tiny_dir, "--data", data[0], "--data", twin)


def test_a_pool_larger_than_the_sample_is_measured_whole(tiny_dir: Path, tmp_path: Path):
    """Catches figures that are over the sample alone, or a sample that moves with the order of the file."""
    episodes = [box_episode(number) for number in range(5)]
    one = write_pool(tmp_path / "one.parquet", episodes)
    two = write_pool(tmp_path / "two.parquet", episodes[::-1])
    files = ("--data", f"a={one}", "--data", f"b={two}", "--sample", "2", "--no-probes", "--temperature", "0.7")
    done = run("--model", tiny_dir, *files, "--json")
    found = Evaluation.model_validate_json(done.stdout)
    assert found.facts["a"].num_trajectories == 5
    ours, theirs = found.pools["a"]["trained"], found.pools["b"]["trained"]
    assert ours.ce_per_token.num_tasks == 5
    assert ours.action_swap_gap.num_tasks == 2
    assert ours.ce_at_temperature.num_tokens == ours.num_tokens
    assert ours.ce_at_temperature.value != ours.ce_per_token.value
    assert found.temperature == 0.7
    assert ours.ce_per_token.value == pytest.approx(theirs.ce_per_token.value, rel=1e-5)
    assert ours.controls["action_swap"].gap.value == pytest.approx(theirs.controls["action_swap"].gap.value, rel=1e-3)
    assert ours.probes == {}


def test_what_costs_extra_passes_can_be_left_out(tiny_dir: Path, data: tuple[Path, Path]):
    """Catches a control that runs although it was declined: on a large model that is an hour."""
    done = run("--model", tiny_dir, "--data", data[0], "--no-controls", "--no-probes", "--json")
    (result,) = Evaluation.model_validate_json(done.stdout).pools["new_boxes"].values()
    assert (result.controls, result.probes, result.action_swap_gap) == ({}, {}, None)


def test_what_comes_out_alike_again_is_known_to_do_so(tiny_dir: Path, tmp_path: Path):
    """Catches a floor that is measured and left out of the slices, or of the file."""
    from envecho.recipes.collect import CollectConfig, collect_to_file

    collect_to_file(CollectConfig(world="depot", policy="explore", num_episodes=2), tmp_path / "depot.parquet")
    done = run(
        "--model", tiny_dir, "--data", tmp_path / "depot.parquet", "--no-controls", "--no-probes", "--floor", "--json"
    )
    found = Evaluation.model_validate_json(done.stdout)
    assert found.floors["depot"].identical_observations.value == 1
    assert found.floors["depot"].different_tokens.value == 0
    assert found.pools["depot"]["trained"].slices["repeat"]["same"].share == 1


@pytest.mark.parametrize("name", ["trace.jsonl", "trace.parquet", "traces"])
def test_traces_that_were_not_imported_name_the_command_that_does(tiny_dir: Path, tmp_path: Path, name: str):
    """Catches `torn Parquet file` as the answer to an agent's own log."""
    path = tmp_path / name
    file = path / "session.json" if name == "traces" else path
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"messages": []}\n')
    with pytest.raises(DataError, match=f"envecho import .*{name}"):
        run("--model", tiny_dir, "--data", path)


def test_models_of_two_tokenizers_are_refused(
    tiny_dir: Path, data: tuple[Path, Path], tmp_path: Path, smollm2_tokenizer
):
    """Catches nats per token of one tokenizer compared with those of another."""
    from shutil import copytree

    other = copytree(tiny_dir, tmp_path / "other")
    (other / "chat_template.jinja").write_text(smollm2_tokenizer.chat_template + "{# changed #}")
    with pytest.raises(ConfigError, match="different tokenizers or chat templates"):
        run("--model", tiny_dir, "--base", other, "--data", data[0])
