"""SWE-agent `.traj`: `history` is what the model read, `trajectory` what the commands printed.

An observation's body is the raw one of `trajectory`, found in the history message that wraps it. The observation of
the last submit is the patch, which the model never saw, and stands in no history. Demonstrations were not sampled. Not
here: the words that SWE-agent writes around an output (`rules`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS, split
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "swe-agent"
_WRITTEN_BY_HARNESS = ("Exit due to", "exit_forfeit", "Exited (autosubmitted)")


def recognises(data: Any) -> bool:
    """Whether the document has SWE-agent's history of messages."""
    if not isinstance(data, Mapping) or not isinstance(data.get("history"), list):
        return False
    history = data["history"]
    return bool(history) and all(isinstance(m, Mapping) and "role" in m for m in history)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode of the main agent's history.

    Raises:
        DataError: the history cannot be read.
    """
    data = document.data
    history: Sequence[Mapping[str, Any]] = data["history"]
    turns = [_with_provenance(turn) for turn in turns_of(history)]
    steps = [step for step in data.get("trajectory") or () if isinstance(step, Mapping)]
    info = data.get("info") if isinstance(data.get("info"), Mapping) else {}
    first = next((place for place, turn in enumerate(turns) if turn.kind == "assistant" and turn.sampled), len(turns))
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError("expected at least one assistant message in history, found none")
    segments = _cut(turns, steps, first, options)
    models = info.get("model_stats")
    is_human = isinstance(models, Mapping) and models.get("api_calls") == 0
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(info["instance_id"]) if isinstance(info.get("instance_id"), str) else None,
        pack="swe-agent",
        world_speaks_as_user=True,
        action_provenance="not_sampled" if is_human else "assumed",
        segments=segments,
        facts={"exit_status": info.get("exit_status"), "num_observations_matched": len(segments)},
    )
    yield assemble(turns, origin, options)


def _with_provenance(turn: Turn) -> Turn:
    raw = turn.raw or {}
    by_harness = turn.kind == "assistant" and turn.text.startswith(_WRITTEN_BY_HARNESS)
    return replace(turn, sampled=turn.sampled and not raw.get("is_demo") and not by_harness)


def _cut(
    turns: Sequence[Turn], steps: Sequence[Mapping[str, Any]], first: int, options: ImportOptions
) -> dict[int, tuple[Segment, ...]]:
    """Find each raw observation in the next history message that holds it."""
    segments: dict[int, tuple[Segment, ...]] = {}
    place = first
    rules = options.rules + PACKS["swe-agent"]
    for step in steps:
        raw = step.get("observation")
        if not isinstance(raw, str) or not raw.strip():
            continue
        found = next(
            (p for p in range(place, len(turns)) if turns[p].kind in ("user", "tool") and raw in turns[p].text), None
        )
        if found is None:
            continue
        text = turns[found].text
        start = text.find(raw)
        around = (text[:start], text[start + len(raw) :])
        before, after = (split(part, rules, body=Source.WRAPPER) if part else () for part in around)
        segments[found] = (*before, *split(raw, rules, body=Source.STDOUT), *after)
        place = found + 1
    return segments
