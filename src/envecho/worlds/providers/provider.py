"""What a sandbox that holds a served world is asked for (`HostSpec`) and can do (`WorldHost`).

Not here: any provider, and which there are (`known`).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from envecho.errors import ConfigError

KEY_VARIABLE: Final = "ENVECHO_SANDBOX_KEY"
"""The variable in a sandbox's environment that holds its key; what was left behind is found by it."""

SERVER_PORT: Final = 8000
"""The port of a served world inside a container; OpenEnv's providers know no other."""

EVERYWHERE: Final = "*"
"""The allowed host that means: no limit on what the sandbox reaches."""

_HOST: Final = re.compile(r"[A-Za-z0-9*_.:/-]+")


def new_key() -> str:
    """Return a name that no other sandbox has."""
    return f"envecho-{secrets.token_hex(8)}"


@dataclass(frozen=True, kw_only=True)
class HostSpec:
    """One sandbox to start.

    `world` is what `envecho serve` takes; `sandbox` is where commands run inside (a container is itself the sandbox, so
    `unsafe-host` there). `image` is the provider's own word for what to run. `allow` are the hosts that may be reached:
    none without a word, all with `*`. `families` keeps some of the world's tasks. `env` are further variables for the
    server, `start_seconds` is how long it may take to answer.
    """

    world: str
    sandbox: str
    max_turns: int
    max_sessions: int
    image: str | None = None
    allow: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    start_seconds: float = 180.0

    def __post_init__(self) -> None:
        """Refuse hosts that are none, and `*` beside others."""
        for host in self.allow:
            if not _HOST.fullmatch(host) or "//" in host:
                raise ConfigError(f"allowed host {host!r}: expected a host name or an address range, not a URL")
        if EVERYWHERE in self.allow and len(self.allow) > 1:
            raise ConfigError(f"`{EVERYWHERE}` allows every host; found it beside {len(self.allow) - 1} more")

    @property
    def is_open(self) -> bool:
        """Whether the sandbox may reach every host."""
        return self.allow == (EVERYWHERE,)

    def arguments(self) -> list[str]:
        """Return the arguments of `envecho serve` that do not say where it listens."""
        return [
            self.world,
            *("--sandbox", self.sandbox),
            *("--max-turns", str(self.max_turns)),
            *("--max-sessions", str(self.max_sessions)),
            *(("--families", ",".join(self.families)) if self.families else ()),
        ]

    def command(self) -> str:
        """Return the shell command that serves the world inside a container."""
        return shlex.join(
            ["envecho", "serve", *self.arguments(), "--host", "0.0.0.0", "--port", str(SERVER_PORT), "--public"]
        )

    def environment(self, key: str) -> dict[str, str]:
        """Return the variables of the server; an image that starts it by itself reads from them what to serve."""
        return {
            **self.env,
            KEY_VARIABLE: key,
            "ENVECHO_WORLD": self.world,
            "ENVECHO_SANDBOX": self.sandbox,
            "ENVECHO_MAX_TURNS": str(self.max_turns),
            "ENVECHO_MAX_SESSIONS": str(self.max_sessions),
            "ENVECHO_FAMILIES": ",".join(self.families),
        }


class WorldHost(Protocol):
    """One sandbox that serves a world."""

    @property
    def name(self) -> str:
        """The provider's name."""
        ...

    @property
    def key(self) -> str:
        """The name of this one sandbox."""
        ...

    def start(self) -> str:
        """Start it and return the server's URL once it answers.

        Raises:
            WorldError: it cannot start; nothing of it is left then.
            ConfigError: the provider cannot keep what `HostSpec` asks for.
        """
        ...

    def stop(self) -> None:
        """End it with everything in it; may be called twice."""
        ...


def require_open(spec: HostSpec, provider: str, why: str) -> None:
    """Refuse a sandbox whose network the provider cannot close, unless it is asked for with `*`.

    Raises:
        ConfigError: the spec does not say `*`.
    """
    if not spec.is_open:
        asked = f"only {', '.join(spec.allow)} may be reached" if spec.allow else "nothing may be reached"
        raise ConfigError(
            f"{provider}: {asked}, which cannot be kept: {why}. Take another provider, or allow every host with "
            f"'{EVERYWHERE}' where that is acceptable"
        )


def is_address_range(host: str) -> bool:
    """Return whether this is an address or a range of addresses, not a name."""
    try:
        ipaddress.ip_network(host, strict=False)
    except ValueError:
        return False
    return True
