"""Stand-ins for the SDKs of services that no test can reach; each records what it was asked for.

Their shapes were read from the SDKs: modal 1.6.4, daytona 0.226.1, azure-containerapps-sandbox 0.1.0b4 and
huggingface_hub 2.4.0. The providers between us and them are OpenEnv's own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass
class Calls:
    """What a service was asked for, in order."""

    made: list[tuple[str, Any]] = field(default_factory=list)

    def note(self, name: str, what: Any) -> None:
        self.made.append((name, what))

    def of(self, name: str) -> list[Any]:
        return [what for each, what in self.made if each == name]


class ModalAdapter:
    """What OpenEnv's ModalProvider asks of the SDK."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def image_from_registry(self, tag: str) -> str:
        return tag

    def create_sandbox(self, **options: Any) -> object:
        self._calls.note("create", options)
        return SimpleNamespace(object_id="sb-1")

    def exec(self, sandbox: object, command: str, *, timeout: int = 10) -> str:
        self._calls.note("exec", command)
        return ""

    def tunnel_url(self, sandbox: object, port: int) -> str:
        return f"https://tunnel.example:{port}"

    def terminate(self, sandbox: object) -> None:
        self._calls.note("delete", sandbox)


class AcaAdapter:
    """What OpenEnv's ACASandboxProvider asks of the SDK."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def create_sandbox(self, **options: Any) -> object:
        self._calls.note("create", options)
        return SimpleNamespace(sandbox_id="aca-1")

    def exec(self, sandbox: object, command: str, *, working_directory: str | None = None) -> str:
        self._calls.note("exec", command)
        return ""

    def add_port(self, sandbox: object, *, port: int, anonymous: bool) -> str:
        return f"https://aca.example:{port}"

    def delete_sandbox(self, sandbox: object) -> None:
        self._calls.note("delete", sandbox)


def install_azure(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """Put stand-ins of the Azure packages where Python finds them."""

    @dataclass
    class EgressHostRule:
        pattern: str
        action: str

    @dataclass
    class EgressPolicy:
        default_action: str = "Allow"
        host_rules: list[EgressHostRule] = field(default_factory=list)

    class SandboxGroupClient:
        def __init__(self, endpoint: str, credential: object, **where: str) -> None:
            calls.note("client", (endpoint, where))

        def list_sandboxes(self, *, labels: dict[str, str]) -> list[Any]:
            calls.note("list", labels)
            return [SimpleNamespace(id="aca-1")]

        def begin_delete_sandbox(self, sandbox_id: str) -> Any:
            return SimpleNamespace(result=lambda: calls.note("removed", sandbox_id))

        def close(self) -> None:
            pass

    sandbox = _module(
        "azure.containerapps.sandbox",
        EgressHostRule=EgressHostRule,
        EgressPolicy=EgressPolicy,
        SandboxGroupClient=SandboxGroupClient,
        endpoint_for_region=lambda region: f"https://{region}.example",
    )
    modules = {
        "azure": _module("azure"),
        "azure.containerapps": _module("azure.containerapps", sandbox=sandbox),
        "azure.containerapps.sandbox": sandbox,
        "azure.identity": _module("azure.identity", DefaultAzureCredential=object),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)


def install_modal(monkeypatch: pytest.MonkeyPatch, calls: Calls, *, running: list[str]) -> None:
    """Put a stand-in of the modal SDK where Python finds it; `running` are the names of its sandboxes."""

    class NotFoundError(Exception):
        pass

    class Sandbox:
        @staticmethod
        def from_name(app: str, name: str) -> Any:
            if name not in running:
                raise NotFoundError(name)
            return SimpleNamespace(terminate=lambda: calls.note("removed", (app, name)))

    exceptions = SimpleNamespace(NotFoundError=NotFoundError)
    monkeypatch.setitem(sys.modules, "modal", _module("modal", Sandbox=Sandbox, exception=exceptions))


def install_daytona(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """Put a stand-in of the daytona SDK where Python finds it; it knows the sandbox `day-1`."""

    class DaytonaNotFoundError(Exception):
        pass

    def run(command: str, timeout: int) -> Any:
        calls.note("exec", command)
        return SimpleNamespace(result="")

    sandbox = SimpleNamespace(
        id="day-1",
        process=SimpleNamespace(exec=run),
        update_network_settings=lambda **settings: calls.note("network", settings),
        create_signed_preview_url=lambda port, expires_in_seconds: SimpleNamespace(url=f"https://day.example:{port}"),
    )

    class Daytona:
        def __init__(self, config: object = None) -> None:
            pass

        def create(self, parameters: Any, timeout: float) -> Any:
            calls.note("create", parameters)
            return sandbox

        def get(self, sandbox_id: str) -> Any:
            if sandbox_id != sandbox.id:
                raise DaytonaNotFoundError(sandbox_id)
            return sandbox

        def delete(self, found: Any) -> None:
            calls.note("delete", found.id)

    module = _module(
        "daytona",
        Daytona=Daytona,
        DaytonaConfig=lambda **options: options,
        CreateSandboxFromImageParams=lambda **options: options,
        DaytonaNotFoundError=DaytonaNotFoundError,
    )
    monkeypatch.setitem(sys.modules, "daytona", module)


def install_hugging_face(monkeypatch: pytest.MonkeyPatch, calls: Calls) -> None:
    """Replace the pool of sandboxes of huggingface_hub."""
    import huggingface_hub

    class SandboxPool:
        def __init__(self, **options: Any) -> None:
            calls.note("pool", options)

        def create(self, env: dict[str, str]) -> Any:
            calls.note("create", env)
            return SimpleNamespace(
                id="job:hf-1",
                run=lambda command, shell: calls.note("exec", command),
                proxy_url_for=lambda port, path: f"https://hf.example:{port}{path}",
                proxy_headers={},
                kill=lambda: calls.note("delete", "job:hf-1"),
            )

    monkeypatch.setattr(huggingface_hub, "SandboxPool", SandboxPool)


def _module(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module
