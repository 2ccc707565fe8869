"""The ledger of sandboxes: what a killed owner left running is found and ended, and nothing else."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from envecho.errors import DataError, WorldError
from envecho.worlds.providers import known
from envecho.worlds.providers.container import ContainerHost
from envecho.worlds.providers.ledger import Ledger, Owner, remove_leaked, start_ticks
from envecho.worlds.providers.process import holders_of
from envecho.worlds.providers.provider import HostSpec

OWNER = """
import sys, time
from pathlib import Path
from envecho.worlds.providers.ledger import Ledger
from envecho.worlds.providers.process import ProcessHost
from envecho.worlds.providers.provider import HostSpec

spec = HostSpec(world="terminal", sandbox="bubblewrap", max_turns=4, max_sessions=2)
host = ProcessHost(spec, Ledger(Path(sys.argv[1])))
print(host.start(), host.key, flush=True)
time.sleep(600)
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """A ledger of its own."""
    return Ledger(tmp_path / "sandboxes")


def test_what_a_killed_owner_started_is_ended(ledger: Ledger):
    """Catches a server, with its sandboxes, that runs for ever after the process that started it was killed."""
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(ledger.folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    _, key = owner.stdout.readline().split()
    (server,) = holders_of(key)
    assert remove_leaked(ledger) == [], "the owner lives"
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    assert holders_of(key) == [server], "the server outlives its owner"
    (leak,) = remove_leaked(ledger)
    assert (leak.provider, leak.key, leak.outcome) == ("process", key, "removed")
    assert start_ticks(server) is None
    assert ledger.entries() == []


class RecordingProvider:
    """Stands where one of OpenEnv's providers would; notes what is in the ledger when it is asked to start."""

    def __init__(self, ledger: Ledger, failure: Exception | None = None) -> None:
        self._ledger, self._failure = ledger, failure
        self.noted: list[list[str]] = []
        self.stopped = 0

    def start_container(self, image: str, **options: Any) -> str:
        self.noted.append([entry.key for entry in self._ledger.entries()])
        if self._failure is not None:
            raise self._failure
        return "http://127.0.0.1:1"

    def wait_for_ready(self, base_url: str, timeout_s: float) -> None:
        pass

    def stop_container(self) -> None:
        self.stopped += 1

    def close(self) -> None:
        pass


SPEC = HostSpec(world="terminal", sandbox="unsafe-host", max_turns=4, max_sessions=1, image="an-image")


def test_an_entry_stands_before_its_sandbox_is_started(ledger: Ledger):
    """Catches a sandbox that a crash during its start leaves behind unseen, and an entry that outlives its sandbox."""
    provider = RecordingProvider(ledger)
    host = ContainerHost("test", SPEC, ledger, make=lambda: provider, started=lambda _: "id-7")  # type: ignore[arg-type, return-value]
    host.start()
    assert provider.noted == [[host.key]]
    (entry,) = ledger.entries()
    assert (entry.provider, entry.key, entry.id, entry.owner) == ("test", host.key, "id-7", Owner.current())
    host.stop()
    host.stop()
    assert (provider.stopped, ledger.entries()) == (1, [])


def test_a_sandbox_that_does_not_start_leaves_no_entry(ledger: Ledger):
    """Catches failures that pile up in the ledger as sandboxes that never were, and SDK errors that escape."""
    provider = RecordingProvider(ledger, failure=RuntimeError("no quota"))
    host = ContainerHost("test", SPEC, ledger, make=lambda: provider)  # type: ignore[arg-type, return-value]
    with pytest.raises(WorldError, match="test: the sandbox did not start: RuntimeError: no quota"):
        host.start()
    assert (provider.stopped, ledger.entries()) == (1, [])


def test_an_entry_that_cannot_be_removed_is_reported_and_kept(ledger: Ledger, monkeypatch: pytest.MonkeyPatch):
    """Catches a sandbox that is forgotten although it may still run, and may still cost."""
    gone = leave_entry(ledger)

    def fail(entry: Any) -> None:
        raise RuntimeError("401 unauthorised")

    monkeypatch.setitem(known.PROVIDERS, "test", replace(known.PROVIDERS["process"], remove=fail))
    for _ in range(2):
        (leak,) = remove_leaked(ledger)
        assert (leak.key, leak.outcome, leak.reason) == (gone, "kept", "RuntimeError: 401 unauthorised")
    assert [entry.key for entry in ledger.entries()] == [gone]


def test_an_unknown_provider_is_reported_and_kept(ledger: Ledger):
    """Catches an entry of a newer version that an older one throws away."""
    leave_entry(ledger)
    (leak,) = remove_leaked(ledger)
    assert leak.outcome == "kept"
    assert "no provider of sandboxes 'test'" in leak.reason


@pytest.mark.parametrize(
    ("change", "is_gone"),
    [
        ({}, False),
        ({"start_ticks": 1}, True),
        ({"boot": "another"}, True),
        ({"machine": "elsewhere", "boot": "another", "start_ticks": 1}, False),
    ],
)
def test_an_owner_is_gone_only_where_that_is_known(change: dict[str, Any], is_gone: bool):
    """Catches sandboxes of living owners, or of other machines with the same home, that are ended; and reused ids."""
    assert replace(Owner.current(), **change).is_gone is is_gone


def test_a_file_that_is_no_entry_is_said(ledger: Ledger):
    """Catches a broken ledger that reads as an empty one."""
    leave_entry(ledger)
    (file,) = ledger.folder.iterdir()
    fields = json.loads(file.read_text())
    for text in ("{", "[]", json.dumps({**fields, "version": 2}), json.dumps({**fields, "more": 1})):
        file.write_text(text)
        with pytest.raises(DataError, match=file.name):
            ledger.entries()


def test_the_ledger_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Catches entries where other users can read or write them, or where nobody looks for them."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    Ledger().write("test", "envecho-1")
    folder = tmp_path / "envecho" / "sandboxes"
    assert [file.name for file in folder.iterdir()] == ["envecho-1.json"]
    assert folder.stat().st_mode & 0o077 == 0


def leave_entry(ledger: Ledger) -> str:
    """Write the entry of a process that has ended; return its key."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom envecho.worlds.providers.ledger import Ledger\n"
        "Ledger(Path(sys.argv[1])).write('test', 'envecho-left')\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ledger.folder)], check=True)
    return "envecho-left"
