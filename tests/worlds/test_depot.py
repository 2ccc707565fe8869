"""The depot: its plan, its answers, its tasks, and the contract of a world."""

from __future__ import annotations

import random

import pytest

from envecho.errors import ConfigError, WorldError
from envecho.seam import TaskSuite
from envecho.trajectory import Source
from envecho.worlds.check import check_world
from envecho.worlds.depot import DOORS, DepotTask, DepotWorld, make_plan
from envecho.worlds.depot.plan import ROOMS
from envecho.worlds.depot.suite import DepotSuite

BACK = {"red": "green", "green": "red", "blue": "white", "white": "blue"}


def a_task(goal: str | None = None, *, max_moves: int = 2) -> DepotTask:
    plan = make_plan(3)
    return DepotTask(
        id="depot/test", plan=plan, start="kiln", goal=goal or plan.doors["kiln"]["red"], max_moves=max_moves
    )


@pytest.mark.parametrize("seed", range(5))
def test_every_door_leads_back_and_four_doors_lead_to_four_rooms(seed: int) -> None:
    """Would catch a plan in which a colour does not matter, so that nothing needs to be known."""
    plan = make_plan(seed)
    for room in ROOMS:
        behind = plan.doors[room]
        assert list(behind) == list(DOORS)
        assert len(set(behind.values())) == 4
        assert room not in behind.values()
        assert all(plan.doors[behind[colour]][BACK[colour]] == room for colour in DOORS)


def test_distances_and_paths_agree_with_walking_every_way_up_to_three_doors() -> None:
    """Would catch a breadth-first search that goes wrong: oracle episodes would not arrive."""
    plan = make_plan(0)
    for start in ROOMS:
        reached = {start: 0}
        border = {start}
        for step in range(1, 4):
            border = {behind for room in border for behind in plan.doors[room].values()}
            for room in border:
                reached.setdefault(room, step)
        assert plan.distances(start).items() >= reached.items()
        for goal, distance in plan.distances(start).items():
            room = start
            way = plan.path(start, goal)
            for colour in way:
                room = plan.doors[room][colour]
            assert (room, len(way)) == (goal, distance)


def test_tickets_differ_between_episodes_of_one_task_and_are_drawn_again_the_same():
    """Would catch noise that can be known from the task, and noise that a resumed run cannot draw again."""

    def answers(episode_id: str) -> list[str]:
        world = DepotSuite(tickets=True).make_world("train", 0)
        world.reset(seed=0, episode_id=episode_id)
        return ["".join(s.text for s in world.step("go red").segments if s.source is Source.STDOUT) for _ in range(2)]

    assert answers("one") == answers("one")
    assert answers("one") != answers("two")
    first, second = answers("one")
    assert first.split()[2::2] == ["ticket"]
    assert first.split()[-1] != second.split()[-1]
    assert len(first.split()[-1]) == 5


def test_arrival_pays_and_ends_the_episode() -> None:
    """Would catch a reward that comes late, or an episode that goes on behind its goal."""
    world = DepotWorld(a_task())
    opening = world.reset()
    assert [segment.source for segment in opening.segments] == [Source.TASK]
    answer = world.step("go red")
    assert (answer.done, answer.reward) == (True, 1.0)
    with pytest.raises(WorldError, match="reset"):
        world.step("go red")


def test_answers_separate_what_the_world_says_from_what_the_harness_says() -> None:
    """Would catch echo or moves left counted as environment output (METHOD trap 8)."""
    task = a_task("dock", max_moves=9)
    world = DepotWorld(task)
    world.reset()
    answer = world.step(" go blue ")
    found = [(segment.source, segment.text) for segment in answer.segments]
    assert found == [
        (Source.COMMAND_ECHO, "> go blue\n"),
        (Source.STDOUT, f"room {task.plan.doors['kiln']['blue']}\n"),
        (Source.STATUS, "[8 moves left]"),
    ]
    bare = DepotWorld(task, notices=False)
    bare.reset()
    assert [segment.source for segment in bare.step("go blue").segments] == [Source.STDOUT]


@pytest.mark.parametrize(
    ("action", "label", "source"),
    [
        ("go purple", "invalid", Source.STDERR),
        ("", "unparsed", Source.FORMAT_WARNING),
        ("walk red", "unparsed", Source.FORMAT_WARNING),
        ("go red\ngo red", "unparsed", Source.FORMAT_WARNING),
        ("go red blue", "unparsed", Source.FORMAT_WARNING),
    ],
)
def test_what_is_no_command_is_answered_and_costs_a_move(action: str, label: str, source: Source) -> None:
    """Would catch a parse failure that crashes, moves, or is taken for the world's own words."""
    world = DepotWorld(a_task("dock"), notices=False)
    world.reset()
    answer = world.step(action)
    assert answer.labels == {"call": label}
    assert [segment.source for segment in answer.segments] == [source]
    last = world.step(action)
    assert (last.done, last.reward) == (True, 0.0)


def test_the_depot_keeps_the_contract_of_a_world() -> None:
    """Would catch a depot that `train --world` cannot drive."""
    report = check_world(lambda: DepotWorld(a_task("dock", max_moves=50)), actions=("go red", "go blue", "go purple"))
    assert report.passed, report.failures


def test_splits_are_disjoint_tasks_on_one_plan_and_the_same_in_every_process() -> None:
    """Would catch a held-out task that is trained, or a split that moves between runs."""
    suite = DepotSuite()
    assert isinstance(suite, TaskSuite)
    ids = {split: [suite.task_id(split, n) for n in range(suite.num_tasks(split))] for split in suite.splits}
    assert len(set(ids["train"])) == len(ids["train"]) == 80
    assert len(set(ids["held_out"])) == len(ids["held_out"]) == 34
    assert not set(ids["train"]) & set(ids["held_out"])
    assert ids["train"][:2] == [DepotSuite().task_id("train", n) for n in (80, 81)]
    with pytest.raises(ConfigError, match="held_out"):
        suite.task_id("test", 0)


def test_the_oracle_always_arrives_and_the_explorer_sometimes() -> None:
    """Would catch tasks that nobody can solve within the moves, or that anything solves."""
    suite = DepotSuite()

    def reward(split: str, number: int, policy: str) -> float:
        world = suite.make_world(split, number)
        world.reset()
        script = suite.scripted_policy(split, number, policy=policy, seed=random.Random(number).randrange(99))
        while not (turn := script.act([])).finished:
            answer = world.step(turn.message.content)
            if answer.done:
                return answer.reward or 0.0
        return 0.0

    assert all(reward(split, n, "oracle") == 1 for split in suite.splits for n in range(suite.num_tasks(split)))
    explored = [reward("train", number, "explore") for number in range(80 * 5)]
    assert 0.1 < sum(explored) / len(explored) < 0.3
