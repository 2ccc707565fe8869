"""The warm start of hybrid runs in the terminal world, on a tiny random model."""

from __future__ import annotations

import json
from pathlib import Path

from tiny_run import write_model

from envecho.recipes.terminal_warm import HYBRID_FAMILIES, WarmStart, make_warm_start
from envecho.trajectory.store import read_trajectories


def test_the_warm_start_imitates_actions_of_other_families_on_boxes_of_their_own(tmp_path: Path):
    """Catches a warm start that trains observations, and pools that share a box or a family with what comes after."""
    (tmp_path / "tiny").mkdir()
    model = str(write_model(tmp_path / "tiny"))
    start = WarmStart(model=model, num_oracle=6, num_demonstrations=2, num_explore=1, num_held_out=1, steps=2)
    (tmp_path / "start").mkdir()
    make_warm_start(tmp_path / "start", start)
    assert (tmp_path / "start/model/config.json").is_file()
    pools = {
        name: list(read_trajectories(tmp_path / f"start/{name}.parquet"))
        for name in ("oracle", "demonstrations", "explore", "held_out")
    }
    families = {name: {t.task_id.split("/")[1] for t in pool} for name, pool in pools.items()}
    assert not families["oracle"] & set(HYBRID_FAMILIES)
    assert families["demonstrations"] <= set(HYBRID_FAMILIES)
    boxes = {name: {t.task_id.split("/")[2] for t in pool} for name, pool in pools.items()}
    assert not boxes["held_out"] & (boxes["oracle"] | boxes["demonstrations"] | boxes["explore"])
    rows = [json.loads(line) for line in (tmp_path / "start/warm/metrics.jsonl").read_text().splitlines()]
    assert [row["has_env_signal"] for row in rows if row["kind"] == "train"] == [False, False]
    assert all(row["loss"] > 0 for row in rows if row["kind"] == "train")
