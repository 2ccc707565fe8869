"""The local engine and TRL on the same stored episodes in the same order: the same curves."""

from __future__ import annotations

import json
from pathlib import Path

from trl_material import QUIET

from envecho.recipes.trl_curves import MEASURES, measure_curves

pytestmark = QUIET
RESULTS = Path(__file__).parents[2] / "results" / "trl" / "curves.json"


def test_local_and_trl_give_the_same_curves(tmp_path: Path, tiny_dir: Path):
    """Catches an optimiser step that differs: another clip, rate, order of data, or a gradient that is off by a bit."""
    document = measure_curves(str(tiny_dir), tmp_path, num_steps=5, group_size=3, learning_rate=3e-3)
    assert [len(document[side]) for side in ("local", "trl")] == [5, 5]
    assert all(value < 1e-3 for value in document["largest_relative_difference"].values())
    ce = [step["env_ce"] for step in document["trl"]]
    assert ce[-1] < ce[0] - 0.1
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_the_measured_curves_agree():
    """Catches a result file that does not show what the docs say."""
    document = json.loads(RESULTS.read_text())
    assert document["num_steps"] == len(document["local"]) == len(document["trl"]) == 20
    assert all(document["largest_relative_difference"][name] < 2e-6 for name in MEASURES)
