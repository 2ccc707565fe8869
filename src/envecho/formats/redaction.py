"""Secrets are taken out of a trajectory before anything in it becomes a target: `Redactor`.

Searched are the joined content of each message, reasoning, arguments of calls, tool schemas, metadata and the task's
name, first for known secrets, the user's patterns and what a hook finds, then for what was found, wherever it stands
again without the words that told it.

    content                 a segment of its own, `[redacted:NAME]`, source `redacted`: context, whoever wrote it
    other texts             `[redacted:NAME]` in place; the turn's label `redacted` names what its own words hid
    ids that were sampled   text and ids stay as they are, the secret's characters get the source, the turn the label

Not here: what a secret looks like (`secret_patterns`), and that tokens of a mark have no weight (`envecho.tokens`).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import quote

from envecho.errors import ConfigError
from envecho.formats.rule_file import read_rule_file
from envecho.formats.secret_patterns import Literals, SecretPattern, Span, find_known, literals_in
from envecho.trajectory import Message, Segment, Source, ToolCall, Trajectory
from envecho.trajectory.redacted import REDACTED_LABEL, REDACTION_MARK, redaction_mark

Hook = Callable[[str], Iterable[Span]]
"""A user's own search: a text to (start, end, name) of each secret in it."""

MIN_REPEATED: Final = 8
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,40}")
_TOLD_BY_CONTEXT = ("authorization", "url-password", "assigned-secret")
_KEY_LINE = re.compile(r"[A-Za-z0-9+/=]{32,}")


@dataclass(frozen=True, kw_only=True)
class Redacted:
    """`counts` are places by kind; `num_kept` of them still stand in text and ids, because the ids are exact."""

    trajectory: Trajectory
    counts: Counter[str]
    num_kept: int = 0


@dataclass(frozen=True, kw_only=True)
class Redactor:
    """What is taken for a secret beside the known kinds: the user's `patterns`, and what `hook` finds."""

    patterns: tuple[SecretPattern, ...] = ()
    hook: Hook | None = None

    def find(self, text: str, *, among: Literals | None = None) -> list[Span]:
        """Return the secrets of a text in order; those that overlap are one, and marks of earlier ones are none.

        `among` are the literals of known kinds that may stand in it; None: any.

        Raises:
            ConfigError: the hook returned something else than (start, end, name) within the text.
        """
        found = [span for pattern in self.patterns for span in pattern.spans(pattern.pattern.finditer(text))]
        if self.hook is not None:
            found += [_checked(span, text) for span in self.hook(text)]
        found += find_known(text, among=among)
        marks = [match.span() for match in REDACTION_MARK.finditer(text)] if found else []
        return _merged(span for span in found if not any(a <= span[0] and span[1] <= b for a, b in marks))

    def redact(self, trajectory: Trajectory) -> Redacted:
        """Return the trajectory without secrets, and how many places of each kind there were.

        Raises:
            ConfigError: as `find`.
        """
        texts = dict.fromkeys(_texts(trajectory))
        among = literals_in("\0".join(texts))
        found = {text: self.find(text, among=among) for text in texts}
        if not any(found.values()):
            return Redacted(trajectory=trajectory, counts=Counter())
        return _Redaction(found, self.find).apply(trajectory)


def redacted(trajectory: Trajectory, redactor: Redactor | None) -> Trajectory:
    """Return an imported trajectory without secrets; its `metadata["import"]` says how many of each kind there were.

    Without a redactor nothing is searched, and the metadata says nothing.
    """
    if redactor is None:
        return trajectory
    done = redactor.redact(trajectory)
    facts: dict[str, Any] = {"redacted": dict(sorted(done.counts.items()))}
    if done.num_kept:
        facts["num_redacted_in_ids"] = done.num_kept
    pairs = zip(trajectory.messages, done.trajectory.messages, strict=True)
    if any(old.role == "assistant" and _said(old) != _said(new) for old, new in pairs):
        facts["action_text_lossy"] = True
    metadata = done.trajectory.metadata
    return done.trajectory.model_copy(update={"metadata": metadata | {"import": metadata.get("import", {}) | facts}})


def _said(message: Message) -> tuple[str, str | None, tuple[ToolCall, ...]]:
    return message.content, message.reasoning, message.tool_calls


class _Redaction:
    """Rewrites one trajectory; `found` are the secrets of each of its texts."""

    def __init__(self, found: Mapping[str, list[Span]], find: Callable[[str], list[Span]]) -> None:
        self._found, self._find = found, find
        self._counts: Counter[str] = Counter()
        self._num_kept = 0
        self._names = _repeatable(text[s:e] for text, spans in found.items() for s, e, _ in spans)
        self._kinds = {text[s:e]: name for text, spans in found.items() for s, e, name in spans}
        longest_first = sorted(self._names, key=len, reverse=True)
        self._again = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def apply(self, trajectory: Trajectory) -> Redacted:
        """Return the trajectory and the counts; its ids stay, and stay valid."""
        exact = bool(trajectory.branches)
        messages = tuple(self._message(message, keep=exact) for message in trajectory.messages)
        changed = {
            "messages": messages,
            "task_id": self._text(trajectory.task_id),
            "tools": trajectory.tools if exact else self._value(trajectory.tools),
            "metadata": self._value(trajectory.metadata),
        }
        new = trajectory.model_copy(update=changed)
        return Redacted(trajectory=new, counts=self._counts, num_kept=self._num_kept)

    def _message(self, message: Message, *, keep: bool) -> Message:
        keep = keep or message.sampled is not None
        changed: dict[str, Any] = {}
        before = self._counts.copy()
        if spans := self._spans(message.content):
            changed["segments"] = cut_segments(message.segments, spans, keep_text=keep)
            self._counts.update(name for _, _, name in spans)
        in_content = self._counts - before
        if message.reasoning:
            changed["reasoning"] = self._text(message.reasoning)
        if message.tool_calls:
            changed["tool_calls"] = tuple(self._call(call) for call in message.tool_calls)
        in_message = self._counts - before
        own = in_message if keep else in_message - in_content
        if keep:
            self._num_kept += in_message.total()
            changed = {"segments": changed["segments"]} if in_content else {}
        if own and message.role == "assistant":
            changed["labels"] = message.labels | {REDACTED_LABEL: ",".join(sorted(own))}
        return message.model_copy(update=changed) if changed else message

    def _call(self, call: ToolCall) -> ToolCall:
        """The call without secrets; arguments that were JSON stay JSON, and what that says is searched too."""
        before = self._counts.copy()
        new = self._text(call.arguments)
        if _is_json(call.arguments) and not (_is_json(new) and self._is_clean(new)):
            self._counts = before
            new = json.dumps(self._value(json.loads(call.arguments)), ensure_ascii=False)
        return call.model_copy(update={"arguments": new}) if new != call.arguments else call

    def _is_clean(self, arguments: str) -> bool:
        return "\\" not in arguments or not any(self._spans(leaf) for leaf in _leaves(json.loads(arguments)))

    def _value(self, value: Any) -> Any:
        """Replace in every string of a JSON value; keys stay."""
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, Mapping):
            return {key: self._value(part) for key, part in cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, list | tuple):
            parts = [self._value(part) for part in cast("Sequence[Any]", value)]
            return tuple(parts) if isinstance(value, tuple) else parts
        return value

    def _text(self, text: str) -> str:
        pieces: list[str] = []
        done = 0
        for start, end, name in self._spans(text):
            pieces += [text[done:start], redaction_mark(name)]
            done = end
            self._counts[name] += 1
        return "".join((*pieces, text[done:])) if done else text

    def _spans(self, text: str) -> list[Span]:
        spans = list(self._found[text] if text in self._found else self._find(text))
        if self._again is not None:
            spans += [(m.start(), m.end(), self._kinds[self._names[m.group()]]) for m in self._again.finditer(text)]
        return _merged(spans)


def cut_segments(segments: Sequence[Segment], spans: Sequence[Span], *, keep_text: bool) -> tuple[Segment, ...]:
    """Return segments in which each span of their joined text is a `redacted` one; the others keep text and source.

    A span over several segments becomes one mark, where it begins; with `keep_text` each part keeps its characters.
    """
    found: list[Segment] = []
    offset = number = 0
    for segment in segments:
        done, last = offset, offset + len(segment.text)
        while number < len(spans) and spans[number][0] < last:
            start, end, name = spans[number]
            first, stop = max(start, offset), min(end, last)
            if first > done:
                found.append(segment.model_copy(update={"text": segment.text[done - offset : first - offset]}))
            text = segment.text[first - offset : stop - offset] if keep_text else redaction_mark(name)
            if keep_text or start >= offset:
                found.append(Segment(source=Source.REDACTED, text=text, tool=segment.tool))
            done = stop
            if end > last:
                break
            number += 1
        if done < last or not segment.text:
            found.append(segment.model_copy(update={"text": segment.text[done - offset :]}))
        offset = last
    return tuple(found)


def load_patterns(path: Path) -> tuple[SecretPattern, ...]:
    """Read a user's `[[redact]]` tables; a group named `secret` says which part of a match is the secret.

    Raises:
        ConfigError: the file is no such TOML, a name is not in lower case, or a pattern does not compile or matches
            the empty text.
    """
    found: list[SecretPattern] = []
    for number, entry in enumerate(read_rule_file(path)["redact"], 1):
        where = f"{path}: [[redact]] table {number}"
        if not isinstance(entry, dict) or set(cast("dict[str, Any]", entry)) != {"pattern", "name"}:
            raise ConfigError(f"{where} needs pattern and name, and nothing else; found {entry!r}")
        name, text = entry["name"], entry["pattern"]
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: expected a name of lower-case letters, digits, - and _; found {name!r}")
        try:
            pattern = re.compile(text, re.MULTILINE)
        except (re.error, TypeError) as error:
            raise ConfigError(f"{where}: the pattern does not compile: {error}") from None
        if pattern.match(""):
            raise ConfigError(f"{where}: the pattern {text!r} matches the empty text, so it would be found everywhere")
        found.append(SecretPattern(name=name, pattern=pattern))
    return tuple(found)


@dataclass(frozen=True)
class NamedHook:
    """A hook by its name, which another process can load again."""

    name: str

    def __call__(self, text: str) -> Iterable[Span]:
        """Call the function."""
        return _function(self.name)(text)


def load_hook(name: str) -> Hook:
    """Return the function that `MODULE:FUNCTION` or `FILE.py:FUNCTION` names, as a hook that can be pickled.

    Raises:
        ConfigError: there is no such module, file or function.
    """
    _function(name)
    return NamedHook(name)


@cache
def _function(name: str) -> Hook:
    module_name, _, function = name.rpartition(":")
    if not module_name or not function:
        raise ConfigError(f"expected MODULE:FUNCTION or FILE.py:FUNCTION for the redaction hook, found {name!r}")
    try:
        is_file = module_name.endswith(".py")
        module = _module_of_file(Path(module_name)) if is_file else importlib.import_module(module_name)
    except (ImportError, OSError, SyntaxError) as error:
        raise ConfigError(f"the redaction hook {name!r}: {module_name} cannot be imported: {error}") from error
    found = getattr(module, function, None)
    if not callable(found):
        raise ConfigError(f"the redaction hook {name!r}: {module_name} has no function {function!r}")
    return cast("Hook", found)


def _module_of_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _checked(span: Any, text: str) -> Span:
    try:
        start, end, name = span
        if 0 <= int(start) < int(end) <= len(text) and _NAME.fullmatch(name):
            return int(start), int(end), str(name)
    except (TypeError, ValueError):
        pass
    raise ConfigError(
        f"the redaction hook returned {span!r} for a text of {len(text)} characters; expected (start, end, name) with "
        "0 <= start < end within the text and a name of lower-case letters, digits, - and _"
    )


def _merged(spans: Iterable[Span]) -> list[Span]:
    """Disjoint spans in order; of those that overlap the first kind counts that the secret itself tells."""
    rank = {name: place for place, name in enumerate(_TOLD_BY_CONTEXT, 1)}
    merged: list[Span] = []
    for start, end, name in sorted(spans, key=lambda span: (span[0], -span[1], rank.get(span[2], 0), span[2])):
        if merged and start < merged[-1][1]:
            first, last, kept = merged[-1]
            merged[-1] = (first, max(last, end), min(kept, name, key=lambda kind: rank.get(kind, 0)))
        else:
            merged.append((start, end, name))
    return merged


def _repeatable(secrets: Iterable[str]) -> dict[str, str]:
    """Every spelling under which a secret may stand again, with the secret as it was found.

    Only what looks generated is searched again: a password like `postgres` is a word of ordinary text too.
    """
    names: dict[str, str] = {}
    for secret in secrets:
        parts = _KEY_LINE.findall(secret) if "PRIVATE KEY" in secret else [secret]
        for part in (secret, *parts):
            if len(part) >= MIN_REPEATED and _looks_generated(part):
                spellings = (
                    part,
                    json.dumps(part)[1:-1],
                    json.dumps(part, ensure_ascii=False)[1:-1],
                    quote(part, safe=""),
                )
                names.update(dict.fromkeys(spellings, secret))
    return names


def _looks_generated(text: str) -> bool:
    kinds = (str.isdigit, str.islower, str.isupper, lambda c: not c.isalnum())
    present = [any(kind(c) for c in text) for kind in kinds]
    return (present[0] and (present[1] or present[2])) or sum(present) >= 3


def _texts(trajectory: Trajectory) -> Iterator[str]:
    """Every text in which a secret may stand; arguments of calls also as what their JSON says."""
    yield trajectory.task_id
    yield from _leaves(trajectory.tools)
    yield from _leaves(trajectory.metadata)
    for message in trajectory.messages:
        yield message.content
        if message.reasoning:
            yield message.reasoning
        for call in message.tool_calls:
            yield call.arguments
            if "\\" in call.arguments and _is_json(call.arguments):
                yield from _leaves(json.loads(call.arguments))


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in cast("Mapping[Any, Any]", value).values():
            yield from _leaves(part)
    elif isinstance(value, list | tuple):
        for part in cast("Sequence[Any]", value):
            yield from _leaves(part)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
