"""Provider `modal`: a Modal sandbox behind an encrypted tunnel, by OpenEnv's `ModalProvider`.

The network is closed with `outbound_domain_allowlist` and `outbound_cidr_allowlist` of `modal.Sandbox.create`, to which
the provider hands what it does not know: an empty list allows nothing. Modal's `block_network` cannot be used, because
it forbids the port that the server needs. The sandbox bears its key as its name in the app, by which it is found again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from envecho.worlds.providers.container import ContainerHost, missing_sdk
from envecho.worlds.providers.ledger import Entry, Ledger
from envecho.worlds.providers.provider import HostSpec, is_address_range

NAME: Final = "modal"
PACKAGE: Final = "'modal>=1.4'"
APP: Final = "envecho"
LIFETIME_SECONDS: Final = 2 * 3600


def make_host(spec: HostSpec, ledger: Ledger, *, adapter: Any = None) -> ContainerHost:
    """Return a sandbox to start; `adapter` stands in for the SDK in tests, as the provider provides for."""

    def make() -> Any:
        from openenv.core.containers.runtime.modal_provider import ModalProvider

        try:
            return ModalProvider(app_name=APP, timeout=LIFETIME_SECONDS, _adapter=adapter)
        except ImportError as error:
            raise missing_sdk(NAME, PACKAGE, error) from error

    def start_options(key: str) -> Mapping[str, Any]:
        return {"cmd": spec.command(), "name": key, **egress_options(spec)}

    return ContainerHost(NAME, spec, ledger, make=make, start_options=start_options)


def egress_options(spec: HostSpec) -> Mapping[str, list[str]]:
    """Return the arguments of `modal.Sandbox.create` that allow what the spec allows and nothing else."""
    if spec.is_open:
        return {}
    ranges = [host for host in spec.allow if is_address_range(host)]
    return {
        "outbound_domain_allowlist": [host for host in spec.allow if host not in ranges],
        "outbound_cidr_allowlist": ranges,
    }


def remove(entry: Entry) -> None:
    """Terminate the sandbox of this name, if it runs."""
    try:
        import modal  # type: ignore[import-not-found]
    except ImportError as error:
        raise missing_sdk(NAME, PACKAGE, error) from error
    sdk: Any = modal
    try:
        sandbox = sdk.Sandbox.from_name(APP, entry.key)
    except sdk.exception.NotFoundError:
        return
    sandbox.terminate()
