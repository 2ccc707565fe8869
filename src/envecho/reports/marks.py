"""Marks what a predictor got wrong in a readout: runs of text, each a hit or a miss.

Not here: the readouts themselves (`envecho.evaluation`), and colours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Final

MISS: Final = "□"
"""What `Readout.teacher_forced` holds in place of a token that was not the predictor's first choice."""

MAX_CHARACTERS: Final = 1500


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run of text; `miss` where the predictor was wrong."""

    text: str
    miss: bool = False


def cut(runs: list[Run]) -> tuple[list[Run], int]:
    """Return the first `MAX_CHARACTERS` of the runs, and how many characters were left out."""
    kept: list[Run] = []
    room, left_out = MAX_CHARACTERS, 0
    for run in runs:
        part = run.text[:room]
        left_out += len(run.text) - len(part)
        room -= len(part)
        kept += [Run(text=part, miss=run.miss)] if part else []
    return kept, left_out


def mark_difference(predicted: str, actual: str) -> list[Run]:
    """Return the predicted text, with the words that are not in the actual text at that place marked.

    Text beyond `MAX_CHARACTERS` is not compared: it is one unmarked run.
    """
    words, truth = (re.findall(r"\w+|\W", text[:MAX_CHARACTERS]) for text in (predicted, actual))
    matcher = SequenceMatcher(a=truth, b=words, autojunk=False)
    runs = [
        Run(text="".join(words[start:end]), miss=kind != "equal")
        for kind, _, _, start, end in matcher.get_opcodes()
        if end > start
    ]
    return [*runs, Run(text=predicted[MAX_CHARACTERS:])] if len(predicted) > MAX_CHARACTERS else runs


def mark_teacher_forced(forced: str, actual: str) -> list[Run]:
    """Return the actual text with the tokens marked that the predictor's first choice missed.

    `forced` is the actual text with a `□` per missed token. Where the two cannot be laid side by side (a missed token
    was part of a character), `forced` itself is returned with its boxes marked.
    """
    runs: list[Run] = []
    at = 0
    pieces = [piece for piece in re.split(f"({MISS}+)", forced) if piece]
    for place, piece in enumerate(pieces):
        end = at + len(piece)
        if piece[0] == MISS:
            # The text after a miss is looked for as early as it can be, the last text at the very end.
            after = pieces[place + 1] if place + 1 < len(pieces) else ""
            is_last = place + 2 >= len(pieces)
            end = len(actual) - len(after) if is_last else actual.find(after, end)
            if end < at + len(piece):
                return _boxes(pieces)
        elif not actual.startswith(piece, at):
            return _boxes(pieces)
        runs.append(Run(text=actual[at:end], miss=piece[0] == MISS))
        at = end
    return runs if at == len(actual) else _boxes(pieces)


def _boxes(pieces: list[str]) -> list[Run]:
    return [Run(text=piece, miss=piece[0] == MISS) for piece in pieces]
