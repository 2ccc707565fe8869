"""The page of an evaluation of version 2: what it answers, and every part that the file has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from page_reader import Page
from synthetic_evaluation import evaluation_v2, write_synthetic_evaluation
from synthetic_run import HOSTILE, write_synthetic_run

from envecho.evaluation.results import Evaluation, Stat
from envecho.reports import write_report
from envecho.reports.answers import (
    ALONE,
    NO,
    OPEN,
    UNKNOWN,
    YES,
    answers,
    answers_table,
    attribution_sentence,
    read_sign,
)
from envecho.reports.evaluation_tables import controls_table, pooled_table, probe_tables, slice_tables
from envecho.tokens.view import visible_text

SECTIONS = ["answers", "figures", "slices", "controls", "probes", "operations", "readouts", "tokens", "made",
            "definitions"]  # fmt: skip


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_synthetic_evaluation(tmp_path_factory.mktemp("evaluation")))


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report)


def evaluation(**changes: Any) -> Evaluation:
    return Evaluation.model_validate({**evaluation_v2(), **changes})


def test_every_part_of_the_file_has_its_place(page: Page, report: Path):
    """Catches a part of evaluation.json that silently disappears from its page."""
    assert page.sections == SECTIONS
    for words in (
        "envecho evaluation report", "The pools", "runs/x/new_boxes.parquet", "Pools side by side",
        "Paired differences", "Pooled in other ways", "Per token at T = 0.8", "Zstandard", "LZMA", "By token class",
        "What nobody could have known", "Will it fail?", "What does it say?", "another episode",
        "By exit status",
    ):  # fmt: skip
        assert words in page.words
    for name in ("attribution", "classes", "controls", "operations"):
        assert (report.parent / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_same_parts_stand_in_the_page_of_a_run(tmp_path: Path):
    """Catches a run whose evaluation is shown with less than a page of its own would show."""
    run = write_synthetic_run(tmp_path / "run")
    write_synthetic_evaluation(run, sums=False)
    assert Page(write_report(run)).sections == ["curve", *SECTIONS]


def test_hostile_keys_are_text(page: Page):
    """Catches a command's name that leaves its table cell."""
    assert visible_text(HOSTILE).splitlines()[0] in page.words
    assert page.count("script") == 1
    assert page.comments == []


def test_the_finding_says_where_the_saving_lies():
    """Catches shares of another pool or pair, and a part that is left out of the sentence."""
    made = evaluation()
    ours = next(a for a in made.attributions if (a.pool, a.reference) == ("new_boxes", "base"))
    sentence = attribution_sentence(made, "new_boxes")
    assert f"saves +{ours.saved.value:.2f} nats per token against the base model" in sentence
    for name, words in {"boilerplate": "the harness’s phrases", "volatile": "volatile output"}.items():
        part = ours.parts[name]
        assert part.share is not None
        assert f"+{part.saved.value:.2f} on {words} ({100 * part.share:.0f}\u00a0%)" in sentence


def test_a_model_that_got_worse_is_told_in_the_same_words():
    """Catches praise: words that a good result gets and a bad one does not."""

    def words(text: str) -> str:
        return "".join(char for char in text if not char.isdigit()).replace("−", "+")

    good, bad = (attribution_sentence(Evaluation.model_validate(evaluation_v2(sign=s)), "new_boxes") for s in (1, -1))
    assert "saves −" in bad
    assert words(good) == words(bad)


@pytest.mark.parametrize(
    ("low", "high", "answer"),
    [(0.1, 0.3, YES), (-0.3, -0.1, NO), (-0.1, 0.2, OPEN), (0.0, 0.2, OPEN), (None, None, ALONE)],
)
def test_an_answer_needs_an_interval_on_one_side_of_nought(low: float | None, high: float | None, answer: str):
    """Catches a yes for a difference that chance alone would make."""
    assert read_sign(Stat(value=0.1, low=low, high=high, num_tokens=9, num_tasks=2)) == answer


def test_each_question_is_answered_by_its_own_figure():
    """Catches a control under another control's question, and a saving with the sign of a cost."""
    made = evaluation()
    found = {answer.question: answer for answer in answers(made, "new_boxes")}
    trained = made.pools["new_boxes"]["trained"]
    blank = next(answer for question, answer in found.items() if "blank" in question)
    assert blank.figure == trained.controls["action_blank"].gap
    copier = next(answer for question, answer in found.items() if "copier" in question)
    best = next(c for c in made.comparisons if (c.pool, c.reference, c.tokens) == ("new_boxes", "ppm", "derivable"))
    assert copier.figure is not None
    assert (copier.figure.value, copier.figure.low) == (-best.difference.value, -(best.difference.high or 0))
    assert {answer.text for answer in found.values()} == {YES}


def test_what_was_not_measured_is_said_and_counted():
    """Catches an empty cell, or a nought, where nothing was measured."""
    made = evaluation(attributions=[], comparisons=[])
    assert [answer.text for answer in answers(made, "new_boxes")][:5] == [UNKNOWN] * 5
    table = answers_table(made)
    assert table is not None
    assert len(table.groups[0].rows) == 3
    assert table.caption.endswith("Of 8 questions 5 were not measured.")


def test_a_saving_against_a_copier_answers_no_question_about_the_base_model():
    """Catches an untrained model's page that says the phrases became cheaper, since a copier pays more for them."""
    made = evaluation_v2()
    made["attributions"] = [item for item in made["attributions"] if item["reference"] == "ngram"]
    of_copier = Evaluation.model_validate(made)
    phrases = answers(of_copier, "new_boxes")[0]
    assert (phrases.figure, phrases.text) == (None, UNKNOWN)
    assert "against the n-gram copier" in attribution_sentence(of_copier, "new_boxes")


def test_a_control_without_a_gap_keeps_its_counts():
    """Catches a crash, or a nought, for a control that no observation could be used for."""
    made = evaluation_v2()
    for pool in made["pools"].values():
        pool["trained"]["controls"]["action_swap"] = {
            "gap": None,
            "counts": {"num_observations": 0, "num_unaligned": 3},
        }
    table = controls_table(Evaluation.model_validate(made))
    assert table is not None
    row = next(row for row in table.groups[0].rows if row.predictor == "trained")
    assert [cell.text for cell in row.cells] == ["–", "observations 0, unaligned 3"]


def test_slices_are_sorted_by_figures_and_have_all_predictors():
    """Catches a table that sorts `10.5` before `9.1`, or leaves a copier out."""
    classes = slice_tables(evaluation())[0]
    assert classes.title == "By token class"
    predictors = ("Base model", "Trained model", "N-gram copier", "Suffix copier")
    assert classes.table.head == ("Share", "Tokens", *predictors, "Trained: first choice right")
    group = classes.table.groups[0]
    assert [row.label for row in group.rows] == ["copied", "predictable", "novel", "volatile"]
    assert all(cell.value is not None and cell.interval for row in group.rows for cell in row.cells[2:])


def test_compressors_have_bytes_alone_and_probes_their_own_measures():
    """Catches a column of dashes, or a nought for what a compressor cannot say."""
    made = evaluation()
    pooled = pooled_table(made)
    assert pooled is not None
    zstd = next(row for row in pooled.groups[0].rows if row.label == "Zstandard")
    assert [cell.text for cell in zstd.cells] == ["–", "–", "–", "0.710", "–", "–"]
    heads = {table.title: table.table.head for table in probe_tables(made)}
    assert heads["What does it say?"] == ("Questions", "Exact match", "Edit similarity", "Counts")


def test_an_evaluation_of_a_base_model_alone_has_a_page(tmp_path: Path):
    """Catches parts that take a trained model for granted."""
    made = evaluation_v2(hostile=False)
    made["pools"] = {pool: {"base": results["base"]} for pool, results in made["pools"].items()}
    made |= {"attributions": [], "comparisons": [], "models": {"base": "m"}}
    (tmp_path / "evaluation.json").write_text(json.dumps(made))
    page = Page(write_report(tmp_path))
    assert page.sections == [name for name in SECTIONS if name != "answers"]
