"""The parts of a step, timed beside each other: every row is there, and the ways compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.recipes import bench_kernels

RESULTS = Path(__file__).parents[2] / "results" / "bench" / "kernels.json"
SMALL = {"vocab_size": 61, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "ways",
    [
        bench_kernels.product(16),
        bench_kernels.attention(40, torch.float32),
        bench_kernels.head(6, torch.float32, other_chunk=None),
        bench_kernels.head(6, torch.float32, other_chunk=2),
    ],
    ids=["product", "attention", "head", "chunks"],
)
def test_the_two_ways_of_a_row_compute_the_same(ways: bench_kernels.Ways):
    """Catches a comparison of unequal work."""
    found = [way() for way in ways]
    pairs = zip(*found, strict=True) if isinstance(found[0], tuple) else [found]
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_a_run_has_every_row_and_its_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Catches a row that the table does not have, and a process of the allocator's that measures nothing."""
    LlamaForCausalLM(LlamaConfig(**SMALL)).save_pretrained(tmp_path / "model")
    out = tmp_path / "kernels.json"
    bench_kernels.main(["--model", str(tmp_path / "model"), "--out", str(out), "--repetitions", "1", "--scale", "64"])
    document = json.loads(out.read_text())
    committed = json.loads(RESULTS.read_text())
    assert len(document["results"]) == len(committed["results"]) == 18
    assert all(found["pass_seconds"]["min"] > 0 for title, found in document["results"].items() if "freed" in title)
    assert "kept" in capsys.readouterr().out


def test_the_committed_parts_are_as_fast_as_the_page_says():
    """Catches a part that has become slower than what it stands in for, on a processor that profits from it."""
    document = json.loads(RESULTS.read_text())
    ratios = {title: found["ratio"]["median"] for title, found in document["results"].items() if "ratio" in found}
    if document["material"]["uses oneDNN"]:
        assert ratios["float32 product, 1,024 rows: ours : torch's"] < 0.6
    assert all(value < 0.9 for title, value in ratios.items() if "attention" in title)
    assert all(value < 1 for title, value in ratios.items() if "log-probs first" in title)
