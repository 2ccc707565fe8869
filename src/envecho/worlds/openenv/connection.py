"""One session on an OpenEnv server, synchronous towards us: connect, reset, step, close, each with a deadline.

    our threads  --call and wait-->  one event loop in one thread  --websockets-->  servers

All connections of a process share that loop, so that hundreds of sessions cost one thread; after a fork the child
starts a loop of its own. The wire is OpenEnv's own client. What a server says no to is data (`Refusal`), a deadline
that passed is data (`Overdue`), everything else that is no answer is a WorldLostError. Not here: what a field means
(`reading`), which action to send (`actions`), what a server says about itself over HTTP (`facts`).
"""

from __future__ import annotations

import asyncio
import functools
import math
import os
import re
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, TypeVar, cast, final

from pydantic import BaseModel

from envecho.errors import ConfigError, WorldCapacityError, WorldError, WorldLostError
from envecho.worlds.openenv.address import Address
from envecho.worlds.openenv.maps import ConnectionMap

_T = TypeVar("_T")

_REFUSAL: Final = re.compile(r"Server error: (?P<message>.*) \(code: (?P<code>[^()]*)\)\Z", re.DOTALL)
_PAUSE_SECONDS: Final = 0.1
_PING_SECONDS: Final = 20.0
_FOREVER_SECONDS: Final = 1e9
_LONGEST_EXCERPT: Final = 200


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer to `reset` or `step` in OpenEnv's wire form; `reward` is finite or None."""

    observation: Mapping[str, Any]
    reward: float | None
    done: bool


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """The server read the message and answered with an error; its session goes on.

    `code` is OpenEnv's `WSErrorCode`: VALIDATION_ERROR where something did not fit a schema, EXECUTION_ERROR where the
    environment raised.
    """

    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Overdue:
    """No answer came in time. The connection is closed: what the session does now is unknown."""

    seconds: float


@final
class Connection:
    """One session; it is opened by its first `reset` and may be opened again after `close`.

    Args:
        address: the server.
        limits: deadlines and sizes.
        name: the environment's name, by which an installed client of its own is found.

    Raises:
        WorldLostError: no connection, a connection that broke, or what came over it is no answer. The connection is
            closed then.
        WorldCapacityError: the server has no room for another session.
        WorldError: the server refused `reset`.
    """

    def __init__(self, address: Address, limits: ConnectionMap, *, name: str = "") -> None:
        self._address, self._limits, self._name = address, limits, name
        self._wire: Any = None
        self._action_class: Any = None
        self._process = os.getpid()

    @property
    def is_open(self) -> bool:
        """Whether a session runs, as far as is known here."""
        return self._wire is not None

    def reset(self, arguments: Mapping[str, Any]) -> Reply:
        """Start an episode on this session; a full server is asked again for `capacity_seconds`.

        OpenEnv ends a session after it has answered the client's goodbye, so the next client may come too early.
        """
        until = time.monotonic() + self._limits.capacity_seconds
        while True:
            if not self.is_open:
                self.open()
            call = functools.partial(self._wire.reset, **arguments)
            answer = self._ask(call, self._limits.reset_seconds, doing="reset")
            if isinstance(answer, Reply):
                return answer
            if isinstance(answer, Overdue):
                raise WorldLostError(f"{self._address}: no answer to reset within {answer.seconds:g} s")
            if answer.code in ("CAPACITY_REACHED", "FACTORY_ERROR", "SESSION_ERROR"):
                self.close()
            if answer.code != "CAPACITY_REACHED":
                given = ", ".join(arguments)  # names alone: a value may be a key
                raise WorldError(f"{self._address} refused reset({given}): {answer.message} ({answer.code})")
            if time.monotonic() >= until:
                raise WorldCapacityError(f"{self._address} has no room for another session: {answer.message}")
            time.sleep(_PAUSE_SECONDS)

    def step(self, action: Mapping[str, Any], seconds: float) -> Reply | Refusal | Overdue:
        """Send an action and wait for its answer."""
        if not self.is_open:
            raise WorldLostError(f"{self._address}: step was called but the session is over; call reset first")
        wire, sent = self._wire, dict(action)
        if self._action_class is not None:
            try:
                sent = self._action_class.model_validate(sent)
            except ValueError as error:
                return Refusal(code="VALIDATION_ERROR", message=str(error))
        return self._ask(lambda: wire.step(sent), seconds, doing="step")

    def close(self) -> None:
        """End the session; may be called twice, and never raises for a server that is gone."""
        wire, self._wire = self._wire, None
        if wire is None or os.getpid() != self._process:
            return
        try:
            run_on_loop(_within(lambda: wire.close(), self._limits.release_seconds))
        except Exception:  # the socket is given up either way, and its end on the server's side is the server's
            return

    def open(self) -> None:
        """Open the session; `reset` does it where nobody did."""
        wire_class, self._action_class = _client_classes(self._name if self._limits.client == "auto" else "")
        wire = wire_class(
            base_url=self._address.websocket,
            connect_timeout_s=self._limits.connect_seconds,
            message_timeout_s=_FOREVER_SECONDS,  # every call has a deadline of its own
            max_message_size_mb=self._limits.max_message_mb,
            websocket_ping_interval_s=_PING_SECONDS,
            websocket_ping_timeout_s=None,  # a server that is busy with a step may not answer a ping
            headers=self._limits.headers(),
        )
        try:
            run_on_loop(_within(lambda: wire.connect(), self._limits.connect_seconds + 1))
        except (OSError, ValueError) as error:  # openenv raises ConnectionError, websockets ValueError for a bad URL
            raise WorldLostError(f"{self._address}: {self._address.explain(error.__cause__ or error)}") from error
        self._wire, self._process = wire, os.getpid()

    def _ask(self, call: Callable[[], Awaitable[Any]], seconds: float, *, doing: str) -> Reply | Refusal | Overdue:
        from websockets.exceptions import ConnectionClosed

        if os.getpid() != self._process:
            raise WorldLostError(f"{self._address}: this session belongs to process {self._process}, which was forked")
        try:
            return _reply(run_on_loop(_within(call, seconds)))
        except TimeoutError:
            self.close()
            return Overdue(seconds=seconds)
        except ConnectionClosed as error:
            self.close()
            raise WorldLostError(f"{self._address}: the connection broke during {doing}: {_why(error)}") from error
        except OSError as error:
            self.close()
            raise WorldLostError(f"{self._address}: the connection broke during {doing}: {error}") from error
        except (RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
            refusal = _REFUSAL.match(str(error)) if type(error) is RuntimeError else None
            if refusal is not None:
                return Refusal(code=refusal["code"], message=refusal["message"])
            self.close()
            raise WorldLostError(
                f"{self._address}: expected OpenEnv's answer to {doing}, found what is none: {_excerpt(error)}"
            ) from error


# --- answers ------------------------------------------------------------------------------------------------------


def _reply(result: Any) -> Reply:
    """Check the shape of OpenEnv's StepResult, which its generic client fills with defaults for what is missing."""
    observation = result.observation
    if isinstance(observation, BaseModel):  # of an installed client
        dumped: dict[str, Any] = observation.model_dump()
        observation = {key: value for key, value in dumped.items() if key not in ("done", "reward")}
    reward, done = result.reward, result.done
    if not isinstance(observation, Mapping):
        raise TypeError(f"observation is {type(observation).__name__}, expected an object")
    if not isinstance(done, bool):
        raise TypeError(f"done is {done!r}, expected true or false")
    if reward is not None and (not isinstance(reward, int | float) or not math.isfinite(reward)):
        raise TypeError(f"reward is {reward!r}, expected null or a finite number")
    return Reply(
        observation=cast("Mapping[str, Any]", observation), reward=None if reward is None else float(reward), done=done
    )


def _why(error: Any) -> str:
    """Say who closed a connection, and what a limit has to do with it."""
    if error.sent is not None and error.sent.code == 1009 and error.rcvd is None:
        return "the answer is larger than max_message_mb of the map's [connection] allows"
    if error.rcvd is not None and error.rcvd.code == 1009:
        return "the server takes no message of this size"
    return str(error)


def _excerpt(error: Exception) -> str:
    text = repr(getattr(error, "doc", None) or str(error) or type(error).__name__)
    return text if len(text) <= _LONGEST_EXCERPT else f"{text[:_LONGEST_EXCERPT]}..."


# --- openenv's clients --------------------------------------------------------------------------------------------


@functools.cache
def _client_classes(name: str) -> tuple[Any, Any]:
    """Return the client class to use and the action class that it takes (None: it takes dicts)."""
    try:
        from openenv.core.generic_client import GenericEnvClient
    except ImportError as error:
        raise ConfigError(f"a world on a server needs openenv: pip install 'envecho[openenv]' ({error})") from error

    class Client(GenericEnvClient):
        def _parse_result(self, payload: dict[str, Any]) -> Any:
            if "observation" not in payload or "done" not in payload:
                raise ValueError(f"expected observation and done, found {str(payload)[:_LONGEST_EXCERPT]}")
            return super()._parse_result(payload)

    typed = _installed_client(name) if name else None
    return (_one_session(Client), None) if typed is None else (_one_session(typed[0]), typed[1])


def _installed_client(name: str) -> tuple[Any, Any] | None:
    """Return client and action class of an installed `openenv-...` package of this name, if there is one.

    Clients for MCP are left out: they call tools beside the episode's steps, where no reward is told.
    """
    from openenv.auto import AutoAction, AutoEnv
    from openenv.core.mcp_client import MCPClientBase

    try:
        client, action = AutoEnv.get_env_class(name), AutoAction.from_env(name)
    except ValueError:
        return None
    except ImportError as error:
        raise ConfigError(
            f'the installed client of {name} cannot be imported: {error}; client = "generic" in the map\'s '
            "[connection] does without it"
        ) from error
    return None if issubclass(client, MCPClientBase) else (client, action)


def _one_session(client_class: Any) -> Any:
    """Return the client without its silent reconnect.

    OpenEnv's client opens a new session where the old one is gone; the next step would act on an environment that was
    never reset. `test_a_lost_connection_is_no_new_session` pins it. A socket that the server has closed is kept: what
    the server said before (that it is full) may still be read from it.
    """

    class OneSession(client_class):
        _was_connected = False

        async def _connect_async(self) -> Any:
            if not self._was_connected:
                await super()._connect_async()
                self._was_connected = True
            elif self._ws is None:
                raise ConnectionResetError("the session is gone; a new one would not know the episode")
            return self

    return OneSession


# --- the loop -----------------------------------------------------------------------------------------------------

_loops: dict[int, asyncio.AbstractEventLoop] = {}
"""The loop of this process, by its id."""
_locks: list[threading.Lock] = [threading.Lock()]


def _forget_parent() -> None:
    """In a forked child the parent's loop has no thread, and its lock may be held for ever."""
    _loops.clear()
    _locks[:] = [threading.Lock()]


os.register_at_fork(after_in_child=_forget_parent)


def run_on_loop(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on the process's shared loop and wait for its result."""
    future: Future[_T] = asyncio.run_coroutine_threadsafe(coroutine, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _loop() -> asyncio.AbstractEventLoop:
    with _locks[0]:
        loop = _loops.get(os.getpid())
        if loop is None:
            loop = asyncio.new_event_loop()
            threading.Thread(target=loop.run_forever, name="envecho-openenv", daemon=True).start()
            _loops[os.getpid()] = loop
        return loop


async def _within(call: Callable[[], Awaitable[_T]], seconds: float) -> _T:
    return await asyncio.wait_for(call(), seconds)
