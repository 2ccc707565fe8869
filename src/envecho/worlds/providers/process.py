"""Provider `process`: a real `envecho serve` on this machine's loopback address.

It isolates nothing by itself: the server is a process of yours, and what a model writes runs in the world's own
sandbox. It is for machines without containers and for tests; a server that dies takes its episodes along, nothing else.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, final

from envecho.errors import ConfigError, WorldError
from envecho.worlds.providers.ledger import Entry, Ledger, start_ticks
from envecho.worlds.providers.provider import KEY_VARIABLE, HostSpec, new_key

NAME: Final = "process"
_STOP_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02


@final
class ProcessHost:
    """One `envecho serve` in a process group of its own."""

    name = NAME

    def __init__(self, spec: HostSpec, ledger: Ledger) -> None:
        self.key = new_key()
        self._spec, self._ledger = spec, ledger
        self._process: subprocess.Popen[str] | None = None
        self._stopping = threading.Lock()
        if spec.image is not None:
            raise ConfigError(f"{NAME}: the server runs from this installation, found the image {spec.image!r}")
        if spec.allow:
            raise ConfigError(
                f"{NAME}: commands have no network in the world's own sandbox, and none can be given to them; found "
                f"{', '.join(spec.allow)}"
            )

    def start(self) -> str:
        """Start the server and return its URL once it says that it answers."""
        self._ledger.write(NAME, self.key)
        try:
            process = self._process = self._launch()
            return str(self._facts(process)["url"])
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the server, which ends its worlds; may be called twice, and returns when it has ended."""
        with self._stopping:
            process, self._process = self._process, None
            if process is not None:
                process.terminate()
                try:
                    process.wait(_STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                if process.stdout is not None:
                    process.stdout.close()
            self._ledger.remove(self.key)

    def _launch(self) -> subprocess.Popen[str]:
        code = "from envecho.cli.main import main; main()"
        argv = [sys.executable, "-c", code, "serve", *self._spec.arguments(), "--port", "0", "--json"]
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env={**os.environ, **self._spec.environment(self.key)},
            text=True,
            start_new_session=True,
        )

    def _facts(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for the server's one line; what it says instead is on standard error."""
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], self._spec.start_seconds)
        line = process.stdout.readline() if ready else ""
        if not line:
            why = f"ended with status {process.wait()}" if ready else f"said nothing for {self._spec.start_seconds:g} s"
            raise WorldError(f"`envecho serve {self._spec.world}` {why}; its standard error says more")
        return json.loads(line)


def remove(entry: Entry) -> None:
    """Stop the server of this entry if it still runs, its worlds with it.

    Raises:
        WorldError: it runs on after SIGKILL.
    """
    for pid in holders_of(entry.key):
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
            if _wait_until_gone(pid, _STOP_SECONDS):
                break
        else:
            raise WorldError(f"process {pid} runs on after SIGKILL")


def holders_of(key: str) -> list[int]:
    """Return the processes whose environment holds the key and whose parent's does not: the server, if it runs.

    What the server starts may inherit the key, and ends with it.
    """
    wanted = f"{KEY_VARIABLE}={key}".encode()
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):  # it ended, or is another user's
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                stat = (folder / "stat").read_bytes().rpartition(b")")[2].split()
                parents[int(folder.name)] = int(stat[1])
    return [pid for pid, parent in parents.items() if parent not in parents]


def _wait_until_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while start_ticks(pid) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True
