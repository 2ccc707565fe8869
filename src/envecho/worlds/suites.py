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
from envecho.worlds.options import HostOptions, SuiteOptions
from envecho.worlds.sandbox import SandboxName
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.seeded import open_own
from envecho.worlds.tasks.containers import HARBOR_PREFIX
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
    return TerminalSuite(
        sandbox=_local(options.sandbox), max_turns=options.max_turns, families=options.families or None
    )


def _open_depot(options: SuiteOptions, *, tickets: bool) -> TaskSuite:
    if options.families:
        raise ConfigError(f"the depot has no task families, found {', '.join(options.families)}")
    return DepotSuite(max_moves=options.max_turns, tickets=tickets)


def _open_tools(options: SuiteOptions) -> TaskSuite:
    from envecho.worlds.tools.suite import open_tools

    return open_tools(options)


SUITES: dict[str, Callable[[SuiteOptions], TaskSuite]] = {
    "terminal": _open_terminal,
    "tools": _open_tools,
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
    rubric: str | None = None,
    host: HostOptions = HostOptions(),  # noqa: B008
) -> TaskSuite:
    """Return the tasks of a world; the options are those of `SuiteOptions`.

    Args:
        name: a name of `SUITES`; `http://`, `https://`, `ws://` or `wss://` and the address of an OpenEnv server; a
            folder of tasks in Harbor's format; a `.jsonl` file of Agent World Model scenarios; or `module:factory`, a
            function that makes a world or a suite of yours.

    Raises:
        ConfigError: nothing has this name, or the world cannot follow the options.
    """
    options = SuiteOptions(
        sandbox=sandbox,
        max_turns=max_turns,
        families=tuple(families),
        world_map=world_map,
        seed_actions=seed_actions,
        rubric=rubric,
        host=host,
    )
    if sandbox.startswith(HARBOR_PREFIX):
        from envecho.worlds.tasks.suite import open_tasks

        return open_tasks(Path(name), options)
    if sandbox not in get_args(SandboxName):
        from envecho.worlds.providers.suite import open_hosted

        return open_hosted(name, sandbox, options)
    if name.startswith(("http://", "https://", "ws://", "wss://")):
        from envecho.worlds.openenv.suite import open_openenv

        return open_openenv(name, options)
    if name in SUITES:
        suite = SUITES[name](options)
    elif name.endswith(".jsonl"):
        from envecho.worlds.awm.suite import open_awm

        suite = open_awm(Path(name), options)
    elif Path(name).is_dir():
        from envecho.worlds.tasks.suite import open_tasks

        suite = open_tasks(Path(name), options)
    elif ":" in name:
        suite = open_own(name, options)
    else:
        raise ConfigError(
            f"no world {name!r}; known worlds: {', '.join(SUITES)}.{did_you_mean(name, SUITES)} Beside these: the URL "
            "of an OpenEnv server, a folder of Harbor tasks, a .jsonl of Agent World Model scenarios, module:factory"
        )
    return suite
