"""The scenarios in examples/awm: each task is solved by some calls, and its verifier says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from envecho.trajectory import Source
from envecho.worlds.awm import AwmTask, AwmWorld, read_scenarios
from envecho.worlds.tool_calls import CallText

FILE = Path(__file__).parents[3] / "examples" / "awm" / "gen_envs.jsonl"


def call(tool: str, /, **arguments: Any) -> str:
    return str(CallText(name=tool, arguments=arguments))


SOLUTIONS = {
    ("team_notes", 0): (call("list_notes", limit=20), call("rename_note", note_id=11, title="buy oat milk")),
    ("team_notes", 1): (call("pin_note", note_id=14),),
    ("team_notes", 2): (call("create_note", title="call Nina", folder="work"),),
    ("team_notes", 3): (call("list_notes", folder="work"), "answer: 3"),
    ("meeting_rooms", 0): (call("list_rooms"), call("book_room", room_id=3, day="2031-05-20", hour=10)),
    ("meeting_rooms", 1): (call("list_bookings", room_id=5), call("cancel_booking", booking_id=42)),
    ("meeting_rooms", 2): (call("list_rooms", min_seats=10), call("book_room", room_id=8, day="2031-05-22", hour=9)),
}


def test_every_example_task_has_a_solution_here() -> None:
    """Would catch a task that was added and that nobody can solve."""
    tasks = {(scenario.name, number) for scenario in read_scenarios(FILE) for number in range(len(scenario.tasks))}
    assert tasks == set(SOLUTIONS)


@pytest.mark.parametrize(("name", "number"), SOLUTIONS)
def test_an_example_task_can_be_solved(name: str, number: int) -> None:
    """Would catch a verifier that refuses the solution, or a service that breaks with a newer FastAPI."""
    scenario = next(found for found in read_scenarios(FILE) if found.name == name)
    world = AwmWorld(AwmTask(scenario=scenario, number=number))
    world.reset()
    *turns, last = (*SOLUTIONS[name, number], "answer: done")[: 2 if number == 3 else None]
    for turn in turns:
        assert [segment.source for segment in world.step(turn).segments] == [Source.TOOL_RESULT]
    assert world.step(last).reward == 1.0
