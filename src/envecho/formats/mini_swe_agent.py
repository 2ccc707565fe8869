"""mini-swe-agent, formats 1 and 1.1: `{"info": ..., "messages": [...], "trajectory_format": ...}`, or messages alone.

The best text source there is: since 1.1 a tool message holds the command's raw output beside what the model saw, so the
body is found and not guessed. In files of format 1 the last user message is the submitted patch, which no world said.
Not here: templates of the text around an output (`rules`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS, split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "mini-swe-agent"
PACK = "mini-swe-agent"
_VERSIONS = ("mini-swe-agent-1", "mini-swe-agent-1.1")
_JSON_OUTPUT = re.compile(r'"(output|output_head|output_tail)": "((?:[^"\\]|\\.)*)"')
_SIGN = re.compile(
    r"\A(?:<exception>(?s:.*?)</exception>\n)?<returncode>-?\d+</returncode>\n|\AThe last command <command>"
)


def recognises(data: Any) -> bool:
    """Whether the file names its format, or holds messages with the marks of its observations."""
    if isinstance(data, Mapping) and "trajectory_format" in data:
        return str(data["trajectory_format"]).startswith("mini-swe-agent")
    stored = data.get("messages") if isinstance(data, Mapping) else data
    if not isinstance(stored, list):
        return False
    return any(isinstance(m, Mapping) and m.get("role") == "user" and _SIGN.match(_text(m)) for m in stored)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: the version is unknown, or the messages cannot be read.
    """
    data: Mapping[str, Any] = document.data if isinstance(document.data, Mapping) else {"messages": document.data}
    version = data.get("trajectory_format", "mini-swe-agent-1")
    if version not in _VERSIONS:
        raise DataError(f"expected the format {' or '.join(_VERSIONS)}, found {version!r}; ask for an importer of it")
    stored = data.get("messages")
    if not isinstance(stored, list):
        raise DataError(f"expected a list under messages, found {type(stored).__name__}")
    turns = turns_of([message for message in stored if not _is_exit(message)])
    info = data["info"] if isinstance(data.get("info"), Mapping) else {}
    if version == "mini-swe-agent-1":
        turns = _without_patch(turns)
    segments = {place: cut for place, turn in enumerate(turns) if (cut := _segments(turn, options)) is not None}
    resolved = next((data[name] for name in ("resolved", "verified", "reward") if name in data), None)
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(data["instance_id"]) if isinstance(data.get("instance_id"), str) else None,
        reward=float(resolved) if isinstance(resolved, bool | int | float) else None,
        pack=PACK,
        world_speaks_as_user=True,
        segments=segments,
        facts={"format_version": version, "exit_status": info.get("exit_status") or data.get("exit_status")},
    )
    yield assemble(turns, origin, options)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""


def _is_exit(message: Any) -> bool:
    return isinstance(message, Mapping) and message.get("role") == "exit"


def _without_patch(turns: list[Turn]) -> list[Turn]:
    """Drop what format 1 writes as the last user turn: the submitted patch, which the model never saw."""
    last = turns[-1] if turns else None
    if (
        last
        and last.kind == "user"
        and not _SIGN.match(last.text)
        and not last.text.startswith("Please always provide")
    ):
        return turns[:-1]
    return turns


def _segments(turn: Turn, options: ImportOptions) -> tuple[Segment, ...] | None:
    """Cut by the raw output where the message holds it; None leaves the turn to the rules."""
    extra = turn.raw.get("extra") if turn.raw else None
    if not isinstance(extra, Mapping) or turn.kind == "assistant":
        return None
    if extra.get("interrupt_type") == "FormatError":
        return (Segment(source=Source.FORMAT_WARNING, text=turn.text),)
    if turn.text.lstrip().startswith("{"):
        return _json_segments(turn.text)
    raw = extra.get("raw_output")
    for body in (raw, raw.rstrip("\n")) if isinstance(raw, str) else ():
        place = turn.text.find(body) if body else -1
        if place >= 0:
            before, after = turn.text[:place], turn.text[place + len(body) :]
            return (*_harness(before), Segment(source=Source.STDOUT, text=body), *_harness(after))
    return split(turn.text, options.rules + PACKS[PACK], body=Source.STDOUT) if raw else None


def _json_segments(text: str) -> tuple[Segment, ...] | None:
    """The template that writes JSON: the bodies are the values of its output keys, as the model saw them, escaped."""
    found: list[Segment] = []
    done = 0
    for match in _JSON_OUTPUT.finditer(text):
        start, end = match.span(2)
        harness = _notice(text[done:start])
        found += [Segment(source=harness, text=text[done:start])]
        found += [Segment(source=Source.STDOUT, text=text[start:end])] if end > start else []
        done = end
    if not found:
        return None
    return (*found, Segment(source=_notice(text[done:]), text=text[done:]))


def _notice(text: str) -> Source:
    if "timed out" in text:
        return Source.TIMEOUT_NOTICE
    return Source.TRUNCATION_NOTICE if "elided" in text or "warning" in text else Source.STATUS


def _harness(text: str) -> tuple[Segment, ...]:
    """What the template wrote around an output: no part of it is the world's, whatever no rule matches."""
    if not text:
        return ()
    return tuple(s for s in split(text, PACKS[PACK], body=Source.WRAPPER) if s.text)
