"""OpenEnv's capture proxy on this machine's loopback, for one recording: `capture_proxy`.

The proxy of openenv 0.10 (openenv/core/harness/capture: server.py, sessions.py, graph.py) speaks the dialects of chat
completions, Responses, Anthropic messages and Gemini, asks the upstream for ids and log-probs, and links calls by their
prompts. It is served here by a server of our own, because its own runner binds every interface, and behind a watcher
(`record_watcher`). Not here: trajectories (`record_export`), the command (`record_command`).
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import secrets
import socket
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from envecho.errors import ConfigError, DataError, EngineError
from envecho.formats.turns import Turn, paired, turns_of
from envecho.recipes.record_command import without_secret
from envecho.recipes.record_export import CallRole, CapturedCall
from envecho.recipes.record_watcher import Watcher

Level = Literal["auto", "tokens", "text"]
Provider = Literal["openai", "anthropic"]

_LOGGERS: Final = ("intercept", "openenv.core.harness.capture.upstream", "uvicorn.error")
_START_SECONDS: Final = 30.0
_STOP_SECONDS: Final = 2
_INSTALL: Final = "recording needs OpenEnv's capture proxy: pip install 'envecho[openenv]'"


@dataclass(frozen=True, kw_only=True)
class Upstream:
    """Where model calls go; `model` None: the name that the agent says. `api_key` is never shown."""

    url: str
    model: str | None = None
    api_key: str | None = field(default=None, repr=False)
    provider: Provider = "openai"


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """A proxy that runs: `url` without a path, the `key` that its caller must send, and what it captured."""

    url: str
    key: str
    watcher: Watcher
    session: Any

    def calls(self) -> list[CapturedCall]:
        """Return the answered calls, in the order of their answers."""
        return captured_calls(self.session)

    def raw_calls(self) -> Iterator[dict[str, Any]]:
        """Yield the answered calls as they were captured, in lines that `envecho import` reads."""
        for node in self.session.graph.nodes():
            if not node.prompt_ids:
                yield {"messages": [*node.request_messages, node.response_message], "tools": node.request_tools}
                continue
            yield {
                "episode": self.session.session_id,
                "prompt_ids": node.prompt_ids,
                "completion_ids": node.sampled_ids,
                "logprobs": node.sampled_logprobs,
                "temperature": node.sampling_params.get("temperature"),
                "messages": node.request_messages,
                "response": node.response_message,
                "tools": node.request_tools,
            }

    def final_turns(self, calls: Sequence[CapturedCall]) -> tuple[Turn, ...]:
        """Return the messages behind the agent's last call that a request showed and no model answered.

        Args:
            calls: as `calls` returns them.
        """
        nodes = self.session.graph.nodes()
        work = [node for node, call in zip(nodes, calls, strict=True) if call.role == "agent"]
        if not work:
            return ()
        asked = work[-1].request_messages
        answered = [node.request_messages for node in nodes]
        for heard in reversed(self.watcher.requests):
            shown = heard.messages
            if shown is None or len(shown) <= len(asked) + 1 or shown[: len(asked)] != asked or shown in answered:
                continue
            behind = shown[len(asked) :]
            if behind[0].get("role") == "assistant" and all(m.get("role") != "assistant" for m in behind[1:]):
                with contextlib.suppress(DataError):
                    return tuple(turns_of(behind[1:]))
        return ()


def captured_calls(session: Any) -> list[CapturedCall]:
    """Return the calls of a session of openenv's proxy."""
    from openenv.core.harness.capture.export import export_session

    nodes: list[Any] = session.graph.nodes()
    place = {node.node_id: number for number, node in enumerate(nodes)}
    roles: dict[str, CallRole] = {}
    # As text: there a conversation counts as work whatever became of its log-probs.
    document: dict[str, Any] = export_session(session, include_discarded=True, capture_level="text")
    for role in ("auxiliary", "agent"):
        for row in document["sequences"]:
            roles |= dict.fromkeys(row["node_ids"], role) if row["role"] == role else {}
    return [
        CapturedCall(
            request=tuple(_request(node.request_messages)),
            answer=turns_of([{"role": "assistant", **node.response_message}])[-1],
            # A discarded answer has no successor, so a path that ends elsewhere never shows it.
            role=roles.get(node.node_id, "discarded"),
            parent=place.get(node.parent_id),
            prompt_ids=tuple(node.prompt_ids),
            completion_ids=tuple(node.sampled_ids),
            logprobs=None if node.sampled_logprobs is None else tuple(map(float, node.sampled_logprobs)),
            temperature=_temperature(node.sampling_params),
            tools=tuple(dict(tool) for tool in node.request_tools or () if isinstance(tool, Mapping)),
        )
        for node in nodes
    ]


def _request(messages: list[dict[str, Any]]) -> list[Turn]:
    """The turns of a request; a result that names no call of it (Gemini's have no ids) is paired by its place."""
    turns = turns_of(messages)
    known = {call.id for turn in turns for call in turn.tool_calls}
    return paired(
        [
            replace(turn, tool_call_id=None) if turn.kind == "tool" and turn.tool_call_id not in known else turn
            for turn in turns
        ]
    )


def _temperature(params: Mapping[str, Any]) -> float | None:
    value = params.get("temperature")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a test call found: what the upstream returns, its model, and what the proxy warns of."""

    level: str
    model: str | None
    findings: tuple[str, ...] = ()


def measure(upstream: Upstream, level: Level) -> Measured:
    """Ask the upstream for a few tokens to see whether it returns ids and log-probs, unless the level is given.

    Raises:
        ConfigError: it serves several models and none was named, or openenv is not installed.
        EngineError: it does not answer.
    """
    with _openenv():
        from openenv.core.harness.capture.validate_llm import list_models, validate_llm

    model = upstream.model
    if model is None and upstream.provider == "openai":
        served: list[str] = list_models(upstream.url, timeout=10.0, api_key=upstream.api_key)
        model = served[0] if len(served) == 1 else None
        if model is None and level == "auto":
            listed = f"it serves {', '.join(served)}" if served else "it lists no model (does a server run there?)"
            raise ConfigError(f"{upstream.url}: expected one model, {listed}; name it with --upstream-model")
    if level != "auto":
        return Measured(level=level, model=model)
    with quiet_loggers():
        report: Any = validate_llm(
            upstream.url, model or "", provider=upstream.provider, api_key=upstream.api_key, check_tools=False
        )
    findings = tuple(without_secret(str(finding), upstream.api_key) for finding in report.findings)
    if not report.reachable:
        raise EngineError(f"{upstream.url} does not answer a test call: {'; '.join(findings) or 'no reason given'}")
    return Measured(level=report.capture_level or "text", model=model, findings=findings)


@contextlib.contextmanager
def capture_proxy(
    upstream: Upstream, measured: Measured, *, max_calls: int = 0, temperature: float | None = None
) -> Generator[Proxy]:
    """Serve the proxy on a free port of 127.0.0.1 while the block runs.

    Args:
        max_calls: calls behind this many are answered with a text that ends the agent's loop; 0: no limit.
        temperature: sample every call at this temperature from the whole distribution, whatever the agent asks for.

    Raises:
        ConfigError: openenv is not installed.
        EngineError: the server does not start.
    """
    with _openenv():
        from openenv.core.harness.capture.detection import detect
        from openenv.core.harness.capture.dialects import TransformManager
        from openenv.core.harness.capture.server import create_app

    app: Any = create_app(
        llm_url=upstream.url,
        model=measured.model,
        max_output_tokens=None,
        api_key=upstream.api_key,
        provider=upstream.provider,
        capture_level=measured.level,
        admin_key=secrets.token_urlsafe(24),
    )
    transforms: Any = TransformManager()

    def read_messages(path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The messages of a request as the proxy keeps them, whatever its dialect."""
        asked = copy.deepcopy(dict(body))
        if measured.model:
            asked["_served_model"] = measured.model
        try:
            return transforms.get(detect(path, dict(headers), asked)).transform_request(asked)["messages"]
        except Exception:  # what the proxy cannot read either, it refuses itself
            return None

    key = f"sk-{secrets.token_hex(20)}"  # what clients and the search for secrets know as a key
    session: Any = app.state.registry.create(
        key,
        capture_level=measured.level,
        max_model_calls=max_calls,
        sampling=None if temperature is None else {"temperature": temperature},
    )
    watcher = Watcher(application=app, read_messages=read_messages)
    with quiet_loggers(), _served(watcher, app.state.inference.aclose) as url:
        yield Proxy(url=url, key=key, watcher=watcher, session=session)


@contextlib.contextmanager
def _served(application: Any, close: Callable[[], Awaitable[None]]) -> Generator[str]:
    """Serve an application on loopback, in a thread; yield its address."""
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        application, log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=_STOP_SECONDS
    )
    server = uvicorn.Server(config)

    async def serve() -> None:
        try:
            await server.serve(sockets=[listening])
        finally:
            await close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > deadline:
                raise EngineError("the capture proxy did not start on 127.0.0.1")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(_START_SECONDS)
        listening.close()


@contextlib.contextmanager
def quiet_loggers() -> Generator[None]:
    """Keep the proxy's log lines out of the agent's screen; what failed is counted and said at the end."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.disabled for logger in loggers]
    for logger in loggers:
        logger.disabled = True
    try:
        yield
    finally:
        for logger, disabled in zip(loggers, before, strict=True):
            logger.disabled = disabled


@contextlib.contextmanager
def _openenv() -> Generator[None]:
    """Import openenv without the warnings of its own imports.

    Raises:
        ConfigError: it is not installed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except ImportError as error:
            raise ConfigError(f"{_INSTALL} ({error})") from None
