"""Provider `hf`: a sandbox on Hugging Face's jobs behind a local proxy, by OpenEnv's `HFSandboxProvider`.

The provider takes no option beside image, flavour and variables, and `huggingface_hub`'s pool of sandboxes none about
the network: it cannot be closed, so only `*` is accepted. The image must have a command `server`, as ours has. The
pool's hosts are shared between sandboxes and outlive them; they end by themselves when idle.
"""

from __future__ import annotations

from typing import Any, Final

from envecho.errors import WorldError
from envecho.worlds.providers.container import ContainerHost, missing_sdk, sandbox_of
from envecho.worlds.providers.ledger import Entry, Ledger
from envecho.worlds.providers.provider import HostSpec, require_open

NAME: Final = "hf"
PACKAGE: Final = "'huggingface_hub>=2.4'"
_GONE: Final = ("no longer exists", "is not running")


def make_host(spec: HostSpec, ledger: Ledger) -> ContainerHost:
    """Return a sandbox to start; its image starts the server by itself, from the variables that it gets."""
    require_open(spec, NAME, "neither OpenEnv's HFSandboxProvider nor its sandbox pool has a network option")

    def make() -> Any:
        try:
            from openenv.core.containers.runtime.hf_sandbox_provider import HFSandboxProvider
        except ImportError as error:
            raise missing_sdk(NAME, PACKAGE, error) from error
        return HFSandboxProvider(image=spec.image or "")

    return ContainerHost(NAME, spec, ledger, make=make, started=lambda provider: str(sandbox_of(provider).id))


def remove(entry: Entry) -> None:
    """Kill the sandbox of this id, if it exists."""
    if entry.id is None:
        raise WorldError(f"sandbox {entry.key} has no id: its start was cut off; it ends by itself when idle")
    try:
        import huggingface_hub
    except ImportError as error:
        raise missing_sdk(NAME, PACKAGE, error) from error
    sdk: Any = huggingface_hub
    try:
        sdk.Sandbox.kill(entry.id)
    except sdk.errors.SandboxError as error:
        if not any(words in str(error) for words in _GONE):
            raise
