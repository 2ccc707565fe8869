"""Alarms: each fires on what it is for, once, and stays silent on a healthy run."""

from __future__ import annotations

import json

import pytest

from envecho.training.alarms import AlarmMonitor, HealthConfig, foreign_text_fraction
from envecho.trajectory import Message, Segment, Source, Trajectory

CONFIG = HealthConfig(window=3, silent_steps=4)


def row(**changes):
    healthy = {
        "env_ce": 1.0,
        "distinct_command_fraction": 0.8,
        "distinct_output_fraction": 0.6,
        "action_entropy": 1.2,
        "foreign_text_fraction": 0.0,
        "has_policy_signal": True,
        "has_env_signal": True,
    }
    return healthy | changes


def observe(rows, *, terms=("policy", "env")):
    monitor = AlarmMonitor(CONFIG, terms=terms)
    return [[alarm.name for alarm in monitor.observe(one)] for one in rows]


def flat(found):
    return [name for names in found for name in names]


def test_a_healthy_run_raises_nothing():
    """Catches an alarm about a CE that falls because the world is learnt while variety stays."""
    assert observe([row(env_ce=2.0 / (1 + step)) for step in range(20)]) == [[]] * 20


def test_collapse_is_raised_once_when_variety_falls_with_the_ce():
    """Catches an alarm at every step of trouble, and one that misses a policy that repeats one command."""
    rows = [row()] * 3 + [row(env_ce=0.2, distinct_command_fraction=0.1)] * 6
    found = observe(rows)
    assert flat(found) == ["collapse"]
    monitor = AlarmMonitor(CONFIG, terms=())
    (alarm,) = [alarm for one in rows for alarm in monitor.observe(one)]
    assert "from 1 to 0.2 nats" in alarm.reason
    assert "distinct command fraction from 0.8 to 0.1" in alarm.reason


def test_a_policy_that_narrows_without_an_easier_world_is_no_collapse():
    """Catches an alarm on ordinary convergence: entropy falls in every run that learns."""
    assert flat(observe([row()] * 3 + [row(action_entropy=0.1)] * 6)) == []


def test_entropy_that_falls_while_tasks_are_learnt_is_no_collapse():
    """Catches what every good ECHO run does: the world gets known, actions get sure, and more is solved."""
    before, after = row(solve_rate=0.2), row(env_ce=0.2, action_entropy=0.1)
    assert flat(observe([before] * 3 + [after | {"solve_rate": 0.7}] * 6)) == []
    assert flat(observe([before] * 3 + [after | {"solve_rate": 0.2}] * 6)) == ["collapse"]
    assert flat(observe([before] * 3 + [after | {"solve_rate": None}] * 6)) == ["collapse"]
    narrow = after | {"solve_rate": 0.7, "distinct_output_fraction": 0.1}
    assert flat(observe([before] * 3 + [narrow] * 6)) == ["collapse"]


def test_an_alarm_is_raised_again_after_its_condition_has_gone():
    """Catches a monitor that speaks once in a run and is silent about the second collapse."""
    bad = row(foreign_text_fraction=0.5)
    assert observe([bad, bad, row(), bad]) == [["role_confusion"], [], [], ["role_confusion"]]


def test_a_policy_that_writes_on_past_its_turn_is_confused_about_roles():
    """Catches invented outputs without any marker, as ECHO at 0.05 taught SmolLM2, and a start that chats."""
    steady = [row(unparsed_call_fraction=0.4)] * 9
    assert flat(observe(steady)) == []
    assert flat(observe([row(unparsed_call_fraction=0.02)] * 3 + [row(unparsed_call_fraction=0.2)] * 6)) == [
        "role_confusion"
    ]


@pytest.mark.parametrize("term", ["policy", "env"])
def test_trap_23_a_term_that_trains_nothing_for_long_is_reported(term):
    """Catches ECHO (or GRPO) configured and silently absent."""
    silent = row(**{f"has_{term}_signal": False})
    assert observe([silent] * 3 + [row()] + [silent] * 5) == [[]] * 7 + [["silent_no_op"], []]
    other = "env" if term == "policy" else "policy"
    assert flat(observe([silent] * 9, terms=(other,))) == []


def test_the_memory_of_a_monitor_survives_a_checkpoint():
    """Catches a resumed run that raises an alarm twice, or forgets its own beginning."""
    rows = [row()] * 3 + [row(env_ce=0.2, distinct_command_fraction=0.1)] * 6
    expected = observe(rows)
    state, found = {}, []
    for one in rows:
        monitor = AlarmMonitor(CONFIG, terms=("policy", "env"), state=json.loads(json.dumps(state)))
        found.append([alarm.name for alarm in monitor.observe(one)])
        state = monitor.state()
    assert found == expected


@pytest.mark.parametrize(
    ("action", "is_foreign"),
    [
        ("grep ERROR app.log", False),
        ("echo '[exit 0]'", False),
        ("cat a.log\n[exit status 0]", True),
        ("<|im_start|>user\n3 errors", True),
        ("</tool_response>", True),
        ("<tool_call>ls</tool_call>", True),
    ],
)
def test_foreign_text_is_what_harness_and_world_write(action, is_foreign):
    """Catches invented outputs that pass as commands, and commands that pass as invented outputs."""
    message = Message(role="assistant", segments=(Segment(source=Source.POLICY, text=action),))
    assert foreign_text_fraction([Trajectory(id="t", task_id="k", messages=(message,))]) == float(is_foreign)
    assert foreign_text_fraction([]) is None
