"""`Wire`: JSON over HTTP to one model server, with a deadline, tries, and errors that say what to do.

A server that cannot be reached after all tries is a `ServerLostError`: that is no property of the request. An answer
that says no is a `ServerRefusedError` with its status. Trying again is safe: every request carries its own seed. Not
here: what is asked (`dialect` and its files).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, final

from envecho.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import httpx

_BUSY: Final = (408, 429, 502, 503, 504)
_LONGEST_EXCERPT: Final = 300


class ServerLostError(EngineError):
    """Nothing answers at the server's address, or what answers is no JSON."""


class ServerRefusedError(EngineError):
    """The server answered, and said no; `status` is the HTTP status."""

    def __init__(self, message: str, *, status: int) -> None:
        self.status = status
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class WireOptions:
    """How a server is waited for.

    `seconds` bounds one answer, `connect_seconds` a connection. A connection that breaks, a server that is busy and an
    answer that is late are tried `attempts` times, with pauses of `backoff_seconds`, twice that, and so on up to 30 s.
    `max_concurrent` requests are open at once. `api_key` is sent as a bearer token.
    """

    seconds: float = 600.0
    connect_seconds: float = 10.0
    attempts: int = 5
    backoff_seconds: float = 0.5
    max_concurrent: int = 64
    api_key: str | None = None

    def __post_init__(self) -> None:
        if self.attempts < 1 or self.max_concurrent < 1 or self.seconds <= 0:
            raise ConfigError(
                f"a server is asked with attempts {self.attempts}, max_concurrent {self.max_concurrent} and seconds"
                f" {self.seconds}; expected at least 1, at least 1, and more than 0"
            )


@final
class Wire:
    """A pool of connections to one server; safe to use from many threads."""

    def __init__(self, url: str, options: WireOptions) -> None:
        import httpx

        self.url, self.options = url.rstrip("/"), options
        try:
            parsed = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise ConfigError(f"{url!r} is no URL of a server: {error}") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise ConfigError(f"{url!r} is no URL of a server, expected such as http://127.0.0.1:8000")
        is_loopback = parsed.host in ("127.0.0.1", "localhost", "::1")
        self._client = httpx.Client(
            base_url=self.url,
            timeout=httpx.Timeout(options.seconds, connect=options.connect_seconds, pool=None),
            limits=httpx.Limits(
                max_connections=options.max_concurrent, max_keepalive_connections=options.max_concurrent
            ),
            headers={"Authorization": f"Bearer {options.api_key}"} if options.api_key else {},
            trust_env=not is_loopback,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str) -> Any:
        """Return the JSON of a GET."""
        return self._ask("GET", path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Return the JSON of a POST; None where the body of the answer is empty.

        Raises:
            ServerLostError: there was no answer, or one that is no JSON.
            ServerRefusedError: the answer is an error.
        """
        return self._ask("POST", path, body)

    def tell(self, path: str, body: Mapping[str, Any]) -> None:
        """POST, and read no answer but whether it is an error: some servers confirm in plain text."""
        self._answer("POST", path, body)

    def find(self, path: str) -> Any:
        """Return the JSON of a GET, or None where the server has no such route."""
        try:
            return self._ask("GET", path, None)
        except ServerRefusedError as error:
            if error.status in (403, 404, 405, 501):
                return None
            raise

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        answer = self._answer(method, path, body)
        if not answer.content:
            return None
        try:
            return answer.json()
        except ValueError as error:
            raise ServerLostError(
                f"{self.url}{path}: expected JSON, found {_excerpt(answer)}; is this the address of a model server?"
            ) from error

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        import httpx

        pause, trouble = self.options.backoff_seconds, ""
        for attempt in range(self.options.attempts):
            if attempt:
                time.sleep(min(pause, 30.0))
                pause *= 2
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.TimeoutException as error:
                trouble = f"no answer in {self.options.seconds:g} s ({type(error).__name__})"
                continue
            except httpx.TransportError as error:
                trouble = str(error) or type(error).__name__
                continue
            if answer.status_code in _BUSY:
                trouble = f"status {answer.status_code}: {_excerpt(answer)}"
                continue
            return self._accepted(answer, path)
        raise ServerLostError(
            f"{self.url}{path}: {trouble}, after {self.options.attempts} attempts; is the server running, and is this"
            " its address?"
        )

    def _accepted(self, answer: httpx.Response, path: str) -> httpx.Response:
        where = f"{self.url}{path}"
        if answer.status_code in (401, 403):
            raise ServerRefusedError(
                f"{where} does not let us in (status {answer.status_code}: {_excerpt(answer)}); give the server's key"
                " as api_key",
                status=answer.status_code,
            )
        if answer.is_error:
            raise ServerRefusedError(
                f"{where} answered status {answer.status_code}: {_excerpt(answer)}", status=answer.status_code
            )
        return answer


def _excerpt(answer: httpx.Response) -> str:
    text = " ".join(answer.text.split())
    return repr(text if len(text) <= _LONGEST_EXCERPT else text[:_LONGEST_EXCERPT] + "...")
