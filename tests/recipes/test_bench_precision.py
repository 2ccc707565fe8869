"""The precision benchmark: its errors are what they say, and the committed figures keep what is promised."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from envecho.engines.micro_batches import split_batch
from envecho.recipes import bench_precision as precision
from envecho.recipes.bench_evaluation import make_narrow_model

RESULTS = Path(__file__).parents[2] / "results" / "bench" / "precision.json"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("narrow") / "model"
    make_narrow_model(folder, seed=0)
    return folder


def answer(**changed: object) -> precision.Answer:
    usual = precision.Answer(
        loss=2.0,
        policy_logprobs=np.array([np.nan, -1.0, np.nan]),
        env_logprobs=np.array([np.nan, np.nan, -2.0]),
        gradients={"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])},
    )
    return dataclasses.replace(usual, **changed)  # type: ignore[arg-type]


def split_differences(figures: dict[str, dict[str, float]]) -> dict[str, float]:
    found = {title: row["gradient_difference"] for title, row in figures.items() if "gradient_difference" in row}
    assert len(found) == len(precision.SPLITS) + len(precision.CHUNK_SIZES)
    return found


def test_errors_are_relative_in_norm_and_name_the_worst_tensor():
    """Catches a mean over tensors, an error over the wrong side, and one that a large tensor hides."""
    found = answer(loss=1.0, env_logprobs=np.array([np.nan, np.nan, -2.5], dtype=np.float32), gradients={
        "a": np.array([3.0, 3.0], dtype=np.float32), "b": np.array([[4.0]]),
    })  # fmt: skip
    errors, worst = precision.errors_of(found, answer())
    expected = {"gradient_error": 0.6, "tensor_error": 1.0, "loss_error": 0.5, "logprob_error": 0.5}
    assert errors == pytest.approx(expected)
    assert worst == "a"
    assert precision.errors_of(answer(), answer())[0] == dict.fromkeys(expected, 0.0)
    with pytest.raises(ValueError, match=r"other parameters: \['b'\]"):
        precision.errors_of(answer(gradients={"a": np.zeros(2)}), answer())
    with pytest.raises(ValueError, match="other tokens"):
        precision.errors_of(answer(policy_logprobs=np.array([np.nan, -1.0, -1.0])), answer())


def test_the_batch_weighs_both_terms_and_can_be_packed_and_shared(narrow: Path):
    """Catches a gradient of one term alone, and rows named packed or shared that hold nothing of the kind."""
    batch = precision.text_batch(narrow, precision.LENGTHS, seed=0)
    for weights in (batch.policy_weights, batch.env_weights):
        assert float(weights.sum()) == pytest.approx(1)
        assert set(batch.sequence_index[weights != 0].tolist()) == {0, 1}
    cut = precision.text_batch(narrow, precision.SPLIT_LENGTHS, seed=0, share=True)
    assert any(micro.is_packed for micro in split_batch(cut, 1000, packing=True))
    rows = [cut.token_ids[cut.sequence_index == number].tolist() for number in range(4)]
    assert [len(row) for row in rows] == list(precision.SPLIT_LENGTHS)
    assert rows[0][:48] == rows[1]
    assert rows[2][:16] == rows[3]
    assert rows[0][:16] != rows[2][:16]


def test_the_reference_sees_what_an_error_changes(narrow: Path):
    """Catches a float64 side that is computed from the engine, and comparisons of the same thing with itself."""
    batch = precision.text_batch(narrow, (40, 24), seed=0)
    exact = precision.plain_answer(narrow, batch, torch.float64)
    other = dataclasses.replace(batch, temperature=1.0, env_weights=batch.env_weights * 2)
    errors, _ = precision.errors_of(precision.plain_answer(narrow, other, torch.float64), exact)
    assert min(errors.values()) > 1e-3


def test_a_small_model_is_measured_and_the_table_says_it(narrow: Path, tmp_path: Path, capsys):
    """Catches a precision that is never asked for, and float64 gradients that depend on the split."""
    precision.main(["--model", str(narrow), "--out", str(tmp_path / "precision.json")])
    document = json.loads((tmp_path / "precision.json").read_text())
    assert capsys.readouterr().out == precision.table(document)
    figures = {title: {key: v["median"] for key, v in found.items()} for title, found in document["results"].items()}
    for who in ("transformers", "envecho"):
        assert 1e-8 < figures[f"{who}, float32"]["gradient_error"] < 1e-4
    rough = [figures[title]["gradient_error"] for title in figures if "bfloat16" in title]
    assert len(rough) == 3
    assert all(1e-4 < error < 0.1 for error in rough)
    assert figures["envecho, float64"]["gradient_error"] < 1e-12
    apart = split_differences(figures)
    assert 0 < max(apart.values()) < 1e-12


def test_the_committed_figures_keep_what_is_promised():
    """Catches float64 gradients that a split changes by more than 1e-12, and an engine less exact than it says."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert document["material"]["model"] == "smollm2-135m"
    figures = {title: {key: v["median"] for key, v in found.items()} for title, found in document["results"].items()}
    apart = split_differences(figures)
    assert max(apart.values()) < 1e-12
    for key in ("gradient_error", "tensor_error"):
        assert figures["envecho, float64"][key] < 1e-12
        assert figures["envecho, float32"][key] < 2 * figures["transformers, float32"][key]
        assert figures["envecho, bfloat16"][key] < 2 * figures["transformers, bfloat16 weights"][key]
