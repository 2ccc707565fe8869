"""A user's own world as a suite: task number n of a split is the episode of one seed.

`--world my_package.my_world:make_world` names a function (or class) that makes a `World`, or one that makes a
`TaskSuite`, which is then taken as it is. Not here: worlds that envecho ships (`suites`).
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast, final

from envecho.errors import ConfigError, did_you_mean
from envecho.seam import Policy, TaskSuite, World
from envecho.worlds.options import SuiteOptions

_FIRST_SEED_OF_SPLIT: Final = {"train": 0, "validation": 1_000_000, "held_out": 2_000_000}


_WORLD_VERBS: Final = ("reset", "step", "state", "close")
_SUITE_VERBS: Final = ("name", "splits", "num_tasks", "task_id", "make_world", "scripted_policy")


@final
class SeededSuite:
    """Tasks of a world that has nothing but seeds; the seeds of its splits are a million apart."""

    splits = tuple(_FIRST_SEED_OF_SPLIT)

    def __init__(self, name: str, make_world: Callable[[], World], options: SuiteOptions) -> None:
        self.name, self._make, self._options = name, make_world, options

    def num_tasks(self, split: str) -> int | None:
        """There is an episode for every seed."""
        self._first(split)

    def task_id(self, split: str, number: int) -> str:
        """Name the task by its seed."""
        return f"{self.name}/seed-{self._first(split) + number}"

    def make_world(self, split: str, number: int) -> World:
        """Return a world whose `reset` starts the seed of this task."""
        return _SeededWorld(self._make(), self._first(split) + number)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return an explorer over the world's tools, or over the actions of `seed_actions`."""
        if policy != "explore":
            raise ConfigError(f"{self.name} has a script for explore alone, found {policy!r}")
        from envecho.worlds.explore import explore_actions

        world = self.make_world(split, number)
        try:
            tools = world.reset(seed=0).tools
        finally:
            world.close()
        return explore_actions(
            None if tools else {"type": "string"},
            tools,
            seed_actions=self._options.seed_actions,
            num_actions=self._options.max_turns,
            seed=seed,
        )

    def _first(self, split: str) -> int:
        if split not in _FIRST_SEED_OF_SPLIT:
            raise ConfigError(f"{self.name} has the splits {', '.join(self.splits)}, found {split!r}")
        return _FIRST_SEED_OF_SPLIT[split]


@final
class _SeededWorld:
    """A world whose every episode is that of one seed."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._seed = world, seed
        self.step, self.close = world.step, world.close

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Any:
        """Start the episode of this task, whatever seed is given."""
        return self._world.reset(seed=self._seed, episode_id=episode_id, **kwargs)

    @property
    def state(self) -> Any:
        """The world's state."""
        return self._world.state


def load_object(name: str) -> Any:
    """Return what `module:attribute` names; modules beside the working directory are found too.

    Raises:
        ConfigError: the module cannot be imported, or has no such attribute.
    """
    module_name, _, attribute = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{name!r}: the module {module_name!r} cannot be imported: {error}") from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{name!r}: {module_name} has no {attribute!r}.{did_you_mean(part, vars(found))}")
        found = getattr(found, part)
    return found


def open_own(name: str, options: SuiteOptions) -> TaskSuite:
    """Return the suite of `module:factory`: what the factory makes where that is a suite, else its worlds by seed.

    Raises:
        ConfigError: there is no such factory, or it makes neither a world nor a suite.
    """
    factory: Any = load_object(name)
    if not callable(factory):
        raise ConfigError(f"{name!r} is {type(factory).__name__}, expected a function or class that makes a world")
    made: Any = factory()
    if not _missing(made, _SUITE_VERBS):
        return cast(TaskSuite, made)
    if missing := _missing(made, _WORLD_VERBS):
        raise ConfigError(
            f"{name!r} made {type(made).__name__}, which has no {', '.join(missing)}; expected a world "
            f"({', '.join(_WORLD_VERBS)}) or a suite of tasks ({', '.join(_SUITE_VERBS)})"
        )
    made.close()
    return SeededSuite(name, cast("Callable[[], World]", factory), options)


def _missing(made: object, names: tuple[str, ...]) -> list[str]:
    """Return the names that an object lacks; none is evaluated, since a `state` may need a `reset` first."""
    return [name for name in names if inspect.getattr_static(made, name, None) is None]
