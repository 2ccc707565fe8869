"""A suite whose worlds run in sandboxes that a provider starts for us: `open_hosted("terminal", "process", options)`.

The tasks and their scripts are made here; each episode takes a sandbox from the pool, runs in it through OpenEnv's
client, and gives it back. A sandbox that is lost ends the episodes in it and no other. Not here: the client
(`worlds.openenv`), the pool (`pool`), the providers (`known`).
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, final

from envecho.errors import WorldError, WorldLostError
from envecho.seam import Observation, Policy, TaskSuite, World
from envecho.worlds.options import HostOptions, SuiteOptions
from envecho.worlds.providers.known import find_provider
from envecho.worlds.providers.ledger import Ledger, remove_leaked
from envecho.worlds.providers.pool import HostPool, RunningHost
from envecho.worlds.providers.provider import HostSpec

log = logging.getLogger(__name__)

Connect = Callable[[str, str, int], World]
"""From a server's URL, a split and a number to a world that runs this task there."""


def open_hosted(
    world: str,
    provider: str,
    options: SuiteOptions,
    *,
    ledger: Ledger | None = None,
) -> TaskSuite:
    """Return a world's tasks, to be run in sandboxes of a provider.

    What an earlier crash left running is stopped first.

    Args:
        world: what `open_suite` takes, of the worlds that run in a sandbox; a container must hold its files.
        provider: a name of `envecho.worlds.providers.known.PROVIDERS`.
        options: as for the world itself; `sandbox` is not read. `host.image` is what the provider runs, in its own
            words (the provider `process` takes none), `host.allow` the hosts that the sandbox may reach: none without
            a word, `("*",)` for all.
        ledger: where running sandboxes are written down; the user's own without it.

    Raises:
        ConfigError: no such provider or world, or the provider cannot keep what is asked.
    """
    from envecho.worlds.openenv.suite import open_openenv
    from envecho.worlds.suites import open_suite

    chosen, ledger = find_provider(provider), ledger or Ledger()
    tasks = open_suite(world, max_turns=options.max_turns, families=options.families, seed_actions=options.seed_actions)
    spec = HostSpec(
        world=world,
        sandbox=chosen.sandbox,
        max_turns=options.max_turns,
        max_sessions=chosen.sessions,
        image=options.host.image,
        allow=options.host.allow,
        families=options.families,
    )
    chosen.make(spec, ledger)  # refuses what it cannot keep before anything is started
    for leak in remove_leaked(ledger):
        log.warning("sandbox %s of %s was left behind: %s %s", leak.key, leak.provider, leak.outcome, leak.reason)
    pool = HostPool(lambda: chosen.make(spec, ledger), sessions=chosen.sessions, is_reused=chosen.is_reused)
    plain = replace(options, sandbox="bubblewrap", host=HostOptions(), families=())

    def connect(url: str, split: str, number: int) -> World:
        return open_openenv(url, plain).make_world(split, number)

    return HostedSuite(tasks, pool, connect)


@final
class HostedSuite:
    """The tasks of a suite, each run in a sandbox of the pool; `close` (or the end of the process) stops them all."""

    def __init__(self, tasks: TaskSuite, pool: HostPool, connect: Connect) -> None:
        self.name, self.splits = tasks.name, tasks.splits
        self._tasks, self._pool, self._connect = tasks, pool, connect
        self._finalizer = weakref.finalize(self, pool.close)
        self._finalizer.atexit = False  # the pool itself sees to the end of the process

    def num_tasks(self, split: str) -> int | None:
        """As the suite says."""
        return self._tasks.num_tasks(split)

    def task_id(self, split: str, number: int) -> str:
        """As the suite says."""
        return self._tasks.task_id(split, number)

    def make_world(self, split: str, number: int) -> World:
        """Return a world that takes a sandbox when it is reset, and gives it back when it is closed."""
        self._tasks.task_id(split, number)
        return HostedWorld(self._pool, lambda url: self._connect(url, split, number))

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """As the suite says."""
        return self._tasks.scripted_policy(split, number, policy=policy, seed=seed)

    def close(self) -> None:
        """Stop all sandboxes; episodes that still run end as lost."""
        self._finalizer()


@final
class HostedWorld:
    """An episode in a sandbox that was lent to it."""

    def __init__(self, pool: HostPool, connect: Callable[[str], World]) -> None:
        self._pool, self._connect = pool, connect
        self._running: RunningHost | None = None
        self._world: World | None = None
        self._is_lost = False

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Take a sandbox and start the episode in it; a second `reset` takes another."""
        self.close()
        self._running = self._pool.take()
        try:
            self._world = self._connect(self._running.url)
            return self._world.reset(seed=seed, episode_id=episode_id, **kwargs)
        except WorldError:
            self._is_lost = True  # a sandbox that cannot start an episode is no use to the next
            self.close()
            raise

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Carry out one action in the sandbox."""
        if self._world is None:
            raise WorldError("step was called but no episode is running: call reset first")
        try:
            return self._world.step(action, timeout_s=timeout_s)
        except WorldLostError:
            self._is_lost = True
            raise

    @property
    def state(self) -> Mapping[str, Any]:
        """The state of the episode."""
        if self._world is None:
            return {"episode_id": None, "step_count": 0, "task_id": None, "done": True}
        return self._world.state

    def close(self) -> None:
        """End the episode and give the sandbox back; may be called twice."""
        world, self._world = self._world, None
        running, self._running = self._running, None
        is_lost, self._is_lost = self._is_lost, False
        try:
            if world is not None:
                world.close()
        finally:
            if running is not None:
                self._pool.give_back(running, is_lost=is_lost)
