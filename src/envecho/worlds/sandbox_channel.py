"""The host's ends of a session's pipes: sends script text, collects output, and waits for the report of a command.

Not here: what the text says (`sandbox_shell`) and what to do about an outcome (`envecho.worlds.terminal.session`).
"""

from __future__ import annotations

import array
import fcntl
import os
import select
import termios
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

from envecho.worlds.sandbox import ControlPipes, prepare_pipe_end
from envecho.worlds.sandbox_output import StreamTail
from envecho.worlds.sandbox_shell import Report, parse_reports

_POLL_SECONDS = 0.05
_READ_BYTES = 1 << 16
_MAX_UNPARSED_BYTES = 1 << 13


class Outcome(Enum):
    """How waiting for a report ended."""

    DONE = "the command ended and the shell lives"
    SHELL_ENDED = "the shell itself ended"
    CONTROL_LOST = "the shell read its whole script and did not report"
    TIMEOUT = "the deadline passed"
    FLOOD = "more output than is allowed"
    SANDBOX_ENDED = "the sandbox is gone"


@dataclass(frozen=True, kw_only=True)
class Waited:
    """An outcome, with the report where there was one."""

    outcome: Outcome
    report: Report | None = None


class Channel:
    """Five pipes: script and go to the sandbox; report, stdout and stderr from it."""

    def __init__(self) -> None:
        script, self._script = os.pipe()
        self._report, report = os.pipe()
        go, self._go = os.pipe()
        self._stdout, stdout = os.pipe()
        self._stderr, stderr = os.pipe()
        self._script_reader = os.dup(script)
        self._inherited = [prepare_pipe_end(fd) for fd in (script, report, go, stdout, stderr)]
        for fd in (self._script, self._script_reader, self._report, self._stdout, self._stderr):
            os.set_blocking(fd, False)
        self._pending = b""
        self._unparsed = b""

    def inherited_ends(self, archive: int) -> ControlPipes:
        """The ends that the sandbox gets; `close_inherited` closes them here once it has them."""
        script, report, go, stdout, stderr = self._inherited
        return ControlPipes(archive=archive, script=script, report=report, go=go, stdout=stdout, stderr=stderr)

    def close_inherited(self) -> None:
        """Close the sandbox's ends on this side, so that their end is seen."""
        while self._inherited:
            os.close(self._inherited.pop())

    def close(self) -> None:
        """Close every end that is still open here."""
        self.close_inherited()
        for fd in (self._script, self._script_reader, self._report, self._go, self._stdout, self._stderr):
            os.close(fd)

    def tell_keeper(self, line: str) -> None:
        """Write one line to the keeper."""
        with suppress(BrokenPipeError):
            os.write(self._go, line.encode() + b"\n")

    def send(self, script: str) -> None:
        """Queue script text for the shell; `wait` writes it."""
        self._pending += script.encode("utf-8", errors="surrogateescape")

    def discard_script(self) -> None:
        """Drop what an ended shell did not read."""
        self._pending = b""
        with suppress(BlockingIOError):
            while os.read(self._script_reader, _READ_BYTES):
                pass

    def discard_output(self) -> None:
        """Drop the output that waits now."""
        for fd in (self._stdout, self._stderr):
            self._drain(fd, StreamTail(1))

    def wait(
        self,
        nonces: dict[str, str],
        *,
        deadline: float,
        stdout: StreamTail,
        stderr: StreamTail,
        flood_bytes: int | None = None,
    ) -> Waited:
        """Serve the pipes until a report of one of `nonces` (kind -> nonce), another outcome, or `deadline`.

        All that a command printed before its report is in `stdout` and `stderr` when this returns.
        """
        streams = {self._stdout: stdout, self._stderr: stderr}
        next_check = time.monotonic() + _POLL_SECONDS
        while True:
            now = time.monotonic()
            readable = self._serve(streams, min(next_check, deadline) - now)
            waited = self._read_report(nonces) if self._report in readable else None
            if waited is None and (now := time.monotonic()) >= next_check:
                next_check = now + _POLL_SECONDS
                # The order matters: a report is written before the last line is read. Where no command is waited for,
                # only for a killed shell's end, an empty pipe says nothing: the keeper may still have to notice.
                if "done" in nonces and not self._pending and _num_unread(self._script) == 0:
                    waited = self._read_report(nonces) or Waited(outcome=Outcome.CONTROL_LOST)
            if waited is None and flood_bytes is not None and stdout.num_bytes + stderr.num_bytes > flood_bytes:
                waited = Waited(outcome=Outcome.FLOOD)
            if waited is None and now >= deadline:
                waited = Waited(outcome=Outcome.TIMEOUT)
            if waited is not None:
                for fd, stream in streams.items():
                    self._drain(fd, stream)
                return waited

    def _serve(self, streams: dict[int, StreamTail], seconds: float) -> set[int]:
        """Wait at most `seconds` for any pipe, write and read once, and return the readable descriptors."""
        poll = select.poll()
        for fd in (self._report, *streams):
            poll.register(fd, select.POLLIN)
        if self._pending:
            poll.register(self._script, select.POLLOUT)
        ready = {fd for fd, _ in poll.poll(max(0.0, seconds) * 1000)}
        if self._script in ready:
            with suppress(BlockingIOError):
                self._pending = self._pending[os.write(self._script, self._pending[:_READ_BYTES]) :]
        for fd, stream in streams.items():
            if fd in ready:
                with suppress(BlockingIOError):
                    stream.add(os.read(fd, _READ_BYTES))
        return ready

    def _read_report(self, nonces: dict[str, str]) -> Waited | None:
        try:
            data = os.read(self._report, _READ_BYTES)
        except BlockingIOError:
            return None
        if not data:
            return Waited(outcome=Outcome.SANDBOX_ENDED)
        reports, rest = parse_reports(self._unparsed + data)
        self._unparsed = rest[-_MAX_UNPARSED_BYTES:]
        for report in reports:
            if nonces.get(report.kind) == report.nonce:
                done = report.kind == "done"
                return Waited(outcome=Outcome.DONE if done else Outcome.SHELL_ENDED, report=report)
        return None

    def _drain(self, fd: int, stream: StreamTail) -> None:
        """Read what waits now, and no more: a background job may go on writing for ever."""
        remaining = _num_unread(fd)
        with suppress(BlockingIOError):
            while remaining > 0 and (data := os.read(fd, min(remaining, _READ_BYTES))):
                stream.add(data)
                remaining -= len(data)


def _num_unread(fd: int) -> int:
    count = array.array("i", [0])
    fcntl.ioctl(fd, termios.FIONREAD, count)
    return count[0]
