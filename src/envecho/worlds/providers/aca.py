"""Provider `aca`: an Azure Container Apps sandbox behind an anonymous port, by OpenEnv's `ACASandboxProvider`.

The network is closed with the provider's own `deny_all_egress(allow=[...])`, which denies by default and lets the
allowed hosts through. `image` is an ACA disk (`disk:NAME` or `disk-id:ID`), no image of a registry. Where it runs is in
AZURE_SUBSCRIPTION_ID, AZURE_RESOURCE_GROUP, AZURE_SANDBOX_GROUP and AZURE_REGION. The sandbox is labelled with its key.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from envecho.errors import ConfigError, WorldError
from envecho.worlds.providers.container import ContainerHost, missing_sdk
from envecho.worlds.providers.ledger import Entry, Ledger
from envecho.worlds.providers.provider import HostSpec, is_address_range

NAME: Final = "aca"
PACKAGE: Final = "'openenv[aca]'"
LABEL: Final = "envecho"
_VARIABLES: Final = ("AZURE_REGION", "AZURE_SUBSCRIPTION_ID", "AZURE_RESOURCE_GROUP", "AZURE_SANDBOX_GROUP")


def make_host(spec: HostSpec, ledger: Ledger, *, adapter: Any = None) -> ContainerHost:
    """Return a sandbox to start; `adapter` stands in for the SDK in tests, as the provider provides for.

    Its port is public, as every port is that OpenEnv's client can reach there: the URL is the only secret.

    Raises:
        ConfigError: an allowed host is an address; ACA's rules are of names.
    """
    addresses = [host for host in spec.allow if is_address_range(host)]
    if addresses:
        raise ConfigError(f"{NAME}: its rules are of host names, found the addresses {', '.join(addresses)}")

    def make() -> Any:
        from openenv.core.containers.runtime.aca_provider import ACASandboxProvider

        try:
            policy = None if spec.is_open else ACASandboxProvider.deny_all_egress(allow=list(spec.allow))
            return ACASandboxProvider(anonymous_port=True, cmd=spec.command(), egress_policy=policy, _adapter=adapter)
        except RuntimeError as error:
            if isinstance(error.__cause__, ImportError):
                raise missing_sdk(NAME, PACKAGE, error.__cause__) from error
            raise

    def start_options(key: str) -> Mapping[str, Any]:
        return {"labels": {LABEL: key}}

    return ContainerHost(NAME, spec, ledger, make=make, start_options=start_options)


def remove(entry: Entry) -> None:
    """Delete the sandbox that bears the entry's label, if there is one."""
    try:
        from azure.containerapps import sandbox as aca  # type: ignore[import-not-found]
        from azure.identity import DefaultAzureCredential  # type: ignore[import-not-found]
    except ImportError as error:
        raise missing_sdk(NAME, PACKAGE, error) from error
    sdk: Any = aca
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise WorldError(f"{NAME}: set {', '.join(missing)} to where sandbox {entry.key} runs")
    region, subscription, group, sandboxes = (os.environ[name] for name in _VARIABLES)
    client = sdk.SandboxGroupClient(
        sdk.endpoint_for_region(region),
        DefaultAzureCredential(),
        subscription_id=subscription,
        resource_group=group,
        sandbox_group=sandboxes,
    )
    try:
        for found in client.list_sandboxes(labels={LABEL: entry.key}):
            client.begin_delete_sandbox(found.id).result()
    finally:
        client.close()
