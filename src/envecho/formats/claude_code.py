"""Sessions of Claude Code: one JSON object per line, `{"type", "uuid", "parentUuid", "sessionId", "message"}`.

One answer of the model lies on several lines with one message id: they are one turn. Sub-agents' lines are interleaved
and have a root of their own; `/clear` and a compaction begin a new episode. The system prompt and the tool schemas are
not in the file, so the context is incomplete. `toolUseResult` says what of a result was standard output and error. Not
here: single messages (`turns`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.rules import PACKS, Rule, split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "claude-code"
_KINDS: Final = ("user", "assistant")
_OTHERS: Final = ("summary", "file-history-snapshot", "system", "progress", "queue-operation", "attachment", "ai-title",
                  "custom-title", "last-prompt", "agent-name", "permission-mode", "pr-link")  # fmt: skip
_MARKS: Final = ("sessionId", "parentUuid", "leafUuid", "snapshot", "uuid")
_RESULT: Final = "envecho_tool_use_result"


def recognises(data: Any) -> bool:
    """Whether a line is one of a session's."""
    if not isinstance(data, Mapping):
        return False
    if data.get("type") in _OTHERS:
        return any(mark in data for mark in _MARKS)
    is_message = data.get("type") in _KINDS and isinstance(data.get("message"), Mapping)
    return is_message and any(mark in data for mark in (*_MARKS, "timestamp"))


def recognises_line(data: Any) -> bool:
    """Whether a line belongs to a session that has begun: any that says its type and its session."""
    return recognises(data) or (isinstance(data, Mapping) and isinstance(data.get("type"), str) and "sessionId" in data)


_Line = tuple[Document, Mapping[str, Any]]


def read_lines(documents: Iterable[Document], options: ImportOptions) -> Iterator[Trajectory | Refused]:
    """Yield the episodes of a session's file: the main thread's, cut at `/clear` and compactions, and each sub-agent's.

    An episode with a message that cannot be read is refused; the others are read.
    """
    threads: dict[str, list[_Line]] = {}
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
        try:
            yield from _episode(number, thread, lines, options)
        except MALFORMED as error:
            yield refuse(lines[0][0], error, place=f"the {thread.split('-')[0].split('/')[0]} thread from here on")


def _episode(number: int, thread: str, lines: list[_Line], options: ImportOptions) -> Iterator[Trajectory]:
    messages: list[dict[str, Any]] = []
    last_id: str | None = None
    for _, line in lines:
        message = dict(line["message"])
        identity = message.get("id")
        if line["type"] == "assistant" and identity and identity == last_id:
            messages[-1]["content"] = [*_blocks(messages[-1]["content"]), *_blocks(message.get("content"))]
        else:
            messages.append({"role": line["type"], **message, _RESULT: line.get("toolUseResult")})
        if message.get("model") == "<synthetic>" or line.get("isApiErrorMessage"):
            messages[-1]["sampled"] = False  # the harness wrote it in the model's name
        last_id = identity if line["type"] == "assistant" else None
    turns = turns_of(messages)
    if not any(turn.kind == "assistant" for turn in turns):
        return
    first, line = lines[0]
    rules = options.rules + PACKS["claude-code"]
    cuts = {place: cut for place, turn in enumerate(turns) if (cut := _by_streams(turn, rules)) is not None}
    origin = Origin(
        format=NAME,
        document=Document(file=first.file, data=None),
        number=number,
        pack="claude-code",
        action_provenance="proved",
        action_text_lossy=True,
        context_incomplete=True,
        segments=cuts,
        facts={
            "session_id": line.get("sessionId"),
            "format_version": line.get("version"),
            "thread": thread.split("-")[0],
        },
    )
    yield assemble(turns, origin, options)


def _by_streams(turn: Turn, rules: tuple[Rule, ...]) -> tuple[Segment, ...] | None:
    """Cut a command's result into its standard output and error; None where the line does not tell them."""
    streams = (turn.raw or {}).get(_RESULT)
    if turn.kind != "tool" or not isinstance(streams, Mapping):
        return None
    found: list[Segment] = []
    done = 0
    for key, source in (("stdout", Source.STDOUT), ("stderr", Source.STDERR)):
        text = streams.get(key)
        text = text.strip("\n") if isinstance(text, str) else ""
        start = turn.text.find(text, done) if text.strip() else -1
        if start >= 0:
            found += split(turn.text[done:start], rules, body=Source.WRAPPER)
            found += split(text, rules, body=source)
            done = start + len(text)
    if not found:
        return None
    return (*found, *split(turn.text[done:], rules, body=Source.WRAPPER))


def _clears(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and "<command-name>/clear</command-name>" in content


def _blocks(content: Any) -> list[Any]:
    return list(content) if isinstance(content, list) else [{"type": "text", "text": str(content or "")}]
