"""Sessions of Claude Code: one JSON object per line, `{"type", "uuid", "parentUuid", "sessionId", "message"}`.

One answer of the model lies on several lines with one message id: they are one turn. Sub-agents' lines are interleaved
and have a root of their own; `/clear` and a compaction begin a new episode. The system prompt and the tool schemas are
not in the file, so the context is incomplete. Not here: single messages (`turns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.turns import turns_of
from envecho.trajectory import Trajectory

NAME = "claude-code"
_KINDS = ("user", "assistant")


def recognises(data: Any) -> bool:
    """Whether a line is one of a session's."""
    return isinstance(data, Mapping) and "sessionId" in data and ("parentUuid" in data or "leafUuid" in data)


def recognises_line(data: Any) -> bool:
    """Whether a line belongs to a session that has begun, such as a summary."""
    return recognises(data) or (isinstance(data, Mapping) and data.get("type") in ("summary", "file-history-snapshot"))


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory]:
    """Yield the episodes of a session's file: the main thread's, cut at `/clear` and compactions, and each sub-agent's.

    Raises:
        DataError: a message cannot be read.
    """
    threads: dict[str, list[tuple[Document, Mapping[str, Any]]]] = {}
    root_of: dict[str, str] = {}
    part: dict[str, int] = {}
    for document in documents:
        line = document.data
        if line.get("type") not in _KINDS or not isinstance(line.get("message"), Mapping):
            continue
        identity, parent = str(line.get("uuid")), line.get("parentUuid")
        if line.get("isSidechain"):
            thread = root_of.get(str(parent), f"side-{identity}")
            root_of[identity] = thread
        else:
            thread = "main"
        if line.get("isCompactSummary") or _clears(line["message"]):
            part[thread] = part.get(thread, 0) + 1
        if not _clears(line["message"]):
            threads.setdefault(f"{thread}/{part.get(thread, 0)}", []).append((document, line))
    for number, (thread, lines) in enumerate(threads.items()):
        yield from _episode(number, thread, lines, options)


def _episode(
    number: int, thread: str, lines: list[tuple[Document, Mapping[str, Any]]], options: ImportOptions
) -> Iterator[Trajectory]:
    messages: list[dict[str, Any]] = []
    last_id: str | None = None
    for _, line in lines:
        message = dict(line["message"])
        identity = message.get("id")
        if line["type"] == "assistant" and identity and identity == last_id:
            messages[-1]["content"] = [*_blocks(messages[-1]["content"]), *_blocks(message.get("content"))]
        else:
            messages.append({"role": line["type"], **message})
        last_id = identity if line["type"] == "assistant" else None
    turns = turns_of(messages)
    if not any(turn.kind == "assistant" for turn in turns):
        return
    first, line = lines[0]
    origin = Origin(
        format=NAME,
        document=Document(file=first.file, data=None),
        number=number,
        pack="claude-code",
        action_provenance="proved",
        action_text_lossy=True,
        context_incomplete=True,
        facts={
            "session_id": line.get("sessionId"),
            "format_version": line.get("version"),
            "thread": thread.split("-")[0],
        },
    )
    yield assemble(turns, origin, options)


def _clears(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and "<command-name>/clear</command-name>" in content


def _blocks(content: Any) -> list[Any]:
    return list(content) if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]
