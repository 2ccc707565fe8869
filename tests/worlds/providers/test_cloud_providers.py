"""What OpenEnv's providers would send to their services: network, command, key; and how a leaked sandbox is removed.

No service was ever reached by these tests: the SDKs are stand-ins (`fake_services`).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from fake_services import (
    AcaAdapter,
    Calls,
    ModalAdapter,
    install_azure,
    install_daytona,
    install_hugging_face,
    install_modal,
)

from envecho.errors import WorldError
from envecho.worlds.providers import aca, daytona, docker, hf, modal
from envecho.worlds.providers.container import ContainerHost
from envecho.worlds.providers.known import PROVIDERS
from envecho.worlds.providers.ledger import Ledger
from envecho.worlds.providers.provider import HostSpec

COMMAND = (
    "envecho serve terminal --sandbox unsafe-host --max-turns 16 --max-sessions 1 --host 0.0.0.0 --port 8000 --public"
)
SPEC = HostSpec(world="terminal", sandbox="unsafe-host", max_turns=16, max_sessions=1, image="envecho:latest")
ALLOWED = {"pattern": "model.example", "action": "Allow"}
CLOSED, SOME, OPEN = (), ("model.example", "10.1.0.0/16"), ("*",)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The record of a service; every server's health is good."""
    monkeypatch.setattr(requests, "get", lambda url, **_: SimpleNamespace(status_code=200))
    return Calls()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger of its own."""
    return Ledger(tmp_path / "sandboxes")


def run(host: ContainerHost, ledger: Ledger) -> tuple[str, str | None]:
    """Start and stop a sandbox; return its URL and the id that the ledger held meanwhile."""
    url = host.start()
    (entry,) = ledger.entries()
    assert entry.key == host.key
    host.stop()
    assert ledger.entries() == []
    return url, entry.id


@pytest.mark.parametrize(
    ("allow", "sent"),
    [
        (CLOSED, {"outbound_domain_allowlist": [], "outbound_cidr_allowlist": []}),
        (SOME, {"outbound_domain_allowlist": ["model.example"], "outbound_cidr_allowlist": ["10.1.0.0/16"]}),
        (OPEN, {}),
    ],
)
def test_modal_gets_an_allow_list_even_where_nothing_is_allowed(
    calls: Calls, ledger: Ledger, allow: tuple[str, ...], sent: dict[str, Any]
):
    """Catches a sandbox with an open network: without these two arguments Modal allows every host."""
    host = modal.make_host(replace(SPEC, allow=allow), ledger, adapter=ModalAdapter(calls))
    assert run(host, ledger) == ("https://tunnel.example:8000", None)
    (options,) = calls.of("create")
    assert options["extra"] == {"name": host.key, **sent}
    assert options["env"]["ENVECHO_SANDBOX_KEY"] == host.key
    assert any(f"'{COMMAND}'" in command for command in calls.of("exec"))
    assert len(calls.of("delete")) == 1


@pytest.mark.parametrize(
    ("allow", "policy"),
    [
        (CLOSED, {"default_action": "Deny", "host_rules": []}),
        (("model.example",), {"default_action": "Deny", "host_rules": [ALLOWED]}),
        (OPEN, None),
    ],
)
def test_aca_denies_by_default(
    calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, allow: tuple[str, ...], policy: Any
):
    """Catches a sandbox that reaches every host, the cloud's metadata among them: ACA allows by default."""
    install_azure(monkeypatch, calls)
    host = aca.make_host(replace(SPEC, image="disk:envecho", allow=allow), ledger, adapter=AcaAdapter(calls))
    if allow == OPEN:
        with pytest.warns(UserWarning, match="unrestricted egress"):
            run(host, ledger)
    else:
        run(host, ledger)
    (options,) = calls.of("create")
    assert (options["egress_policy"] and asdict(options["egress_policy"])) == policy
    assert (options["disk"], options["labels"]) == ("envecho", {"envecho": host.key})
    assert any(f"'{COMMAND}'" in command for command in calls.of("exec"))


@pytest.mark.parametrize(
    ("allow", "sent"),
    [
        (CLOSED, [{"network_block_all": True}]),
        (SOME, [{"network_allow_list": "10.1.0.0/16", "domain_allow_list": "model.example"}]),
        (OPEN, []),
    ],
)
def test_daytona_closes_the_network_before_the_server_is_used(
    calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, allow: tuple[str, ...], sent: list[Any]
):
    """Catches a sandbox whose network is never closed: OpenEnv's provider creates it without a word on that."""
    install_daytona(monkeypatch, calls)
    host = daytona.make_host(replace(SPEC, allow=allow), ledger)
    assert run(host, ledger) == ("https://day.example:8000", "day-1")
    assert calls.of("network") == sent
    assert [name for name, _ in calls.made] == ["create", "exec", *["network"] * len(sent), "delete"]


def test_a_network_that_cannot_be_closed_ends_the_sandbox(
    calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    """Catches episodes that run with an open network because closing it failed."""
    install_daytona(monkeypatch, calls)

    def refuse(spec: HostSpec) -> Any:
        raise RuntimeError("not your plan")

    monkeypatch.setattr(daytona, "egress_settings", refuse)
    with pytest.raises(WorldError, match="daytona: the sandbox did not start: RuntimeError: not your plan"):
        daytona.make_host(SPEC, ledger).start()
    assert calls.of("delete") == ["day-1"]
    assert ledger.entries() == []


def test_hugging_face_is_told_what_to_serve(calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Catches a server that starts the image's default world instead of the one that was asked for."""
    install_hugging_face(monkeypatch, calls)
    host = hf.make_host(replace(SPEC, allow=OPEN), ledger)
    url, provider_id = run(host, ledger)
    assert url.startswith("http://127.0.0.1:")
    assert provider_id == "job:hf-1"
    (environment,) = calls.of("create")
    assert environment["ENVECHO_WORLD"] == "terminal"
    assert environment["ENVECHO_SANDBOX"] == "unsafe-host"
    assert calls.of("delete") == ["job:hf-1"]


@pytest.fixture
def fake_docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `docker` that records its arguments; containers.json is what it says exists."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = (
        f"#!{sys.executable}\nimport json, pathlib, sys\nhere = pathlib.Path({str(tmp_path)!r})\n"
        "with (here / 'calls').open('a') as calls:\n    calls.write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "verb = sys.argv[1]\n"
        "containers = here / 'containers.json'\n"
        "if verb == 'run': print('c0ffee')\n"
        "if verb == 'ps' and containers.exists(): print('c0ffee')\n"
        "if verb == 'inspect': print(containers.read_text())\n"
    )
    (folder / "docker").write_text(script)
    (folder / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path


def docker_calls(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "calls").read_text().splitlines()]


def test_docker_runs_the_image_with_what_to_serve(calls: Calls, ledger: Ledger, fake_docker: Path):
    """Catches a container that serves the image's default world, or that nobody finds again."""
    host = docker.make_host(replace(SPEC, allow=OPEN), ledger)
    url, _ = run(host, ledger)
    (argv,) = [call for call in docker_calls(fake_docker) if call[0] == "run"]
    assert argv[-1] == "envecho:latest"
    assert {f"ENVECHO_SANDBOX_KEY={host.key}", "ENVECHO_WORLD=terminal"} <= set(argv)
    assert f"{url.rpartition(':')[2]}:8000" in argv


# --- what a crash left behind ---------------------------------------------------------------------------------------


def test_a_leaked_container_is_removed_by_its_key(ledger: Ledger, fake_docker: Path):
    """Catches `docker rm` of a container that is another's, or of none."""
    entry = ledger.write("docker", "envecho-left")
    container = {"Id": "c0ffee", "Config": {"Env": ["PATH=/bin", "ENVECHO_SANDBOX_KEY=envecho-left"]}}
    other = {"Id": "0ther", "Config": {"Env": None}}
    (fake_docker / "containers.json").write_text(json.dumps([other, container]))
    PROVIDERS["docker"].remove(entry)
    assert docker_calls(fake_docker)[-1] == ["rm", "--force", "--volumes", "c0ffee"]


def test_a_leaked_modal_sandbox_is_terminated_by_its_name(
    calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    """Catches a removal that looks for another name than the start gave, or fails where nothing is left."""
    install_modal(monkeypatch, calls, running=["envecho-left"])
    PROVIDERS["modal"].remove(ledger.write("modal", "envecho-left"))
    PROVIDERS["modal"].remove(ledger.write("modal", "envecho-gone"))
    assert calls.of("removed") == [("envecho", "envecho-left")]


def test_a_leaked_daytona_sandbox_is_deleted_by_its_id(calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Catches an entry without an id that passes for removed."""
    install_daytona(monkeypatch, calls)
    entry = ledger.write("daytona", "envecho-left")
    with pytest.raises(WorldError, match="has no id"):
        PROVIDERS["daytona"].remove(entry)
    PROVIDERS["daytona"].remove(ledger.name(entry, "day-1"))
    PROVIDERS["daytona"].remove(ledger.name(entry, "day-2"))
    assert calls.of("delete") == ["day-1"]


def test_a_leaked_aca_sandbox_is_deleted_by_its_label(calls: Calls, ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Catches a removal in another group than the one where the sandbox runs."""
    install_azure(monkeypatch, calls)
    where = {"AZURE_SUBSCRIPTION_ID": "s", "AZURE_RESOURCE_GROUP": "g", "AZURE_SANDBOX_GROUP": "b"}
    for name, value in where.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AZURE_REGION", raising=False)
    entry = ledger.write("aca", "envecho-left")
    with pytest.raises(WorldError, match="set AZURE_REGION"):
        PROVIDERS["aca"].remove(entry)
    monkeypatch.setenv("AZURE_REGION", "west")
    PROVIDERS["aca"].remove(entry)
    assert calls.of("client") == [
        ("https://west.example", {"subscription_id": "s", "resource_group": "g", "sandbox_group": "b"})
    ]
    assert (calls.of("list"), calls.of("removed")) == ([{"envecho": "envecho-left"}], ["aca-1"])


@pytest.mark.parametrize(
    ("provider", "module", "hint"),
    [
        ("modal", "modal", "pip install 'modal>=1.4'"),
        ("daytona", "daytona", "pip install 'daytona>=0.226'"),
        ("aca", "azure.containerapps.sandbox", "pip install 'openenv[aca]'"),
    ],
)
def test_an_sdk_that_is_missing_is_named(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, provider: str, module: str, hint: str
):
    """Catches an ImportError of a package that the user never heard of, and an entry for what never started."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(WorldError) as raised:
        PROVIDERS[provider].make(SPEC, ledger).start()
    assert hint in str(raised.value)
    assert ledger.entries() == []
    with pytest.raises(WorldError) as removing:
        PROVIDERS[provider].remove(ledger.name(ledger.write(provider, "envecho-left"), "id"))
    assert hint in str(removing.value)
