"""Provider `daytona`: a Daytona sandbox behind a signed preview URL, by OpenEnv's `DaytonaProvider`.

That provider creates the sandbox without a word on its network. So the network is closed right after, before any
episode: `Sandbox.update_network_settings` of the SDK, with `network_block_all`, or with the allowed hosts. Until then
only the server's start has run inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from envecho.errors import WorldError
from envecho.worlds.providers.container import ContainerHost, missing_sdk, sandbox_of
from envecho.worlds.providers.ledger import Entry, Ledger
from envecho.worlds.providers.provider import HostSpec, is_address_range

NAME: Final = "daytona"
PACKAGE: Final = "'daytona>=0.226'"


def make_host(spec: HostSpec, ledger: Ledger) -> ContainerHost:
    """Return a sandbox to start."""

    def make() -> Any:
        from openenv.core.containers.runtime.daytona_provider import DaytonaProvider

        try:
            return DaytonaProvider(cmd=spec.command())
        except ImportError as error:
            raise missing_sdk(NAME, PACKAGE, error) from error

    def started(provider: Any) -> str:
        sandbox = sandbox_of(provider)
        settings = egress_settings(spec)
        if settings:
            sandbox.update_network_settings(**settings)
        return str(sandbox.id)

    return ContainerHost(NAME, spec, ledger, make=make, started=started)


def egress_settings(spec: HostSpec) -> Mapping[str, Any]:
    """Return the arguments of `update_network_settings` that allow what the spec allows and nothing else."""
    if spec.is_open:
        return {}
    if not spec.allow:
        return {"network_block_all": True}
    ranges = [host for host in spec.allow if is_address_range(host)]
    names = [host for host in spec.allow if host not in ranges]
    settings = {"network_allow_list": ",".join(ranges), "domain_allow_list": ",".join(names)}
    return {name: value for name, value in settings.items() if value}


def remove(entry: Entry) -> None:
    """Delete the sandbox of this id, if it exists."""
    if entry.id is None:
        raise WorldError(f"sandbox {entry.key} has no id: its start was cut off; look for it in Daytona's dashboard")
    try:
        import daytona  # type: ignore[import-not-found]
    except ImportError as error:
        raise missing_sdk(NAME, PACKAGE, error) from error
    sdk: Any = daytona
    client = sdk.Daytona()
    try:
        sandbox = client.get(entry.id)
    except sdk.DaytonaNotFoundError:
        return
    client.delete(sandbox)
