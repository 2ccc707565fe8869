"""The worlds that can be named in a configuration: `open_suite("terminal")`.

A new world is one function and one line in `SUITES`. Not here: what a world does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast, final, get_args

from envecho.errors import ConfigError, did_you_mean
from envecho.seam import Policy, TaskSuite, World
from envecho.worlds.depot.suite import DepotSuite
from envecho.worlds.options import SuiteOptions
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.explorer import plan_episode
from envecho.worlds.terminal.families import FAMILIES, TriageTask, make_task
from envecho.worlds.terminal.tasks import SPLITS, split_box


@final
class TerminalSuite:
    """The tasks of the terminal world: families take turns, each task on a box of its own.

    `families` restricts the families, for warm starts and transfer: tasks of other families are other tasks.
    """

    name = "terminal"
    splits = SPLITS

    def __init__(
        self, *, sandbox: SandboxName = "bubblewrap", max_turns: int = 16, families: Sequence[str] | None = None
    ) -> None:
        self._sandbox: SandboxName = sandbox
        self._max_turns = max_turns
        self._families = tuple(families or FAMILIES)
        for family in self._families:
            if family not in FAMILIES:
                raise ConfigError(
                    f"no task family {family!r} in the terminal world; it has {', '.join(FAMILIES)}."
                    f"{did_you_mean(family, FAMILIES)}"
                )

    def num_tasks(self, split: str) -> int | None:
        """There is a box for every number."""
        self._check(split)

    def task(self, split: str, number: int) -> TriageTask:
        """Return the task of a number."""
        family = self._families[number % len(self._families)]
        return make_task(split_box(self._check(split), number), family)

    def task_id(self, split: str, number: int) -> str:
        """Name the task of a number."""
        return self.task(split, number).id

    def make_world(self, split: str, number: int) -> World:
        """Return a world for one task."""
        task = self.task(split, number)
        return TerminalWorld(lambda _: task, sandbox=self._sandbox, max_turns=self._max_turns)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return the task's oracle, or what the explorer draws on its box."""
        if policy == "oracle":
            return ScriptedPolicy.oracle(self.task(split, number).oracle)
        if policy == "explore":
            plan = plan_episode(split_box(self._check(split), number), seed=seed)
            return ScriptedPolicy((planned.command, planned.labels) for planned in plan)
        raise ConfigError(f"the terminal world has scripts for oracle and explore, found {policy!r}")

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise ConfigError(f"the terminal world has the splits {', '.join(SPLITS)}, found {split!r}")
        return split


def _local(sandbox: str) -> SandboxName:
    known = get_args(SandboxName)
    if sandbox not in known:
        raise ConfigError(f"no sandbox {sandbox!r}, expected one of {', '.join(known)}.{did_you_mean(sandbox, known)}")
    return cast(SandboxName, sandbox)


def _open_terminal(options: SuiteOptions) -> TaskSuite:
    sandbox = _local(options.sandbox)
    return TerminalSuite(sandbox=sandbox, max_turns=options.max_turns, families=options.families)


def _open_depot(options: SuiteOptions, *, tickets: bool) -> TaskSuite:
    if options.families:
        raise ConfigError(f"the depot has no task families, found {', '.join(options.families)}")
    return DepotSuite(max_moves=options.max_turns, tickets=tickets)


SUITES: dict[str, Callable[[SuiteOptions], TaskSuite]] = {
    "terminal": _open_terminal,
    "depot": lambda options: _open_depot(options, tickets=False),
    "depot-tickets": lambda options: _open_depot(options, tickets=True),
}


def open_suite(
    name: str,
    *,
    sandbox: str = "bubblewrap",
    max_turns: int = 16,
    families: Sequence[str] = (),
    world_map: Path | None = None,
    seed_actions: Path | None = None,
) -> TaskSuite:
    """Return the tasks of the world with this name; the rest is as `SuiteOptions` says.

    Raises:
        ConfigError: no world has this name, or the world cannot follow the options.
    """
    if name not in SUITES:
        raise ConfigError(f"no world {name!r}; known worlds: {', '.join(SUITES)}.{did_you_mean(name, SUITES)}")
    options = SuiteOptions(
        sandbox=sandbox,
        max_turns=max_turns,
        families=tuple(families),
        world_map=world_map,
        seed_actions=seed_actions,
    )
    return SUITES[name](options)
