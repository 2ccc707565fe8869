"""Answers of ToolBench: `{"tree", "answer_generation": {"train_messages": [[...], [...]], "query", "function"}}`.

`train_messages` are cumulative lists of one path through the search tree: the longest is the episode. The tools are
played by a model or by a cache of answers (`environment_simulated`). User turns with `valid: false` are the search's
own prompts for another try. Not here: the tree itself, whose pruned nodes no path shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.turns import turns_of
from envecho.trajectory import Segment, Source, Trajectory

NAME = "toolbench"


def recognises(data: Any) -> bool:
    """Whether the document holds an answer and its generation."""
    return isinstance(data, Mapping) and isinstance(data.get("answer_generation"), Mapping)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: there are no messages, as in answers that failed.
    """
    data = document.data
    generation: Mapping[str, Any] = data["answer_generation"]
    stored = generation.get("train_messages")
    lists = [entry for entry in stored if isinstance(entry, list)] if isinstance(stored, list) else []
    if not lists:
        raise DataError("expected lists of messages under answer_generation.train_messages, found none")
    turns = turns_of(max(lists, key=len))
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError("expected at least one answer of a model, found none")
    functions = generation.get("function")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(generation["query"]) if isinstance(generation.get("query"), str) else None,
        environment_simulated=True,
        segments={
            place: (Segment(source=Source.HARNESS_NOTICE, text=turn.text),)
            for place, turn in enumerate(turns)
            if turn.kind == "user" and (turn.raw or {}).get("valid") is False
        },
        tools=tuple({"type": "function", "function": dict(f)} for f in functions if isinstance(f, Mapping))
        if isinstance(functions, list)
        else (),
        facts={"num_shorter_lists": len(lists) - 1, "finish_type": generation.get("finish_type")},
    )
    yield assemble(turns, origin, options)
