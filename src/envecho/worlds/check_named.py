"""Checks of a world by its name: what `envecho check-world` and the pytest plug-in run.

A name is whatever `open_suite` takes. Without actions of the user's the suite's own scripts say some: what its explorer
says, and the last of its oracle, which ends an episode. Not here: the checks (`check`, `check_task_suite`), printing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from envecho.errors import ConfigError
from envecho.seam import TaskSuite
from envecho.worlds.check import CHECKS, subject_of
from envecho.worlds.check_report import WorldReport, run_checks
from envecho.worlds.check_subject import Expectations, Subject
from envecho.worlds.check_task_suite import SUITE_CHECKS, SuiteSubject, play_task
from envecho.worlds.options import SuiteOptions
from envecho.worlds.seeded import SeededSuite
from envecho.worlds.suites import open_suite

if TYPE_CHECKING:
    from envecho.worlds.openenv.propose import Proposal

MOST_EXPLORED: Final = 8
"""How many of an explorer's actions the checks take."""


@dataclass(frozen=True, kw_only=True)
class CheckPlan:
    """What to check of a named world.

    `actions` empty: the suite's scripts say them. `max_turns` None: 16 for a world that is told how many turns it has;
    nothing is promised of a `module:factory`. `num_tasks` first tasks of `split` (None: the suite's first) are checked
    as worlds.
    """

    actions: tuple[str, ...] = ()
    slow_action: str | None = None
    max_turns: int | None = None
    split: str | None = None
    num_tasks: int = 1
    expectations: Expectations = field(default_factory=Expectations)


@dataclass(frozen=True, kw_only=True)
class NamedReport:
    """The checks of a suite, and those of the world of each task by the task's id."""

    suite: WorldReport
    worlds: dict[str, WorldReport]

    @property
    def passed(self) -> bool:
        """True where no check failed."""
        return self.suite.passed and all(report.passed for report in self.worlds.values())

    def as_json(self) -> dict[str, object]:
        """Return the checks as JSON values."""
        worlds = {name: report.as_json() for name, report in self.worlds.items()}
        return {"passed": self.passed, "suite": self.suite.as_json(), "worlds": worlds}


def open_checked(name: str, plan: CheckPlan, options: SuiteOptions) -> TaskSuite:
    """Return the suite of a name; `plan.max_turns` stands for the option of the same name.

    Raises:
        ConfigError: nothing has this name, or the world cannot follow the options.
    """
    return open_suite(
        name,
        sandbox=options.sandbox,
        max_turns=plan.max_turns or options.max_turns,
        families=options.families,
        world_map=options.world_map,
        seed_actions=options.seed_actions,
        rubric=options.rubric,
        host=options.host,
    )


def proposed_map(name: str, options: SuiteOptions) -> Proposal | None:
    """Return a map for an OpenEnv server that no map knows; None for any other world, and where a map is given.

    Raises:
        WorldLostError: nothing answers there, or what answers is no OpenEnv server.
    """
    if not name.startswith(("http://", "https://", "ws://", "wss://")) or options.world_map is not None:
        return None
    from envecho.worlds.openenv.address import parse_address
    from envecho.worlds.openenv.facts import fetch_facts
    from envecho.worlds.openenv.propose import propose_map
    from envecho.worlds.openenv.suite import known_map

    return None if known_map(fetch_facts(parse_address(name))) is not None else propose_map(name)


def check_named(suite: TaskSuite, plan: CheckPlan, options: SuiteOptions) -> NamedReport:
    """Run all checks of a suite and of the worlds of its first tasks.

    Raises:
        ConfigError: there are no actions to check with.
    """
    numbers = range(plan.num_tasks)
    split = plan.split or suite.splits[0]
    subjects = {suite.task_id(split, n): world_subject(suite, plan, options, number=n) for n in numbers}
    return NamedReport(
        suite=run_checks(SUITE_CHECKS, suite_subject(suite, plan)),
        worlds={name: run_checks(CHECKS, subject) for name, subject in subjects.items()},
    )


def suite_subject(suite: TaskSuite, plan: CheckPlan) -> SuiteSubject:
    """Return what the checks of a suite are run on."""
    return SuiteSubject(suite=suite, num_tasks=plan.num_tasks, highest_reward=1.0)


def world_subject(suite: TaskSuite, plan: CheckPlan, options: SuiteOptions, *, number: int = 0) -> Subject:
    """Return what the checks of the world of one task are run on.

    Raises:
        ConfigError: the plan has no actions and the suite no script for this task.
    """
    split = plan.split or suite.splits[0]
    promised = plan.expectations
    if promised.max_turns is None:
        bounded = plan.max_turns or (None if isinstance(suite, SeededSuite) else options.max_turns)
        promised = replace(promised, max_turns=bounded)
    return subject_of(
        lambda: suite.make_world(split, number),
        actions=plan.actions or scripted_actions(suite, split, number),
        slow_action=plan.slow_action,
        expectations=promised,
    )


def scripted_actions(suite: TaskSuite, split: str, number: int) -> Sequence[str]:
    """Return actions that a task's scripts say: what explores, then what ends an episode.

    Raises:
        ConfigError: it has no script.
    """
    actions: list[str] = []
    refusals: list[str] = []
    for script, kept in (("explore", slice(MOST_EXPLORED)), ("oracle", slice(-1, None))):
        try:
            actions += play_task(suite, split, number, policy=script).actions[kept]
        except ConfigError as error:
            refusals.append(str(error))
    if not actions:
        reasons = "; ".join(refusals)
        raise ConfigError(
            f"no actions to check {suite.name!r} with: {reasons}. Give some that it understands (--action)"
        )
    return actions
