"""An OpenEnv server as a suite of tasks: `open_openenv("http://127.0.0.1:8000", SuiteOptions())`.

    URL -> what the server says about itself -> its map -> its tasks -> a world for each

Not here: the worlds (`world`), the maps (`maps`), and which tasks there are (`tasks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from envecho.errors import ConfigError, did_you_mean
from envecho.seam import Policy, TaskSuite, World
from envecho.worlds.openenv.address import parse_address
from envecho.worlds.openenv.facts import ServerFacts, fetch_facts
from envecho.worlds.openenv.guess import guess_map
from envecho.worlds.openenv.maps import FOLDER, EnvironmentMap, load_map, recognise
from envecho.worlds.openenv.rubric import RubricWorld, load_rubric
from envecho.worlds.openenv.tasks import RemoteTasks, find_tasks
from envecho.worlds.openenv.world import OpenEnvWorld
from envecho.worlds.options import SuiteOptions
from envecho.worlds.scripts import ScriptedPolicy

_ANY_TEXT: Final = {"type": "string"}


def open_openenv(url: str, options: SuiteOptions) -> TaskSuite:
    """Return the tasks of a server.

    Args:
        url: its address: http, https, ws or wss.
        options: `world_map` names a map of yours; without one the server's is found by its name or its schemas.
            `rubric` names an OpenEnv rubric that grades on this side.

    Raises:
        ConfigError: no such URL, map or rubric, or an option that a server cannot follow.
        WorldLostError: nothing answers there, or what answers is no OpenEnv server.
    """
    if options.families:
        raise ConfigError(f"a world on a server has no task families, found {', '.join(options.families)}")
    address = parse_address(url)
    given = load_map(options.world_map) if options.world_map is not None else None
    facts = fetch_facts(address, given.connection.headers() if given else None)
    environment = given or known_map(facts) or guess_map(facts)
    return OpenEnvSuite(facts, environment, options)


def known_map(facts: ServerFacts) -> EnvironmentMap | None:
    """Return our map of a server's environment, if we have one."""
    names = (facts.environment, facts.name)
    return recognise(filter(None, names), facts.action_fields, facts.observation_fields)


def seed_actions_of(environment: EnvironmentMap) -> Path | None:
    """Return the file of actions that an explorer takes in an environment of free text, where we have one."""
    file = FOLDER / "explore" / f"{environment.name}.toml"
    return file if file.is_file() else None


@final
class OpenEnvSuite:
    """The tasks of one server."""

    def __init__(self, facts: ServerFacts, environment: EnvironmentMap, options: SuiteOptions) -> None:
        self.name = facts.title
        self._facts, self._map, self._options = facts, environment, options
        self._tasks: RemoteTasks = find_tasks(facts, environment)
        self._make_rubric = load_rubric(options.rubric) if options.rubric else None

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits of the map or the server."""
        return self._tasks.splits

    @property
    def environment(self) -> EnvironmentMap:
        """The map by which the server is read."""
        return self._map

    def num_tasks(self, split: str) -> int | None:
        """How many tasks a split has."""
        return self._tasks.num_tasks(self._check(split))

    def task_id(self, split: str, number: int) -> str:
        """Name the task; the server's address is no part of it."""
        return self._tasks.task(self._check(split), number).id

    def make_world(self, split: str, number: int) -> World:
        """Return a world for one task; its session is opened by `reset`."""
        task = self._tasks.task(self._check(split), number)
        world = OpenEnvWorld(self._facts, self._map, task, max_turns=self._options.max_turns)
        if self._make_rubric is None:
            return world
        return RubricWorld(world, self._make_rubric(), read=self._map.reward.read)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return an explorer over the action's schema or the task's tools, or the oracle that the map lists.

        A task of ours has the scripts that it has in process, unless `seed_actions` says what to explore with.
        """
        twin = self._twin(split, number)
        if twin is not None and not (policy == "explore" and self._options.seed_actions):
            return twin.scripted_policy(split, number, policy=policy, seed=seed)
        if policy == "oracle":
            lines = self._tasks.oracle(self._check(split), number)
            if not lines:
                raise ConfigError(f"{self.name}: servers state no oracle; a map can: `oracle` in [[tasks.list]]")
            return ScriptedPolicy.oracle(lines)
        if policy != "explore":
            raise ConfigError(
                f"{self.name} has scripts for explore and oracle, found {policy!r}."
                f"{did_you_mean(policy, ('explore', 'oracle'))}"
            )
        from envecho.worlds.explore import explore_actions

        tools = self._episode_tools(split, number) if self._map.action.kind in ("mcp", "message") else ()
        seeds = self._options.seed_actions or seed_actions_of(self._map)
        return explore_actions(
            None if tools else self._action_schema(has_seeds=seeds is not None),
            tools,
            seed_actions=seeds,
            num_actions=self._options.max_turns,
            seed=seed,
        )

    def _twin(self, split: str, number: int) -> TaskSuite | None:
        """Return the suite in process whose task of this number a server of ours serves, if that is so."""
        from envecho.worlds.suites import SUITES

        if self._map.action.kind != "message" or self._facts.name not in SUITES:
            return None
        twin = SUITES[self._facts.name](SuiteOptions(max_turns=self._options.max_turns))
        is_same = split in twin.splits and twin.task_id(split, number) == self.task_id(split, number)
        return twin if is_same else None

    def _episode_tools(self, split: str, number: int) -> tuple[Mapping[str, Any], ...]:
        world = self.make_world(split, number)
        try:
            return world.reset().tools
        finally:
            world.close()

    def _action_schema(self, *, has_seeds: bool) -> Mapping[str, Any]:
        """The schema of an action without what the map fills in itself; a text alone where texts are known."""
        if self._map.action.kind != "json" and (self._map.action.kind != "text" or has_seeds):
            return _ANY_TEXT
        if self._facts.action is None:
            return _ANY_TEXT
        schema = dict(self._facts.action)
        filled = {"metadata", *self._map.action.constants}
        fields: Mapping[str, Any] = schema.get("properties") or {}
        schema["properties"] = {name: field for name, field in fields.items() if name not in filled}
        schema["required"] = [name for name in schema.get("required") or () if name not in filled]
        return schema

    def _check(self, split: str) -> str:
        if split not in self.splits:
            raise ConfigError(
                f"{self.name} has the splits {', '.join(self.splits)}, found {split!r}."
                f"{did_you_mean(split, self.splits)}"
            )
        return split
