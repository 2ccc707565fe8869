"""The committed measurements of training steps keep what the documents say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from envecho.recipes.bench_step_table import flop_rate

RESULTS = Path(__file__).parents[2] / "results" / "bench"


def cases_in(name: str) -> list[dict[str, Any]]:
    """The cases of a committed measurement."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))["cases"]


def test_an_echo_step_costs_at_most_four_fifths_of_a_grpo_step_of_trl():
    """Catches a slower step than the one that is claimed, in either precision, with checkpointing and without."""
    cases = cases_in("step") + cases_in("step-checkpointing")
    assert {(case["case"]["dtype"], case["case"]["checkpointing"]) for case in cases} == {
        ("float32", False),
        ("bfloat16", False),
        ("bfloat16", True),
    }
    assert max(case["ratios"]["echo/trl step"]["median"] for case in cases) <= 0.80


def test_the_readme_says_what_was_measured():
    """Catches figures of an older measurement."""
    words = " ".join((RESULTS.parents[1] / "README.md").read_text(encoding="utf-8").split())
    single, half = (case["ratios"] for case in cases_in("step"))
    told = [
        f"takes {single['echo/trl step']['median']:.2f} of the time",
        f"and {half['echo/trl step']['median']:.2f} in",
    ]
    rises = [round(100 * (ratios["echo/grpo pass"]["median"] - 1)) for ratios in (single, half)]
    assert all(text in words for text in told)
    assert f"costs {rises[0]} % of a pass in float32 and {rises[1]} % in bfloat16" in words


@pytest.mark.parametrize(("name", "most"), [("echo/grpo pass", 1.05), ("echo/body pass", 1.15)])
def test_observations_cost_what_their_flops_say(name: str, most: float):
    """Catches a head that costs more per token than its products, and an engine that adds to the body."""
    assert max(case["ratios"][name]["over_predicted"] for case in cases_in("step")) <= most


def test_the_peak_of_memory_is_less_than_half_of_all_logits():
    """Catches logits of more than a chunk, which 4 x 2,048 tokens show first."""
    (single, *_) = cases = cases_in("step-memory")
    assert (single["num_tokens"], single["case"]["length"], single["case"]["checkpointing"]) == (8192, 2048, True)
    assert max(case["memory_ratios"]["echo/all-logits"] for case in cases) <= 0.5


@pytest.mark.parametrize(("name", "tokens"), [("step-scaling", 32768), ("step-sequence", 8192)])
def test_time_grows_with_the_flops(name: str, tokens: int):
    """Catches a step that is more than linear in its tokens, and attention that costs more than its FLOPs."""
    cases = cases_in(name)
    assert cases[-1]["num_tokens"] == tokens
    rates = [flop_rate(cases, case, "echo") for case in cases]
    assert min(rate for rate in rates if rate is not None) >= 0.9
