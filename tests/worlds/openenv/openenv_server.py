"""All environments of this folder on one server, each below its name; `serve` runs it in a thread of this process.

`python openenv_server.py` serves them in a process of its own and prints the URL, for tests that end the server.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openenv_odd_shapes as odd
import openenv_shapes as shapes
import openenv_tool_shapes as tools
import uvicorn
from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse
from openenv.core.env_server.http_server import create_fastapi_app
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation

APPS: dict[str, tuple[Any, ...]] = {
    "coding_env": (shapes.Coding, shapes.CodeAction, shapes.CodeObservation),
    "tbench2_env": (shapes.Terminal, shapes.TerminalAction, shapes.TerminalObservation),
    "git_env": (shapes.Git, shapes.GitAction, shapes.GitObservation),
    "repl_env": (shapes.Repl, shapes.ReplAction, shapes.ReplObservation),
    "reasoning_gym_env": (shapes.Reasoning, shapes.ReasoningAction, shapes.ReasoningObservation),
    "chat_env": (shapes.Chat, shapes.ChatAction, shapes.ChatObservation),
    "textarena_env": (shapes.Game, shapes.GameAction, shapes.GameObservation),
    "echo_env": (tools.Echo, CallToolAction, CallToolObservation),
    "agent_world_model_env": (tools.Shop, CallToolAction, tools.ShopObservation),
    "maze": (odd.Maze, odd.MoveAction, odd.MoveObservation),
    "tasked": (odd.Tasked, odd.LineAction, odd.LineObservation),
    "fragile": (odd.Fragile, odd.LineAction, odd.LineObservation),
    "own_calls": (tools.Echo, tools.OwnCallAction, CallToolObservation),
    "bare": (odd.Bare, Action, Observation),
    "single": (shapes.Coding, shapes.CodeAction, shapes.CodeObservation),
}


GARBAGE = {
    "text": "hello, I am no JSON",
    "list": "[1, 2]",
    "number": "17",
    "no-data": '{"type": "observation"}',
    "no-done": '{"type": "observation", "data": {"observation": {}}}',
    "state": '{"type": "state", "data": {"episode_id": null}}',
    "text-observation": '{"type": "observation", "data": {"observation": "hi", "done": false}}',
    "done-is-text": '{"type": "observation", "data": {"observation": {}, "done": "no"}}',
    "reward-is-text": '{"type": "observation", "data": {"observation": {}, "done": false, "reward": "1"}}',
    "reward-is-nan": '{"type": "observation", "data": {"observation": {}, "done": false, "reward": NaN}}',
    "error-without-data": '{"type": "error", "data": null}',
}


def make_app() -> FastAPI:
    """Return one app with everything mounted; what a proxy might answer lies at `/page`."""
    app = FastAPI()
    for name, (environment, action, observation) in APPS.items():
        most = 1 if name == "single" else 300
        app.mount(f"/{name}", create_fastapi_app(environment, action, observation, most, env_name=name))

    @app.websocket("/garbage/{kind}/ws")
    async def garbage(socket: WebSocket, kind: str) -> None:
        await socket.accept()
        await socket.receive_text()
        if kind == "close":
            await socket.close(1011)
        elif kind == "bytes":
            await socket.send_bytes(b"\xff\xfe\x00")
        elif kind == "deep":
            await socket.send_text("[" * 100_000)
        else:
            await socket.send_text(GARBAGE[kind])
        await socket.close()

    @app.get("/page/{rest:path}", response_class=HTMLResponse)
    def page(rest: str) -> str:
        return "<!doctype html><html><title>502 Bad &amp; Gateway</title><body>nginx</body></html>"

    return app


@contextmanager
def serve(app: Any, **options: Any) -> Iterator[str]:
    """Serve an app on a free port of the loopback address and yield its URL."""
    bound = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1, ws="websockets-sansio", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: server.run(sockets=[bound]), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        bound.close()


if __name__ == "__main__":
    with serve(make_app()) as url:
        print(url, flush=True)
        threading.Event().wait()
