"""`evaluation.json`: what is written is what is read, and nothing unknown is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envecho.errors import DataError
from envecho.evaluation import Evaluation, PredictorResult, Stat, best_baseline, read_evaluation, write_evaluation


def result(ce_derivable: float | None, *, ce: float = 1.0) -> PredictorResult:
    def stat(value: float) -> Stat:
        return Stat(value=value, low=value - 0.1, high=value + 0.1, num_tokens=10, num_tasks=2)

    return PredictorResult(
        ce_per_token=stat(ce),
        ce_per_byte=stat(ce / 3),
        ce_first_view=None,
        ce_derivable=None if ce_derivable is None else stat(ce_derivable),
        top1_accuracy=stat(0.5),
        action_swap_gap=None,
        num_tokens=10,
        by_source={"stdout": stat(ce)},
        by_operation={},
    )


def test_an_evaluation_survives_its_file(tmp_path: Path):
    """Catches a field that is written under another name than it is read, and a half-written file left behind."""
    evaluation = Evaluation(pools={"new_boxes": {"base": result(0.7), "ngram": result(None)}})
    write_evaluation(tmp_path / "evaluation.json", evaluation)
    assert read_evaluation(tmp_path / "evaluation.json") == evaluation
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation.json"]
    data = json.loads((tmp_path / "evaluation.json").read_text())
    assert (data["format"], data["version"]) == ("envecho.evaluation", 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(version=3), "version 1 to 2, found 'envecho.evaluation' 3"),
        (lambda d: d.update(notes="x"), "notes: Extra inputs"),
        (lambda d: d["pools"]["p"].update(gpt=d["pools"]["p"]["base"]), "gpt"),
        (lambda d: d["pools"]["p"]["base"].pop("num_tokens"), "num_tokens: Field required"),
    ],
)
def test_a_file_of_another_kind_is_refused_by_name(tmp_path: Path, change, message: str):
    """Catches a reader that passes over keys that it does not know, so that a newer file is misread in silence."""
    file = tmp_path / "evaluation.json"
    write_evaluation(file, Evaluation(pools={"p": {"base": result(0.7)}}))
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        read_evaluation(file)
    file.write_text("not json")
    with pytest.raises(DataError, match="expected JSON"):
        read_evaluation(file)


def test_the_stronger_copy_baseline_is_the_one_that_counts():
    """Catches a summary that compares the model with the weaker baseline, or picks by first views."""
    assert best_baseline({"base": result(0.1), "ngram": result(0.5), "ppm": result(0.4, ce=9)}) == "ppm"
    assert best_baseline({"ngram": result(None, ce=0.3), "ppm": result(None, ce=0.4)}) == "ngram"
    with pytest.raises(DataError, match="copy baseline"):
        best_baseline({"base": result(0.1)})


def test_measures_are_the_values_under_the_names_of_the_summary():
    """Catches a summary.json whose figures are objects, or that lacks one of DESIGN's names."""
    assert result(0.7).measures() == {
        "ce_per_token": 1.0,
        "ce_per_byte": pytest.approx(1 / 3),
        "ce_first_view": None,
        "ce_derivable": 0.7,
        "top1_accuracy": 0.5,
        "action_swap_gap": None,
        "num_tokens": 10,
    }
