"""The benchmarks of packing and of the sampling session measure what they say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envecho.recipes import bench_packing, bench_session
from envecho.rollout import EpisodeJob, collect
from envecho.trajectory.store import write_trajectories
from envecho.worlds.suites import open_suite


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    """Eight explorer episodes in the depot, half of them cut short."""
    suites = [open_suite("depot", max_turns=turns) for turns in (1, 6)]
    jobs = [
        EpisodeJob(
            id=f"e-{n}",
            task_id=f"t-{n}",
            seed=n,
            make_world=lambda n=n: suites[n % 2].make_world("train", n),
            make_policy=lambda n=n: suites[n % 2].scripted_policy("train", n, policy="explore", seed=n),
        )
        for n in range(8)
    ]
    write_trajectories(tmp_path / "pool.parquet", collect(jobs, max_turns=6))
    return tmp_path / "pool.parquet"


def test_packing_is_measured_on_the_steps_of_a_pool(
    pool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, smollm2_dir: Path
):
    """Catches shares of the pool instead of its steps, and a time that nobody asked for."""
    monkeypatch.setattr(bench_packing, "STEPS", (4,))
    monkeypatch.setattr(bench_packing, "TOKENS", (256, 2048))
    monkeypatch.setattr(bench_packing, "TIMED", (4, 2048))
    monkeypatch.setattr(bench_packing, "NUM_DRAWS", 3)
    out = tmp_path / "packing.json"
    arguments = ["--pool", f"one={pool}", "--pool", f"two={pool}", "--timed", "one", "--repetitions", "1"]
    bench_packing.main([*arguments, "--out", str(out)])
    document = json.loads(out.read_text())
    assert list(document["results"]) == [
        "one, 4 sequences, 256 tokens",
        "one, 4 sequences, 2,048 tokens",
        "two, 4 sequences, 256 tokens",
        "two, 4 sequences, 2,048 tokens",
    ]
    for name in ("packed_time_percent", "flat_time_percent"):
        timed = [title for title, found in document["results"].items() if name in found]
        assert timed == ["one, 4 sequences, 2,048 tokens"]
    for found in document["results"].values():
        assert 0 <= found["packed_padding_percent"]["median"] <= found["padding_percent"]["median"] < 100
    assert document["results"]["one, 4 sequences, 2,048 tokens"]["padding_percent"]["median"] > 5


def test_a_session_that_forgets_reads_more_of_the_same_prompts(smollm2_dir: Path):
    """Catches a count of something else than prompts read, and a session that reads a history twice under ready."""
    kept, forgotten = (bench_session.measure("ready", forgets=forgets, episodes=8, seed=0) for forgets in (False, True))
    assert kept["shown_tokens"] == forgotten["shown_tokens"]
    assert 1.5 * kept["read_tokens"] < forgotten["read_tokens"] <= forgotten["shown_tokens"]
