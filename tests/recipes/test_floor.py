"""The floor of pools whose actions a real bash carries out again, and of worlds that differ by construction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from envecho.errors import ConfigError, DataError
from envecho.evaluation.facts import token_facts
from envecho.evaluation.facts_episodes import REPEAT_KEYS
from envecho.evaluation.scores import pool_tokens
from envecho.recipes import floor as floor_module
from envecho.recipes.floor import measure_floor
from envecho.recipes.terminal_jobs import explore_job
from envecho.rollout import EpisodeJob, collect, run_episode
from envecho.rollout.protocol import cut_notice
from envecho.seam import Scores
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, Segment, Source, Trajectory
from envecho.worlds.suites import open_suite
from envecho.worlds.terminal.boxes import make_box
from envecho.worlds.terminal.explorer import PlannedCommand

STEADY = ["ls /", "printf 'one\\ntwo\\n'", "false"]
VOLATILE = ["date +%s%N", "mktemp", "printf 'first\\n'; date +%N; printf 'last\\n'"]


@pytest.fixture(scope="module")
def tokenizer(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


def played(commands: Sequence[str], *, box: int = 3) -> Trajectory:
    """What a real bash answers on a box."""
    plan = [PlannedCommand(command=command) for command in commands]
    return run_episode(explore_job(make_box(box), plan, name=f"box-{box}", sandbox="bubblewrap"))


def changed_text(trajectory: Trajectory, ranges: Sequence[tuple[int, int]], turn: int) -> list[str]:
    return [trajectory.messages[turn].content[start:end] for start, end in ranges]


def test_times_and_random_names_come_out_otherwise_and_listings_do_not(tokenizer):
    """Catches a replay in the same sandbox, and a comparison that takes an answer for changed as a whole."""
    trajectory = played([*STEADY, *VOLATILE])
    found = measure_floor([trajectory], tokenizer)
    turns = range(3, 15, 2)
    assert found.changed.keys() == {(trajectory.id, turn) for turn in turns}
    texts = [changed_text(trajectory, found.changed[trajectory.id, turn], turn) for turn in turns]
    assert texts[:3] == [[], [], []]
    for turn, text in zip((9, 11), texts[3:5], strict=True):
        assert text == [trajectory.messages[turn].content]
    first, nanoseconds, last = trajectory.messages[13].content.splitlines(keepends=True)
    assert (first, last) == ("first\n", "last\n")
    assert texts[5] == [nanoseconds]
    assert (found.num_observations, found.num_different, found.num_not_replayed) == (6, 3, 0)
    assert found.num_record_alone == 0
    assert found.floor.identical_observations.value == 0.5
    assert found.floor.num_runs == 3
    assert 0.2 < found.floor.different_tokens.value < 0.8
    assert "3 of 6 observations" in str(found)


def test_the_share_of_tokens_is_that_of_the_slice_over_the_same_ranges(tokenizer):
    """Catches a floor and a `repeat` slice that count other tokens."""
    trajectory = played(VOLATILE)
    found = measure_floor([trajectory], tokenizer, num_replays=1)
    sequences = tokenize_trajectory(trajectory, tokenizer)
    zeros = [Scores(logprobs=np.zeros(len(s), np.float32), top1=np.zeros(len(s), np.bool_)) for s in sequences]
    tokens = pool_tokens(sequences, zeros)
    repeat = token_facts(tokens, sequences, [trajectory], tokenizer, changed=found.changed).columns["repeat"]
    assert (repeat.codes == REPEAT_KEYS.index("different")).mean() == found.floor.different_tokens.value
    assert len(repeat.codes) == found.floor.different_tokens.num_tokens


def test_the_tools_world_says_the_same_again(tokenizer):
    """Catches a replay on another task, and a world of tools that cannot be replayed at all."""
    pool = list(collect([oracle("tools", number) for number in range(2)]))
    found = measure_floor(pool, tokenizer)
    assert found.floor.identical_observations.value == 1
    assert found.floor.different_tokens.value == 0
    assert found.num_observations > 4


def oracle(world: str, number: int) -> EpisodeJob:
    """The oracle's episode of a training task."""
    suite = open_suite(world)
    return EpisodeJob(
        id=f"{world}-{number}",
        task_id=suite.task_id("train", number),
        seed=number,
        make_world=lambda: suite.make_world("train", number),
        make_policy=lambda: suite.scripted_policy("train", number, policy="oracle", seed=0),
        metadata={"world": world, "split": "train", "task": number},
    )


def test_a_record_of_another_world_is_told_from_chance(tokenizer):
    """Catches a floor that calls every token unknowable where the recorded world was another one."""
    trajectory = played(STEADY)
    told = tuple(
        message.model_copy(update={"segments": (Segment(source=Source.STDOUT, text="something else\n"),)})
        if turn == 3
        else message
        for turn, message in enumerate(trajectory.messages)
    )
    found = measure_floor([trajectory.with_messages(told)], tokenizer)
    assert (found.num_different, found.num_record_alone) == (1, 1)


def test_what_an_episode_did_not_reach_again_is_counted_and_in_no_figure(tokenizer, monkeypatch: pytest.MonkeyPatch):
    """Catches answers that were never made again and count as the same, or as changed."""

    def shorter(jobs, **options):
        for trajectory in collect(jobs, **options):
            yield trajectory.with_messages(trajectory.messages[:4])

    trajectory = played(STEADY)
    monkeypatch.setattr(floor_module, "collect", shorter)
    found = measure_floor([trajectory], tokenizer)
    assert (found.num_observations, found.num_not_replayed) == (1, 2)
    assert found.changed.keys() == {(trajectory.id, 3)}
    (sequence,) = tokenize_trajectory(trajectory, tokenizer)
    assert found.floor.different_tokens.num_tokens == (sequence.obs_mask & (sequence.turns == 3)).sum()


def test_a_turn_that_the_rollout_cut_shifts_no_answer(tokenizer):
    """Catches answers set beside those of another action where a model's turn was never carried out."""
    trajectory = played(STEADY)
    cut = (
        Message(role="assistant", segments=(Segment(source=Source.POLICY, text="ls -"),)),
        cut_notice(2, as_tool=False),
    )
    messages = (*trajectory.messages[:4], *cut, *trajectory.messages[4:])
    found = measure_floor([trajectory.with_messages(messages)], tokenizer)
    assert found.changed.keys() == {(trajectory.id, turn) for turn in (3, 7, 9)}
    assert found.num_different == 0


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "does not say its world"),
        ({"world": "terminus"}, "'terminus'.*Did you mean 'terminal'"),
        ({"world": "envecho.worlds.suites:open_suite"}, "expected one of terminal"),
    ],
)
def test_a_world_that_is_not_ours_is_opened_only_where_the_user_names_it(tokenizer, metadata, message):
    """Catches code that runs because a stranger's file names it, and a pool that is skipped silently."""
    trajectory = played(["ls /"]).model_copy(update={"metadata": metadata})
    with pytest.raises(ConfigError, match=message):
        measure_floor([trajectory], tokenizer)


def test_a_world_by_name_takes_the_place_of_the_metadata(tokenizer):
    """Catches imports that cannot be replayed although the user knows their world."""
    (recorded,) = collect([oracle("depot", 0)])
    foreign = recorded.model_copy(update={"metadata": {}})
    assert measure_floor([foreign], tokenizer, world="depot").floor.identical_observations.value == 1


def test_a_pool_without_answered_actions_has_no_floor(tokenizer):
    """Catches a floor of zero where nothing was carried out."""
    task = Message(role="user", segments=(Segment(source=Source.TASK, text="Look."),))
    with pytest.raises(DataError, match="actions with answers"):
        measure_floor([Trajectory(id="a", task_id="a", messages=(task,))], tokenizer)


def test_intervals_are_over_tasks(tokenizer):
    """Catches an interval over observations of one task."""
    pool = [played([*STEADY, *VOLATILE[: 1 + box]], box=box) for box in range(2)]
    found = measure_floor(pool, tokenizer).floor
    for stat in (found.identical_observations, found.different_tokens):
        assert stat.num_tasks == 2
        assert stat.low < stat.value < stat.high
