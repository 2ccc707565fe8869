"""A Python process in a bubblewrap sandbox that answers JSON lines: where generated code of a scenario runs.

No network but its own loopback, its own process tree, the interpreter and its packages read-only, one small in-memory
folder to write to, an unprivileged user and limits. Not here: what it runs (`driver`).
"""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

from envecho.errors import WorldError, WorldLostError
from envecho.worlds.sandbox import USER_ID, SandboxName, drop_root, require_sandbox

_FOLDER = "/srv/scenario"
_DRIVER = Path(__file__).with_name("driver.py")
_LARGEST_ANSWER = 1 << 26
_TAIL = 2000
_CHUNK = 1 << 16
_KERNEL_WITH_NPROC_PER_NAMESPACE = (5, 14)


class LateAnswerError(WorldError):
    """The process did not answer in time, and was ended."""


@dataclass(frozen=True, kw_only=True)
class ProcessLimits:
    """What a scenario's process may use. `start_seconds` bounds importing its code, `call_seconds` one call."""

    start_seconds: float = 60.0
    call_seconds: float = 20.0
    cpu_seconds: int = 300
    memory_bytes: int = 1 << 31
    disk_bytes: int = 1 << 26
    num_open_files: int = 256
    num_processes: int = 96


@final
class ScenarioProcess:
    """One process; `ask` sends a request and returns its answer. A late or broken answer ends it.

    Raises:
        WorldError: there is no sandbox, or no Python that its user can read.
    """

    def __init__(self, *, sandbox: SandboxName, limits: ProcessLimits) -> None:
        self.limits = limits
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 closed by `close`
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        if require_sandbox(sandbox) == "unsafe-host":
            self._scratch = tempfile.TemporaryDirectory(prefix="envecho-unsafe-")
            argv, folder = [sys.executable, "-I", str(_DRIVER)], self._scratch.name
        else:
            argv, folder = [*_limited(limits), *drop_root(), *_bubblewrap(limits)], "/"
        self._child = _start(argv, self._stderr.fileno(), folder)
        self._unread = b""

    def ask(self, request: Mapping[str, Any], *, seconds: float) -> dict[str, Any]:
        """Return the answer to one request.

        Raises:
            LateAnswerError: no answer came in time.
            WorldLostError: the process ended, or answered no JSON object.
            WorldError: the process answers that something failed.
        """
        deadline = time.monotonic() + seconds
        self._send(json.dumps(request).encode() + b"\n", deadline, seconds)
        line = self._line(deadline, seconds)
        try:
            answer: Any = json.loads(line)
        except (ValueError, RecursionError):
            raise self._lost("answered no JSON") from None
        if not isinstance(answer, dict):
            raise self._lost("answered no JSON object")
        if "error" in answer:
            raise WorldError(f"the scenario's process: {answer['error']}")
        return answer  # pyright: ignore[reportUnknownVariableType]

    def close(self) -> None:
        """End the process and all that it started; may be called twice."""
        if self._child.poll() is None:
            self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        self._stderr.close()
        if self._scratch is not None:
            self._scratch.cleanup()
            self._scratch = None

    def _send(self, data: bytes, deadline: float, seconds: float) -> None:
        stdin = self._child.stdin
        assert stdin is not None
        while data:
            _, ready, _ = select.select([], [stdin], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._late(seconds)
            try:
                data = data[os.write(stdin.fileno(), data[:_CHUNK]) :]
            except BlockingIOError:
                continue
            except OSError:
                raise self._lost("ended") from None

    def _late(self, seconds: float) -> LateAnswerError:
        self._child.kill()
        return LateAnswerError(f"the scenario's process gave no answer within {seconds:g} s and was ended")

    def _line(self, deadline: float, seconds: float) -> bytes:
        stdout = self._child.stdout
        assert stdout is not None
        while b"\n" not in self._unread:
            ready, _, _ = select.select([stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise self._late(seconds)
            found = os.read(stdout.fileno(), _CHUNK)
            if not found:
                raise self._lost("ended")
            self._unread += found
            if len(self._unread) > _LARGEST_ANSWER:
                raise self._lost(f"answered more than {_LARGEST_ANSWER} bytes")
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _lost(self, what: str) -> WorldLostError:
        self._child.kill()
        self._child.wait()
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _TAIL))
        said = self._stderr.read().decode("utf-8", errors="replace").strip()
        return WorldLostError(f"the scenario's process {what}{f': {said}' if said else ''}")


def _limited(limits: ProcessLimits) -> list[str]:
    if shutil.which("prlimit") is None:
        raise WorldError("a scenario's process needs prlimit (util-linux) for its limits")
    return [
        "prlimit",
        f"--cpu={limits.cpu_seconds}",
        f"--as={limits.memory_bytes}",
        f"--fsize={limits.disk_bytes}",
        f"--nofile={limits.num_open_files}",
        "--core=0",
    ]


def _bubblewrap(limits: ProcessLimits) -> list[str]:
    python, prefix = _interpreter()
    known = dict.fromkeys([*site.getsitepackages(), sysconfig.get_path("purelib")])
    packages = [folder for folder in known if os.path.isdir(folder)]
    argv = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    argv += ["--hostname", "scenario", "--cap-drop", "ALL", "--uid", str(USER_ID), "--gid", str(USER_ID)]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            argv += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            argv += ["--ro-bind", name, name]
    argv += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    argv += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    argv += ["--perms", "0755", "--size", str(limits.disk_bytes), "--tmpfs", _FOLDER]
    argv += ["--perms", "1777", "--size", str(limits.disk_bytes), "--tmpfs", "/tmp"]
    for folder in (*([prefix] if prefix else []), *packages):  # after /tmp, below which an environment may lie
        argv += ["--ro-bind", folder, folder]
    argv += ["--ro-bind", str(_DRIVER), "/run/driver.py", "--remount-ro", "/"]
    argv += ["--chdir", _FOLDER, "--clearenv", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "HOME", _FOLDER]
    argv += ["--setenv", "LANG", "C.UTF-8", "--setenv", "TZ", "UTC", "--setenv", "PYTHONHASHSEED", "0"]
    argv += ["--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--setenv", "PYTHONPATH", os.pathsep.join(packages)]
    return [*argv, "--", python, "-s", "/run/driver.py", *_num_processes(limits)]


def _num_processes(limits: ProcessLimits) -> list[str]:
    """RLIMIT_NPROC counts per user namespace only since Linux 5.14; before, it would count the user's other work."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    known = release is not None and tuple(map(int, release.groups())) >= _KERNEL_WITH_NPROC_PER_NAMESPACE
    return [str(limits.num_processes)] if known else []


@cache
def _interpreter() -> tuple[str, str | None]:
    """Return a Python of our version that the sandbox's user can read, and its folder where /usr does not hold it.

    A sandbox that root starts runs as nobody: an interpreter below /root is out of reach.
    """
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    candidates = [(os.path.realpath(sys.executable), sys.base_prefix), (f"/usr/bin/python{version}", "/usr")]
    for python, prefix in candidates:
        if os.path.exists(python) and _readable([*drop_root(), "test", "-x", python]):
            return python, None if Path(prefix).is_relative_to("/usr") else prefix
    found = ", ".join(python for python, _ in candidates)
    raise WorldError(
        f"expected a Python {version} that the sandbox's user may read, found none among {found}: install Python where "
        "everybody can read it, or run as an ordinary user"
    )


def _readable(argv: Sequence[str]) -> bool:
    return subprocess.run(argv, check=False, cwd="/").returncode == 0


def _start(argv: Sequence[str], stderr: int, folder: str) -> subprocess.Popen[bytes]:
    """Start the child from a thread that outlives it: `--die-with-parent` follows the thread, not the process."""

    def start() -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            argv,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=folder,
            start_new_session=True,
        )
        assert child.stdin is not None
        os.set_blocking(child.stdin.fileno(), False)
        return child

    return _starter(os.getpid()).submit(start).result()


@cache
def _starter(pid: int) -> ThreadPoolExecutor:
    """One long-lived thread per process; `pid` keys it, because a forked child has no copy of the thread."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"scenario-starter-{pid}")
