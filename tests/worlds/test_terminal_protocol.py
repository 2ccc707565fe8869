"""What the terminal world takes as an action, and what it says of it."""

from __future__ import annotations

import pytest

from envecho.trajectory import Source
from envecho.worlds.suites import open_suite


@pytest.mark.parametrize(
    ("action", "label"),
    [
        ("echo hello", "valid"),
        ("false", "valid"),
        ("no-such-program-at-all", "invalid"),
        ("/etc", "invalid"),
        ("", "unparsed"),
        ("echo one\necho two", "unparsed"),
    ],
)
def test_every_answer_says_how_the_action_fared(action, label):
    """Catches a failing command counted as an invalid call, and two commands run as one action."""
    world = open_suite("terminal").make_world("train", 0)
    try:
        world.reset()
        answer = world.step(action)
    finally:
        world.close()
    assert answer.labels == {"call": label}
    assert not answer.done
    if label == "unparsed":
        assert [segment.source for segment in answer.segments] == [Source.FORMAT_WARNING]


def test_a_last_turn_that_cannot_be_read_still_ends_the_episode_with_its_grade():
    """Catches an episode that never ends, or ends without a reward, because its last turn was no command."""
    world = open_suite("terminal", max_turns=2).make_world("train", 0)
    world.reset()
    world.step("echo one")
    last = world.step("a\nb")
    assert (last.done, last.reward) == (True, 0.0)


def test_the_oracle_of_every_family_solves_its_task_through_the_suite():
    """Catches a suite whose tasks, worlds and scripts do not belong together."""
    suite = open_suite("terminal")
    for number in range(11):
        world = suite.make_world("validation", number)
        world.reset()
        oracle = suite.scripted_policy("validation", number, policy="oracle", seed=0)
        while not (turn := oracle.act([])).finished:
            answer = world.step(turn.message.content)
        assert answer.reward == 1.0, suite.task_id("validation", number)
