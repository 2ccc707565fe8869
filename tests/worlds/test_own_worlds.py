"""Worlds of a user's own: `module:factory` as a suite, and what is said where that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.errors import ConfigError
from envecho.worlds.suites import open_suite

MODULE = '''
from envecho.seam import Observation
from envecho.trajectory import Segment, Source
from envecho.worlds.depot.suite import DepotSuite


class Counter:
    """Counts up from its seed."""

    def reset(self, seed=None, episode_id=None):
        self.value, self.steps, self.id = seed, 0, episode_id
        return Observation(segments=(Segment(source=Source.TASK, text=f"Count from {seed}."),))

    def step(self, action, timeout_s=None):
        self.steps += 1
        self.value += int(action)
        done = self.steps == 3
        answer = Segment(source=Source.STDOUT, text=str(self.value))
        return Observation(segments=(answer,), done=done, reward=1.0 if done else None)

    @property
    def state(self):
        return {"episode_id": self.id, "step_count": self.steps}

    def close(self):
        pass


def make_suite():
    return DepotSuite(plan_seed=7)


def make_text():
    return "no world"


number = 7
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "counting_world.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "counting_world"


def test_the_splits_of_a_seeded_world_share_no_seed(module: str) -> None:
    """Catches a held-out pool that shows episodes of the training pool."""
    suite = open_suite(f"{module}:Counter")
    ids = [suite.task_id(split, number) for split in suite.splits for number in range(50)]
    assert len(set(ids)) == 150
    said = []
    for split in suite.splits:
        world = suite.make_world(split, 2)
        world.reset(seed=99)
        said.append(world.step("1").segments[0].text)
        world.close()
    assert said == ["3", "1000003", "2000003"]


def test_a_suite_of_a_users_own_is_taken_as_it_is(module: str) -> None:
    """Catches a suite that is wrapped, after which its splits and its oracle are gone."""
    suite = open_suite(f"{module}:make_suite")
    assert suite.splits == ("train", "held_out")
    assert suite.task_id("train", 0).startswith("depot/plan-7/")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("counting_world:Countre", "no 'Countre'. Did you mean 'Counter'"),
        ("counting_wold:Counter", "cannot be imported"),
        ("counting_world:number", "is int, expected a function"),
        ("counting_world:make_text", "made str, which has no reset, step, state, close; expected a world"),
        ("terminl", "Did you mean 'terminal'"),
    ],
)
def test_what_is_no_world_is_named(module: str, name: str, said: str) -> None:
    """Catches a traceback, or a message that does not say which part of the name is wrong."""
    with pytest.raises(ConfigError) as raised:
        open_suite(name)
    assert said in str(raised.value)


def test_unknown_splits_and_oracles_of_a_seeded_world_are_refused(module: str) -> None:
    """Catches a typing error that trains on other tasks than were asked for."""
    suite = open_suite(f"{module}:Counter")
    with pytest.raises(ConfigError, match="splits train, validation, held_out, found 'test'"):
        suite.task_id("test", 0)
    with pytest.raises(ConfigError, match="found 'oracle'"):
        suite.scripted_policy("train", 0, policy="oracle", seed=0)
