"""The tasks of Agent World Model scenarios as a suite: `open_awm(Path("gen_envs.jsonl"), SuiteOptions())`.

Splits are disjoint by scenario: of every ten, in an order drawn from their names, the last is `held_out`, the one
before it `validation`, the rest `train`. Fewer than nine scenarios are all in `train`. Not here: how an episode runs
(`world`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from envecho.errors import ConfigError, did_you_mean
from envecho.seam import Policy, PolicyTurn, World
from envecho.trajectory import Message
from envecho.worlds.awm.process import ProcessLimits
from envecho.worlds.awm.scenarios import Scenario, read_scenarios
from envecho.worlds.awm.world import AwmTask, AwmWorld
from envecho.worlds.options import SuiteOptions
from envecho.worlds.sandbox import SandboxName, require_sandbox

Tools = tuple[Mapping[str, Any], ...]

_PLACE_OF_SPLIT = {8: "validation", 9: "held_out"}
_LONGEST_EXPLORATION = 12


@final
class AwmSuite:
    """Scenarios as a `envecho.seam.TaskSuite`: scenarios take turns, each with its next task."""

    name = "awm"

    def __init__(
        self,
        scenarios: Sequence[Scenario],
        *,
        sandbox: SandboxName = "bubblewrap",
        max_turns: int = 16,
        seed_actions: Path | None = None,
        limits: ProcessLimits | None = None,
    ) -> None:
        self._sandbox: SandboxName = sandbox
        self._max_turns, self._seed_actions, self._limits = max_turns, seed_actions, limits
        self._tools: dict[str, Tools] = {}
        drawn = sorted(scenarios, key=lambda scenario: hashlib.sha256(scenario.name.encode()).hexdigest())
        of_split: dict[str, list[Scenario]] = {"train": [], "validation": [], "held_out": []}
        for place, scenario in enumerate(drawn):
            of_split[_PLACE_OF_SPLIT.get(place % 10, "train")].append(scenario)
        self._tasks = {split: _take_turns(found) for split, found in of_split.items()}
        self.splits = tuple(split for split, tasks in self._tasks.items() if tasks)

    def num_tasks(self, split: str) -> int:
        """How many tasks a split has before numbers start over."""
        return len(self._tasks[self._check(split)])

    def task(self, split: str, number: int) -> AwmTask:
        """Return the task of a number."""
        tasks = self._tasks[self._check(split)]
        return tasks[number % len(tasks)]

    def task_id(self, split: str, number: int) -> str:
        """Name the task of a number."""
        return self.task(split, number).id

    def make_world(self, split: str, number: int) -> World:
        """Return a world for one task."""
        return AwmWorld(self.task(split, number), sandbox=self._sandbox, max_turns=self._max_turns, limits=self._limits)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return the explorer of the tools that the scenario lists; the format has no solutions, so no oracle."""
        if policy != "explore":
            raise ConfigError(
                f"Agent World Model scenarios hold no solutions, so there is only the script explore, found {policy!r}"
            )
        return _ScenarioExplorer(
            lambda: self._listed(split, number),
            seed_actions=self._seed_actions,
            num_actions=min(_LONGEST_EXPLORATION, self._max_turns),
            seed=seed,
        )

    def _listed(self, split: str, number: int) -> Tools:
        """Return the tools of a task's scenario; one episode is begun to ask for them, once for each scenario."""
        name = self.task(split, number).scenario.name
        if name not in self._tools:
            world = self.make_world(split, number)
            try:
                self._tools[name] = world.reset().tools
            finally:
                world.close()
        return self._tools[name]

    def _check(self, split: str) -> str:
        if split not in self.splits:
            raise ConfigError(f"these scenarios have the splits {', '.join(self.splits)}, found {split!r}")
        return split


@final
class _ScenarioExplorer:
    """Explores the tools that a scenario lists; they are asked for when the first call is."""

    def __init__(self, listed: Callable[[], Tools], *, seed_actions: Path | None, num_actions: int, seed: int) -> None:
        self._listed, self._seed_actions = listed, seed_actions
        self._num_actions, self._seed = num_actions, seed
        self._policy: Policy | None = None

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next call."""
        if self._policy is None:
            from envecho.worlds.explore import explore_actions

            self._policy = explore_actions(
                None, self._listed(), seed_actions=self._seed_actions, num_actions=self._num_actions, seed=self._seed
            )
        return self._policy.act(messages)


def open_awm(path: Path, options: SuiteOptions) -> AwmSuite:
    """Return the tasks of a file of environments; `options.families` are scenarios.

    Raises:
        ConfigError: an option that this world cannot follow, or a scenario that the file does not have.
        DataError: the files are no scenarios.
        WorldError: there is no sandbox.
    """
    for name in ("world_map", "rubric"):
        if getattr(options, name) is not None:
            raise ConfigError(f"Agent World Model scenarios take no {name}")
    scenarios = read_scenarios(path)
    names = [scenario.name for scenario in scenarios]
    for family in options.families:
        if family not in names:
            known = f"{len(names)} scenarios, {', '.join(names[:5])} among them"
            raise ConfigError(f"no scenario {family!r} in {path}; it has {known}.{did_you_mean(family, names)}")
    kept = [scenario for scenario in scenarios if not options.families or scenario.name in options.families]
    return AwmSuite(
        kept,
        sandbox=require_sandbox(options.sandbox),
        max_turns=options.max_turns,
        seed_actions=options.seed_actions,
    )


def _take_turns(scenarios: Sequence[Scenario]) -> list[AwmTask]:
    longest = max((len(scenario.tasks) for scenario in scenarios), default=0)
    return [
        AwmTask(scenario=scenario, number=number)
        for number in range(longest)
        for scenario in scenarios
        if number < len(scenario.tasks)
    ]
