"""Which tasks a server has: those of a map's list, of an action that lists them, of OpenEnv's Task API, or one a seed.

Not here: how a task runs (`world`).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, cast, final

from envecho.errors import ConfigError, WorldLostError
from envecho.worlds.openenv.connection import Connection, Reply
from envecho.worlds.openenv.facts import ServerFacts, fetch_num_tasks, fetch_task
from envecho.worlds.openenv.maps import EnvironmentMap, fill
from envecho.worlds.openenv.reading import find, find_text
from envecho.worlds.openenv.world import RemoteTask

_FIRST_SEED_OF_SPLIT: Final = {"train": 0, "validation": 1_000_000, "held_out": 2_000_000}
_BY_SPLIT_AND_INDEX: Final = {"split": "{split}", "index": "{index}"}
_OF_THE_LIST: Final = ("id", "split", "oracle")


class RemoteTasks(Protocol):
    """The numbered tasks of a server."""

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        ...

    def num_tasks(self, split: str) -> int | None:
        """How many tasks a split has; None: no end."""
        ...

    def task(self, split: str, number: int) -> RemoteTask:
        """Return a task; numbers beyond a split's tasks start over."""
        ...

    def oracle(self, split: str, number: int) -> Sequence[str]:
        """The actions that solve a task, empty where nobody states them."""
        ...


def find_tasks(facts: ServerFacts, environment: EnvironmentMap) -> RemoteTasks:
    """Return the tasks of a server: the map's own first, then the server's, then one for each seed."""
    if environment.tasks.list:
        return ListedTasks(facts.title, environment.tasks.list)
    if environment.tasks.ask is not None:
        return AskedTasks(facts, environment)
    return ServedTasks(facts, environment) if facts.splits else SeededTasks(facts.title, environment)


@final
class ListedTasks:
    """The tasks that a map lists."""

    def __init__(self, title: str, listed: Sequence[Mapping[str, Any]]) -> None:
        self._title = title
        self._tasks: dict[str, list[Mapping[str, Any]]] = {}
        for entry in listed:
            self._tasks.setdefault(str(entry.get("split", "train")), []).append(entry)
        self.splits = tuple(self._tasks)

    def num_tasks(self, split: str) -> int | None:
        """How many the list has."""
        return len(self._tasks[split])

    def task(self, split: str, number: int) -> RemoteTask:
        """Return the list's entry."""
        number %= len(self._tasks[split])
        entry = self._tasks[split][number]
        arguments = {key: value for key, value in entry.items() if key not in _OF_THE_LIST}
        name = entry.get("id") or entry.get("task_id") or f"{split}-{number}"
        return RemoteTask(id=f"{self._title}/{name}", arguments=arguments)

    def oracle(self, split: str, number: int) -> Sequence[str]:
        """Return the entry's `oracle`."""
        return [str(line) for line in self._tasks[split][number % len(self._tasks[split])].get("oracle", ())]


@final
class AskedTasks:
    """The tasks that an action of the environment lists, asked once over a session of its own."""

    def __init__(self, facts: ServerFacts, environment: EnvironmentMap) -> None:
        self._facts, self._map = facts, environment
        self._lock = threading.Lock()
        self.splits = tuple(_FIRST_SEED_OF_SPLIT) if environment.tasks.split_every else ("train",)

    def num_tasks(self, split: str) -> int | None:
        """How many the answer held."""
        return len(self._found[split])

    def task(self, split: str, number: int) -> RemoteTask:
        """Return the task of an item."""
        tasks = self._found[split]
        if not tasks:
            raise ConfigError(f"{self._facts.address} lists no tasks for {split}")
        return tasks[number % len(tasks)]

    def oracle(self, split: str, number: int) -> Sequence[str]:
        """Nobody states one."""
        return ()

    @property
    def _found(self) -> Mapping[str, Sequence[RemoteTask]]:
        with self._lock:
            return self._ask()

    @functools.cache  # noqa: B019  # a suite lives as long as its process
    def _ask(self) -> Mapping[str, Sequence[RemoteTask]]:
        rule, every = self._map.tasks, self._map.tasks.split_every
        connection = Connection(self._facts.address, self._map.connection)
        try:
            connection.open()
            answer = connection.step(rule.ask or {}, self._map.connection.step_seconds)
        finally:
            connection.close()
        items = find(answer.observation, rule.items) if isinstance(answer, Reply) else None
        if not isinstance(items, list):
            raise WorldLostError(
                f"{self._facts.address}: expected its tasks in {rule.items}, found {str(answer)[:200]}"
            )
        tasks: dict[str, list[RemoteTask]] = {split: [] for split in self.splits}
        for place, item in enumerate(cast("list[Any]", items)):
            split = {every - 1: "held_out", every - 2: "validation"}.get(place % every, "train") if every else "train"
            for index in range(int(find_text(item, rule.count) or 0) if rule.count else 1):
                values = {"item": item, "index": index, "split": split}
                name = fill(rule.id, values) if rule.id else f"{place}-{index}"
                tasks[split].append(RemoteTask(id=f"{self._facts.title}/{name}", arguments=fill(rule.reset, values)))
        return tasks


@final
class ServedTasks:
    """The tasks of OpenEnv's Task API; `reset` gets split and index, or what the map says."""

    def __init__(self, facts: ServerFacts, environment: EnvironmentMap) -> None:
        self._facts, self._map = facts, environment
        self.splits = facts.splits

    def num_tasks(self, split: str) -> int | None:
        """How many the server says; None where it does not."""
        return self._num_tasks(split)

    def task(self, split: str, number: int) -> RemoteTask:
        """Return a task of the server, named as the server names it, else by its number."""
        known = self._num_tasks(split)
        if known == 0:
            raise ConfigError(f"{self._facts.address} has no tasks in {split}")
        return self._task(split, number if known is None else number % known)

    def oracle(self, split: str, number: int) -> Sequence[str]:
        """A server states none."""
        return ()

    @functools.cache  # noqa: B019  # a suite lives as long as its process
    def _task(self, split: str, index: int) -> RemoteTask:
        stated = fetch_task(self._facts, split, index, self._map.connection.headers())
        name = next((str(find(stated, key)) for key in ("id", "task_id") if find(stated, key)), f"{split}/{index:05d}")
        template = self._map.tasks.reset or _BY_SPLIT_AND_INDEX
        prefix = f"{self._facts.title}/"
        return RemoteTask(
            id=name if name.startswith(prefix) else f"{prefix}{name}",
            arguments=fill(template, {"split": split, "index": index, "task": stated}),
        )

    @functools.cache  # noqa: B019  # a suite lives as long as its process
    def _num_tasks(self, split: str) -> int | None:
        return fetch_num_tasks(self._facts, split, self._map.connection.headers())


@final
class SeededTasks:
    """One task for each seed; the seeds of the splits are a million apart."""

    splits = tuple(_FIRST_SEED_OF_SPLIT)

    def __init__(self, title: str, environment: EnvironmentMap) -> None:
        self._title, self._kind = title, "seed" if environment.tasks.seeded else "episode"

    def num_tasks(self, split: str) -> int | None:
        """There is an episode for every seed."""

    def task(self, split: str, number: int) -> RemoteTask:
        """Return the task of a seed."""
        seed = _FIRST_SEED_OF_SPLIT[split] + number
        return RemoteTask(id=f"{self._title}/{self._kind}-{seed}", seed=seed)

    def oracle(self, split: str, number: int) -> Sequence[str]:
        """Nobody states one."""
        return ()
