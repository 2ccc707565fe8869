"""The figures of a study on records made by hand, where the answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_material import study_document

from envecho.errors import DataError
from envecho.recipes.study_analysis import analyse, steps_to_reach
from envecho.recipes.study_config import study_from_document
from envecho.recipes.study_records import Look, RunRecord, read_records

STUDY = study_from_document(
    {**study_document(Path("material")), "study": {"name": "x", "question": "?", "seeds": [0, 1, 2]}}
)
STEPS = (0, 10, 20, 40)


def record(arm: str, seed: int, rates: list[float], *, ce: tuple[float, float] = (2.0, 1.0), **keys: Any) -> RunRecord:
    """A run on 20 tasks of 10 episodes each, all solved equally often, and CE that falls in a straight line."""
    tasks = [f"task-{number}" for number in range(20)]
    nats = np.linspace(*ce, len(rates))
    looks = tuple(
        Look(
            step=step,
            solved={task: (round(10 * rate), 10) for task in tasks},
            num_ungraded=0,
            env_nll=dict.fromkeys(tasks, (10 * value, 10)),
        )
        for step, rate, value in zip(STEPS, rates, nats, strict=True)
    )
    fields = {"steps": 40, "wall_seconds": 1.0, "tokens": {}, "alarms": (), "configs": ()} | keys
    return RunRecord(arm=arm, seed=seed, looks=looks, **fields)


def figures(grpo: list[float], echo: list[float], *, num_seeds: int = 3) -> dict[str, Any]:
    return analyse(STUDY, [record(arm, s, r) for s in range(num_seeds) for arm, r in (("grpo", grpo), ("echo", echo))])


@pytest.mark.parametrize(
    ("echo", "value"),
    [
        ([0.1, 0.5, 0.6, 0.7], 10),
        ([0.1, 0.2, 0.3, 0.5], 40),
        ([0.5, 0.2, 0.3, 0.4], 0),
        ([0.1, 0.2, 0.3, 0.4], None),
    ],
)
def test_steps_to_reach_the_best_of_the_other_arm(echo: list[float], value: int | None):
    """Catches an off-by-one look, a last look that is ignored, a start that counts as never."""
    stat = figures([0.1, 0.3, 0.5, 0.2], echo)["echo"]["steps_to_reach"]
    assert (stat["value"], stat["low"], stat["high"]) == (value, value, value)
    assert stat["never_fraction"] == (1.0 if value is None else 0.0)
    assert figures([0.1, 0.3, 0.5, 0.2], echo)["grpo"]["steps_to_reach"]["value"] == 20


def test_steps_to_reach_with_one_seed_has_no_interval():
    """Catches never and unknown that look alike: both ends are None, and only never_fraction tells them apart."""
    stat = figures([0.1, 0.3, 0.5, 0.2], [0.1, 0.5, 0.6, 0.7], num_seeds=1)["echo"]["steps_to_reach"]
    assert (stat["value"], stat["low"], stat["high"], stat["never_fraction"]) == (10, None, None, None)


def test_an_arm_that_solved_nothing_cannot_be_reached():
    """Catches a speed-up against an arm that learnt nothing."""
    assert figures([0.0] * 4, [0.1, 0.5, 0.6, 0.7])["echo"]["steps_to_reach"] is None


def test_steps_to_reach_equals_a_loop():
    """Catches an argmax of rows without a hit, which is 0."""
    rng = np.random.default_rng(0)
    curves, targets = rng.random((4, 200)), rng.random(200) + 0.3
    slow = [
        next((step for step, value in zip(STEPS, curve, strict=True) if value >= target), np.inf)
        for curve, target in zip(curves.T, targets, strict=True)
    ]
    np.testing.assert_array_equal(steps_to_reach(curves, STEPS, targets), slow)
    assert np.isinf(slow).any()
    assert 0 in slow


def test_area_and_change_are_those_of_the_curve():
    """Catches an area that weighs unequal steps alike, and a change against the wrong look."""
    arm = figures([0.0, 0.4, 0.4, 0.8], [0.2, 0.4, 0.4, 0.8])["grpo"]
    assert arm["solve_rate_area"]["value"] == pytest.approx(np.trapezoid([0.0, 0.4, 0.4, 0.8], STEPS) / 40)
    assert arm["env_ce_change_percent"]["value"] == pytest.approx(-50)
    assert arm["final"]["env_ce"]["value"] == pytest.approx(1.0)
    assert arm["final"]["solve_rate"]["value"] == pytest.approx(0.8)


def test_differences_are_paired_by_seed_and_task():
    """Catches unpaired draws: seeds differ much, arms within a seed by a fixed amount."""
    rates = {0: 0.2, 1: 0.5, 2: 0.8}
    runs = [record("grpo", s, [0.1, 0.1, 0.1, r]) for s, r in rates.items()]
    runs += [record("echo", s, [0.1, 0.1, 0.1, r + 0.1]) for s, r in rates.items()]
    found = analyse(STUDY, runs)
    difference = found["echo"]["difference"]["solve_rate"]
    assert (difference["low"], difference["value"], difference["high"]) == pytest.approx((0.1, 0.1, 0.1))
    alone = found["echo"]["final"]["solve_rate"]
    assert alone["high"] - alone["low"] > 0.3


def test_unequal_seeds_are_compared_over_those_that_both_have():
    """Catches a difference of means over other seeds."""
    runs = [record("grpo", s, [0.1, 0.1, 0.1, r]) for s, r in ((0, 0.2), (1, 0.4))]
    runs += [record("echo", s, [0.1, 0.1, 0.1, r]) for s, r in ((1, 0.5), (2, 0.9))]
    stat = analyse(STUDY, runs)["echo"]["difference"]["solve_rate"]
    assert (stat["value"], stat["num_seeds"], stat["low"]) == (pytest.approx(0.1), 1, None)


def test_training_tasks_have_a_curve_with_an_interval_over_seeds_alone():
    """Catches own rollouts that are compared by task, which they are not kept by, and a speed-up of another figure."""

    def with_trained(found: RunRecord, solved: list[int]) -> RunRecord:
        looks = [look.model_copy(update={"trained": (n, 40)}) for look, n in zip(found.looks, solved, strict=True)]
        return found.model_copy(update={"looks": tuple(looks)})

    flat = [0.5] * 4
    runs = [with_trained(record("grpo", seed, flat), [4, 8 + seed, 12, 10]) for seed in range(3)]
    runs += [with_trained(record("echo", seed, flat), [4, 12, 20, 30 + seed]) for seed in range(3)]
    found = analyse(STUDY, runs)
    final = found["echo"]["final"]["train_solve_rate"]
    assert final["value"] == pytest.approx(31 / 40)
    assert (final["num_seeds"], final["num_tasks"]) == (3, 0)
    assert 30 / 40 <= final["low"] < final["high"] <= 32 / 40
    assert found["echo"]["train_steps_to_reach"]["value"] == 10
    assert found["grpo"]["train_steps_to_reach"]["value"] == 20
    assert found["echo"]["difference"]["train_solve_rate"]["value"] == pytest.approx(21 / 40)
    assert figures(flat, flat)["echo"]["final"]["train_solve_rate"] is None
    assert figures(flat, flat)["echo"]["train_steps_to_reach"] is None


def test_alarms_are_counted_by_name_over_all_seeds():
    """Catches alarms of one seed that stand for the arm."""
    runs = [record("grpo", seed, [0.1] * 4, alarms=((3, "collapse"), (5, "role_confusion"))) for seed in range(3)]
    assert analyse(STUDY, runs)["grpo"]["alarms"] == {"collapse": 3, "role_confusion": 3}


def test_looks_after_different_steps_are_refused():
    """Catches a mean over seeds of different steps."""
    one, other = record("grpo", 0, [0.1] * 4), record("grpo", 1, [0.1] * 4)
    with pytest.raises(DataError, match="looked at after different steps"):
        analyse(STUDY, [one, other.model_copy(update={"looks": other.looks[:3]})])


def test_a_record_of_unknown_keys_is_refused_with_its_line(tmp_path: Path):
    """Catches a file of a later version that is read as if it were this one."""
    good = record("grpo", 0, [0.1] * 4).model_dump_json()
    path = tmp_path / "runs.jsonl"
    path.write_text(good + "\n" + good.replace('"seed"', '"sede"', 1) + "\n")
    with pytest.raises(DataError, match=r"runs.jsonl, line 2: "):
        read_records(path)
