"""What a server says about itself over HTTP: health, name, schemas, and the tasks of OpenEnv's Task API.

Not here: sessions (`connection`), and what follows from it (`maps`, `suite`).
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from envecho.errors import ConfigError, WorldError, WorldLostError
from envecho.worlds.openenv.address import Address

_SECONDS: Final = 30.0
_UNSUPPORTED: Final = (404, 405, 501)
_TITLE: Final = re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL)
_LONGEST_EXCERPT: Final = 120


@dataclass(frozen=True, kw_only=True)
class ServerFacts:
    """What a server states; None or empty is what it does not state.

    `environment` is its name in the routes of the Task API, `name` and `description` those of its metadata. The schemas
    are JSON schemas of action, observation and reset observation. `splits` are those of the Task API.
    """

    address: Address
    environment: str
    name: str
    description: str
    action: Mapping[str, Any] | None
    observation: Mapping[str, Any] | None
    reset_observation: Mapping[str, Any] | None
    splits: tuple[str, ...]

    @property
    def title(self) -> str:
        """The shortest name that says what it is."""
        return self.environment or self.name or self.address.http.split("://", 1)[1]

    @property
    def action_fields(self) -> frozenset[str] | None:
        """Names of the action's own fields; those of every variant where there are several."""
        return _fields(self.action, drop={"metadata"})

    @property
    def observation_fields(self) -> frozenset[str] | None:
        """Names of the observation's own fields."""
        return _fields(self.observation, drop={"metadata", "done", "reward"})


def fetch_facts(address: Address, headers: Mapping[str, str] | None = None) -> ServerFacts:
    """Ask a server what it is.

    Raises:
        WorldLostError: nothing answers at the address, or what answers is no OpenEnv server.
    """
    health = _get(address, "/health", headers)
    if not isinstance(health, Mapping) or "status" not in health:
        raise WorldLostError(
            f"{address}: expected the health of an OpenEnv server at /health, found {str(health)[:_LONGEST_EXCERPT]!r}"
        )
    metadata, schema = _mapping(_get(address, "/metadata", headers)), _mapping(_get(address, "/schema", headers))
    names = _get(address, "/list_environments", headers)
    environment = str(cast("list[Any]", names)[0]) if isinstance(names, list) and names else ""
    splits = _get(address, f"/{environment}/splits", headers) if environment else None
    return ServerFacts(
        address=address,
        environment=environment,
        name=str(metadata.get("name") or ""),
        description=str(metadata.get("description") or ""),
        action=_schema(schema.get("action")),
        observation=_schema(schema.get("observation")),
        reset_observation=_schema(schema.get("reset_observation")),
        splits=tuple(str(_mapping(split).get("name", split)) for split in _list(splits)),
    )


def fetch_num_tasks(facts: ServerFacts, split: str, headers: Mapping[str, str] | None = None) -> int | None:
    """Return how many tasks a split has; None where the server does not say.

    Raises:
        WorldLostError: the server is gone, or answers something else.
    """
    found = _post(facts.address, f"/{facts.environment}/num_tasks", {"split": split}, headers)
    if found is None:
        return None
    number = _mapping(found).get("num_tasks")
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise WorldLostError(f"{facts.address}: expected the number of tasks of {split!r}, found {number!r}")
    return number


def fetch_task(facts: ServerFacts, split: str, index: int, headers: Mapping[str, str] | None = None) -> Any:
    """Return what the server says of one task; None where it says nothing.

    Raises:
        WorldLostError: the server is gone, or answers something else.
    """
    found = _post(facts.address, f"/{facts.environment}/task", {"split": split, "index": index}, headers)
    return _mapping(found).get("task")


def fetch_tools(facts: ServerFacts, headers: Mapping[str, str] | None = None) -> Sequence[Any] | None:
    """Return the tools that the server's MCP route lists, outside of any session; None where it has none.

    Raises:
        WorldLostError: the server is gone, or answers something else.
    """
    asked = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
    found = _mapping(_mapping(_post(facts.address, "/mcp", asked, headers)).get("result")).get("tools")
    return cast("list[Any]", found) if isinstance(found, list) else None


# --- requests -----------------------------------------------------------------------------------------------------


def _get(address: Address, route: str, headers: Mapping[str, str] | None) -> Any:
    return _request(address, "GET", route, None, headers)


def _post(address: Address, route: str, body: Mapping[str, Any], headers: Mapping[str, str] | None) -> Any:
    return _request(address, "POST", route, body, headers)


def _request(
    address: Address, method: str, route: str, body: Mapping[str, Any] | None, headers: Mapping[str, str] | None
) -> Any:
    """Return the JSON that a route answers; None where the server has no such route."""
    try:
        import httpx
    except ImportError as error:
        raise ConfigError(f"a world on a server needs openenv: pip install 'envecho[openenv]' ({error})") from error
    try:
        answer = httpx.request(
            method,
            f"{address.http}{route}",
            json=body,
            headers=dict(headers or {}),
            timeout=_SECONDS,
            follow_redirects=True,
            trust_env=not address.is_loopback,
            # On this machine without TLS nothing is verified, and loading certificates takes longer than a request.
            verify=not (address.is_loopback and address.http.startswith("http:")),
        )
    except httpx.HTTPError as error:
        raise WorldLostError(f"{address}: {_explain(address, error)}") from error
    except httpx.InvalidURL as error:
        raise ConfigError(f"{address} is no URL: {error}") from error
    if answer.status_code in _UNSUPPORTED and route != "/health":
        return None
    if answer.status_code in (401, 403):
        raise WorldError(
            f"{address} does not let us in ({answer.status_code}); name the environment variable with its token in the "
            "map, [connection] bearer_env"
        )
    if answer.is_error:
        told = f"{answer.status_code} at {route}: {_excerpt(answer.text)}"
        kind = WorldError if answer.status_code < 500 and route != "/health" else WorldLostError
        raise kind(f"{address} answered {told}; is this the URL of an OpenEnv server?")
    try:
        return answer.json()
    except (ValueError, RecursionError) as error:
        raise WorldLostError(
            f"{address}: expected JSON at {route}, found {_excerpt(answer.text)}; is this the URL of an OpenEnv server?"
        ) from error


def _explain(address: Address, error: Exception) -> str:
    import httpx

    if isinstance(error, httpx.TimeoutException):
        return address.explain(TimeoutError())
    reason = str(error)
    if "SSL" in reason:
        return f"no encrypted connection ({reason}); a server without encryption has http:// in its URL"
    if isinstance(error, httpx.RemoteProtocolError):
        return f"what answers there is no web server ({reason}); an encrypted one has https:// in its URL"
    if isinstance(error, httpx.ConnectError):
        return f"nothing answers there ({reason}); is the server running, and is the address right?"
    return f"no connection: {reason or type(error).__name__}"


def _excerpt(text: str) -> str:
    title = _TITLE.search(text)
    if title:
        return f"the page {html.unescape(title[1]).strip()[:_LONGEST_EXCERPT]!r}"
    return repr(text.strip()[:_LONGEST_EXCERPT])


def _mapping(value: Any) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return cast("Sequence[Any]", value) if isinstance(value, list) else ()


def _schema(value: Any) -> Mapping[str, Any] | None:
    return _mapping(value) or None


def _fields(schema: Mapping[str, Any] | None, *, drop: set[str]) -> frozenset[str] | None:
    if schema is None:
        return None
    variants = [schema, *(_resolved(schema, part) for part in _list(schema.get("oneOf") or schema.get("anyOf")))]
    return frozenset(name for variant in variants for name in _mapping(variant.get("properties"))) - drop


def _resolved(schema: Mapping[str, Any], part: Any) -> Mapping[str, Any]:
    reference = str(_mapping(part).get("$ref", ""))
    return _mapping(_mapping(schema.get("$defs")).get(reference.rpartition("/")[2])) if reference else _mapping(part)
