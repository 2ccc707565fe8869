"""The address of an OpenEnv server in its two forms: HTTP for what it says about itself, WebSocket for sessions.

Not here: connections.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from envecho.errors import ConfigError, did_you_mean

_OTHER_FORM: Final = {"http": "ws", "https": "wss", "ws": "http", "wss": "https"}
_ROUTES: Final = ("/ws", "/web", "/docs", "/health")


@dataclass(frozen=True, kw_only=True)
class Address:
    """`http` and `websocket` are the same server; messages show it as `shown`, without a password or a query.

    Messages end up in stored trajectories.
    """

    shown: str
    http: str
    websocket: str
    is_loopback: bool

    def __str__(self) -> str:
        return self.shown

    def explain(self, error: BaseException) -> str:
        """Say why no connection came about, and what that usually means."""
        reason = str(error) or type(error).__name__
        if isinstance(error, ssl.SSLError):
            return f"no encrypted connection ({reason}); a server without encryption has http:// in its URL"
        if isinstance(error, ConnectionRefusedError) or "Connect call failed" in reason:
            return f"nothing answers there ({reason}); is the server running, and is the port right?"
        if isinstance(error, TimeoutError):
            return "no connection in time; is the address right, and does a firewall let it through?"
        if "valid HTTP" in reason:
            return f"what answers there is no web server ({reason}); an encrypted one has https:// in its URL"
        if "HTTP" in reason:
            return f"what answers there is no OpenEnv server ({reason}); its sessions are at /ws"
        return f"no connection: {reason}"


def parse_address(url: str) -> Address:
    """Read the URL of a server in any of its forms: http, https, ws or wss, with a path before it or its page after.

    Raises:
        ConfigError: it is no such URL, or that of a page about a server.
    """
    parts = urlsplit(url.strip())
    if parts.scheme not in _OTHER_FORM:
        raise ConfigError(
            f"expected the URL of an OpenEnv server (http, https, ws or wss), found {url!r}."
            f"{did_you_mean(parts.scheme, _OTHER_FORM)}"
        )
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} has no port that is a number: {error}") from error
    if not host or port == 0:
        raise ConfigError(f"expected the URL of an OpenEnv server, found {url!r} without a host or with port 0")
    path = parts.path.rstrip("/")
    if host in ("huggingface.co", "www.huggingface.co"):
        owner_name = "-".join(path.removeprefix("/spaces/").split("/")[:2]).lower().replace("_", "-").replace(".", "-")
        raise ConfigError(f"{url} is a page about a server; the server itself is https://{owner_name}.hf.space")
    for route in _ROUTES:
        path = path.removesuffix(route)
    bare = parts._replace(path=path, query="", fragment="")
    forms = {form: urlunsplit(bare._replace(scheme=form)) for form in (parts.scheme, _OTHER_FORM[parts.scheme])}
    return Address(
        shown=urlunsplit(bare._replace(netloc=parts.netloc.rpartition("@")[2])),
        http=next(address for form, address in forms.items() if form.startswith("http")),
        websocket=next(address for form, address in forms.items() if form.startswith("ws")),
        is_loopback=_is_loopback(host),
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
