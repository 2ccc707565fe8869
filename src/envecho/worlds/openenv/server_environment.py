"""A task of a suite as an OpenEnv environment: one instance for each session of a server.

Imported when a server is made, not before: it loads `openenv`. `reset` makes a fresh world, `close` ends it for good;
all calls of one session follow one another, whichever thread they come from. Not here: the routes and the session
limit, which are OpenEnv's own, and what they are given (`server`).
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_types import Tool, ToolError, ToolErrorType
from openenv.core.env_server.types import EnvironmentMetadata, State

from envecho.errors import ConfigError, EnvechoError, WorldError
from envecho.seam import Observation, TaskSuite, World
from envecho.trajectory import CALL_LABEL, CallOutcome, Source
from envecho.worlds.openenv.server_models import (
    MessageAction,
    SpokenObservation,
    ToolCallObservation,
    ToolListObservation,
    ToolWorldAction,
    openenv_tools,
    spoken,
    world_observation,
)
from envecho.worlds.openenv.server_tools import ToolServer
from envecho.worlds.tool_calls import CallText

log = logging.getLogger(__name__)

MOST_LISTED_TASKS = 1000
"""How many tasks of a split without an end are listed."""

_NUM_SEEDS = 1 << 31


@dataclass(frozen=True, kw_only=True)
class ServedSuite:
    """What all sessions of a server share: the suite, the split of `reset` without one, and the tools of its tasks.

    `tools` are those of the split's first task; a session's own `reset` may state others. `running` are the
    environments with a world; `broken_off` those whose world was closed at the server's end in the middle of a step.
    """

    suite: TaskSuite
    split: str
    tools: tuple[Mapping[str, Any], ...]
    running: set[WorldEnvironment] = field(default_factory=set)
    broken_off: set[WorldEnvironment] = field(default_factory=set)


@final
class WorldEnvironment(Environment[Any, SpokenObservation, State]):
    """One session: at most one world at a time, none after `close`.

    A failure of the world is raised as WorldError, which OpenEnv's server sends to the client; any other exception is a
    bug of the world: its traceback goes to the log, and the client is told its name.
    """

    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self, served: ServedSuite) -> None:
        super().__init__()
        self._served = served
        self._world: World | None = None
        self._tools = served.tools
        self._closed = False
        self._lock = threading.RLock()
        self.mcp_server = ToolServer(self._listed_tools, self._call_by_mcp) if served.tools else None

    # --- an episode ---------------------------------------------------------------------------------------------

    def reset(  # type: ignore[override]  # OpenEnv passes on what the signature names, so the keywords are named here
        self,
        seed: int | None = None,
        episode_id: str | None = None,
        split: str | None = None,
        index: int | None = None,
        **kwargs: Any,
    ) -> SpokenObservation:
        """Start the task `index` of `split` on a fresh world; without an index, the task of number `seed`.

        Without either the task is drawn at random. These are the numbers of the suite in process.
        """
        with self._lock, self._reported("reset"):
            if self._closed:
                raise WorldError("this session is over: its client closed it, or it was idle too long; open another")
            if kwargs:
                raise WorldError(f"reset takes seed, episode_id, split and index, found {sorted(kwargs)}")
            split = self._served.split if split is None else split
            number = self._number(split, seed if index is None else index)
            self._end_world()
            self._world = self._served.suite.make_world(split, number)
            self._served.running.add(self)
            observation = self._world.reset(seed=number if seed is None else seed, episode_id=episode_id)
            self._tools = observation.tools
            return world_observation(observation)

    def step(self, action: Any, timeout_s: float | None = None, **kwargs: Any) -> SpokenObservation:
        """Carry out one action; `timeout_s` of the action comes before that of the request."""
        with self._lock, self._reported("step"):
            seconds = action.timeout_s or timeout_s
            if isinstance(action, MessageAction):
                return world_observation(self._require_world().step(action.message, timeout_s=seconds))
            if not isinstance(action, ToolWorldAction):
                raise TypeError(f"action is {type(action).__name__}, expected what the server's schema says")
            if action.type == "list_tools":
                return ToolListObservation(tools=self._listed_tools())
            if action.message is not None:
                return world_observation(self._require_world().step(action.message, timeout_s=seconds))
            return self._call(action.tool_name or "", action.arguments, seconds)

    @property
    def state(self) -> State:
        """Episode id, step count and what else the world states."""
        world = self._world
        return State() if world is None else State(**world.state)

    def close(self) -> None:
        """End the session and its world; a later `reset` is refused, for nobody would end its world."""
        with self._lock, self._reported("close"):
            self._closed = True
            self._end_world()

    def abandon(self, seconds: float) -> bool:
        """Close from outside at the server's end; False where a step did not end within `seconds`.

        Its world is closed under it then, so that no sandbox outlives the server.
        """
        in_time = self._lock.acquire(timeout=seconds)
        try:
            self._closed = True
            self._end_world()
        finally:
            if in_time:
                self._lock.release()
        return in_time

    # --- tasks: OpenEnv's TaskProvider --------------------------------------------------------------------------

    def list_splits(self) -> list[str]:
        """Return the names of the suite's splits."""
        return list(self._served.suite.splits)

    def num_tasks(self, split: str) -> int:
        """Return how many tasks a split has; NotImplementedError (status 501) where there is no end of them."""
        number = self._served.suite.num_tasks(split)
        if number is None:
            raise NotImplementedError
        return number

    def list_tasks(self, split: str) -> list[dict[str, Any]]:
        """Return all tasks of a split, or the first `MOST_LISTED_TASKS` where there is no end of them."""
        return self.get_task_range(split, None, None)

    def get_task(self, split: str, index: int) -> dict[str, Any]:
        """Return the task's id, its split and its index."""
        known = self._served.suite.num_tasks(split)
        if index < 0 or (known is not None and index >= known):
            raise IndexError(index)
        return {"id": self._served.suite.task_id(split, index), "split": split, "index": index}

    def get_task_range(self, split: str, start: int | None = None, stop: int | None = None) -> list[dict[str, Any]]:
        """Return the tasks of a slice; a split without an end has no tasks counted from its end."""
        known = self._served.suite.num_tasks(split)
        if known is None and ((start or 0) < 0 or (stop or 0) < 0):
            raise IndexError(start)
        end = (start or 0) + MOST_LISTED_TASKS if known is None and stop is None else stop
        numbers = range(known if known is not None else (end or 0))[start:end]
        return [self.get_task(split, number) for number in numbers]

    def get_metadata(self) -> EnvironmentMetadata:
        """Return what `/metadata` says."""
        name = self._served.suite.name
        return EnvironmentMetadata(name=name, description=f"The world {name!r} of envecho, served by `envecho serve`.")

    # --- inside -------------------------------------------------------------------------------------------------

    def _number(self, split: str, number: object) -> int:
        suite = self._served.suite
        if split not in suite.splits:
            raise ConfigError(f"{suite.name} has the splits {', '.join(suite.splits)}, found {split!r}")
        if number is None:
            return random.SystemRandom().randrange(suite.num_tasks(split) or _NUM_SEEDS)
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise WorldError(f"seed and index number the tasks of a split from 0, found {number!r}")
        return number

    def _require_world(self) -> World:
        if self._world is None:
            raise WorldError(
                "this session is over: it was idle too long or the server ends; open another"
                if self._closed
                else "no episode has started: call reset first"
            )
        return self._world

    def _end_world(self) -> None:
        world, self._world = self._world, None
        self._tools = self._served.tools
        self._served.running.discard(self)
        if world is not None:
            world.close()

    def _listed_tools(self) -> list[Tool]:
        return openenv_tools(self._tools)

    def _call_by_mcp(self, name: str, arguments: Mapping[str, Any]) -> ToolCallObservation:
        with self._lock, self._reported("call"):
            return self._call(name, arguments, None)

    def _call(self, name: str, arguments: Mapping[str, Any], timeout_s: float | None) -> ToolCallObservation:
        observation = self._require_world().step(str(CallText(name=name, arguments=arguments)), timeout_s=timeout_s)
        known = {tool.name for tool in openenv_tools(self._tools)}
        return ToolCallObservation(
            **spoken(observation),
            tool_name=name,
            result=_result(observation),
            error=_error(observation, is_known=name in known),
        )

    @contextmanager
    def _reported(self, what: str) -> Generator[None]:
        """Let what we raise on purpose through; log anything else as the bug that it is, and tell the client."""
        try:
            yield
        except EnvechoError as error:
            log.warning("%s: %s: %s", self._served.suite.name, what, error)
            raise
        except Exception as error:
            log.exception("%s: a bug of the world in %s", self._served.suite.name, what)
            found = f"{type(error).__name__}: {error}"
            raise WorldError(
                f"the world has a bug: {what} raised {found}; its traceback is in the server's log"
            ) from error


def environment_factory(served: ServedSuite) -> Callable[[], WorldEnvironment]:
    """Return what makes the environment of one session."""
    return lambda: WorldEnvironment(served)


def close_running(served: ServedSuite, seconds: float) -> int:
    """End all worlds that still run, the last after `seconds`; return how many steps were broken off in all."""
    deadline = time.monotonic() + seconds
    for environment in list(served.running):
        if not environment.abandon(max(0.0, deadline - time.monotonic())):
            served.broken_off.add(environment)
    return len(served.broken_off)


def _result(observation: Observation) -> dict[str, Any]:
    """What MCP calls the result of a tool: its text, and whether that is an error of the tool."""
    shown = [s for s in observation.segments if s.source in (Source.TOOL_RESULT, Source.TOOL_ERROR)]
    text = "".join(segment.text for segment in shown or observation.segments)
    failed = any(segment.source is Source.TOOL_ERROR for segment in shown)
    return {"content": [{"type": "text", "text": text}], "data": text, "is_error": failed}


def _error(observation: Observation, *, is_known: bool) -> ToolError | None:
    text = "".join(segment.text for segment in observation.segments)
    if observation.timed_out:
        return ToolError(error_type=ToolErrorType.TIMEOUT, message=text)
    if observation.labels.get(CALL_LABEL, CallOutcome.VALID) == CallOutcome.VALID:
        return None
    kind = ToolErrorType.INVALID_ARGS if is_known else ToolErrorType.TOOL_NOT_FOUND
    return ToolError(error_type=kind, message=text)
