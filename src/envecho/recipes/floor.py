"""The floor of a pool: the recorded actions carried out again in fresh sandboxes, and what came out otherwise.

What differs between runs of the same actions (times, process ids, random names) no predictor could have known. Answers
are compared line by line with the record. Not here: replaying (`envecho.rollout.replay`), and what a token in such a
line is (`envecho.evaluation.facts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast, get_args

import numpy as np
from rapidfuzz.distance import LCSseq

from envecho.errors import ConfigError, DataError, WorldError, did_you_mean
from envecho.evaluation.facts_episodes import REPEAT_KEYS, Episodes
from envecho.evaluation.facts_stream import episode_streams
from envecho.evaluation.intervals import ratio_stat
from envecho.evaluation.results import Floor, Stat
from envecho.recipes.progress import progress_bar
from envecho.recipes.terminal_jobs import explored_box
from envecho.rollout import EpisodeJob, collect
from envecho.rollout.replay import actions_of, carried_out, replay_jobs
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Message, Role, Trajectory
from envecho.worlds.explore.history import exchanges
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.suites import SUITES, open_suite

NUM_REPLAYS: Final = 2

Range = tuple[int, int]
Place = tuple[str, int]
"""Trajectory id and turn."""


@dataclass(frozen=True, kw_only=True)
class MeasuredFloor:
    """The floor of a pool, and where it lies.

    `changed` has every observation that was made again: character ranges `[start, end)` of its message's content whose
    lines came out otherwise, none where all came out the same. `num_record_alone` counts the observations that all
    replays agree on against the record: where that is most of them, the live world is another one than the recorded.
    `num_not_replayed` are observations that no replay made again, because its episode ended before; they are in no
    figure.
    """

    floor: Floor
    changed: Mapping[Place, Sequence[Range]]
    num_observations: int
    num_different: int
    num_record_alone: int
    num_not_replayed: int

    def __str__(self) -> str:
        """What was found, in one line."""
        share, num_replays = self.floor.different_tokens.value, self.floor.num_runs - 1
        alike = f", {self.num_record_alone} of them alike in all replays" if self.num_different else ""
        more = f"; {self.num_not_replayed} more were not made again" if self.num_not_replayed else ""
        return (
            f"floor: {self.num_different} of {self.num_observations} observations came out otherwise in one of "
            f"{num_replays} replays{alike}; {share:.1%} of the environment's tokens lie in such lines{more}"
        )


def measure_floor(
    trajectories: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    *,
    world: str | None = None,
    sandbox: str = "bubblewrap",
    num_replays: int = NUM_REPLAYS,
    num_workers: int = 4,
    seed: int = 0,
) -> MeasuredFloor:
    """Carry out the actions of a pool again, `num_replays` times, each in a fresh world, and compare the answers.

    `world` is what `envecho.worlds.suites.open_suite` takes; without it each trajectory's metadata name one of the
    worlds that come with envecho. Nothing else is opened on the word of a file. The tokens of `different_tokens` are
    `tokenizer`'s; `identical_observations` is over observations, of which its `num_tokens` is the number.

    Raises:
        ConfigError: a trajectory names no such world, or its task is not found there.
        DataError: the pool has no action that was answered.
        WorldError: no action could be carried out again.
    """
    acting = [trajectory for trajectory in trajectories if actions_of(trajectory)]
    if not any(_answers(trajectory) for trajectory in acting):
        raise DataError("expected actions with answers to carry out again, found none in the pool")
    jobs = _jobs(acting, world=world, sandbox=sandbox)
    num_turns = max(len(actions_of(trajectory)) for trajectory in acting)
    replays: list[list[Trajectory]] = []
    with progress_bar("replaying", total=num_replays * len(jobs)) as advance:
        for _ in range(num_replays):
            replays.append([])
            for replay in collect(jobs, max_turns=num_turns, num_workers=num_workers):
                replays[-1].append(replay)
                advance(1)
    compared: list[_Compared] = []
    num_not_replayed = 0
    for place, trajectory in enumerate(acting):
        again = [_answers(replay[place]) for replay in replays]
        for key, (turn, answer) in _answers(trajectory).items():
            others = [answers[key][1] for answers in again if key in answers]
            if len(others) < num_replays:
                num_not_replayed += 1
            else:
                compared.append(_compare((trajectory.id, turn), trajectory.task_id, answer, others))
    if not compared:
        raise WorldError("no recorded action could be carried out again; see what `envecho collect` says of this world")
    changed = {one.place: one.ranges for one in compared}
    return MeasuredFloor(
        floor=Floor(
            identical_observations=_identical(compared, seed=seed),
            different_tokens=_different(acting, changed, tokenizer, seed=seed),
            num_runs=num_replays + 1,
        ),
        changed=changed,
        num_observations=len(compared),
        num_different=sum(not one.is_same for one in compared),
        num_record_alone=sum(one.is_record_alone for one in compared),
        num_not_replayed=num_not_replayed,
    )


# --- replaying -------------------------------------------------------------------------------------------------------


def _jobs(trajectories: Sequence[Trajectory], *, world: str | None, sandbox: str) -> list[EpisodeJob]:
    """Return one job per trajectory, in order."""
    names = [world or _world_of(trajectory) for trajectory in trajectories]
    jobs: dict[int, EpisodeJob] = {}
    for name in dict.fromkeys(names):
        places = [place for place, other in enumerate(names) if other == name]
        stored = [trajectories[place] for place in places]
        num_turns = max(len(actions_of(trajectory)) for trajectory in stored)
        suite = open_suite(name, sandbox=sandbox, max_turns=num_turns + 1)
        boxes = name == "terminal" and sandbox in get_args(SandboxName)
        elsewhere = (lambda trajectory: explored_box(trajectory, sandbox=cast(SandboxName, sandbox))) if boxes else None
        jobs |= zip(places, replay_jobs(stored, suite, elsewhere=elsewhere), strict=True)
    return [jobs[place] for place in range(len(trajectories))]


def _world_of(trajectory: Trajectory) -> str:
    name = trajectory.metadata.get("world")
    if name in SUITES:
        return str(name)
    known = ", ".join(SUITES)
    if name is None:
        raise ConfigError(
            f"trajectory {trajectory.id!r} does not say its world, so its actions cannot be carried out again; only "
            f"pools of {known}, or of a world that is named, have a floor"
        )
    raise ConfigError(
        f"trajectory {trajectory.id!r} is of the world {str(name)!r}; expected one of {known}, or the world by name."
        f"{did_you_mean(str(name), SUITES)}"
    )


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """An observation: the ranges that came out otherwise, and whether all replays agree against the record."""

    place: Place
    task_id: str
    ranges: tuple[Range, ...]
    is_same: bool
    is_record_alone: bool


def _answers(trajectory: Trajectory) -> dict[tuple[int, int], tuple[int, Message]]:
    """Return turn and message of every answer to what a world carried out, by number of the action and of the answer.

    What the rollout cut was never carried out: its notice has no number, and is no part of a replay either.
    """
    opening, history = exchanges(trajectory.messages)
    turns = iter([t for t, m in enumerate(trajectory.messages) if t >= len(opening) and m.role != "assistant"])
    carried = carried_out(trajectory)
    found: dict[tuple[int, int], tuple[int, Message]] = {}
    number = 0
    for exchange in history:
        answers = [(next(turns), answer) for answer in exchange.answers]
        if number < len(carried) and carried[number] == exchange:
            found |= {(number, place): answer for place, answer in enumerate(answers)}
            number += 1
    return found


def _compare(place: Place, task_id: str, answer: Message, others: Sequence[Message]) -> _Compared:
    """Compare one answer of the record with that of each replay."""
    lines = list(_lines(answer))
    said, again = [line for line, _ in lines], [[line for line, _ in _lines(other)] for other in others]
    lost = sorted({number for other in again for number in _unmatched(said, other)})
    is_same = all(other == said for other in again)
    return _Compared(
        place=place,
        task_id=task_id,
        ranges=tuple(lines[number][1] for number in lost),
        is_same=is_same,
        is_record_alone=not is_same and all(other == again[0] for other in again),
    )


def _lines(message: Message) -> Iterator[tuple[str, Range]]:
    """Yield the lines of what the environment itself said, each with its place in the message's content."""
    start = 0
    for segment in message.segments:
        if segment.source.role is Role.ENV_OUTPUT:
            place = start
            for line in segment.text.splitlines(keepends=True):
                yield line, (place, place + len(line))
                place += len(line)
        start += len(segment.text)


def _unmatched(one: Sequence[str], other: Sequence[str]) -> list[int]:
    """Return the places of `one` that are not in a longest common subsequence of the two."""
    opcodes = LCSseq.opcodes(one, other)
    return [place for code in opcodes if code.tag != "equal" for place in range(code.src_start, code.src_end)]


# --- figures ---------------------------------------------------------------------------------------------------------


def _identical(compared: Sequence[_Compared], *, seed: int) -> Stat:
    tasks = {task: place for place, task in enumerate(sorted({one.task_id for one in compared}))}
    of_task = np.array([tasks[one.task_id] for one in compared], dtype=np.int64)
    stat = ratio_stat(np.array([one.is_same for one in compared]), np.ones(len(compared)), of_task, seed=seed)
    assert stat is not None
    return stat


def _different(
    trajectories: Sequence[Trajectory], changed: Mapping[Place, Sequence[Range]], tokenizer: ChatTokenizer, *, seed: int
) -> Stat:
    """The share of environment tokens in lines that came out otherwise, among those of observations made again."""
    sequences = [sequence for trajectory in trajectories for sequence in tokenize_trajectory(trajectory, tokenizer)]
    streams = episode_streams(sequences, tokenizer)
    codes = Episodes.read(streams, trajectories).repeat_codes(changed)
    known = streams.role_mask(Role.ENV_OUTPUT) & (codes >= 0)
    task_of = {trajectory.id: trajectory.task_id for trajectory in trajectories}
    tasks = np.unique([task_of[name] for name in streams.trajectory_ids], return_inverse=True)[1]
    stat = ratio_stat(
        codes[known] == REPEAT_KEYS.index("different"),
        np.ones(int(known.sum())),
        tasks[streams.episodes[known]],
        seed=seed,
    )
    if stat is None:
        raise DataError("expected text of the environment in the answers to recorded actions, found none in the pool")
    return stat
