"""Agent World Model scenarios as a world: generated code in the sandbox, tools over MCP, verifiers, and the suite."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from awm_files import TASKS

from envecho.errors import ConfigError, WorldError, WorldLostError
from envecho.rollout.episode import EpisodeJob, run_episode
from envecho.seam import Observation, TaskSuite
from envecho.trajectory import CALL_LABEL, Source
from envecho.worlds.awm import AwmSuite, AwmTask, AwmWorld, driver, open_awm, read_scenarios
from envecho.worlds.awm.process import ProcessLimits
from envecho.worlds.options import SuiteOptions
from envecho.worlds.tool_calls import CallText


def call(tool: str, /, **arguments: Any) -> str:
    return str(CallText(name=tool, arguments=arguments))


def a_task(environments: Path, name: str, number: int = 0) -> AwmTask:
    found = next(scenario for scenario in read_scenarios(environments) if scenario.name == name)
    return AwmTask(scenario=found, number=number)


def reset_and_step(world: AwmWorld, turn: str) -> Observation:
    world.reset()
    return world.step(turn)


@pytest.fixture(scope="module")
def notes(environments: Path) -> Iterator[AwmWorld]:
    """A running episode of the notes."""
    world = AwmWorld(a_task(environments, "notes_app_1"))
    world.reset()
    yield world
    world.close()


@pytest.fixture
def rooms(environments: Path) -> Iterator[AwmWorld]:
    """A running episode of the rooms, with little time and little room."""
    limits = ProcessLimits(call_seconds=5, disk_bytes=1 << 23, memory_bytes=3 << 29)
    world = AwmWorld(a_task(environments, "rooms_2"), limits=limits)
    world.reset()
    yield world
    world.close()


# --- an episode ---------------------------------------------------------------------------------------------------


def test_a_scenario_is_solved_over_its_tools_and_graded_by_its_verifier(environments: Path) -> None:
    """Would catch tools that are not MCP's, a verifier that sees one database only, a database that episodes share."""
    world = AwmWorld(a_task(environments, "notes_app_1"))
    for reward, title in ((1.0, "oat milk"), (0.0, "cow milk")):
        opening = world.reset(episode_id="one")
        assert [tool["function"]["name"] for tool in opening.tools] == ["list_notes", "rename_note"]
        assert opening.tools[1]["function"]["parameters"]["required"] == ["note_id", "title"]
        assert [segment.source for segment in opening.segments] == [Source.SYSTEM, Source.TASK]
        assert opening.segments[1].text == TASKS["Notes App 1"][0]
        listed = world.step(call("list_notes"))
        assert [note["title"] for note in json.loads(listed.segments[0].text)] == ["milk", "bread"]
        assert listed.segments[0].source is Source.TOOL_RESULT
        assert listed.reward is None
        world.step(call("rename_note", note_id=1, title=title))
        last = world.step("answer: renamed")
        assert (last.done, last.reward) == (True, reward)
        assert [segment.source for segment in last.segments] == [Source.GRADER]
        assert world.state == {"episode_id": "one", "step_count": 3, "task_id": "awm/notes_app_1/0", "done": True}
        with pytest.raises(WorldError, match="call reset first"):
            world.step("answer: again")


@pytest.mark.parametrize(
    ("turn", "label", "source", "words"),
    [
        ("hm", "unparsed", Source.FORMAT_WARNING, "nothing was run"),
        (call("list_notes", limit=1), "valid", Source.TOOL_RESULT, "milk"),
        (call("drop_notes"), "invalid", Source.TOOL_ERROR, "Unknown tool"),
        (call("list_notes", limit=0), "invalid", Source.TOOL_ERROR, "minimum of 1"),
        (call("rename_note", note_id=1), "invalid", Source.TOOL_ERROR, "required"),
        (call("rename_note", note_id="one", title="x"), "invalid", Source.TOOL_ERROR, "integer"),
        (call("rename_note", note_id=99, title="x"), "valid", Source.TOOL_ERROR, "500"),
        (call("rename_note", note_id=1, title="'; DROP TABLE notes; --"), "valid", Source.TOOL_RESULT, "DROP TABLE"),
        (call("rename_note", note_id=1, title="\x00 \U0001f600"), "valid", Source.TOOL_RESULT, "\U0001f600"),
        (call("rename_note", note_id=1, title="\ud800"), "valid", Source.TOOL_ERROR, ""),
    ],
)
def test_answers_say_how_a_call_fared(notes: AwmWorld, turn: str, label: str, source: Source, words: str) -> None:
    """Would catch an error of the service counted as a wrong call, and text that breaks the pipe."""
    observation = notes.step(turn)
    assert observation.labels[CALL_LABEL] == label
    assert (observation.segments[0].source, words in observation.segments[0].text) == (source, True)
    observation.segments[0].text.encode()


@pytest.mark.parametrize("sandbox", ["bubblewrap", "unsafe-host"])
def test_the_last_turn_is_graded_without_an_answer(environments: Path, sandbox: Any) -> None:
    """Would catch an episode without end; and the unsafe host, which nobody else tries."""
    world = AwmWorld(a_task(environments, "notes_app_1"), max_turns=1, sandbox=sandbox)
    warned = pytest.warns(UserWarning, match="unsafe-host") if sandbox == "unsafe-host" else nullcontext()
    with warned:
        last = reset_and_step(world, call("rename_note", note_id=1, title="oat milk"))
    assert (last.done, last.reward) == (True, 1.0)
    assert [segment.source for segment in last.segments] == [Source.TOOL_RESULT, Source.GRADER]


def test_a_verifier_for_a_judge_grades_nothing_and_one_that_fails_is_an_error(
    rooms: AwmWorld, environments: Path
) -> None:
    """Would catch facts for a judge read as a failure: reward 0 would teach that the episode was bad."""
    last = rooms.step("answer: seen")
    assert (last.done, last.reward) == (True, None)
    assert [segment.text for segment in last.segments] == ['{"num_rooms": 1}']
    broken = AwmWorld(a_task(environments, "rooms_2", 1))
    broken.reset()
    with pytest.raises(WorldError, match="ZeroDivisionError"):
        broken.step("answer: seen")


# --- generated code is not trusted --------------------------------------------------------------------------------


def test_generated_code_sees_no_files_of_ours_and_has_no_network(rooms: AwmWorld, environments: Path) -> None:
    """Would catch a scenario that reads the home folder, the repository or the network."""
    assert json.loads(rooms.step(call("get_room", room_id=4)).segments[0].text) == {"id": 4, "seats": 12}
    seen = json.loads(rooms.step(call("misbehave", kind="secrets")).segments[0].text)
    assert seen["uid"] == 1000
    assert seen["home"] == ["final.db"]
    for path in (__file__, str(environments), "/etc/passwd", "/etc/hostname"):
        assert json.loads(rooms.step(call("exists", path=path)).segments[0].text) == {"exists": False}, path
    for kind in ("network", "write", "disk", "memory", "fork"):
        observation = rooms.step(call("misbehave", kind=kind))
        assert observation.segments[0].source is Source.TOOL_ERROR, kind
    assert json.loads(rooms.step(call("get_room", room_id=4)).segments[0].text)["seats"] == 12
    flooded = rooms.step(call("misbehave", kind="flood"))
    assert [segment.source for segment in flooded.segments] == [Source.TOOL_RESULT, Source.TRUNCATION_NOTICE]


def test_a_call_that_takes_too_long_ends_the_episode(rooms: AwmWorld) -> None:
    """Would catch a rollout that waits for ever."""
    late = rooms.step(call("misbehave", kind="sleep"), timeout_s=0.5)
    assert (late.timed_out, late.done, late.reward) == (True, True, 0.0)
    assert [segment.source for segment in late.segments] == [Source.TIMEOUT_NOTICE]
    with pytest.raises(WorldError, match="call reset first"):
        rooms.step(call("get_room", room_id=4))


def test_a_service_that_reads_no_more_is_late_and_not_waited_for(rooms: AwmWorld) -> None:
    """Would catch a write into a full pipe that waits for ever."""
    rooms.step(call("misbehave", kind="deaf"))
    time.sleep(0.5)
    late = rooms.step(call("exists", path="x" * 1_000_000), timeout_s=0.5)
    assert (late.timed_out, late.done) == (True, True)


def test_a_scenario_that_ends_itself_is_a_lost_world(rooms: AwmWorld) -> None:
    """Would catch an exit of generated code that hangs us or passes for an answer."""
    with pytest.raises(WorldLostError, match="ended"):
        rooms.step(call("misbehave", kind="exit"))


@pytest.mark.parametrize(
    ("code", "message"),
    [("import nothing_like_this", "ModuleNotFoundError"), ("x = 1", "defines no `app`"), ("app = 1", "AttributeError")],
)
def test_code_that_does_not_start_says_why(environments: Path, code: str, message: str) -> None:
    """Would catch a scenario whose failure is told as a broken pipe."""
    task = a_task(environments, "notes_app_1")
    broken = dataclasses.replace(task, scenario=dataclasses.replace(task.scenario, code=code))
    with pytest.raises(WorldError, match=message):
        AwmWorld(broken).reset()


def test_missing_packages_are_named_with_the_command_that_installs_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch an ImportError from inside the sandbox that nobody can place."""
    monkeypatch.setattr(driver, "importable", lambda name: name != "fastapi_mcp")
    with pytest.raises(driver.Failure, match=r"fastapi_mcp.*envecho\[awm\]"):
        driver.application("app = None")


# --- the suite ----------------------------------------------------------------------------------------------------


def test_scenarios_take_turns_and_explore_runs_through_the_loop(environments: Path) -> None:
    """Would catch a suite that names one task twice, and an explorer that never sees the tools."""
    suite: TaskSuite = open_awm(environments, SuiteOptions(max_turns=4))
    ids = [suite.task_id("train", number) for number in range(suite.num_tasks("train") or 0)]
    assert suite.splits == ("train",)
    assert sorted(ids) == ["awm/notes_app_1/0", "awm/notes_app_1/1", *(f"awm/rooms_2/{n}" for n in range(3))]
    assert {ids[0].split("/")[1], ids[1].split("/")[1]} == {"notes_app_1", "rooms_2"}
    number = ids.index("awm/notes_app_1/1")
    job = EpisodeJob(
        id="one",
        task_id=ids[number],
        seed=0,
        make_world=lambda: suite.make_world("train", number),
        make_policy=lambda: suite.scripted_policy("train", number, policy="explore", seed=0),
    )
    trajectory = run_episode(job)
    said = [message.content for message in trajectory.messages if message.role == "assistant"]
    assert len(said) == 4
    assert any("list_notes" in text for text in said)


def test_splits_are_disjoint_by_scenario(environments: Path) -> None:
    """Would catch a held-out figure on scenarios that training saw."""
    (model, *_) = read_scenarios(environments)
    suite = AwmSuite([dataclasses.replace(model, name=f"copy_{number}") for number in range(12)])
    names = {
        split: {suite.task(split, number).scenario.name for number in range(suite.num_tasks(split))}
        for split in suite.splits
    }
    assert {split: len(found) for split, found in names.items()} == {"train": 10, "validation": 1, "held_out": 1}
    assert len(set[str]().union(*names.values())) == 12


def test_options_that_cannot_be_followed_are_refused_by_name(environments: Path) -> None:
    """Would catch a misspelt scenario that leaves an empty suite, and an oracle that does nothing."""
    with pytest.raises(ConfigError, match="Did you mean 'rooms_2'"):
        open_awm(environments, SuiteOptions(families=("rooms_3",)))
    with pytest.raises(ConfigError, match="no rubric"):
        open_awm(environments, SuiteOptions(rubric="a:B"))
    suite = open_awm(environments, SuiteOptions(families=("rooms_2",)))
    assert suite.num_tasks("train") == 3
    with pytest.raises(ConfigError, match="hold no solutions"):
        suite.scripted_policy("train", 0, policy="oracle", seed=0)
    with pytest.raises(ConfigError, match="have the splits train"):
        suite.task("held_out", 0)
