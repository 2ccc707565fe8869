"""What stands in front of OpenEnv's capture proxy: `Watcher` refuses what is no model call, and remembers the rest.

The proxy keeps calls that were answered. What an agent asked last, the result of its last command included, is lost
where a limit or a failure answered instead: the watcher still has the request. Not here: the proxy (`record_proxy`).
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

_MODEL_ROUTES: Final = ("/chat/completions", "/messages", "/messages/count_tokens", "/responses")
_GEMINI_ROUTES: Final = (":generatecontent", ":streamgeneratecontent", ":counttokens")

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(kw_only=True)
class Heard:
    """One request; `messages` are None where they cannot be read."""

    messages: list[dict[str, Any]] | None
    status: int | None = None


@dataclass(kw_only=True)
class Watcher:
    """An ASGI application around the proxy: `refused` are requests by path, `unknown_keys` those of strangers."""

    application: Application
    read_messages: Callable[[str, Mapping[str, str], Mapping[str, Any]], list[dict[str, Any]] | None]
    requests: list[Heard] = field(default_factory=list[Heard])
    refused: Counter[str] = field(default_factory=Counter[str])
    failures: Counter[str] = field(default_factory=Counter[str])
    unknown_keys: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; one that is no model call is answered here, since the proxy would take it for a chat."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"].startswith("/sessions"):
            await self.application(scope, receive, send)
            return
        body = await _body(receive)
        data = _json_object(body)
        if (why := _why_refused(scope["path"], data)) is not None:
            self.refused[scope["path"]] += 1
            await _refuse(why, send)
            return
        heard = self._hear(scope, data)
        failure = bytearray()

        async def again() -> dict[str, Any]:
            nonlocal body
            if body is None:
                return await receive()
            first, body = body, None
            return {"type": "http.request", "body": first, "more_body": False}

        async def seen(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                heard.status = message["status"]
            elif heard.status is not None and heard.status >= 400 and len(failure) < 2000:
                failure.extend(message.get("body", b""))
            await send(message)

        await self.application(scope, again, seen)
        if heard.status == 401:
            self.unknown_keys += 1
        elif heard.status is not None and heard.status >= 400:
            self.failures[f"{heard.status}: {_words(bytes(failure))}"] += 1

    def _hear(self, scope: Scope, data: dict[str, Any] | None) -> Heard:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        heard = Heard(messages=None if data is None else self.read_messages(scope["path"], headers, data))
        if not scope["path"].lower().endswith(("count_tokens", ":counttokens")):
            self.requests.append(heard)
        return heard


def is_model_route(path: str) -> bool:
    """Whether the proxy can answer and capture a request to this path."""
    lowered = path.lower().rstrip("/")
    return lowered.endswith(_MODEL_ROUTES) or any(mark in lowered for mark in _GEMINI_ROUTES)


def _why_refused(path: str, data: Mapping[str, Any] | None) -> tuple[int, str] | None:
    """The status and the words for a request that must not reach the proxy, which takes whatever comes for a chat."""
    if not is_model_route(path):
        return 404, f"envecho record passes calls of chat models on, and nothing else; it does not know POST {path}"
    if data is not None and data.get("previous_response_id") is not None:
        return 400, ("envecho record keeps no answers, so previous_response_id leads nowhere; send the whole input")
    return None


async def _body(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body.extend(message.get("body", b""))
        if not message.get("more_body"):
            return bytes(body)


def _json_object(body: bytes | None) -> dict[str, Any] | None:
    with contextlib.suppress(ValueError):
        data = json.loads(body or b"")
        return data if isinstance(data, dict) else None
    return None


async def _refuse(why: tuple[int, str], send: Send) -> None:
    status, words = why
    body = json.dumps({"error": {"message": words, "type": "invalid_request_error"}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _words(body: bytes) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        error = json.loads(body).get("error")
        return str(error.get("message") if isinstance(error, dict) else error)[:300]
    return body.decode(errors="replace")[:300]
