"""A sandbox that one of OpenEnv's container providers starts: what all of them share.

The provider (`openenv.core.containers.runtime`) creates the sandbox, starts the server in it and knows its URL. What is
added here: the ledger, errors of ours, and whatever the provider leaves open about the network. Not here: the
arguments of each provider (`docker`, `modal`, `daytona`, `aca`, `hf`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, final

from envecho.errors import ConfigError, EnvechoError, WorldError
from envecho.worlds.providers.ledger import Ledger
from envecho.worlds.providers.provider import SERVER_PORT, HostSpec, new_key

if TYPE_CHECKING:
    from openenv.core.containers.runtime import ContainerProvider


@final
class ContainerHost:
    """One sandbox of one provider.

    Args:
        name: the provider's name.
        spec: what to start.
        ledger: where it is written down.
        make: makes OpenEnv's provider; loading the service's SDK is part of it.
        start_options: from the sandbox's key to the further arguments of the provider's `start_container`.
        started: called with the provider once the sandbox exists, before the server is used; returns the provider's own
            id of it, or None.
        port: what `start_container` is told; None where the provider chooses.
    """

    def __init__(
        self,
        name: str,
        spec: HostSpec,
        ledger: Ledger,
        *,
        make: Callable[[], ContainerProvider],
        start_options: Callable[[str], Mapping[str, Any]] = lambda key: {},
        started: Callable[[ContainerProvider], str | None] = lambda provider: None,
        port: int | None = SERVER_PORT,
    ) -> None:
        self.name, self.key = name, new_key()
        self._spec, self._ledger, self._make, self._port = spec, ledger, make, port
        self._start_options, self._started = start_options, started
        self._provider: ContainerProvider | None = None
        self._stopping = threading.Lock()
        if spec.image is None:
            raise ConfigError(f"{name}: name the image to run; docs/serving.md says how to build it")

    def start(self) -> str:
        """Start the sandbox and return the server's URL once it answers."""
        assert self._spec.image is not None
        entry = self._ledger.write(self.name, self.key)
        try:
            provider = self._provider = self._make()
            url = provider.start_container(
                self._spec.image,
                port=self._port,
                env_vars=self._spec.environment(self.key),
                **self._start_options(self.key),
            )
            provider_id = self._started(provider)
            if provider_id is not None:
                self._ledger.name(entry, provider_id)
            provider.wait_for_ready(url, timeout_s=self._spec.start_seconds)
        except EnvechoError:
            self._give_up()
            raise
        except Exception as error:  # an SDK may raise anything
            self._give_up()
            raise WorldError(f"{self.name}: the sandbox did not start: {type(error).__name__}: {error}") from error
        except BaseException:
            self._give_up()
            raise
        return url

    def stop(self) -> None:
        """Delete the sandbox; may be called twice, and returns when it is deleted.

        Raises:
            WorldError: the provider could not; the ledger keeps the entry, and `remove_leaked` tries again.
        """
        with self._stopping:
            provider, self._provider = self._provider, None
            if provider is None:
                return
            try:
                provider.stop_container()
            except Exception as error:  # an SDK may raise anything
                raise WorldError(f"{self.name}: sandbox {self.key} was not stopped: {error}") from error
            finally:
                with suppress(Exception):  # the client of the SDK; the sandbox is what matters
                    provider.close()
            self._ledger.remove(self.key)

    def _give_up(self) -> None:
        if self._provider is None:
            self._ledger.remove(self.key)  # nothing was created
            return
        with suppress(WorldError):  # the entry stays then; the first error says more
            self.stop()


def sandbox_of(provider: ContainerProvider) -> Any:
    """Return the SDK's own handle of a provider's running sandbox.

    OpenEnv 0.10 has no public name for it, and it alone has the sandbox's id.
    """
    handle: Any = vars(provider).get("_sandbox")
    if handle is None:
        raise WorldError(
            f"{type(provider).__name__} holds no `_sandbox`: the installed openenv is another than 0.10, for which "
            "this was written"
        )
    return handle


def missing_sdk(provider: str, package: str, error: ImportError) -> WorldError:
    """Return the error of a provider whose SDK is not installed."""
    return WorldError(f"{provider} needs its SDK: pip install {package} ({error})")
