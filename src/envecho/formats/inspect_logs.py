"""Logs of inspect: a sample with `epoch` and `messages` in an `.eval` archive, or a log with its `samples` in JSON.

`source: generate` proves that a model sampled a turn. Long strings stand elsewhere in the sample and are put back.
Which error a tool met says whether the world or the harness speaks. Not here: the archive (`reading`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.rules import PACKS, split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "inspect"
_OF_HARNESS: Final[dict[str, Source]] = {
    "parsing": Source.FORMAT_WARNING,
    "approval": Source.HARNESS_NOTICE,
    "limit": Source.HARNESS_NOTICE,
}
"""Errors that the harness raised; those of files and permissions are facts of the world, and a rule cuts the others."""


def recognises(data: Any) -> bool:
    """Whether the document is a sample, or a log with samples."""
    if not isinstance(data, Mapping):
        return False
    if isinstance(data.get("samples"), list) and isinstance(data.get("eval"), Mapping):
        return True
    return "epoch" in data and isinstance(data.get("messages"), list) and "target" in data


def is_part(data: Any) -> bool:
    """Whether the document is another file of an `.eval` archive, which holds no episode."""
    if isinstance(data, list):
        return not data or all(isinstance(e, Mapping) and ("scorer" in e or {"id", "epoch"} <= set(e)) for e in data)
    return isinstance(data, Mapping) and "eval" in data and "samples" not in data


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory | Refused]:
    """Yield the episode of a sample, or those of a log; a sample that cannot be read is refused by its number."""
    samples = document.data.get("samples")
    for place, sample in enumerate(samples if isinstance(samples, list) else [document.data]):
        try:
            if not isinstance(sample, Mapping):
                raise DataError(f"expected a sample, found {type(sample).__name__}")
            yield _episode(document, sample, place if isinstance(samples, list) else number, options)
        except MALFORMED as error:
            yield refuse(document, error, place=f"sample {place}" if isinstance(samples, list) else "")


def _episode(document: Document, sample: Mapping[str, Any], number: int | None, options: ImportOptions) -> Trajectory:
    attachments = sample["attachments"] if isinstance(sample.get("attachments"), Mapping) else {}
    messages = [_resolved(message, attachments) for message in sample.get("messages") or ()]
    turns = turns_of(messages)
    if any((turn.raw or {}).get("source") == "generate" for turn in turns):  # others were given, not sampled
        turns = [replace(turn, sampled=turn.sampled and _is_generated(turn)) for turn in turns]
    answers = [turn.raw or {} for turn in turns if turn.kind == "assistant"]
    proved = any(raw.get("source") == "generate" for raw in answers)
    segments = {place: cut for place, turn in enumerate(turns) if (cut := _error(turn)) is not None}
    scores = sample.get("scores")
    value = next(iter(scores.values()), {}).get("value") if isinstance(scores, Mapping) and scores else None
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(sample.get("id")),
        reward={"C": 1.0, "I": 0.0}.get(value) if isinstance(value, str) else _number(value),
        pack="inspect",
        action_provenance="proved" if proved else "assumed",
        segments=segments,
        facts={"epoch": sample.get("epoch")},
    )
    return assemble(turns, origin, options)


def _error(turn: Turn) -> tuple[Segment, ...] | None:
    """A tool turn that the harness answered instead of the tool; None leaves the turn to the rules."""
    error = turn.raw.get("error") if turn.raw else None
    if turn.kind != "tool" or not isinstance(error, Mapping):
        return None
    if error.get("type") == "timeout" and turn.text:  # what came before the time was up is the world's
        cut = split(turn.text, PACKS["inspect"], body=Source.TOOL_RESULT, tool=turn.name)
        is_cut = any(segment.source is Source.TIMEOUT_NOTICE for segment in cut)
        return cut if is_cut else (Segment(source=Source.TIMEOUT_NOTICE, text=turn.text, tool=turn.name),)
    source = _OF_HARNESS.get(str(error.get("type")))
    return (Segment(source=source, text=turn.text, tool=turn.name),) if source and turn.text else None


def _is_generated(turn: Turn) -> bool:
    return turn.kind != "assistant" or (turn.raw or {}).get("source") == "generate"


def _resolved(value: Any, attachments: Mapping[str, Any]) -> Any:
    """Put attachments back where they stood."""
    if isinstance(value, str):
        for scheme in ("attachment://", "tc://"):
            if value.startswith(scheme):
                name = value.removeprefix(scheme)
                if name not in attachments:
                    raise DataError(f"expected the attachment {name} in the sample, found none")
                return attachments[name]
        return value
    if isinstance(value, Mapping):
        return {key: _resolved(inner, attachments) for key, inner in value.items()}
    return [_resolved(inner, attachments) for inner in value] if isinstance(value, list) else value


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, bool | int | float) else None
