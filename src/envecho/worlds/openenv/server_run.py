"""Run a served world in the foreground: one socket, an end by Ctrl-C or SIGTERM that leaves no sandbox, one guard.

The guard is for servers on this machine: a page in a browser here may talk to any port of the loopback address, and a
world runs commands. So a request that a page of another site makes, or that names another host, is refused. Not here:
what is served (`server`).
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, final
from urllib.parse import urlsplit

from envecho.errors import ConfigError
from envecho.worlds.openenv.server import end_sessions

if TYPE_CHECKING:
    from fastapi import FastAPI

GRACE_SECONDS: Final = 3
"""How long requests under way may take once the server is told to end."""

LARGEST_MESSAGE: Final = 100 << 20
_POLL_SECONDS: Final = 0.02

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
_Asgi = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


def require_loopback(host: str, *, public: bool) -> None:
    """Refuse an address that other machines reach, unless `public` says that this is meant.

    Raises:
        ConfigError: `host` is not of the loopback interface, or no address at all.
    """
    if public or all(_is_loopback(address) for address in _addresses(host)):
        return
    raise ConfigError(
        f"{host} can be reached from other machines. A served world runs commands that models write, and OpenEnv's "
        "protocol has no authentication: whoever reaches the port can run commands in its sandbox (with sandbox "
        "unsafe-host: on this machine). Serve on 127.0.0.1, or say --public if the network around it is closed"
    )


def run_server(app: FastAPI, *, host: str, port: int, public: bool, on_ready: Callable[[str], None]) -> int:
    """Serve until Ctrl-C or SIGTERM and end every world; return how many steps had to be broken off.

    `on_ready` gets the URL as soon as the server answers. Port 0 takes a free one.

    Raises:
        ConfigError: the address is taken, or refused (`require_loopback`).
    """
    import uvicorn

    require_loopback(host, public=public)
    bound = _bind(host, port)
    config = uvicorn.Config(
        app if public else LoopbackGuard(app),  # type: ignore[arg-type]  # an ASGI app, which uvicorn types narrower
        log_config=None,
        log_level="warning",
        lifespan="on",
        ws_max_size=LARGEST_MESSAGE,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    server = uvicorn.Server(config)
    url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
    with bound, _ended_by_signals(server):
        asyncio.run(_serve(server, bound, lambda: on_ready(url)))
    return end_sessions(app)


@final
class LoopbackGuard:
    """An ASGI app that lets through what this machine's own programs ask, and no page of another site."""

    def __init__(self, app: _Asgi) -> None:
        self._app = app

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Pass the request on, or refuse it with status 403."""
        if scope["type"] == "lifespan" or _is_local(dict(scope["headers"])):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 403, "headers": []})
            await send({"type": "http.response.body", "body": b"this server answers programs of its own machine only"})


def _is_local(headers: dict[bytes, bytes]) -> bool:
    host = headers.get(b"host", b"").decode("latin-1")
    origin = headers.get(b"origin")
    try:
        hostname = urlsplit(f"//{host}").hostname or ""
        return (hostname == "localhost" or _is_loopback(hostname)) and (
            origin is None or urlsplit(origin.decode("latin-1")).netloc == host
        )
    except ValueError:  # no host name, no address
        return False


def _addresses(host: str) -> list[str]:
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None)]
    except OSError as error:
        raise ConfigError(f"no address is named {host!r}: {error}") from error


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.split("%")[0]).is_loopback


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ConfigError(f"{host}:{port} cannot be served: {error.strerror}; --port 0 takes a free port") from error


async def _serve(server: Any, bound: socket.socket, ready: Callable[[], None]) -> None:
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started and not serving.done():
        await asyncio.sleep(_POLL_SECONDS)
    if server.started:
        ready()
    await serving


@contextmanager
def _ended_by_signals(server: Any) -> Generator[None]:
    """Take signals before uvicorn does, and after: it raises again what it took while worlds are still to be closed."""

    def end(*_: object) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
