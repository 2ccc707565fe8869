"""Replays of stored trajectories on live worlds, and what they find."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from envecho.errors import ConfigError, WorldError
from envecho.formats import ImportOptions
from envecho.formats.agent_world_model import read
from envecho.formats.reading import Document
from envecho.recipes.terminal_jobs import explore_job, explore_jobs
from envecho.rollout import EpisodeJob, collect, run_episode
from envecho.rollout.protocol import cut_notice
from envecho.rollout.replay import Place, actions_of, replay_jobs
from envecho.rollout.replay_report import differences, replay_report
from envecho.seam import Observation, Policy, World
from envecho.trajectory import Message, Segment, Source, StopReason, ToolCall, Trajectory
from envecho.worlds.depot.suite import DepotSuite
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.suites import open_suite
from envecho.worlds.terminal.boxes import make_box
from envecho.worlds.terminal.explorer import PlannedCommand
from envecho.worlds.tool_calls import CallText, FinalAnswer, parse_action


class ShopSuite:
    """One task over a stock of parts; `answers` of `get_part` may be changed, and worlds are counted."""

    name = "shop"
    splits = ("train", "held_out")

    def __init__(self, *, stock: int = 3, ids: Callable[[str, int], str] | None = None) -> None:
        self.stock, self.open_worlds = stock, 0
        self._ids = ids or (lambda split, number: f"shop/{split}-{number}")

    def num_tasks(self, split: str) -> int | None:
        return 3

    def task_id(self, split: str, number: int) -> str:
        return self._ids(split, number)

    def make_world(self, split: str, number: int) -> World:
        return Shop(self)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        return ScriptedPolicy.oracle(
            [*(str(CallText(name="get_part", arguments={"id": key})) for key in (1, 2)), "answer: two"]
        )


class Shop:
    def __init__(self, suite: ShopSuite) -> None:
        self.suite, self.steps, self.is_open = suite, 0, False

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.steps, self.is_open = 0, True
        self.suite.open_worlds += 1
        schema = {"type": "object", "properties": {"id": {"type": "integer"}}}
        tool = {"type": "function", "function": {"name": "get_part", "parameters": schema}}
        return Observation(segments=(Segment(source=Source.TASK, text="How many bolts?"),), tools=(tool,))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        self.steps += 1
        said = parse_action(action)
        if isinstance(said, FinalAnswer):
            return Observation(segments=(), done=True, reward=1.0)
        assert isinstance(said, CallText)
        if said.arguments == {"id": 99}:
            raise WorldError("the shop burnt down")
        part = {"part": {"id": said.arguments["id"], "name": "bolt", "stock": self.suite.stock}}
        result = Segment(source=Source.TOOL_RESULT, text=json.dumps(part), tool="get_part")
        return Observation(segments=(result, Segment(source=Source.STATUS, text=f"[call {self.steps}]")))

    @property
    def state(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        self.suite.open_worlds -= self.is_open
        self.is_open = False


def stored(suite: ShopSuite, *, split: str = "train", number: int = 0) -> Trajectory:
    job = EpisodeJob(
        id=f"stored-{split}-{number}",
        task_id=suite.task_id(split, number),
        seed=number,
        make_world=lambda: suite.make_world(split, number),
        make_policy=lambda: suite.scripted_policy(split, number, policy="oracle", seed=0),
        metadata={"world": "shop", "split": split, "task": number},
    )
    return run_episode(job)


def test_an_episode_replayed_on_its_own_world_is_equal_word_by_word():
    """Catches actions that change on the way through a file, and a task that is another one."""
    suite = ShopSuite()
    original = stored(suite, split="held_out", number=2)
    (replayed,) = collect(replay_jobs([original], suite))
    assert replayed.messages == original.messages
    assert replayed.task_id == "shop/held_out-2"
    assert replayed.metadata["policy"] == "replay"
    assert replayed.metadata["replayed"] == original.id
    report = replay_report([original], [replayed])
    assert report.equal_fraction == 1.0
    assert str(report) == "1 episode replayed, 1 equal throughout; 100.0% of the turns answered as before"
    assert suite.open_worlds == 0


def test_a_key_that_changed_is_named_with_both_values():
    """Catches a difference that drowns in two lines of JSON."""
    original = stored(ShopSuite())
    suite = ShopSuite(stock=4)
    (replayed,) = collect(replay_jobs([original], suite))
    found = differences(original, replayed)
    assert [(d.turn, d.source, [str(key) for key in d.keys]) for d in found] == [
        (0, Source.TOOL_RESULT, ["$.part.stock: 3 -> 4"]),
        (1, Source.TOOL_RESULT, ["$.part.stock: 3 -> 4"]),
    ]
    report = replay_report([original], [replayed])
    assert report.equal_fraction == 0.0
    assert '\n  turn 0, {"name": "get_part", "arguments": {"id": 1}}: tool_result\n    $.part.stock: 3 -> 4\n' in str(
        report
    )
    assert json.loads(json.dumps(report.as_json()))["episodes"][0]["differences"][1]["keys"] == [
        {"path": "$.part.stock", "kind": "changed", "stored": 3, "replayed": 4}
    ]


def test_the_world_is_released_and_the_rest_counted_where_a_replay_fails():
    """Catches a session that is held after an error, and a short replay that looks equal."""
    suite = ShopSuite()
    original = stored(suite)
    said = Message(
        role="assistant",
        segments=(Segment(source=Source.POLICY, text='{"name": "get_part", "arguments": {"id": 99}}'),),
    )
    broken = original.with_messages((original.messages[0], original.messages[1], said, *original.messages[3:]))
    (replayed,) = collect(replay_jobs([broken], suite))
    assert replayed.stop_reason is StopReason.WORLD_ERROR
    assert suite.open_worlds == 0
    (episode,) = replay_report([broken], [replayed]).episodes
    assert (episode.num_turns, episode.num_equal, episode.num_not_replayed) == (1, 0, 1)
    assert "the shop burnt down" in str(episode)
    assert "world_error" in str(episode)


def answered(*segments: tuple[Source, str]) -> Trajectory:
    parts = tuple(Segment(source=source, text=text) for source, text in segments)
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="Go."),))
    said = Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls"),))
    return Trajectory(id="t", task_id="t", messages=(task, said, Message(role="user", segments=parts)))


@pytest.mark.parametrize(
    ("one", "other", "equal", "lines"),
    [
        ([(Source.STDOUT, "a\nb\n")], [(Source.STDOUT, "a\nc\n")], False, ["- b", "+ c"]),
        ([(Source.STDOUT, "a\n")], [(Source.STDOUT, "a")], False, [r"- 'a\n'", "+ 'a'"]),
        ([(Source.STDOUT, "a")], [(Source.TOOL_RESULT, "a")], True, []),
        ([(Source.TOOL_RESULT, '{"a": 1, "b": 2}')], [(Source.TOOL_RESULT, '{"b":2,"a":1.0}')], True, []),
        ([(Source.TOOL_RESULT, '{"a": 1}')], [(Source.TOOL_RESULT, '{"a": true}')], False, ["$.a: 1 -> true"]),
        ([(Source.TOOL_RESULT, "[1, 2]")], [(Source.TOOL_RESULT, "[1]")], False, ["$[1]: only stored: 2"]),
        ([(Source.TOOL_RESULT, "{}")], [(Source.TOOL_RESULT, '{"x": "y"}')], False, ["$.x: only replayed: y"]),
        ([(Source.TOOL_RESULT, "12")], [(Source.TOOL_RESULT, "12.0")], False, ["- 12", "+ 12.0"]),
        ([(Source.STDOUT, "a"), (Source.STATUS, "[0]")], [(Source.STDOUT, "a")], True, ["- [0]"]),
        ([(Source.STDOUT, "a"), (Source.GRADER, "good")], [(Source.STDOUT, "a")], True, []),
        ([(Source.STDOUT, "--- x")], [(Source.STDOUT, "+++ x")], False, ["- --- x", "+ +++ x"]),
    ],
)  # fmt: skip
def test_what_counts_as_equal(one: Any, other: Any, equal: bool, lines: list[str]):
    """Catches a rate that falls for another harness's words, or for the order of keys, and one that hides a change."""
    report = replay_report([answered(*one)], [answered(*other)])
    assert report.equal_fraction == float(equal)
    text = str(report.episodes[0])
    assert [line.strip() for line in text.splitlines() if line.startswith("    ")] == lines


def test_only_stored_episode_facts_that_differ_are_named():
    """Catches a report that says nothing of tools, task or reward."""
    original = stored(ShopSuite())
    tool = {"type": "function", "function": {"name": "sell_part", "parameters": {}}}
    changed = original.model_copy(update={"tools": (tool,), "reward": 0.0})
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="Another task."),))
    changed = changed.with_messages((task, *changed.messages[1:]))
    text = str(replay_report([changed], [original]))
    assert "another task text; tools missing: sell_part; tools added: get_part; reward 0.0 -> 1.0" in text


# --- actions --------------------------------------------------------------------------------------------------------


def test_structured_calls_become_texts_and_the_last_message_the_answer():
    """Catches an import of an agent's episode that replays nothing, or takes two calls of a turn for one."""
    calls = tuple(ToolCall(name="get_part", arguments=f'{{"id": {key}}}', id=f"c{key}") for key in (1, 2))
    result = Segment(source=Source.TOOL_RESULT, text='{"part": {"id": 1, "name": "bolt", "stock": 3}}')
    other = Segment(source=Source.TOOL_RESULT, text='{"part": {"id": 2, "name": "bolt", "stock": 3}}')
    trajectory = Trajectory(
        id="imported",
        task_id="shop/train-1",
        messages=(
            Message(role="user", segments=(Segment(source=Source.TASK, text="How many bolts?"),)),
            Message(role="assistant", segments=(Segment(source=Source.POLICY, text="I look."),), tool_calls=calls),
            Message(role="tool", segments=(result,), tool_call_id="c1"),
            Message(role="tool", segments=(other,), tool_call_id="c2"),
            Message(role="assistant", segments=(Segment(source=Source.POLICY, text="There are six."),)),
        ),
    )
    assert actions_of(trajectory) == [
        '{"name": "get_part", "arguments": {"id": 1}}',
        '{"name": "get_part", "arguments": {"id": 2}}',
        "answer: There are six.",
    ]
    (replayed,) = collect(replay_jobs([trajectory], ShopSuite()))
    report = replay_report([trajectory], [replayed])
    assert report.episodes[0].is_equal
    assert replayed.reward == 1.0


def test_an_agent_world_model_episode_is_replayed_after_its_import(tmp_path: Path):
    """Catches an import whose task, calls or results cannot be found again in a live scenario."""
    episode = {
        "scenario": "shop",
        "task_idx": 1,
        "task": "How many bolts?",
        "tools": ["get_part"],
        "steps": [
            {
                "action": {"tool_name": "get_part", "arguments": {"id": 1}},
                "observation": {"tool_result": {"part": {"id": 1, "name": "bolt", "stock": 3}}, "error": None},
            }
        ],
        "reward": 1.0,
    }
    document = Document(data=episode, file="episode.json", line=None)
    (trajectory,) = read(document, ImportOptions())
    suite = ShopSuite(ids=lambda split, number: f"awm/shop/{number if split == 'train' else number + 3}")
    (job,) = replay_jobs([trajectory], suite)
    assert (job.task_id, job.metadata["split"], job.metadata["task"]) == ("awm/shop/1", "train", 1)
    (episode_report,) = replay_report([trajectory], [run_episode(job)]).episodes
    assert (episode_report.num_turns, episode_report.num_equal) == (1, 1)


def test_a_turn_that_was_cut_is_not_carried_out_the_second_time_either():
    """Catches half a command that runs in the replay and changes what follows."""
    suite = ShopSuite()
    original = stored(suite)
    half = Message(role="assistant", segments=(Segment(source=Source.POLICY, text='{"name": "get_p'),))
    cut = original.with_messages((*original.messages[:2], half, cut_notice(3), *original.messages[2:]))
    assert actions_of(cut) == actions_of(original)
    (replayed,) = collect(replay_jobs([cut], suite))
    assert replay_report([cut], [replayed]).equal_fraction == 1.0


def test_labels_of_an_explorer_are_carried():
    """Catches a replay of explored episodes that no evaluation can read by view."""
    suite = DepotSuite()
    job = EpisodeJob(
        id="a",
        task_id=suite.task_id("train", 0),
        seed=0,
        make_world=lambda: suite.make_world("train", 0),
        make_policy=lambda: ScriptedPolicy([("go red", {"view": "first"}), ("go green", {"view": "derivable"})]),
        metadata={"world": "depot", "split": "train", "task": 0},
    )
    original = run_episode(job)
    (replayed,) = collect(replay_jobs([original], suite))
    assert [message.labels for message in replayed.messages] == [message.labels for message in original.messages]


def test_a_terminal_episode_is_replayed_in_a_real_shell():
    """Catches a replay that depends on the file instead of the box."""
    suite = open_suite("terminal", max_turns=16)
    job = EpisodeJob(
        id="a",
        task_id=suite.task_id("train", 3),
        seed=3,
        make_world=lambda: suite.make_world("train", 3),
        make_policy=lambda: suite.scripted_policy("train", 3, policy="oracle", seed=0),
        metadata={"world": "terminal", "split": "train", "task": 3},
    )
    original = run_episode(job)
    (replayed,) = collect(replay_jobs([original], suite))
    report = replay_report([original], [replayed])
    assert (report.equal_fraction, report.episodes[0].rewards) == (1.0, (1.0, 1.0))


def test_an_explored_box_is_replayed_though_it_is_no_task_of_the_suite():
    """Catches the first replay that somebody tries: what the terminal's explorer did has a box and no task."""
    (original,) = collect(explore_jobs("train", 1, num_derivable=3))

    def explored(trajectory: Trajectory) -> tuple[str, Callable[[], World]] | None:
        plan = [PlannedCommand(command=text) for text in actions_of(trajectory)]
        seed = trajectory.metadata.get("box_seed")
        job = None if seed is None else explore_job(make_box(seed), plan, name="replay", sandbox="bubblewrap")
        return None if job is None else (job.task_id, job.make_world)

    suite = open_suite("terminal")
    with pytest.raises(ConfigError, match="is none of the"):
        replay_jobs([original], suite)
    (replayed,) = collect(replay_jobs([original], suite, elsewhere=explored))
    assert replayed.messages == original.messages
    assert replayed.task_id == original.task_id


# --- which task -----------------------------------------------------------------------------------------------------


def test_a_task_is_found_by_its_id_where_the_metadata_do_not_say():
    """Catches a replay on task 0 of whatever has no metadata."""
    suite = ShopSuite()
    original = stored(suite, split="held_out", number=1)
    for metadata in (
        {},
        {"world": "other", "split": "train", "task": 0},
        {"world": "shop", "split": "train", "task": 0},
    ):
        (job,) = replay_jobs([original.model_copy(update={"metadata": metadata})], suite)
        assert job.task_id == "shop/held_out-1"
    (job,) = replay_jobs([original], suite, place=Place(split="train", number=2))
    assert job.task_id == "shop/train-2"


@pytest.mark.parametrize(
    ("task_id", "ids", "message"),
    [
        ("tools/1", None, "is none of the 6 tasks of 'shop' that were looked at .'shop/train-0', 'shop/train-1'"),
        ("1", lambda split, number: f"{split}/{number}", "may be any of train 1, held_out 1"),
    ],
)
def test_a_task_that_is_not_found_or_not_one_is_an_error(task_id: str, ids: Any, message: str):
    """Catches a replay on a task that was guessed."""
    trajectory = stored(ShopSuite()).model_copy(update={"task_id": task_id, "metadata": {}})
    with pytest.raises(ConfigError, match=message):
        replay_jobs([trajectory], ShopSuite(ids=ids))


def test_a_trajectory_without_an_action_is_an_error():
    """Catches an empty episode that counts as equal."""
    trajectory = stored(ShopSuite())
    with pytest.raises(ConfigError, match="has no action to replay"):
        replay_jobs([trajectory.with_messages(trajectory.messages[:1])], ShopSuite())


def test_replays_are_as_many_as_stored_episodes():
    """Catches two lists that slide against each other by one."""
    trajectory = stored(ShopSuite())
    with pytest.raises(ValueError, match="shorter"):
        replay_report([trajectory, replace_id(trajectory)], [trajectory])


def replace_id(trajectory: Trajectory) -> Trajectory:
    return trajectory.model_copy(update={"id": "another"})
