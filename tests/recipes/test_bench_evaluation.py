"""`envecho bench evaluation`: the bare pass is a fair one, and the committed figures keep what was promised."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from envecho.engines.model import load_causal_model
from envecho.recipes import bench_evaluation as measure
from envecho.tokens import ChatTokenizer
from envecho.trajectory.store import read_trajectories

RESULT = Path(__file__).parents[2] / "results" / "bench" / "evaluation.json"


@pytest.fixture(scope="module")
def narrow(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bench") / "narrow"
    measure.make_narrow_model(folder, seed=0)
    return folder


def test_the_material_is_what_the_figures_are_said_to_be_over(narrow: Path, tmp_path: Path):
    """Catches episodes that are shorter than the name of the measurement says, and parts that lack some."""
    mean = measure.write_parts(tmp_path / "pool", narrow, num=21, part=4, seed=3)
    assert 900 < mean < 1100
    found = list(read_trajectories(tmp_path / "pool"))
    assert len({t.id for t in found}) == 21
    assert len(list((tmp_path / "pool").glob("*.parquet"))) == 6


def test_the_bare_pass_computes_every_position_that_an_evaluation_reads(narrow: Path, tmp_path: Path):
    """Catches a bare pass over fewer positions, or none: beside that an evaluation looks dear, or cheap."""
    measure.write_parts(tmp_path / "pool", narrow, num=4, part=4, seed=0)
    (part,) = (tmp_path / "pool").glob("*.parquet")
    requests = measure.requests_of(part, ChatTokenizer.from_pretrained(narrow), 4096)
    model = load_causal_model(narrow, dtype=torch.float32, device=torch.device("cpu"))
    computed: list[list[int]] = []
    hook = model.network.base_model.register_forward_pre_hook(
        lambda _, args, options: computed.extend(options["input_ids"].tolist()), with_kwargs=True
    )
    assert measure.bare_pass(model, requests) == sum(int(request.read.sum()) for request in requests)
    hook.remove()
    seen = [request.token_ids[: int(np.flatnonzero(request.read)[-1])].tolist() for request in requests]
    assert len(computed) == len(seen) == 4
    assert all(any(row[: len(ids)] == ids for row in computed) for ids in seen)


def test_evaluation_and_bare_pass_take_turns(narrow: Path, tmp_path: Path):
    """Catches an arm that is not measured, and a ratio without an interval."""
    measure.write_parts(tmp_path / "pool", narrow, num=4, part=2, seed=0)
    found = measure.turn_about(sorted((tmp_path / "pool").glob("*.parquet")), narrow)
    assert found["evaluation_seconds"] > found["bare_seconds"] > 0
    assert found["ratio"] == pytest.approx(found["evaluation_seconds"] / found["bare_seconds"])
    assert found["ratio_low"] <= found["ratio"] <= found["ratio_high"]


def test_the_committed_figures_keep_what_was_promised():
    """Catches a release whose evaluation costs more than 1.15 of a bare pass, or whose memory grows with the pool."""
    results = json.loads(RESULT.read_text())["results"]
    (real,) = (found for title, found in results.items() if title.startswith("smollm2-135m"))
    assert real["ratio_high"]["max"] <= 1.15
    few, many = (found for title, found in results.items() if title.endswith("in one stream"))
    assert any(title.startswith("narrow, 2,000") for title in results)
    assert many["peak_memory_bytes"]["max"] <= 1.1 * few["peak_memory_bytes"]["max"]
