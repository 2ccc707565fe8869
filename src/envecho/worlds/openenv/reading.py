"""Reading: an observation's fields become typed segments, as the environment's map says.

    {"stdout": "3\\n", "exit_code": 0}  --map-->  (stdout, "3\\n")

A field that no map names is never a target: its text is the harness's, or the grader's where its name looks like one.
Not here: which map (`maps`), servers of ours, whose segments come typed (`own`), and what an action is (`actions`).
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, cast, final

from envecho.trajectory import Segment, Source
from envecho.worlds.openenv.maps import CutRule, EnvironmentMap, FieldRule, SourceName

_GRADER: Final = re.compile(
    r"reward|score|correct|verif|grade|judge|rubric|ground_?truth|expected|solution|answer_key|tests?_passed|success_rate",
    re.IGNORECASE,
)
_OF_OPENENV: Final = ("metadata", "done", "reward")
_LONGEST_UNMAPPED: Final = 2_000
_OF_TOOLS: Final = {Source.TOOL_RESULT, Source.TOOL_ERROR}


def looks_like_a_grader(name: str) -> bool:
    """Say whether a field's name is one that graders use; the rule for fields that no map names."""
    return _GRADER.search(name) is not None


def clean(text: str) -> str:
    """Return text that every encoding can hold: lone surrogates, which JSON can say and UTF-8 cannot, become `?`."""
    return text.encode("utf-8", errors="replace").decode()


@final
class Reader:
    """Reads the observations of one episode; it remembers what growing fields have shown.

    `unmapped` are the paths of fields with something in them that the map does not name.
    """

    def __init__(self, environment: EnvironmentMap, where: object) -> None:
        self._map, self._where = environment, where
        self._shown: dict[str, Any] = {}
        self.unmapped: set[str] = set()

    def read_reset(self, observation: Mapping[str, Any]) -> tuple[Segment, ...]:
        """Read the answer to `reset`; what growing fields showed before is forgotten."""
        self._shown.clear()
        return self._read(observation, self._map.reset_fields, tool=None)

    def read_step(self, observation: Mapping[str, Any], *, tool: str | None = None) -> tuple[Segment, ...]:
        """Read the answer to an action; `tool` is the tool that it called."""
        return self._read(observation, self._map.fields, tool=tool)

    def _read(
        self, observation: Mapping[str, Any], rules: Mapping[str, FieldRule], *, tool: str | None
    ) -> tuple[Segment, ...]:
        parts: list[list[Segment]] = []
        for path, rule in rules.items():
            value = find(observation, path)
            if value is not None:
                parts += self._by_rule(path, value, rule, observation)
        known = {**self._map.fields, **self._map.reset_fields}
        unnamed = list(_unnamed(observation, known))
        self._tell_unmapped([path for path, _ in unnamed])
        parts += [[_unmapped_segment(path, value)] for path, value in unnamed]
        return tuple(_with_tool(segment, tool) for segment in _joined([self._capped(part) for part in parts]))

    def _tell_unmapped(self, paths: Sequence[str]) -> None:
        new = [path for path in paths if path not in self.unmapped]
        if new:
            self.unmapped.update(new)
            warnings.warn(
                f"{self._where}: the map {self._map.name!r} does not name {', '.join(new)}; their text is shown as the "
                "harness's (a grader's by its name) and not trained. `envecho check-world URL` proposes a map",
                stacklevel=2,
            )

    def _by_rule(self, path: str, value: Any, rule: FieldRule, observation: Mapping[str, Any]) -> list[list[Segment]]:
        """Return the segments of each text of a field, of which there are several where it is a list."""
        if rule.growing:
            value = self._rest(path, value, rule)
        if rule.each is not None and isinstance(value, list):
            each = rule.each
            items: list[Any] = value
            chosen = [(_item_text(item, each.text), _choose(rule, find_text(item, each.by))) for item in items]
        else:
            by = find_text(observation, rule.by)
            chosen = [(text_of(value), _choose(rule, by))]
        return [
            list(_cut(clean(text), Source(source), rule.cut)) for text, source in chosen if source != "ignore" and text
        ]

    def _rest(self, path: str, value: Any, rule: FieldRule) -> Any:
        """Return what a growing field shows for the first time."""
        before, self._shown[path] = self._shown.get(path), value
        if isinstance(value, str) and isinstance(before, str) and value.startswith(before):
            return value[len(before) :]
        if not isinstance(value, list) or not isinstance(before, list):
            return value
        items, seen = cast("list[Any]", value), cast("list[Any]", before)
        if items[: len(seen)] == seen:
            return items[len(seen) :]
        last = len(seen) - 1
        if rule.each is not None and last >= 0 and items[:last] == seen[:last] and len(items) > last:
            old, new = _item_text(seen[last], rule.each.text), _item_text(items[last], rule.each.text)
            if new.startswith(old):
                return [{**items[last], rule.each.text: new[len(old) :]}, *items[last + 1 :]]
        return items

    def _capped(self, part: list[Segment]) -> list[Segment]:
        """Cut a text that would fill a context, and say so."""
        room, kept = self._map.max_field_chars, list[Segment]()
        for segment in part:
            kept += [segment.model_copy(update={"text": segment.text[:room]})] if room > 0 else []
            room -= len(segment.text)
        if room < 0:
            notice = f"\n[{-room} more characters are not shown]\n"
            kept.append(Segment(source=Source.TRUNCATION_NOTICE, text=notice))
        return kept


# --- values -------------------------------------------------------------------------------------------------------


def find(values: Any, path: str) -> Any:
    """Return the value at a dotted path, None where there is none."""
    for key in path.split("."):
        if not isinstance(values, Mapping):
            return None
        values = cast("Mapping[str, Any]", values).get(key)
    return values


def find_text(values: Any, path: str) -> str:
    """Return the value at a path as text, empty where there is no path or no value."""
    value = find(values, path) if path else None
    return "" if value is None else str(value)


def text_of(value: Any) -> str:
    """Return a field's value as text: text itself, the text parts of an MCP result, else JSON in one line."""
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, Any]", value)
        content = fields.get("content")
        if isinstance(content, list) and content:
            texts = [find(part, "text") for part in cast("list[Any]", content)]
            if all(isinstance(text, str) for text in texts):
                return "\n".join(texts)
        if isinstance(fields.get("message"), str) and "error_type" in fields:
            return fields["message"]
    return json.dumps(value, ensure_ascii=False, default=str)


def is_tool_error(value: Any) -> bool:
    """Say whether an MCP result states that the tool failed."""
    return isinstance(value, Mapping) and cast("Mapping[str, Any]", value).get("is_error") is True


def _item_text(item: Any, key: str) -> str:
    return text_of(find(item, key)) if isinstance(item, Mapping) else text_of(item)


def _choose(rule: FieldRule, value: str) -> SourceName:
    return rule.sources.get(value, rule.source)


def _unnamed(observation: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield path and value of what the map does not name; empty values say nothing and are left out."""
    stack = [("", key, value) for key, value in reversed(list(observation.items())) if key not in _OF_OPENENV]
    while stack:
        prefix, key, value = stack.pop()
        path = f"{prefix}{key}"
        if path in known or value in (None, "", [], {}):
            continue
        if isinstance(value, Mapping) and any(name.startswith(f"{path}.") for name in known):
            inner = cast("Mapping[str, Any]", value)
            stack += [(f"{path}.", name, part) for name, part in reversed(list(inner.items()))]
        else:
            yield path, value


def _unmapped_segment(path: str, value: Any) -> Segment:
    if isinstance(value, str):
        source = Source.GRADER if looks_like_a_grader(path) else Source.HARNESS_NOTICE
        return Segment(source=source, text=clean(value))
    source, text = Source.GRADER if looks_like_a_grader(path) else Source.STATUS, text_of(value)
    if len(text) > _LONGEST_UNMAPPED:
        text = f"[{len(text)} characters of data are not shown]"  # a picture, most likely
    return Segment(source=source, text=clean(f"{path}: {text}"))


# --- segments -----------------------------------------------------------------------------------------------------


def _cut(text: str, source: Source, rules: Sequence[CutRule]) -> Iterator[Segment]:
    """Split a field's text where a rule says that a stretch of it is another's; where rules overlap the first holds."""
    owner: list[Source] = [source] * len(text) if rules else []
    for rule in reversed(rules):
        for found in re.finditer(rule.pattern, text, re.MULTILINE):
            owner[found.start() : found.end()] = [rule.source] * (found.end() - found.start())
    if not rules:
        yield Segment(source=source, text=text)
        return
    start = 0
    for end in range(1, len(text) + 1):
        if end == len(text) or owner[end] is not owner[start]:
            yield Segment(source=owner[start], text=text[start:end])
            start = end


def _with_tool(segment: Segment, tool: str | None) -> Segment:
    return segment.model_copy(update={"tool": tool}) if segment.source in _OF_TOOLS else segment


def _joined(parts: Sequence[Sequence[Segment]]) -> list[Segment]:
    """Put a line break between texts that would run into each other; it is nobody's output."""
    told: list[Segment] = []
    for part in parts:
        if told and part and not told[-1].text.endswith("\n"):
            told.append(Segment(source=Source.WRAPPER, text="\n"))
        told += part
    return told
