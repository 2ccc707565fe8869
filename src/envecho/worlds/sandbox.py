"""Where untrusted commands run: a bubblewrap sandbox with limits, or, by an explicit word, the host itself.

The sandbox has no network, its own process tree, a fixed host name and environment, the host's programs read-only and
sized in-memory folders to write to. It runs under an unprivileged user, also when envecho runs as root: limits on
processes do not bind root. Not here: what runs inside (`envecho.worlds.terminal`), and the watchdog over memory,
processor time and processes (`sandbox_processes`).
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, get_args

from envecho.errors import WorldError, did_you_mean
from envecho.worlds.sandbox_calls import KEEPER_MEMORY, refused_calls_filter
from envecho.worlds.sandbox_layout import HOME_FOLDER, Layout

SandboxName = Literal["bubblewrap", "unsafe-host"]

CONTROL_FOLDER = "/run/session"
USER_ID = 1000
NOBODY_ID = 65534
INSTALL_HINT = "Install it with: sudo apt-get install bubblewrap (or the bubblewrap package of your distribution)."

_FIRST_INHERITED_FD = 200
_KERNEL_WITH_NPROC_PER_NAMESPACE = (5, 14)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one episode may use; a limit that is passed stops the command or the episode, never the host.

    `command_seconds` is wall time of one command. `cpu_seconds`, `memory_bytes`, `num_processes` (threads count),
    `num_files` and `num_sockets` (their buffers are memory of the kernel) hold for the whole episode; one process may
    map `memory_bytes` of address space. `disk_bytes` holds for each writable folder (box, home, /tmp, /dev/shm) and for
    one file. `output_bytes` is how much of stdout and of stderr is shown; a command that writes more than `flood_bytes`
    is stopped.
    """

    command_seconds: float = 10.0
    cpu_seconds: int = 60
    memory_bytes: int = 1 << 29
    num_processes: int = 64
    num_open_files: int = 256
    num_files: int = 50_000
    num_sockets: int = 256
    disk_bytes: int = 1 << 26
    output_bytes: int = 1 << 14
    flood_bytes: int = 1 << 24

    def __post_init__(self) -> None:
        """Refuse limits that nothing could run under."""
        for name, value in vars(self).items():
            if value <= 0:
                raise ValueError(f"limit {name} is {value}, expected a positive number")


@dataclass(frozen=True, kw_only=True)
class ControlPipes:
    """The far ends of a session's pipes, which the sandbox inherits.

    The shell reads its script from `script`, reports through `report`, and the keeper is told through `go` when to
    start a shell. `archive` is a tar file of the box.
    """

    archive: int
    script: int
    report: int
    go: int
    stdout: int
    stderr: int


@dataclass(frozen=True, kw_only=True)
class SandboxProcess:
    """A running sandbox: the child process, and the keeper's id as the host and as the sandbox see it.

    `folder` is the box as commands see it, `proc` the sandbox's own /proc as the host reaches it, `writable` the
    folders in memory, and `scratch` the temporary folder of an unsafe session.
    """

    child: subprocess.Popen[bytes]
    keeper_host_pid: int
    keeper_pid: int
    folder: str
    proc: str
    root: str
    writable: tuple[str, ...] = ()
    scratch: tempfile.TemporaryDirectory[str] | None = field(default=None)


def require_sandbox(sandbox: str) -> SandboxName:
    """Return the sandbox's name, or raise WorldError that says how to get it; `unsafe-host` warns."""
    if sandbox == "unsafe-host":
        warnings.warn(
            "sandbox 'unsafe-host': commands run on this machine as you, with your files and network; "
            "use it only for commands that you trust",
            stacklevel=3,
        )
        return "unsafe-host"
    if sandbox != "bubblewrap":
        known = get_args(SandboxName)
        raise WorldError(f"unknown sandbox {sandbox!r}, expected one of {known}.{did_you_mean(sandbox, known)}")
    if sys.platform != "linux":
        raise WorldError(f"bubblewrap needs Linux, this is {sys.platform}: run in a Linux machine or container")
    if shutil.which("bwrap") is None:
        raise WorldError(f"no sandbox, no run: bubblewrap (bwrap) was not found on PATH. {INSTALL_HINT}")
    return "bubblewrap"


def prepare_pipe_end(fd: int) -> int:
    """Move a pipe end that the sandbox inherits to a high number and give it to the sandbox's user.

    The shell opens its script, and programs open /dev/stdout, by path: the pipe must belong to the user who opens it.
    """
    if os.geteuid() == 0:
        os.fchown(fd, NOBODY_ID, NOBODY_ID)
    high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _FIRST_INHERITED_FD)
    os.close(fd)
    return high


def launch(
    sandbox: SandboxName, *, init_script: str, pipes: ControlPipes, limits: Limits, layout: Layout
) -> SandboxProcess:
    """Start `init_script` as the keeper of a sandbox; it gets fd numbers, folders and limits as arguments."""
    if sandbox == "bubblewrap":
        return _launch_bubblewrap(init_script, pipes, limits, layout)
    if layout != Layout():
        raise WorldError("sandbox 'unsafe-host' has no folders of its own: use bubblewrap for this world")
    return _launch_on_host(init_script, pipes, limits)


def wait_for_exit(child: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait until the child has ended, at most so long, without the pauses of `Popen.wait(timeout)`."""
    handle = os.pidfd_open(child.pid)
    try:
        select.select([handle], [], [], seconds)
    finally:
        os.close(handle)


def _launch_bubblewrap(init_script: str, pipes: ControlPipes, limits: Limits, layout: Layout) -> SandboxProcess:
    info_read, info_write = os.pipe()
    texts = {
        f"{CONTROL_FOLDER}/init": init_script,
        "/etc/passwd": f"user:x:{USER_ID}:{USER_ID}::{HOME_FOLDER}:/bin/bash\n",
        "/etc/group": f"user:x:{USER_ID}:\n",
    }
    refused = refused_calls_filter()
    fds = {path: memory_file(text.encode()) for path, text in texts.items()}
    seccomp = memory_file(refused)
    try:
        argv = [
            *drop_root(),
            *_bubblewrap_argv(limits, fds, layout),
            *("--info-fd", str(info_write), "--seccomp", str(seccomp)),
            *("bash", "--norc", "--noprofile", f"{CONTROL_FOLDER}/init"),
            *_init_arguments(pipes, layout.unpack_folder, limits, num_processes=_nproc_limit(limits)),
        ]
        child = _spawn(argv, pipes, extra_fds=(info_write, seccomp, *fds.values()))
    finally:
        for fd in (info_write, seccomp, *fds.values()):
            os.close(fd)
    with os.fdopen(info_read, "rb") as info:
        text = info.read()
    keeper = int(json.loads(text)["child-pid"]) if text else -1
    return SandboxProcess(
        child=child,
        keeper_host_pid=keeper,
        keeper_pid=1,
        folder=layout.folder,
        proc=f"/proc/{keeper}/root/proc",
        root=f"/proc/{keeper}/root",
        writable=tuple(layout.writable),
    )


def _launch_on_host(init_script: str, pipes: ControlPipes, limits: Limits) -> SandboxProcess:
    scratch = tempfile.TemporaryDirectory(prefix="envecho-unsafe-", ignore_cleanup_errors=True)
    control, folder = Path(scratch.name, "session"), Path(scratch.name, "srv", "box")
    for made in (control, folder):
        made.mkdir(parents=True)
    (control / "init").write_text(init_script)
    environment = [f"{name}={value}" for name, value in _environment(str(folder)).items()]
    argv = ["env", "-i", f"--chdir={control}", *environment]
    argv += ["bash", "--norc", "--noprofile", f"{control}/init"]
    argv += _init_arguments(pipes, str(folder.parent), limits, num_processes="unlimited")
    child = _spawn(argv, pipes, extra_fds=())
    (control / "bash").symlink_to(f"/proc/{child.pid}/fd/3")
    return SandboxProcess(
        child=child,
        keeper_host_pid=child.pid,
        keeper_pid=child.pid,
        folder=str(folder),
        proc="/proc",
        root="",
        scratch=scratch,
    )


def _spawn(argv: Sequence[str], pipes: ControlPipes, *, extra_fds: tuple[int, ...]) -> subprocess.Popen[bytes]:
    """Start the child from a thread that outlives it: `--die-with-parent` follows the thread, not the process."""

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv,
            stdin=pipes.archive,
            stdout=pipes.stdout,
            stderr=pipes.stderr,
            pass_fds=(pipes.script, pipes.report, pipes.go, *extra_fds),
            cwd="/",
            start_new_session=True,
        )

    return _spawner(os.getpid()).submit(start).result()


@cache
def _spawner(pid: int) -> ThreadPoolExecutor:
    """One long-lived thread per process; `pid` keys it, because a forked child has no copy of the thread."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"sandbox-spawner-{pid}")


def drop_root() -> list[str]:
    """Return the command that runs what follows as nobody where we are root; none else."""
    if os.geteuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        raise WorldError("running as root needs setpriv (util-linux) to start the sandbox as an unprivileged user")
    return ["setpriv", f"--reuid={NOBODY_ID}", f"--regid={NOBODY_ID}", "--clear-groups"]


def _bubblewrap_argv(limits: Limits, data_fds: dict[str, int], layout: Layout) -> list[str]:
    argv = ["bwrap", "--unshare-all", "--unshare-user", "--disable-userns", "--die-with-parent", "--new-session"]
    argv += ["--as-pid-1", "--hostname", "box", "--cap-drop", "ALL"]
    argv += ["--uid", str(USER_ID), "--gid", str(USER_ID)]
    argv += ["--ro-bind", "/usr", "/usr"]
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        if os.path.islink(name):
            argv += ["--symlink", os.readlink(name), name]
        elif os.path.isdir(name):
            argv += ["--ro-bind", name, name]
    for name in ("/etc/ld.so.cache", "/etc/alternatives"):
        argv += ["--ro-bind-try", name, name]
    for path, fd in data_fds.items():
        argv += ["--perms", "0444", "--ro-bind-data", str(fd), path]
    argv += ["--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"]
    for path in KEEPER_MEMORY:
        argv += ["--ro-bind", "/dev/null", path]
    for folder, mode in layout.writable.items():
        argv += ["--perms", mode, "--size", str(limits.disk_bytes), "--tmpfs", folder]
    argv += ["--symlink", "/proc/1/fd/3", f"{CONTROL_FOLDER}/bash", "--remount-ro", "/", "--chdir", CONTROL_FOLDER]
    argv += ["--clearenv"]
    for name, value in {**_environment(HOME_FOLDER), **layout.environment}.items():
        argv += ["--setenv", name, value]
    return argv


def _environment(home: str) -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": home,
        "USER": "user",
        "LOGNAME": "user",
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "TERM": "dumb",
        "PAGER": "cat",
    }


def _init_arguments(pipes: ControlPipes, folder: str, limits: Limits, *, num_processes: str) -> list[str]:
    numbers = (pipes.script, pipes.report, pipes.go)
    kibibytes = (limits.memory_bytes // 1024, limits.disk_bytes // 1024)
    values = (*numbers, folder, *kibibytes, limits.cpu_seconds, limits.num_open_files, num_processes)
    return [str(value) for value in values]


def _nproc_limit(limits: Limits) -> str:
    """RLIMIT_NPROC counts per user namespace only since Linux 5.14; before, it would count the user's other work."""
    release = re.match(r"(\d+)\.(\d+)", os.uname().release)
    known = release is not None and tuple(map(int, release.groups())) >= _KERNEL_WITH_NPROC_PER_NAMESPACE
    return str(limits.num_processes) if known else "unlimited"


def memory_file(content: bytes) -> int:
    """Return a file descriptor, at its start, of an anonymous file with this content."""
    fd = os.memfd_create("envecho", os.MFD_CLOEXEC)
    with os.fdopen(os.dup(fd), "wb") as stream:
        stream.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
