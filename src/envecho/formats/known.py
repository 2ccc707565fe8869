"""The formats that are known: how each is recognised and read, in the order in which they are tried.

Not here: reading files and telling what was found (`importing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, Protocol

from envecho.formats import (
    agent_data_protocol,
    agent_world_model,
    atif,
    calls,
    claude_code,
    codex,
    gemini_cli,
    harbor_results,
    inspect_logs,
    messages,
    mini_swe_agent,
    openenv_records,
    openhands,
    swe_agent,
    tau_bench,
    terminal_bench,
    toolbench,
    training_traces,
    verifiers_traces,
)
from envecho.formats.assemble import ImportOptions
from envecho.formats.reading import Document, Refused
from envecho.trajectory import Trajectory

Recognise = Callable[[Any], bool]


class ReadDocument(Protocol):
    """Yields the episodes of one document."""

    def __call__(
        self, document: Document, options: ImportOptions, *, number: int | None = None
    ) -> Iterator[Trajectory]:
        """Raise DataError where the document cannot be read."""
        ...


@dataclass(frozen=True, kw_only=True)
class Format:
    """How one family of documents is recognised and read.

    `read` takes one document. `read_lines` takes the lines of a session's file, of which `recognises` knows the first
    and `recognises_line` the others.
    """

    recognises: Recognise
    read: ReadDocument | None = None
    recognises_line: Recognise | None = None
    read_lines: Callable[[Iterable[Document], ImportOptions], Iterator[Trajectory | Refused]] | None = None


def _documents(module: Any) -> Format:
    return Format(recognises=module.recognises, read=module.read)


def _session(module: Any) -> Format:
    return Format(
        recognises=module.recognises,
        read=getattr(module, "read", None),
        recognises_line=module.recognises_line,
        read_lines=module.read_lines,
    )


FORMATS: Final[dict[str, Format]] = {
    verifiers_traces.NAME: _documents(verifiers_traces),
    harbor_results.NAME: _documents(harbor_results),
    calls.NAME: _session(calls),
    openenv_records.NAME: _documents(openenv_records),
    training_traces.NAME: _documents(training_traces),
    mini_swe_agent.NAME: _documents(mini_swe_agent),
    atif.NAME: _documents(atif),
    agent_world_model.NAME: _documents(agent_world_model),
    inspect_logs.NAME: _documents(inspect_logs),
    swe_agent.NAME: _documents(swe_agent),
    terminal_bench.NAME: _documents(terminal_bench),
    toolbench.NAME: _documents(toolbench),
    tau_bench.NAME: _documents(tau_bench),
    agent_data_protocol.NAME: _documents(agent_data_protocol),
    gemini_cli.NAME: _documents(gemini_cli),
    claude_code.NAME: _session(claude_code),
    codex.NAME: _session(codex),
    openhands.NAME: _session(openhands),
    messages.NAME: _documents(messages),
}
"""In the order in which they are tried: what names itself first, message lists last."""
