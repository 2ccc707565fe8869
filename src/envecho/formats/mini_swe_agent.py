"""mini-swe-agent, formats 1 and 1.1: `{"info": ..., "messages": [...], "trajectory_format": ...}`, or messages alone.

The best text source there is: since 1.1 a tool message holds the command's raw output beside what the model saw, and
both formats keep the templates that wrote their observations, so the body is found and not guessed; patterns come last.
In files of format 1 the last user message is the submitted patch, which no world said. Not here: turning a template
round (`templates`), and patterns of the text around an output (`rules`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats import chat_export
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS, Rule, split
from envecho.formats.templates import Unrendered, unrender
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "mini-swe-agent"
PACK = "mini-swe-agent"
_VERSIONS = ("mini-swe-agent-1", "mini-swe-agent-1.1")
_NOT_RUN = "action was not executed"
_BODIES: Final = ("output", "raw_output")
_JSON_OUTPUT = re.compile(r'"(output|output_head|output_tail)": "((?:[^"\\]|\\.)*)"')
_SIGN = re.compile(
    r"\A(?:<exception>(?s:.*?)</exception>\n)?<returncode>-?\d+</returncode>\n|\AThe last command <command>"
)


def recognises(data: Any) -> bool:
    """Whether the file names its format, or holds messages with the marks of its observations."""
    if isinstance(data, Mapping) and "trajectory_format" in data:
        return str(data["trajectory_format"]).startswith("mini-swe-agent")
    stored = data.get("messages") if isinstance(data, Mapping) else data
    if not isinstance(stored, list) or chat_export.recognises(data):  # messages with role spans are read by those
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
    templates = _Templates.of(info)
    if version == "mini-swe-agent-1":
        turns = _without_patch(turns, templates)
    cut = _Cut(rules=options.rules, templates=templates)
    segments = {place: found for place, turn in enumerate(turns) if (found := cut.segments(turn)) is not None}
    resolved = next((data[name] for name in ("resolved", "verified", "reward") if name in data), None)
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(data["instance_id"]) if isinstance(data.get("instance_id"), str) else None,
        reward=float(resolved) if isinstance(resolved, bool | int | float) else None,
        pack=PACK,
        world_speaks_as_user=True,
        action_provenance="proved" if _all_answered(turns) else "assumed",
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


def _all_answered(turns: list[Turn]) -> bool:
    """Whether the raw answer of the API stands beside every assistant turn: proof that it was sampled."""
    extras = [(turn.raw or {}).get("extra") for turn in turns if turn.kind == "assistant"]
    return bool(extras) and all(isinstance(extra, Mapping) and bool(extra.get("response")) for extra in extras)


@dataclass(frozen=True, kw_only=True)
class _Templates:
    """The templates that `info.config` keeps, turned round; None where a file keeps none."""

    observation: Unrendered | None = None
    format_error: Unrendered | None = None
    timeout: Unrendered | None = None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> _Templates:
        config = info["config"] if isinstance(info.get("config"), Mapping) else {}
        stored: dict[str, Any] = {}
        for room in ("agent", "model"):
            stored |= config[room] if isinstance(config.get(room), Mapping) else {}
        observation = stored.get("observation_template") or stored.get("action_observation_template")
        return cls(
            observation=unrender(observation, _BODIES),
            format_error=unrender(stored.get("format_error_template"), ()),
            timeout=unrender(stored.get("timeout_template"), _BODIES),
        )

    def wrote(self, text: str) -> bool:
        known = (self.observation, self.format_error, self.timeout)
        return any(template is not None and template.bodies(text) is not None for template in known)


def _without_patch(turns: list[Turn], templates: _Templates) -> list[Turn]:
    """Drop what format 1 writes as the last user turn: the submitted patch, which the model never saw."""
    last = turns[-1] if turns else None
    if last is None or last.kind != "user" or last.text.startswith("Please always provide"):
        return turns
    return turns if _SIGN.match(last.text) or templates.wrote(last.text) else turns[:-1]


@dataclass(frozen=True, kw_only=True)
class _Cut:
    """Cuts one turn by what the file says of it: the kind of interruption, the raw output, the template."""

    rules: tuple[Rule, ...]
    templates: _Templates

    def segments(self, turn: Turn) -> tuple[Segment, ...] | None:
        """Return the segments of an observation, None for an answer."""
        if turn.kind == "assistant":
            return None
        stored = turn.raw.get("extra") if turn.raw else None
        extra: Mapping[str, Any] = stored if isinstance(stored, Mapping) else {}
        if (kind := extra.get("interrupt_type")) is not None:
            source = Source.FORMAT_WARNING if kind == "FormatError" else Source.TASK
            return (Segment(source=source, text=turn.text),)
        if extra.get("exception_info") == _NOT_RUN:
            return (Segment(source=Source.HARNESS_NOTICE, text=turn.text),)
        if turn.text.lstrip().startswith("{") and (found := _json_segments(turn.text)):
            return found
        found = self._raw(turn.text, extra.get("raw_output")) or self._by_template(turn.text)
        return found or split(turn.text, self.rules + PACKS[PACK], body=Source.STDOUT)

    def _raw(self, text: str, raw: object) -> tuple[Segment, ...] | None:
        """Find the raw output; behind its tag first, since `0` also stands in a return code of 0."""
        for body in (raw, raw.rstrip("\n")) if isinstance(raw, str) and raw else ():
            place = text.find(f"<output>\n{body}")
            place = place + len("<output>\n") if place >= 0 else text.rfind(body)
            if place >= 0:
                return self._around(text, [(place, place + len(body))])
        return None

    def _by_template(self, text: str) -> tuple[Segment, ...] | None:
        if self.templates.format_error and self.templates.format_error.bodies(text) is not None:
            return (Segment(source=Source.FORMAT_WARNING, text=text),)
        for template, harness in ((self.templates.observation, None), (self.templates.timeout, Source.TIMEOUT_NOTICE)):
            if template and (spans := template.bodies(text)) is not None:
                return self._around(text, spans, harness)
        return None

    def _around(self, text: str, spans: list[tuple[int, int]], harness: Source | None = None) -> tuple[Segment, ...]:
        """The bodies at the spans; no part of the rest is the world's, whatever no rule matches."""
        found: list[Segment] = []
        done = 0
        for start, end in [*spans, (len(text), len(text))]:
            between = text[done:start]
            found += split(between, () if harness else PACKS[PACK], body=harness or Source.WRAPPER)
            found += split(text[start:end], self.rules, body=Source.STDOUT)
            done = end
        return tuple(found)


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
