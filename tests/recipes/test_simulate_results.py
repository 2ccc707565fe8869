"""The committed example of `envecho simulate`: read by the strict reader, and quoted as it is."""

from __future__ import annotations

import re
from pathlib import Path

from envecho.evaluation.simulation import MODES, read_simulation
from envecho.recipes.simulate_scores import model_result
from envecho.reports.simulation import finding

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results" / "simulate"


def test_the_documentation_quotes_the_example_as_its_file_has_it():
    """Catches figures that nobody can find in a file, and a command that makes another one."""
    simulation = read_simulation(RESULTS / "simulation.json")
    page = re.sub(r"\s+", " ", (ROOT / "docs" / "simulate.md").read_text())
    assert finding(simulation) in page
    assert simulation.command in page
    assert simulation.command.endswith("--out results/simulate")


def test_the_readme_quotes_the_pairs_as_the_file_has_them():
    """Catches a README that keeps the figures of an older example."""
    plan = read_simulation(RESULTS / "simulation.json").plan_ahead
    assert plan is not None
    found = {role: result.accuracy for role, result in plan.results.items()}
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text())
    own, base = (f"{found[role].value:.1%}".replace("%", " %") for role in ("model", "base"))
    assert f"right in {own} of {found['model'].num_tokens} pairs, the base model in {base}" in readme


def test_the_examples_figures_follow_from_its_answers():
    """Catches figures that were made by another version than the answers beside them."""
    simulation = read_simulation(RESULTS / "simulation.json")
    for role, result in simulation.results.items():
        again = model_result(simulation.observations, role, seed=simulation.seed)
        for mode in MODES:
            assert again.modes[mode].similarity == result.modes[mode].similarity
            assert again.modes[mode].exact_match == result.modes[mode].exact_match
        assert [point.number for point in again.drift] == [point.number for point in result.drift]


def test_the_page_beside_the_example_is_of_these_figures():
    """Catches a page that was not made again with its file."""
    html = (RESULTS / "simulation.html").read_text()
    sentence = finding(read_simulation(RESULTS / "simulation.json"))
    assert sentence.replace("'", "&#39;") in html
