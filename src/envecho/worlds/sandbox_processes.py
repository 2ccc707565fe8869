"""The processes of a sandbox as the host sees them: a table to read and to kill from, and the watchdog over it.

RLIMITs hold per process and do not bind root, and there may be no cgroup to ask; so the host adds up what the
sandbox's processes use and stops the sandbox when it is too much. Not here: starting a sandbox (`sandbox`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass

from envecho.worlds.sandbox import Limits, SandboxProcess

_WATCH_SECONDS = 0.1
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class ProcessInfo:
    """One line of the table; `pid` and `parent` as the sandbox counts, `cpu_seconds` with its dead children's.

    `memory_bytes` is what the process holds for itself, `shared_bytes` what it has mapped of shared memory.
    """

    pid: int
    parent: int
    start_ticks: int
    num_threads: int
    cpu_seconds: float
    memory_bytes: int
    shared_bytes: int
    is_zombie: bool

    @property
    def identity(self) -> tuple[int, int]:
        """Process id and start time: ids are used again, pairs are not."""
        return self.pid, self.start_ticks


class ProcessTable:
    """The descendants of one process, read from a /proc that shows them."""

    def __init__(self, proc: str, root_pid: int) -> None:
        self._proc = os.open(proc, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root_pid = root_pid

    def processes(self) -> list[ProcessInfo]:
        """Return the root process and all that descend from it, in the order of their ids."""
        # Opened anew each time: threads that list one descriptor share its place, and each misses what another saw.
        folder = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._proc)
        try:
            names = os.listdir(folder)
        finally:
            os.close(folder)
        found = {info.pid: info for name in names if name.isdigit() and (info := self._info(name))}
        return [info for info in found.values() if self._descends(info, found)]

    def kill(self, identities: Collection[tuple[int, int]]) -> None:
        """Send SIGKILL to these processes where they still exist."""
        for pid, start_ticks in identities:
            with suppress(OSError):
                handle = os.open(str(pid), os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._proc)
                try:
                    info = self._info(str(pid))
                    if info is not None and info.start_ticks == start_ticks:
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)

    def shared_bytes(self, processes: Collection[ProcessInfo]) -> int:
        """Return how much shared memory these processes have mapped, each page counted once."""
        total = 0
        for process in processes:
            with suppress(OSError):
                total += _kibibytes(self._read(f"{process.pid}/smaps_rollup")).get(b"Pss_Shmem", 0) << 10
        return total

    def close(self) -> None:
        """Let go of the sandbox's /proc."""
        os.close(self._proc)

    def _info(self, pid: str) -> ProcessInfo | None:
        try:
            fields = self._read(f"{pid}/stat").rpartition(b")")[2].split()
            memory = _kibibytes(self._read(f"{pid}/status"))
        except OSError:  # it ended while we looked
            return None
        return ProcessInfo(
            pid=int(pid),
            parent=int(fields[1]),
            start_ticks=int(fields[19]),
            num_threads=int(fields[17]),
            cpu_seconds=sum(map(int, fields[11:15])) / _TICKS,
            memory_bytes=memory.get(b"RssAnon", 0) << 10,
            shared_bytes=memory.get(b"RssShmem", 0) << 10,
            is_zombie=fields[0] == b"Z" and int(fields[17]) <= 1,
        )

    def _read(self, path: str) -> bytes:
        fd = os.open(path, os.O_RDONLY, dir_fd=self._proc)
        try:
            return os.read(fd, 8192)
        finally:
            os.close(fd)

    def _descends(self, info: ProcessInfo, found: dict[int, ProcessInfo]) -> bool:
        seen: set[int] = set()
        while info.pid != self._root_pid:
            seen.add(info.pid)
            parent = found.get(info.parent)
            if parent is None or parent.pid in seen:
                return False
            info = parent
        return True


def _kibibytes(text: bytes) -> dict[bytes, int]:
    """Return the sizes of a file of /proc whose lines are `Name: number kB`."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].rstrip(b":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == b"kB"}


class Watchdog:
    """A thread that adds up a sandbox's processes and calls `stop` once when a limit is passed.

    `exceeded` then says which limit. Memory is what processes hold for themselves and the shared memory that they have
    mapped, each page once; programs' files and in-memory folders are not counted, the folders have their own size.
    """

    def __init__(
        self, table: ProcessTable, limits: Limits, *, process: SandboxProcess, stop: Callable[[], None]
    ) -> None:
        self.exceeded: str | None = None
        self._table, self._limits, self._process, self._stop = table, limits, process, stop
        self._finished = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sandbox-watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; returns when it no longer touches the table."""
        self._finished.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._finished.wait(_WATCH_SECONDS):
            with suppress(OSError):  # the sandbox may end at any moment
                self.exceeded = self._check()
            if self.exceeded is not None:
                self._stop()
                return

    def _check(self) -> str | None:
        limits, processes = self._limits, self._table.processes()
        used = {
            "bytes of memory": (self._memory(processes), limits.memory_bytes),
            "processes": (sum(p.num_threads for p in processes), limits.num_processes),
            "seconds of processor time": (sum(p.cpu_seconds for p in processes), limits.cpu_seconds),
            "files": (self._num_files(), limits.num_files),
            "sockets": (self._num_sockets(), limits.num_sockets),
        }
        return next((f"more than {limit} {what}" for what, (value, limit) in used.items() if value > limit), None)

    def _memory(self, processes: Collection[ProcessInfo]) -> int:
        """Own and shared memory; whose page is whose is asked only where counting it for each process is too much."""
        own, most = sum(p.memory_bytes for p in processes), sum(p.shared_bytes for p in processes)
        return own + most if own + most <= self._limits.memory_bytes else own + self._table.shared_bytes(processes)

    def _num_files(self) -> int:
        states = [os.statvfs(f"{self._process.root}{folder}") for folder in self._process.writable]
        return sum(state.f_files - state.f_ffree for state in states)

    def _num_sockets(self) -> int:
        """How many sockets the sandbox's own network has; what their buffers hold belongs to no process."""
        if not self._process.root:  # the host's own network is not the sandbox's
            return 0
        with open(f"/proc/{self._process.keeper_host_pid}/net/sockstat", encoding="ascii") as lines:
            return int(lines.readline().split()[2])
