"""A suite of tasks as an OpenEnv server: `make_app(suite)` is a FastAPI app that any OpenEnv client can talk to.

Wire form: an action is `{"message": TEXT}` (and `timeout_s`, where one action is bounded); an observation holds
`segments` (`source`, `text`, `tool`), their joined `text`, `tools`, `timed_out` and `labels` beside OpenEnv's `done`,
`reward` and `metadata`. `reset(seed=n)` starts task n of the split, `reset(split=..., index=n)` that task of another;
these are the numbers that the suite has in process. Where the tasks state tools the server speaks MCP as well: `/mcp`,
and `list_tools` and `call_tool` as actions (OpenEnv RFC 003).

Not here: a socket and signals (`server_run`), the client (`world`).
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from envecho.errors import ConfigError, EnvechoError
from envecho.seam import TaskSuite

if TYPE_CHECKING:
    from fastapi import FastAPI

    from envecho.worlds.openenv.server_environment import ServedSuite

SESSION_SECONDS = 3600.0
MAX_SESSIONS = 64
_STEP_GRACE_SECONDS = 1.0


def make_app(
    suite: TaskSuite,
    *,
    split: str = "train",
    max_sessions: int = MAX_SESSIONS,
    session_seconds: float = SESSION_SECONDS,
    web: bool = False,
) -> FastAPI:
    """Return the app that serves a suite.

    The split's first task is started once and closed, so that a world that cannot start is refused here, and its tools
    are known.

    Args:
        suite: whose tasks are served.
        split: the split of a `reset` that names none.
        max_sessions: how many sessions may run at once; another is told that the server is full.
        session_seconds: a session without a message for so long is ended.
        web: OpenEnv's page to try the world by hand, at `/web`. It loads gradio's parts from other hosts.

    Raises:
        ConfigError: the suite has no such split.
        WorldError: the world cannot start.
    """
    if split not in suite.splits:
        raise ConfigError(f"{suite.name} has the splits {', '.join(suite.splits)}, found {split!r}")
    from openenv.core.env_server.http_server import create_fastapi_app
    from openenv.core.env_server.types import ConcurrencyConfig, ServerMode, State

    from envecho.worlds.openenv.server_environment import ServedSuite, environment_factory
    from envecho.worlds.openenv.server_models import (
        MessageAction,
        ToolCallObservation,
        ToolWorldAction,
        WorldObservation,
    )

    tools = _tools_of_first_task(suite, split)
    served = ServedSuite(suite=suite, split=split, tools=tools)
    options: dict[str, Any] = {
        "env": environment_factory(served),
        "action_cls": ToolWorldAction if tools else MessageAction,
        "observation_cls": ToolCallObservation if tools else WorldObservation,
        "env_name": route_name(suite.name),
        "concurrency_config": ConcurrencyConfig(max_concurrent_envs=max_sessions, session_timeout=session_seconds),
        "state_cls": State,
        "reset_observation_cls": WorldObservation,
        "mode": ServerMode.SIMULATION,
    }
    if web:
        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page is for this machine, its use nobody's
        from openenv.core.env_server.web_interface import create_web_interface_app

        app = create_web_interface_app(**options)
    else:
        app = create_fastapi_app(**options)
    _complete(app, served)
    return app


def route_name(name: str) -> str:
    """Return a suite's name as it stands in the paths of OpenEnv's task routes: `/NAME/splits`."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-") or "world"


def end_sessions(app: FastAPI) -> int:
    """End all worlds that still run; return how many steps did not end in time, their worlds closed under them."""
    from envecho.worlds.openenv.server_environment import close_running

    served: ServedSuite = app.state.served
    return close_running(served, _STEP_GRACE_SECONDS)


def _tools_of_first_task(suite: TaskSuite, split: str) -> tuple[Mapping[str, Any], ...]:
    world = suite.make_world(split, 0)
    try:
        return world.reset(seed=0).tools
    finally:
        world.close()


def _complete(app: FastAPI, served: ServedSuite) -> None:
    """Add what OpenEnv's app lacks: our errors as one line with a status, and worlds that end with the server."""
    from fastapi import Request
    from fastapi.responses import JSONResponse

    def told(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, status_code=400 if isinstance(error, ConfigError) else 500)

    async def end() -> None:
        await asyncio.to_thread(end_sessions, app)

    app.add_exception_handler(EnvechoError, told)
    app.state.served = served
    app.router.on_shutdown.append(end)
