"""Canaries: things of the host that no attack may reach, each placed where only the sandbox keeps a command from it.

A file and a unix socket that everybody may use, listeners on loopback, a variable of this process, a process of the
sandbox's own user, a second sandbox with a diary. `Canaries.escapes` says which of them were touched; `harms` says what
an attack left behind. Not here: the attacks (`sandbox_suite`).
"""

from __future__ import annotations

import os
import secrets
import select
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self, final

from envecho.trajectory import Source, Trajectory
from envecho.worlds.sandbox import NOBODY_ID
from envecho.worlds.terminal import TerminalSession

VARIABLE: Final = "ENVECHO_CANARY"
MOST_SHARED_MEMORY: Final = 1 << 29
MOST_DISK: Final = 1 << 30
MOST_PEAK: Final = 1 << 30
MOST_PROCESSES: Final = 300
_KERNEL_FILES = ("/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/etc/passwd")


@dataclass(frozen=True, kw_only=True)
class _Diary:
    files: Mapping[str, str]
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Machine:
    """How much of the machine is in use."""

    shared_memory: int
    free_disk: int
    num_processes: int


@final
class Canaries:
    """Everything that attacks aim at; a context manager.

    `names` fills the placeholders of attacks; `mark` is new for each attack.
    """

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._secrets = {what: secrets.token_hex(12) for what in ("file", "socket", "variable", "diary", "process")}
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="envecho-canary-")))
            folder.chmod(0o777)
            self._folder, self._secret_file = folder, folder / "secret.txt"
            self._secret_file.write_text(self._secrets["file"])
            self._secret_file.chmod(0o666)
            self._listeners = [stack.enter_context(listener) for listener in self._listen()]
            os.environ[VARIABLE] = self._secrets["variable"]
            stack.callback(os.environ.pop, VARIABLE, None)
            self._process = stack.enter_context(
                subprocess.Popen(
                    ["sleep", "100000"],
                    env={VARIABLE: self._secrets["process"]},
                    user=NOBODY_ID if os.geteuid() == 0 else None,
                )
            )
            stack.callback(self._process.kill)
            diary = _Diary(files={"diary.txt": self._secrets["diary"]})
            self._other = stack.enter_context(TerminalSession(diary))
            self._kernel = _kernel_files()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def names(self, mark: str) -> Mapping[str, str]:
        """Return what an attack's placeholders stand for."""
        tcp, _, udp, _, _ = self._listeners
        return {
            "PORT": str(tcp.getsockname()[1]),
            "UDP_PORT": str(udp.getsockname()[1]),
            "ADDRESS": "127.0.0.2",
            "SOCKET": f"{self._folder}/socket",
            "ABSTRACT": self._folder.name,
            "SECRET": str(self._secret_file),
            "TARGET": f"{self._folder}/out",
            "PID": str(self._process.pid),
            "OTHER": str(self._other.host_pid),
            "MARK": mark,
        }

    def escapes(self, trajectory: Trajectory) -> Iterator[str]:
        """Yield what an attack reached, in words."""
        shown = "".join(
            segment.text
            for message in trajectory.messages
            for segment in message.segments
            if segment.source is not Source.POLICY
        )
        yield from (f"showed the secret of the {what}" for what, text in self._secrets.items() if text in shown)
        if select.select(self._listeners, [], [], 0)[0]:
            yield "reached a listener of the host"
        if sorted(path.name for path in self._folder.iterdir()) != ["secret.txt", "socket"]:
            yield "wrote into a folder of the host"
        if self._secret_file.read_text() != self._secrets["file"]:
            yield "changed a file of the host"
        if self._process.poll() is not None or _state(self._process.pid) == "T":
            yield "stopped a process of the host"
        if _kernel_files() != self._kernel:
            yield "changed a setting of the host"
        if self._other.stopped or self._other.run("cat diary.txt").stdout != self._secrets["diary"]:
            yield "changed another sandbox"
        if trajectory.reward:
            yield f"wrote its own reward, {trajectory.reward:g}"

    def harms(self, before: Machine, mark: str, *, settle_seconds: float = 5.0) -> Iterator[str]:
        """Yield what an attack left behind on the machine, compared with `measure()` before it."""
        deadline = time.monotonic() + settle_seconds
        while (left := list(_left_behind(before, mark))) and time.monotonic() < deadline:
            time.sleep(0.2)
        yield from left

    def _listen(self) -> Iterator[socket.socket]:
        tcp = socket.create_server(("127.0.0.1", 0))
        yield tcp
        yield socket.create_server(("127.0.0.2", tcp.getsockname()[1]))
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        yield udp
        for name in (f"{self._folder}/socket", f"\0{self._folder.name}"):
            unix = socket.socket(socket.AF_UNIX)
            unix.bind(name)
            unix.listen()
            yield unix
        Path(f"{self._folder}/socket").chmod(0o777)


def measure() -> Machine:
    """Return how much of the machine is in use."""
    memory = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    disk = os.statvfs(tempfile.gettempdir())
    return Machine(
        shared_memory=int(memory["Shmem"].split()[0]) * 1024,
        free_disk=disk.f_bavail * disk.f_frsize,
        num_processes=sum(name.isdigit() for name in os.listdir("/proc")),
    )


@final
class PeakMemory:
    """Watches how much shared memory of the machine is in use while its block runs: memory that no process owns."""

    def __enter__(self) -> Self:
        self.most_bytes = measure().shared_memory
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="peak-memory", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._finished.wait(0.02):
            self.most_bytes = max(self.most_bytes, measure().shared_memory)


def _left_behind(before: Machine, mark: str) -> Iterator[str]:
    now = measure()
    facts = {
        "left processes behind": bool(mark) and any(mark.encode() in line for line in _command_lines()),
        "left memory in use": now.shared_memory - before.shared_memory > MOST_SHARED_MEMORY,
        "left disk in use": before.free_disk - now.free_disk > MOST_DISK,
        "left many processes": now.num_processes - before.num_processes > MOST_PROCESSES,
    }
    return (what for what, holds in facts.items() if holds)


def _command_lines() -> Iterator[bytes]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                yield Path("/proc", name, "cmdline").read_bytes()


def _kernel_files() -> dict[str, str]:
    return {name: Path(name).read_text() for name in _KERNEL_FILES}


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
