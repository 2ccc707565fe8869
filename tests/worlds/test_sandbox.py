"""The sandbox: what it hides, what it contains, and that it is there at all."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from envecho.errors import WorldError
from envecho.trajectory import Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_files import pack
from envecho.worlds.sandbox_output import StreamTail, decode
from envecho.worlds.terminal import TerminalSession

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class EmptyBox:
    """A box without files."""

    seed: int = 1
    files: dict[str, str] = field(default_factory=dict[str, str])


def available_memory() -> int:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


# --- what it hides --------------------------------------------------------------------------------------------------


def test_the_host_is_not_there(tmp_path: Path):
    """Catches a bind of more than programs: the host's home, configuration, processes, or its files."""
    secret = tmp_path / "secret"
    secret.write_text("secret")
    with TerminalSession(EmptyBox()) as session:
        assert session.run("ls /").stdout.split() == sorted(
            {"bin", "dev", "etc", "home", "proc", "run", "sbin", "srv", "tmp", "usr"}
            | {name for name in ("lib", "lib32", "lib64") if os.path.exists(f"/{name}")}
        )
        assert set(session.run("ls /etc").stdout.split()) <= {"alternatives", "group", "ld.so.cache", "passwd"}
        assert session.run("ls -A /home /home/user /root /tmp /var 2>/dev/null").stdout.split() == [
            *("/home:", "user", "/home/user:", "/tmp:"),
        ]
        assert session.run(f"cat {secret}").exit_status == 1
        assert session.run("ls /proc | grep -c '^[0-9]'").stdout == "4\n"
        assert session.run(f"kill -0 {os.getpid()}").exit_status == 1


def test_there_is_no_network():
    """Catches a shared network namespace: a listener on this machine must be out of reach."""
    with socket.create_server(("127.0.0.1", 0)) as server, TerminalSession(EmptyBox()) as session:
        port = server.getsockname()[1]
        result = session.run(f"echo hello >/dev/tcp/127.0.0.1/{port}")
        assert result.exit_status == 1
        assert session.run("cat /proc/net/dev | wc -l").stdout == "3\n"


def test_commands_are_an_unprivileged_user_inside_and_outside():
    """Catches root outside (whom no process limit binds) and a way to gain rights inside."""
    with TerminalSession(EmptyBox()) as session:
        assert session.run("id -un; id -u; hostname").stdout == "user\n1000\nbox\n"
        outside = os.stat(f"/proc/{session._process.keeper_host_pid}").st_uid
        assert outside == (os.geteuid() or 65534)
        assert session.run("grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status").stdout.split()[1::2] == [
            *("0" * 16, "0" * 16, "1"),
        ]
        assert session.run("unshare -Ur true").exit_status != 0
        assert session.run("mount -t tmpfs none /tmp").exit_status != 0


def test_nothing_but_the_sized_folders_can_be_written():
    """Catches an unsized in-memory folder (/, /dev, /etc, /run) that fills the host's memory."""
    with TerminalSession(EmptyBox(), limits=Limits(disk_bytes=MIB)) as session:
        for folder in ("/", "/dev", "/etc", "/run", "/run/session", "/home", "/usr", "/usr/bin", "/proc"):
            assert session.run(f"touch {folder}/x").exit_status == 1, folder
        for folder in ("/srv/box", "/srv", "/home/user", "/tmp", "/dev/shm"):
            result = session.run(f"cd {folder} && head -c {2 * MIB} /dev/zero >one; head -c {2 * MIB} /dev/zero >two")
            assert "File size limit exceeded" in result.stderr or "No space left" in result.stderr, folder
            assert int(session.run("du -sb . | cut -f1; rm -f one two").stdout) <= MIB + 4096


# --- what it contains -----------------------------------------------------------------------------------------------


def test_a_fork_bomb_stays_within_the_process_limit_and_the_session_ends_or_goes_on():
    """Catches RLIMIT_NPROC that does not bind root, and a kill that loses the race against the bomb."""
    started = time.monotonic()
    with TerminalSession(EmptyBox(), limits=Limits(num_processes=40, command_seconds=1.5)) as session:
        session.run("bomb() { bomb | bomb & }; bomb")
        most = max(_num_processes(session) for _ in range(20) if time.sleep(0.02) is None)
        assert most <= 45
        if session.stopped is None:
            session.run("true")
    assert time.monotonic() - started < 60
    assert _num_processes(session) == 0


def test_a_foreground_fork_bomb_is_a_timeout_or_stops_the_sandbox():
    """Catches a session that hangs because its shell cannot fork any more."""
    with TerminalSession(EmptyBox(), limits=Limits(num_processes=40, command_seconds=1.0)) as session:
        result = session.run("while :; do sleep 100 & done")
        assert result.timed_out or result.sandbox_stopped or result.shell_restarted
        assert result.seconds < 20
        if session.stopped is None:
            assert session.run("echo on").stdout == "on\n"


def test_one_process_cannot_take_more_memory_than_the_limit():
    """Catches a missing limit on address space."""
    with TerminalSession(EmptyBox(), limits=Limits(memory_bytes=64 * MIB)) as session:
        result = session.run("head -c 200M /dev/zero | tail -n 1 | wc -c", timeout_s=20)
        assert not result.timed_out
        assert "memory exhausted" in result.stderr
        session.run("x=$(head -c 100M /dev/zero | tr '\\0' x)", timeout_s=20)
        assert session.run("echo on").stdout == "on\n"


def test_many_processes_cannot_take_more_memory_than_the_limit_together():
    """Catches a limit per process alone: twenty small hogs are one large one."""
    limits = Limits(memory_bytes=128 * MIB, command_seconds=20)
    before = available_memory()
    with TerminalSession(EmptyBox(), limits=limits) as session:
        result = session.run("for i in {1..12}; do (x=$(head -c 25M /dev/zero | tr '\\0' x); sleep 20) & done; wait")
        assert result.sandbox_stopped == f"more than {128 * MIB} bytes of memory"
        assert result.segments[-1].source is Source.HARNESS_NOTICE
        assert before - available_memory() < 1500 * MIB
        with pytest.raises(WorldError, match="bytes of memory"):
            session.run("true")


def test_processor_time_of_an_episode_is_bounded_over_processes_and_commands():
    """Catches a limit per process: short-lived processes would burn for ever."""
    with TerminalSession(EmptyBox(), limits=Limits(cpu_seconds=1, command_seconds=30)) as session:
        result = session.run("burn() { for i in {1..20000}; do :; done; }; while :; do (burn); done")
        assert result.sandbox_stopped == "more than 1 seconds of processor time"
        assert result.seconds < 20


def test_many_empty_files_are_bounded():
    """Catches inodes, which a sized in-memory folder does not count."""
    with TerminalSession(EmptyBox(), limits=Limits(num_files=2000, command_seconds=20)) as session:
        result = session.run("i=0; while :; do : >f$((i++)); done")
        assert result.sandbox_stopped == "more than 2000 files"


def test_an_endless_output_is_stopped_long_before_the_timeout():
    """Catches a flood that fills the host's memory or takes the whole time of the command."""
    with TerminalSession(EmptyBox(), limits=Limits(flood_bytes=4 * MIB, command_seconds=60)) as session:
        result = session.run("x=1; yes")
        assert result.truncated
        assert not result.timed_out
        assert result.segments[-1].source is Source.TRUNCATION_NOTICE
        assert result.segments[-1].text == "[more than 4194304 bytes of output; the command was killed]"
        assert len(result.stdout) == Limits().output_bytes
        assert result.seconds < 30
        assert session.run("echo $x").stdout == "1\n"


def test_a_background_flood_does_not_stop_later_commands():
    """Catches a drain that never ends because a job goes on writing."""
    with TerminalSession(EmptyBox(), limits=Limits(command_seconds=20)) as session:
        session.run("while :; do echo noise; done &")
        result = session.run("sleep 0.2; echo end >&2")
        assert "noise\n" in result.stdout
        assert (result.stderr, result.exit_status, result.timed_out) == ("end\n", 0, False)
        session.run("kill %1; wait %1")
        assert session.run("echo on").stdout == "on\n"


def test_daemons_die_with_the_episode():
    """Catches a process that outlives its episode in a session or group of its own."""
    with TerminalSession(EmptyBox()) as session:
        session.run("setsid sleep 987 >/dev/null 2>&1 & (trap '' HUP TERM INT; setsid -f sleep 986) & sleep 0.1")
        assert session.run("pgrep -c sleep").stdout == "2\n"
    assert _num_processes(session) == 0


def test_the_sandbox_dies_with_the_process_that_made_it():
    """Catches sandboxes that a killed trainer leaves behind."""
    program = (
        "import time\n"
        "from types import SimpleNamespace\n"
        "from envecho.worlds.terminal import TerminalSession\n"
        "session = TerminalSession(SimpleNamespace(seed=1, files={}))\n"
        "session.run('setsid sleep 98765 &')\n"
        "print(session._process.child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        root = int(maker.stdout.readline())
        assert _num_descendants(root) >= 4
        maker.kill()
    deadline = time.monotonic() + 10
    while _sleepers(98765) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _sleepers(98765)


def test_limits_of_a_process_are_set():
    """Catches a ulimit that silently failed."""
    limits = Limits(memory_bytes=200 * MIB, disk_bytes=3 * MIB, cpu_seconds=7, num_open_files=99, num_processes=33)
    with TerminalSession(EmptyBox(), limits=limits) as session:
        for scope in "SH":
            result = session.run(
                f"ulimit -{scope}v; ulimit -{scope}f; ulimit -{scope}t; ulimit -{scope}n; ulimit -{scope}c"
            )
            assert result.stdout.split() == [str(200 * 1024), str(3 * 1024), "7", "99", "0"]
        assert session.run("cat /proc/self/oom_score_adj").stdout == "1000\n"


@pytest.mark.parametrize("name", ["command_seconds", "memory_bytes", "num_processes"])
def test_limits_that_nothing_can_run_under_are_refused(name: str):
    """Catches a zero that means `unlimited` to one part and `nothing` to another."""
    with pytest.raises(ValueError, match=name):
        Limits(**{name: 0})


def test_a_box_that_does_not_fit_is_an_error_that_says_so():
    """Catches a half-written box that an episode starts on."""
    box = EmptyBox(files={"big": "x" * (2 * MIB)})
    with pytest.raises(WorldError, match="box does not fit"):
        TerminalSession(box, limits=Limits(disk_bytes=MIB))


# --- no sandbox, no run ---------------------------------------------------------------------------------------------


def test_without_bubblewrap_nothing_runs_and_the_error_has_the_line_to_install_it(monkeypatch: pytest.MonkeyPatch):
    """Catches a silent fall back to the host."""
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(WorldError, match="sudo apt-get install bubblewrap"):
        TerminalSession(EmptyBox())


def test_a_sandbox_that_cannot_start_says_what_bubblewrap_said(monkeypatch: pytest.MonkeyPatch):
    """Catches a machine without user namespaces that is reported as a bare exit status."""
    with tempfile.TemporaryDirectory() as folder:
        fake = Path(folder, "bwrap")
        fake.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        for path in (fake, fake.parent):
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        with pytest.raises(WorldError, match="No permissions to create new namespace"):
            TerminalSession(EmptyBox())


def test_an_unknown_sandbox_is_refused_with_the_nearest_name():
    """Catches a typing error that runs on the host."""
    with pytest.raises(WorldError, match="Did you mean 'unsafe-host'"):
        TerminalSession(EmptyBox(), sandbox="unsafe-hots")  # type: ignore[arg-type]


def test_the_unsafe_host_warns_runs_in_a_temporary_folder_and_removes_it():
    """Catches an unsafe mode that is quiet, or that leaves files and processes behind."""
    box = EmptyBox(files={"a/x": "text\n"})
    with pytest.warns(UserWarning, match="commands run on this machine as you"):
        session = TerminalSession(box, sandbox="unsafe-host")
    with session:
        assert session.run("cat a/x; cd a; y=1").stdout == "text\n"
        folder = session.run("pwd; sleep 300 & echo $y").stdout.split()[0]
        assert session.run("exit 3").shell_restarted
        assert session.run("sleep 20", timeout_s=0.2).timed_out
        assert session.run("pwd").stdout == session.folder + "\n"
    assert not Path(folder).exists()
    assert _num_processes(session) == 0


# --- parts ----------------------------------------------------------------------------------------------------------


def test_a_stream_keeps_its_two_ends_whatever_the_chunks():
    """Catches off-by-one cuts when chunks straddle the limits."""
    data = bytes(range(32, 127)) * 3
    for size in (1, 7, 50, 1000):
        for limit in (2, 9, 100, 284, 285, 286):
            stream = StreamTail(limit)
            for start in range(0, len(data), size):
                stream.add(data[start : start + size])
            text = stream.text()
            head, tail = limit - limit // 2, limit // 2
            if len(data) <= limit:
                assert (text.head, text.tail, text.num_omitted_bytes) == (data.decode(), "", 0)
            else:
                assert text.head == data[:head].decode()
                assert text.tail == data[len(data) - tail :].decode()
                assert text.num_omitted_bytes == len(data) - limit


def test_decoding_counts_only_what_was_not_text():
    """Catches a count that takes the world's own U+FFFD for a replacement."""
    assert decode("\ufffd".encode() + b"\xff\xc3") == ("\ufffd\ufffd\ufffd", 2)


def test_packing_is_a_function_of_the_files():
    """Catches times or owners of the host in the archive."""
    assert pack({"a/b": "x"}) == pack({"a/b": "x"})


def _num_processes(session: TerminalSession) -> int:
    """Processes of this session's sandbox as the host sees them (they descend from its child)."""
    return _num_descendants(session._process.child.pid)


def _sleepers(seconds: int) -> list[str]:
    """Processes on this machine that sleep for so many seconds."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] * (path.read_bytes() == f"sleep\0{seconds}\0".encode())
        except OSError:
            continue
    return found


def _num_descendants(root: int) -> int:
    """The process and those that descend from it, as the host sees them."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                parents[int(name)] = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
    found = {root} & parents.keys()
    while grown := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= grown
    return len(found)
