"""Models of which it is known what they know: the suite tells them apart, each by the measure made for it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from planted_table import DOCS, MARKS, PATH, markdown, measure

from envecho.tokens import ChatTokenizer

Figures = dict[str, dict[str, float]]
CLASSES = ("copied", "predictable", "novel")
GAPS = ("gap_action_swap", "gap_action_blank", "gap_observation_shuffle")


@pytest.fixture(scope="module")
def figures(tokenizer: ChatTokenizer) -> Any:
    return measure(tokenizer)


def _best(figures: Figures, measure: str, *, lowest: bool) -> list[str]:
    """The planted models in the order of a measure, the best first."""
    planted = ("lookup", "phrases", "copier")
    return sorted(planted, key=lambda name: figures[name][measure] * (1 if lowest else -1))


def test_the_committed_table_is_what_the_suite_says_today(figures: Figures) -> None:
    """Catches a table in the docs that a change of a measure has left behind."""
    committed = json.loads(PATH.read_text(encoding="utf-8"))
    assert figures.keys() == committed.keys()
    for name, values in committed.items():
        assert figures[name] == pytest.approx(values, abs=2e-4), name


def test_the_table_of_the_docs_is_that_of_the_committed_file() -> None:
    """Catches numbers in the docs that no file holds."""
    table = markdown(json.loads(PATH.read_text(encoding="utf-8")))
    assert f"{MARKS[0]}{table}{MARKS[1]}" in DOCS.read_text(encoding="utf-8")


def test_the_cost_of_boilerplate_singles_out_the_model_that_knows_phrases_alone(figures: Figures) -> None:
    """Catches boilerplate that is scored among the world's tokens, or phrases whose cost nobody reports."""
    assert _best(figures, "ce_boilerplate", lowest=True)[0] == "phrases"
    assert figures["phrases"]["ce_boilerplate"] < 0.5
    assert figures["lookup"]["ce_boilerplate"] == pytest.approx(figures["blank"]["ce_boilerplate"])
    assert figures["phrases"]["ce_per_token"] >= figures["blank"]["ce_per_token"]


def test_attribution_says_where_each_model_saves(figures: Figures) -> None:
    """Catches shares that are of a class's own tokens rather than of all that is saved."""
    shares = {name: {part: figures[name][f"share_{part}"] for part in ("boilerplate", *CLASSES)} for name in figures}
    assert shares["phrases"]["boilerplate"] > 1
    assert all(shares["phrases"][part] < 0 for part in CLASSES)
    assert shares["lookup"]["boilerplate"] == 0
    assert all(shares["lookup"][part] > 0.25 for part in CLASSES)
    assert max(shares["copier"], key=lambda part: shares["copier"][part]) == "copied"
    assert shares["copier"]["novel"] < 0.1


def test_the_copied_class_and_the_copy_baseline_single_out_the_copier(figures: Figures) -> None:
    """Catches a class `copied` that a copier cannot know, and a suite that takes copying for knowledge of the world.

    The lookup table knows copied tokens, too; what sets the copier apart is that it knows nothing else, and that a
    baseline which copies knows as much.
    """
    copier, ppm, blank = figures["copier"], figures["ppm"], figures["blank"]
    assert copier["ce_copied"] < 0.5 < 0.9 * blank["ce_novel"] < copier["ce_novel"]
    assert copier["ce_copied"] > ppm["ce_copied"]
    assert copier["ce_derivable"] > ppm["ce_derivable"]
    assert figures["lookup"]["ce_derivable"] < 0.1 * ppm["ce_derivable"]


def test_what_nobody_can_copy_singles_out_the_lookup_table(figures: Figures) -> None:
    """Catches novel or derivable tokens that a model without the world's knowledge is cheap on."""
    for name in ("ce_novel", "ce_predictable", "ce_derivable", "ce_first_view"):
        first, second, _ = _best(figures, name, lowest=True)
        assert first == "lookup", name
        assert figures[second][name] > 10 * figures["lookup"][name], name


def test_controls_single_out_the_lookup_table(figures: Figures) -> None:
    """Catches a control that a model passes which reads no command: its gap must be 0."""
    for gap in GAPS:
        assert figures["phrases"][gap] == pytest.approx(0, abs=1e-6), gap
        assert figures["blank"][gap] == pytest.approx(0, abs=1e-6), gap
        assert figures["lookup"][gap] > 10, gap
    for gap in GAPS[:2]:
        assert figures["copier"][gap] < 0.05 * figures["lookup"][gap], gap


def test_probes_single_out_the_lookup_table(figures: Figures) -> None:
    """Catches a probe that can be answered without the world, or that one who knows the world fails.

    The table knows no phrase, so that a command fails without a word it cannot say: a third of the failures here.
    """
    lookup = figures["lookup"]
    for name in ("file_exists_accuracy", "line_count_exact_match", "line_count_accuracy", "free_running_exact_match"):
        assert lookup[name] == 1, name
        assert all(figures[other][name] < 0.9 for other in ("phrases", "copier", "blank")), name
    assert lookup["free_running_edit_similarity"] == 1 > figures["copier"]["free_running_edit_similarity"] + 0.5
    for name in ("exit_status_balanced_accuracy", "exit_status_auc"):
        assert lookup[name] > max(figures[other][name] for other in ("phrases", "copier", "blank")) + 0.15, name
    for name in ("file_exists_balanced_accuracy", "exit_status_balanced_accuracy"):
        assert figures["phrases"][name] == figures["blank"][name] == 0.5, name
