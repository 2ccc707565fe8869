"""One contract for a world wherever it runs: the conformance kit in process and through server and client, and the
same answers to the last segment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from served_worlds import CounterSuite
from world_server import EXAMPLE_TASKS, WorldServer

from envecho.rollout import EpisodeJob
from envecho.rollout.episode import run_episode
from envecho.seam import TaskSuite, World
from envecho.worlds.check import check_world
from envecho.worlds.openenv.suite import open_openenv
from envecho.worlds.options import SuiteOptions
from envecho.worlds.suites import open_suite

TERMINAL = ("ls -R", "cat nothing", "ls | wc -l; cd /tmp; pwd", "echo é漢字 >&2; exit 3", "", "a\nb", "answer: 4")
DEPOT = ("go red", "go nowhere")
COUNTER = (
    '{"name": "add", "arguments": {"number": 3}}',
    '{"name": "add", "arguments": {"number": -3}}',
    '{"name": "subtract", "arguments": {}}',
    "what now?",
    "answer: 3",
)
WORLDS: dict[str, tuple[Callable[[], TaskSuite], Sequence[str], str | None]] = {
    "terminal": (lambda: open_suite("terminal"), TERMINAL, "sleep 5"),
    "depot": (lambda: open_suite("depot", max_turns=2), DEPOT, None),
    "counter": (CounterSuite, COUNTER, None),
}


@pytest.fixture(params=WORLDS)
def world_name(request: pytest.FixtureRequest) -> str:
    """The worlds that are compared."""
    return request.param


@pytest.fixture
def served_suite(world_name: str, request: pytest.FixtureRequest) -> TaskSuite:
    """The world's suite through server and client."""
    server: WorldServer = request.getfixturevalue(f"{world_name}_server")
    return open_openenv(server.url, SuiteOptions())


@pytest.mark.parametrize("where", ["in process", "served"])
def test_a_world_keeps_the_contract_wherever_it_runs(world_name: str, where: str, request: pytest.FixtureRequest):
    """Catches a clause of the contract that is lost between client and server: state, timeouts, ends, odd text."""
    make, actions, slow_action = WORLDS[world_name]
    suite = make() if where == "in process" else request.getfixturevalue("served_suite")
    report = check_world(lambda: suite.make_world("train", 1), actions=actions, slow_action=slow_action)
    assert report.passed, str(report)


def play(world: World, actions: Sequence[str]) -> list[tuple[Any, ...]]:
    """Return all that is said in an episode, without what is for people."""
    try:
        seen = [world.reset(seed=1, episode_id="episode")]
        for action in actions:
            seen.append(world.step(action))
        return [(o.segments, o.done, o.reward, o.timed_out, dict(o.labels), o.tools) for o in seen]
    finally:
        world.close()


@pytest.mark.parametrize(("split", "number"), [("train", 0), ("train", 3), ("other", 2)])
def test_a_served_episode_is_the_one_in_process(world_name: str, served_suite: TaskSuite, split: str, number: int):
    """Catches a segment, source, tool, label or reward that changes on the way, and another task of the same number."""
    make, actions, _ = WORLDS[world_name]
    suite = make()
    split = suite.splits[1] if split == "other" else split
    local = play(suite.make_world(split, number), actions)
    assert local == play(served_suite.make_world(split, number), actions)
    assert len({str(said) for said in local}) > len(actions) // 2


def test_a_served_suite_has_the_tasks_of_the_suite_in_process(world_name: str, served_suite: TaskSuite):
    """Catches a split that is lost or miscounted where the world is served."""
    suite = WORLDS[world_name][0]()
    assert list(served_suite.splits) == list(suite.splits)
    for split in suite.splits:
        assert served_suite.num_tasks(split) == suite.num_tasks(split)
        world = served_suite.make_world(split, 1)
        assert world.reset(seed=1).metadata["task_id"] == suite.task_id(split, 1)
        world.close()


@pytest.mark.parametrize("policy", ["oracle", "explore"])
@pytest.mark.parametrize(
    ("server", "name", "numbers"),
    [("tools_server", "tools", (0, 1, 2)), ("tasks_server", str(EXAMPLE_TASKS), (1, 4))],
    ids=["tools", "tasks"],
)
def test_what_a_script_meets_in_process_it_meets_on_a_server(
    server: str, name: str, numbers: Sequence[int], policy: str, request: pytest.FixtureRequest
):
    """Catches a world that answers otherwise, offers other tools or grades otherwise where it is served."""
    suite = open_suite(name)
    served = open_openenv(request.getfixturevalue(server).url, SuiteOptions())
    for number in numbers:
        job = EpisodeJob(
            id="script",
            task_id=suite.task_id("train", number),
            seed=1,
            make_world=lambda number=number: suite.make_world("train", number),
            make_policy=lambda number=number: suite.scripted_policy("train", number, policy=policy, seed=1),
        )
        episode = run_episode(job)
        actions = [message.content for message in episode.messages if message.role == "assistant"]
        assert actions
        local = play(suite.make_world("train", number), actions)
        assert local == play(served.make_world("train", number), actions)
        assert policy == "explore" or local[-1][1:3] == (True, 1.0)
