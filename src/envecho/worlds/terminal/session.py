"""One persistent bash per episode in a sandbox: commands in, typed segments out, whatever the command does.

Folder, variables, functions and background jobs survive from command to command. stdout and stderr are two pipes, read
exactly; in an observation all of stdout comes before all of stderr. Not here: tasks and rewards (`world`).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import Protocol, Self

from envecho.errors import WorldError
from envecho.trajectory import Source
from envecho.worlds.sandbox import Limits, SandboxName, launch, memory_file, require_sandbox, wait_for_exit
from envecho.worlds.sandbox_channel import Channel, Outcome, Waited
from envecho.worlds.sandbox_files import BoxFile, pack
from envecho.worlds.sandbox_layout import Layout
from envecho.worlds.sandbox_output import StreamTail
from envecho.worlds.sandbox_processes import ProcessTable, Watchdog
from envecho.worlds.sandbox_result import STATE_LOST_NOTICE, CommandResult, ObservationStyle, SegmentWriter
from envecho.worlds.sandbox_shell import KEEPER_SCRIPT, command_lines, report_line, start_lines

_START_SECONDS = 20.0
_FIRST_TRY_SECONDS = 2.0
_RESTART_SECONDS = 5.0
_KILL_WAITS = (0.02, 0.04, 0.08, 0.16, 0.32)
_MOST_SWEEPS = 50


class BoxLike(Protocol):
    """What a session needs of a box: a seed (for `$RANDOM`) and files by relative path."""

    @property
    def seed(self) -> int:
        """The seed that names the box."""
        ...

    @property
    def files(self) -> Mapping[str, str | BoxFile]:
        """Relative path -> text, or what a text cannot say: bytes, a mode, a link, an empty folder."""
        ...


class TerminalSession:
    """A bash in a sandbox that holds one box; a context manager.

    Args:
        box: the files that lie in the working folder, and the seed of `$RANDOM`.
        limits: what the episode may use.
        sandbox: `bubblewrap`, or `unsafe-host`: commands run on this machine as you, in a temporary folder.
        style: what observations show beside the output.
        layout: folders and variables, where they are not those of the terminal world; bubblewrap alone has them.

    Raises:
        WorldError: the sandbox cannot start, or a command is run after it ended.
        ValueError: the box has a path that leads out of it.
    """

    def __init__(
        self,
        box: BoxLike,
        *,
        limits: Limits | None = None,
        sandbox: SandboxName = "bubblewrap",
        style: ObservationStyle | None = None,
        layout: Layout | None = None,
    ) -> None:
        layout = layout or Layout()
        self._limits, self._style, self._seed = limits or Limits(), style or ObservationStyle(), box.seed
        name = require_sandbox(sandbox)
        self._secret = secrets.token_hex(8)
        self._stopped: str | None = None
        self._closed = False
        archive = memory_file(pack(box.files, prefix=layout.prefix))
        self._channel = Channel()
        try:
            self._process = launch(
                name,
                init_script=KEEPER_SCRIPT,
                pipes=self._channel.inherited_ends(archive),
                limits=self._limits,
                layout=layout,
            )
        except BaseException:
            self._channel.close()
            raise
        finally:
            os.close(archive)
        self._channel.close_inherited()
        self._table: ProcessTable | None = None
        self._watchdog: Watchdog | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def stopped(self) -> str | None:
        """Why the sandbox is gone (a limit was passed, for instance), or None while it lives."""
        return self._stopped

    @property
    def folder(self) -> str:
        """The box's folder as commands see it."""
        return self._process.folder

    @property
    def host_pid(self) -> int:
        """The process id that the sandbox's first process has on the host."""
        return self._process.keeper_host_pid

    def run(self, command: str, timeout_s: float | None = None) -> CommandResult:
        """Run one command, any text that bash takes, and answer when it ended or `timeout_s` passed.

        Never raises for what a command does: a timeout, a flood, the shell's end and the sandbox's end are results.
        """
        if self._closed or self._stopped is not None:
            raise WorldError(f"the session is over ({self._stopped or 'it was closed'}): start a new one")
        started = time.monotonic()
        seconds = self._limits.command_seconds if timeout_s is None else timeout_s
        nonce = secrets.token_hex(8)
        before = self._identities()
        stdout, stderr = StreamTail(self._limits.output_bytes), StreamTail(self._limits.output_bytes)
        clean = command.replace("\0", "").encode("utf-8", errors="replace").decode()
        self._channel.send(command_lines(clean, report_path=self._report_path, nonce=nonce))
        waited = self._channel.wait(
            {"done": nonce, "ended": self._secret},
            deadline=started + seconds,
            stdout=stdout,
            stderr=stderr,
            flood_bytes=self._limits.flood_bytes,
        )
        restarted = self._recover(waited, nonce, before)
        return self._result(command, clean, waited, (stdout, stderr), restarted, (started, seconds))

    def start_fresh_shell(self) -> bool:
        """Kill everything that runs in the box and start a new shell; files stay. False where the sandbox is gone."""
        if self._closed or self._stopped is not None:
            return False
        self._end_shell(self._kill_shell(()), self._process.folder)
        return self._stopped is None

    def close(self) -> None:
        """End the sandbox with everything that runs in it; may be called twice."""
        if self._closed:
            return
        self._closed = True
        if self._watchdog is not None:
            self._watchdog.close()
        self._kill_sandbox()
        self._process.child.wait()
        self._channel.close()
        if self._table is not None:
            self._table.close()
        if self._process.scratch is not None:
            self._process.scratch.cleanup()

    # --- the life of the shell ----------------------------------------------------------------------------------

    @property
    def _report_path(self) -> str:
        return f"/proc/{self._process.keeper_pid}/fd/4"

    def _start(self) -> None:
        self._channel.tell_keeper(self._secret)
        complaint = StreamTail(1 << 12)
        waited = self._start_shell(self._process.folder, _START_SECONDS, complaint)
        if waited.report is not None and waited.report.kind == "unpack":
            raise WorldError(f"the box does not fit: expected at most {self._limits.disk_bytes} bytes (disk_bytes)")
        if waited.outcome is not Outcome.DONE:
            said = complaint.text().head.strip() or "it said nothing"
            raise WorldError(
                f"the sandbox did not start: {said}. It needs bubblewrap 0.8 or later and user namespaces for "
                "unprivileged users (on Ubuntu 24.04: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0)"
            )
        self._watchdog = Watchdog(self._require_table(), self._limits, process=self._process, stop=self._kill_sandbox)

    def _start_shell(self, folder: str, seconds: float, complaint: StreamTail) -> Waited:
        """Start a shell in `folder` and wait until it reports; what it says until then goes to `complaint`."""
        nonce = secrets.token_hex(8)
        self._channel.discard_script()
        self._channel.send(
            start_lines(
                folder=folder,
                box_folder=self._process.folder,
                seed=self._seed,
                report_path=self._report_path,
                nonce=nonce,
            )
        )
        self._channel.tell_keeper("start")
        waited = self._channel.wait(
            {"done": nonce, "ended": self._secret, "unpack": self._secret},
            deadline=time.monotonic() + seconds,
            stdout=complaint,
            stderr=complaint,
        )
        if waited.outcome is not Outcome.DONE or waited.report is None:
            return waited
        self._folder = waited.report.folder
        if self._table is None:
            self._table = ProcessTable(self._process.proc, self._process.keeper_pid)
        shell = waited.report.shell_pid
        self._shell = next((p.identity for p in self._table.processes() if p.pid == shell), (shell, -1))
        return waited

    def _start_shell_again(self, folder: str) -> bool:
        """Start a new shell; where that fails, kill all that runs in the box and try once more."""
        first = self._start_shell(folder, _FIRST_TRY_SECONDS, StreamTail(1)).outcome
        if first is Outcome.DONE:
            return True
        if first is Outcome.SHELL_ENDED:
            self._sweep(self._keeper_and_shell())
        elif self._kill_shell(()).outcome is not Outcome.SHELL_ENDED:
            return False
        return self._start_shell(folder, _RESTART_SECONDS, StreamTail(1)).outcome is Outcome.DONE

    def _recover(self, waited: Waited, nonce: str, before: set[tuple[int, int]]) -> bool:
        """Leave a shell that takes the next command, or a stopped session; True where the shell is a new one."""
        match waited.outcome:
            case Outcome.DONE if waited.report is not None:
                self._folder = waited.report.folder
                return False
            case Outcome.TIMEOUT | Outcome.FLOOD:
                spared = before if waited.outcome is Outcome.TIMEOUT else set[tuple[int, int]]()
                ended = self._kill_command(nonce, spared)
                folder = self._folder
            case Outcome.CONTROL_LOST:
                ended = self._kill_shell(before)
                folder = self._folder
            case _:
                ended = waited
                folder = self._process.folder
        return self._end_shell(ended, folder)

    def _end_shell(self, ended: Waited, folder: str) -> bool:
        """Replace a shell that ended by a new one in `folder`; True where that was needed and worked."""
        lives = ended.outcome is Outcome.DONE
        if not lives and not (ended.outcome is Outcome.SHELL_ENDED and self._start_shell_again(folder)):
            self._stop_session("the sandbox ended")
            return False
        if lives and ended.report is not None:
            self._folder = ended.report.folder
        self._channel.discard_output()
        return not lives

    def _kill_command(self, nonce: str, spared: set[tuple[int, int]]) -> Waited:
        """Kill what the command started until the shell reports; then the shell too."""
        for seconds in _KILL_WAITS:
            self._require_table().kill(self._identities() - spared - self._keeper_and_shell())
            waited = self._wait_quietly({"done": nonce, "ended": self._secret}, seconds)
            if waited.outcome is Outcome.CONTROL_LOST:  # the shell is ready; its report was killed with the command
                nonce = secrets.token_hex(8)
                self._channel.send(report_line(report_path=self._report_path, nonce=nonce))
                waited = self._wait_quietly({"done": nonce, "ended": self._secret}, _FIRST_TRY_SECONDS)
                if waited.outcome in (Outcome.TIMEOUT, Outcome.CONTROL_LOST):
                    break
            if waited.outcome is not Outcome.TIMEOUT:
                self._sweep(spared | self._keeper_and_shell())
                return self._settle(waited, spared)
        return self._kill_shell(spared)

    def _settle(self, waited: Waited, spared: set[tuple[int, int]]) -> Waited:
        """Let the shell report once more: bash says late that a sweep has killed the subshell of the report before."""
        if waited.outcome is not Outcome.DONE:
            return waited
        nonce = secrets.token_hex(8)
        self._channel.send(report_line(report_path=self._report_path, nonce=nonce))
        settled = self._wait_quietly({"done": nonce, "ended": self._secret}, _FIRST_TRY_SECONDS)
        return settled if settled.outcome in (Outcome.DONE, Outcome.SHELL_ENDED) else self._kill_shell(spared)

    def _kill_shell(self, spared: Collection[tuple[int, int]]) -> Waited:
        """Kill the shell, wait until the keeper says so, and kill what it started in the meantime."""
        keeper = {identity for identity in self._keeper_and_shell() if identity[0] == self._process.keeper_pid}
        spared = (set(spared) | keeper) - {self._shell}
        self._require_table().kill({self._shell} | (self._identities() - spared))
        waited = self._wait_quietly({"ended": self._secret}, _RESTART_SECONDS)
        self._sweep(spared)
        return waited

    def _sweep(self, spared: set[tuple[int, int]]) -> None:
        """Kill until nothing else runs: a killed loop may have started its next program while we looked."""
        for _ in range(_MOST_SWEEPS):
            found = self._identities() - spared
            if not found:
                return
            self._require_table().kill(found)

    def _wait_quietly(self, nonces: dict[str, str], seconds: float) -> Waited:
        return self._channel.wait(
            nonces, deadline=time.monotonic() + seconds, stdout=StreamTail(1), stderr=StreamTail(1)
        )

    def _identities(self) -> set[tuple[int, int]]:
        with suppress(OSError):
            return {process.identity for process in self._require_table().processes() if not process.is_zombie}
        return set()

    def _keeper_and_shell(self) -> set[tuple[int, int]]:
        protected = {self._process.keeper_pid, self._shell[0]}
        return {identity for identity in self._identities() if identity[0] in protected}

    def _require_table(self) -> ProcessTable:
        if self._table is None:
            raise WorldError("the session has not started")
        return self._table

    def _stop_session(self, reason: str) -> None:
        self._kill_sandbox()
        exceeded = None if self._watchdog is None else self._watchdog.exceeded
        self._stopped = exceeded or reason

    def _kill_sandbox(self) -> None:
        with suppress(OSError):
            if self._table is not None:
                self._table.kill([process.identity for process in self._table.processes()])
        if self._table is not None and self._process.child.poll() is None:
            wait_for_exit(self._process.child, _RESTART_SECONDS)  # it ends when the last process inside has ended
        self._process.child.kill()

    # --- what the policy sees -----------------------------------------------------------------------------------

    def _result(
        self,
        command: str,
        clean: str,
        waited: Waited,
        streams: tuple[StreamTail, StreamTail],
        restarted: bool,
        clock: tuple[float, float],
    ) -> CommandResult:
        stdout, stderr = (stream.text() for stream in streams)
        outcome, report, (started, seconds) = waited.outcome, waited.report, clock
        status = None if report is None else report.status
        writer = SegmentWriter()
        if self._style.command_echo:
            writer.notice(Source.COMMAND_ECHO, f"$ {command}\n")
        writer.stream(Source.STDOUT, stdout, self._limits)
        writer.stream(Source.STDERR, stderr, self._limits)
        if status is not None and (self._style.status == "always" or (self._style.status == "nonzero" and status != 0)):
            writer.notice(Source.STATUS, f"[exit status {status}]")
        if outcome is Outcome.TIMEOUT:
            writer.notice(Source.TIMEOUT_NOTICE, f"[timed out after {seconds:g} s; the command was killed]")
        if outcome is Outcome.FLOOD:
            limit = self._limits.flood_bytes
            writer.notice(Source.TRUNCATION_NOTICE, f"[more than {limit} bytes of output; the command was killed]")
        if clean != command:
            writer.notice(Source.FORMAT_WARNING, "[characters that a command cannot hold were left out or replaced]")
        if restarted:
            writer.notice(Source.HARNESS_NOTICE, STATE_LOST_NOTICE)
        if self._stopped is not None:
            writer.notice(Source.HARNESS_NOTICE, f"[the machine was stopped: {self._stopped}]")
        return CommandResult(
            segments=writer.segments,
            exit_status=status,
            seconds=time.monotonic() - started,
            timed_out=outcome is Outcome.TIMEOUT,
            truncated=stdout.num_omitted_bytes + stderr.num_omitted_bytes > 0 or outcome is Outcome.FLOOD,
            shell_restarted=restarted,
            sandbox_stopped=self._stopped,
            num_replaced=stdout.num_replaced + stderr.num_replaced,
        )
