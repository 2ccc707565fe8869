"""Commands whose output is a function of text that was already shown, by operation.

Six operations: slice, filter, count, sort, field, join. Each function draws one command from a generator; its output
depends only on the command and on the documents it reads: `tests/worlds/test_operations.py` proves it by running the
command in a box that holds nothing else. Not here: in which order they are asked (`explorer`).
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable

from envecho.worlds.terminal.boxes import Document

OPERATIONS = ("slice", "filter", "count", "sort", "field", "join")


def slice_command(rng: random.Random, document: Document) -> str:
    """Draw a command that shows the first or the last lines."""
    return f"{rng.choice(('head', 'tail'))} -n {rng.randrange(1, 5)} {document.path}"


def filter_command(rng: random.Random, document: Document) -> str:
    """Draw a command that keeps the lines with a word, or those without it."""
    word = _word(rng, rng.choice(document.rows))
    return f"grep {rng.choice(('', '', '', '-v '))}{shlex.quote(word)} {document.path}"


def count_command(rng: random.Random, document: Document) -> str:
    """Draw a command that counts lines, or the lines with a word."""
    word = _word(rng, rng.choice(document.rows))
    return rng.choice((f"wc -l {document.path}", f"grep -c {shlex.quote(word)} {document.path}"))


def sort_command(rng: random.Random, document: Document) -> str:
    """Draw a command that puts the lines into alphabetical order, or the reverse of it."""
    return f"sort {rng.choice(('', '-r '))}{document.path}"


def field_command(rng: random.Random, document: Document) -> str:
    """Draw a command that shows one column."""
    return _cut(document, rng.randrange(len(document.rows[0])))


def join_command(rng: random.Random, left: Document, right: Document) -> str:
    """Draw a command that joins two tables on their first column, or pastes them side by side."""
    return rng.choice(
        (
            f"join -t, {left.path} {right.path}",
            f"join -t, {right.path} {left.path}",
            f"paste -d, {left.path} {right.path}",
        )
    )


SINGLE: dict[str, Callable[[random.Random, Document], str]] = {
    "slice": slice_command,
    "filter": filter_command,
    "count": count_command,
    "sort": sort_command,
    "field": field_command,
}
"""The operations that read one document."""


def supports(operation: str, document: Document) -> bool:
    """Whether the operation makes sense on this document; `field` needs columns."""
    return operation != "field" or document.delimiter is not None


def _cut(document: Document, column: int) -> str:
    separator = "' '" if document.delimiter == " " else document.delimiter
    return f"cut -d{separator} -f{column + 1} {document.path}"


def _word(rng: random.Random, row: tuple[str, ...]) -> str:
    if len(row) != 1:
        return rng.choice(row)
    return rng.choice([word.strip('":,') for word in row[0].split() if word.strip('":,').isalnum()] or ["e"])
