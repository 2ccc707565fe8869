"""The providers by name, and what differs between them: `make_host("process", spec, ledger)`.

A new provider is one file and one line in `PROVIDERS`. Not here: what a provider does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from envecho.errors import ConfigError, did_you_mean
from envecho.worlds.providers import aca, daytona, docker, hf, modal, process
from envecho.worlds.providers.ledger import Entry, Ledger
from envecho.worlds.providers.provider import HostSpec, WorldHost


@dataclass(frozen=True, kw_only=True)
class Provider:
    """How sandboxes of one provider are made and found again.

    `sandbox` is where commands run inside: in the world's own sandbox where the provider isolates nothing, on the
    container itself where that is the sandbox. `sessions` is how many episodes share one at once, `is_reused` whether
    an episode may get one in which another ran before.
    """

    make: Callable[[HostSpec, Ledger], WorldHost]
    remove: Callable[[Entry], None]
    sandbox: str
    sessions: int
    is_reused: bool


def _container(make: Callable[[HostSpec, Ledger], WorldHost], remove: Callable[[Entry], None]) -> Provider:
    return Provider(make=make, remove=remove, sandbox="unsafe-host", sessions=1, is_reused=False)


PROVIDERS: Final[dict[str, Provider]] = {
    process.NAME: Provider(
        make=process.ProcessHost, remove=process.remove, sandbox="bubblewrap", sessions=16, is_reused=True
    ),
    docker.NAME: _container(docker.make_host, docker.remove),
    aca.NAME: _container(aca.make_host, aca.remove),
    modal.NAME: _container(modal.make_host, modal.remove),
    daytona.NAME: _container(daytona.make_host, daytona.remove),
    hf.NAME: _container(hf.make_host, hf.remove),
}


def find_provider(name: str) -> Provider:
    """Return the provider of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        raise ConfigError(f"no provider of sandboxes {name!r}; known: {known}.{did_you_mean(name, PROVIDERS)}")
    return PROVIDERS[name]


def remove(entry: Entry) -> None:
    """Stop the sandbox of a ledger's entry, wherever it runs.

    Raises:
        EnvechoError: it cannot be stopped, or its provider is unknown; an SDK may raise errors of its own.
    """
    find_provider(entry.provider).remove(entry)
