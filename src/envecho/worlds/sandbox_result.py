"""What one command answered: `CommandResult`, and how it becomes typed segments.

Segments come in one order: stdout, stderr, status, notices. Not here: running commands
(`envecho.worlds.terminal.session`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from envecho.trajectory import Segment, Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_output import StreamText

STATE_LOST_NOTICE = "[the shell ended; a new one was started]"


@dataclass(frozen=True, kw_only=True)
class ObservationStyle:
    """What an observation shows beside the output: the command again (as a terminal does), and exit statuses."""

    command_echo: bool = False
    status: Literal["nonzero", "always", "never"] = "nonzero"


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """One command's answer.

    `exit_status` is None where the command did not end by itself. `shell_restarted` says that variables, functions and
    options of the old shell are gone. `sandbox_stopped` is the reason why the episode's sandbox is gone, or None.
    `num_replaced` counts the places of the output that were not UTF-8.

    Example:
        >>> CommandResult(segments=(Segment(source=Source.STDERR, text="no\\n"),), exit_status=1, seconds=0.01).stderr
        'no\\n'
    """

    segments: tuple[Segment, ...]
    exit_status: int | None
    seconds: float
    timed_out: bool = False
    truncated: bool = False
    shell_restarted: bool = False
    sandbox_stopped: str | None = None
    num_replaced: int = 0

    @property
    def stdout(self) -> str:
        """What is shown of stdout, without notices."""
        return self._of(Source.STDOUT)

    @property
    def stderr(self) -> str:
        """What is shown of stderr, without notices."""
        return self._of(Source.STDERR)

    def _of(self, source: Source) -> str:
        return "".join(segment.text for segment in self.segments if segment.source is source)


class SegmentWriter:
    """Collects segments; what the harness says starts on a line of its own."""

    def __init__(self) -> None:
        self._segments: list[Segment] = []

    def output(self, source: Source, text: str) -> None:
        """Add text of the world, exactly."""
        if text:
            self._segments.append(Segment(source=source, text=text))

    def notice(self, source: Source, text: str) -> None:
        """Add text of the harness; the newline before it, where one is needed, is the harness's too."""
        last = self._segments[-1].text if self._segments else "\n"
        self._segments.append(Segment(source=source, text=text if last.endswith("\n") else f"\n{text}"))

    def stream(self, source: Source, text: StreamText, limits: Limits) -> None:
        """Add one stream, with a notice where it was cut."""
        self.output(source, text.head)
        if text.num_omitted_bytes:
            what = f"{text.num_omitted_bytes} bytes left out: at most {limits.output_bytes} bytes of {source} are shown"
            self.notice(Source.TRUNCATION_NOTICE, f"[{what}]\n")
            self.output(source, text.tail)

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments so far."""
        return tuple(self._segments)
