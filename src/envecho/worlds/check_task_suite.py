"""`check_suite`: the contract of a suite of tasks as checks with names, for our suites and for yours.

Splits are disjoint, a number is one task, scripts play, an oracle gets the highest reward. Not here: the contract of
the worlds that a suite makes (`check`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from envecho.errors import ConfigError
from envecho.seam import Observation, Policy, TaskSuite, World
from envecho.trajectory import Message
from envecho.worlds.check_report import SkippedCheck, WorldReport, expect, expect_kind, run_checks

_MOST_IDS: Final = 50
_SCRIPTS: Final = ("explore", "oracle")
_LONGEST_EPISODE: Final = 200


@dataclass(frozen=True, kw_only=True)
class SuiteSubject:
    """A suite, how many tasks of each split are played, and the reward that an oracle gets."""

    suite: TaskSuite
    num_tasks: int
    highest_reward: float


@dataclass(frozen=True, kw_only=True)
class Played:
    """An episode of a scripted policy: the actions, what reset and each of them answered, and the last reward."""

    actions: tuple[str, ...]
    observations: tuple[Observation, ...]

    @property
    def reward(self) -> float | None:
        """What the episode was worth."""
        return self.observations[-1].reward


def check_suite(
    suite: TaskSuite, *, num_tasks: int = 2, highest_reward: float = 1.0, raise_on_failure: bool = False
) -> WorldReport:
    """Run every check of the TaskSuite contract and report each by name.

    Args:
        suite: the suite.
        num_tasks: how many tasks of each split are played.
        highest_reward: what an oracle gets for a task.
        raise_on_failure: raise WorldError with the report where a check failed.

    Raises:
        WorldError: a check failed and `raise_on_failure` is set.
    """
    subject = SuiteSubject(suite=suite, num_tasks=num_tasks, highest_reward=highest_reward)
    report = run_checks(SUITE_CHECKS, subject)
    if raise_on_failure:
        report.raise_failures("the suite")
    return report


def play(world: World, policy: Policy, *, seed: int = 0, max_turns: int = _LONGEST_EPISODE) -> Played:
    """Let a scripted policy act until it has finished or the episode is over; close the world."""
    try:
        observations = [world.reset(seed=seed)]
        messages = [Message(role="user", segments=observations[0].segments)]
        actions: list[str] = []
        for _ in range(max_turns):
            turn = policy.act(messages)
            if turn.finished:
                break
            actions.append(turn.message.content)
            observations.append(world.step(actions[-1]))
            labels = {**observations[-1].labels, **turn.observation_labels}
            messages += [turn.message, Message(role="user", segments=observations[-1].segments, labels=labels)]
            if observations[-1].done:
                break
    finally:
        world.close()
    return Played(actions=tuple(actions), observations=tuple(observations))


def play_task(suite: TaskSuite, split: str, number: int, *, policy: str, seed: int = 0) -> Played:
    """Let a suite's scripted policy play one of its tasks.

    Raises:
        ConfigError: the suite has no such policy.
    """
    chosen = suite.scripted_policy(split, number, policy=policy, seed=seed)
    return play(suite.make_world(split, number), chosen)


# --- the checks ---------------------------------------------------------------------------------------------------


def _has_the_methods(subject: SuiteSubject) -> None:
    suite = subject.suite
    expect_kind(suite, TaskSuite, "the suite (name, splits, num_tasks, task_id, make_world, scripted_policy)")
    expect_kind(suite.name, str, "the suite's name")
    expect("train" in suite.splits, f"the splits are {', '.join(suite.splits)}, expected train among them")
    expect(len(set(suite.splits)) == len(suite.splits), f"a split is named twice: {', '.join(suite.splits)}")


def _splits_are_disjoint(subject: SuiteSubject) -> None:
    suite, split_of = subject.suite, dict[str, str]()
    for split in suite.splits:
        count = suite.num_tasks(split)
        for number in range(_MOST_IDS if count is None else min(count, _MOST_IDS)):
            name = suite.task_id(split, number)
            expect(split_of.setdefault(name, split) == split, f"task {name!r} is in {split_of[name]} and in {split}")


def _numbers_start_over(subject: SuiteSubject) -> None:
    suite = subject.suite
    for split in suite.splits:
        count = suite.num_tasks(split)
        if count is None:
            continue
        expect(count > 0, f"split {split} has {count} tasks, expected at least one")
        names = [suite.task_id(split, number) for number in range(min(count, _MOST_IDS))]
        expect(len(set(names)) == len(names), f"two numbers of {split} are one task, and num_tasks says {count}")
        first, again = suite.task_id(split, 0), suite.task_id(split, count)
        expect(first == again, f"number {count} of {split} is {again!r}, expected number 0 again: {first!r}")


def _a_number_is_one_task(subject: SuiteSubject) -> None:
    suite = subject.suite
    for split, number in _tasks(subject):
        names = {suite.task_id(split, number) for _ in range(2)}
        expect(len(names) == 1, f"number {number} of {split} has the ids {', '.join(sorted(names))}")
        openings: list[Observation] = []
        for seed in (0, 1):
            world = suite.make_world(split, number)
            try:
                openings.append(world.reset(seed=seed))
            finally:
                world.close()
        one, two = openings
        expect(
            (one.segments, one.tools) == (two.segments, two.tools),
            f"number {number} of {split} starts otherwise with another seed: a suite's task is the same whatever the "
            "seed of reset",
        )


def _wrong_names_are_refused(subject: SuiteSubject) -> None:
    suite, split = subject.suite, subject.suite.splits[0]
    _expect_config_error(lambda: suite.task_id("no-such-split", 0), "a task of an unknown split")
    _expect_config_error(
        lambda: suite.scripted_policy(split, 0, policy="no-such-policy", seed=0), "an unknown scripted policy"
    )


def _scripts_play(subject: SuiteSubject) -> None:
    missing: list[str] = []
    for script in _SCRIPTS:
        try:
            subject.suite.scripted_policy(subject.suite.splits[0], 0, policy=script, seed=0)
        except ConfigError as error:
            missing.append(f"{script}: {error}")
            continue
        for split, number in _tasks(subject):
            played = play_task(subject.suite, split, number, policy=script)
            expect(bool(played.actions), f"{script} of number {number} of {split} takes no action")
            again = play_task(subject.suite, split, number, policy=script)
            change = f"{script} of number {number} of {split} acts otherwise the second time"
            expect(played.actions == again.actions, f"{change}: {_first_difference(played, again)}")
    if len(missing) == len(_SCRIPTS):
        raise SkippedCheck(f"the suite has no scripts: {'; '.join(missing)}")


def _first_difference(one: Played, two: Played) -> str:
    for number, (first, second) in enumerate(zip(one.actions, two.actions, strict=False)):
        if first != second:
            return f"action {number} is {first[:80]!r} and then {second[:80]!r}"
    return f"{len(one.actions)} actions and then {len(two.actions)}"


def _the_oracle_is_the_best(subject: SuiteSubject) -> None:
    try:
        subject.suite.scripted_policy(subject.suite.splits[0], 0, policy="oracle", seed=0)
    except ConfigError as error:
        raise SkippedCheck(f"the suite has no oracle: {error}") from error
    for split, number in _tasks(subject):
        reward = play_task(subject.suite, split, number, policy="oracle").reward
        expect(
            reward == subject.highest_reward,
            f"the oracle of number {number} of {split} gets {reward}, expected {subject.highest_reward}",
        )


def _tasks(subject: SuiteSubject) -> list[tuple[str, int]]:
    suite = subject.suite
    return [
        (split, number)
        for split in suite.splits
        for number in range(min(subject.num_tasks, suite.num_tasks(split) or subject.num_tasks))
    ]


def _expect_config_error(call: Callable[[], object], what: str) -> None:
    try:
        call()
    except ConfigError:
        return
    expect(False, f"{what} raised no ConfigError")


SUITE_CHECKS: Final[Mapping[str, Callable[[SuiteSubject], None]]] = {
    "a suite has its methods and a split train": _has_the_methods,
    "splits are disjoint": _splits_are_disjoint,
    "numbers start over after the last task": _numbers_start_over,
    "a number is one task": _a_number_is_one_task,
    "wrong names are refused": _wrong_names_are_refused,
    "scripted policies play": _scripts_play,
    "the oracle gets the highest reward": _the_oracle_is_the_best,
}
"""All checks of a suite by name, in the order in which they are run."""
