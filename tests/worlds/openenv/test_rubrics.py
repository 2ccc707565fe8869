"""Rubrics on this side, and servers of ours: the same episode as in process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from envecho.errors import ConfigError, WorldError
from envecho.seam import Observation, World
from envecho.worlds.check import check_world
from envecho.worlds.depot.suite import DepotSuite
from envecho.worlds.openenv.suite import open_openenv
from envecho.worlds.options import SuiteOptions

Start = Callable[..., World]


def test_a_rubric_of_steps_is_read_as_the_maps_rewards(start: Start):
    """Catches the server's rewards mixed with the rubric's, and a reward before the end."""
    world = start("coding_env", rubric="openenv_rubrics:Prints", max_turns=3)
    world.reset()
    assert [world.step(text).reward for text in ("a", "b", "c")] == [None, None, 1.5]


def test_a_trajectory_rubric_comes_at_the_end_and_forgets(start: Start):
    """Catches a delayed reward that is lost, and an episode that is graded with the steps of the one before."""
    world = start("coding_env", rubric="openenv_rubrics:LongEpisode", max_turns=2)
    for _ in range(2):
        world.reset()
        assert [world.step(text).reward for text in ("a", "b")] == [None, 2.0]


def test_a_rubric_that_waits_is_waited_for(start: Start):
    """Catches a coroutine as a reward."""
    world = start("coding_env", rubric="openenv_rubrics:Waiting", max_turns=1)
    world.reset()
    assert world.step("a").reward == 0.25


def test_a_rubric_that_fails_is_a_failing_world(start: Start):
    """Catches a judge's outage that ends a training run."""
    world = start("coding_env", rubric="openenv_rubrics:Failing")
    world.reset()
    with pytest.raises(WorldError, match="the judge is away"):
        world.step("a")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Prints", "module:Class"),
        ("openenv_rubrics:Print", "Did you mean 'Prints'"),
        ("openenv_rubrics:NOT_A_RUBRIC", "no class of"),
        ("openenv_rubrics:Any", "no class of"),
        ("no_such_module:X", "cannot be imported"),
    ],
)
def test_a_wrong_rubric_is_refused_before_any_episode(suite: Callable[..., object], name: str, words: str):
    """Catches a rubric that fails in every episode instead of once."""
    with pytest.raises(ConfigError, match=words):
        suite("coding_env", rubric=name)


@pytest.fixture(scope="module")
def depot_url() -> Iterator[str]:
    """The depot behind our own server."""
    from openenv_server import serve

    from envecho.worlds.openenv.server import make_app

    with serve(make_app(DepotSuite(), max_sessions=50)) as address:
        yield address


def play(world: World, actions: tuple[str, ...]) -> list[Observation]:
    told = [world.reset(seed=0, episode_id="e"), *(world.step(action) for action in actions)]
    world.close()
    return told


@pytest.mark.parametrize("number", [0, 5])
def test_a_world_of_ours_is_the_same_over_the_wire(depot_url: str, number: int):
    """Catches a source, label, reward or notice that is lost or guessed on the way."""
    served, local = open_openenv(depot_url, SuiteOptions()), DepotSuite()
    actions = ("go red", "go somewhere\ud800")
    for split in ("train", "held_out"):
        assert served.num_tasks(split) == local.num_tasks(split)
        assert served.task_id(split, number) == local.task_id(split, number)
        assert play(served.make_world(split, number), actions) == play(local.make_world(split, number), actions)


def test_a_world_of_ours_has_its_scripts_over_the_wire(depot_url: str):
    """Catches a served world that only a model can act in, and the script of another task with the same number."""
    served = open_openenv(depot_url, SuiteOptions(max_turns=2))
    for policy in ("oracle", "explore"):
        script = served.scripted_policy("train", 3, policy=policy, seed=0)
        assert script.act([]) == DepotSuite().scripted_policy("train", 3, policy=policy, seed=0).act([])
    other = open_openenv(depot_url, SuiteOptions(max_turns=4))
    with pytest.raises(ConfigError, match="servers state no oracle"):
        other.scripted_policy("train", 3, policy="oracle", seed=0)


def test_a_world_of_ours_keeps_the_worlds_contract_over_the_wire(depot_url: str):
    """Catches a client that breaks what every rollout relies on: states, ends, hostile text, independence."""
    suite = open_openenv(depot_url, SuiteOptions())
    report = check_world(lambda: suite.make_world("train", 0), actions=["go red", "go blue"])
    assert report.passed, str(report)


def test_another_environment_keeps_the_worlds_contract(suite: Callable[..., object]):
    """Catches the same for environments that are read by a map, deadlines among it."""
    tasks = suite("textarena_env")
    report = check_world(lambda: tasks.make_world("train", 0), actions=["[slate]", "[crane]"])
    assert report.passed, str(report)
    coding = suite("coding_env", max_turns=3)
    report = check_world(lambda: coding.make_world("train", 0), actions=["a", "b"], slow_action="sleep 3")
    assert report.passed, str(report)
