"""Commands whose output is a function of text that was already shown, by operation.

Six operations: slice, filter, count, sort, field, join. Each function draws one command from a generator; its output
depends only on the command and on the documents it reads, and `tests/worlds/test_operations.py` proves it by running the
command in a box that holds nothing else. Not here: in which order they are asked (`explorer`).
"""

from __future__ import annotations

import random
import shlex
from collections.abc import Callable

from envecho.worlds.terminal.boxes import Document

OPERATIONS = ("slice", "filter", "count", "sort", "field", "join")


def slice_command(rng: random.Random, document: Document) -> str:
    """Draw a command that shows a run of lines."""
    count = len(document.lines)
    first = rng.randrange(1, count)
    last = min(count, first + rng.randrange(1, 4))
    return rng.choice(
        (
            f"head -n {rng.randrange(2, 5)} {document.path}",
            f"tail -n {rng.randrange(2, 5)} {document.path}",
            f"sed -n {first},{last}p {document.path}",
        )
    )


def filter_command(rng: random.Random, document: Document) -> str:
    """Draw a command that keeps the lines with a word, or with a value in a column."""
    row = rng.choice(document.rows)
    word = _word(rng, row)
    if document.delimiter == " " and rng.random() < 0.3:
        column = rng.randrange(len(row))
        return f"awk '${column + 1}==\"{row[column]}\"' {document.path}"
    return f"grep {rng.choice(('', '', '-n ', '-v '))}{shlex.quote(word)} {document.path}"


def count_command(rng: random.Random, document: Document) -> str:
    """Draw a command that counts lines, or the values of a column."""
    choices = [
        f"wc -l {document.path}",
        f"grep -c {shlex.quote(_word(rng, rng.choice(document.rows)))} {document.path}",
    ]
    if document.delimiter is not None and document.header is None:
        column = rng.randrange(len(document.rows[0]))
        choices += [f"{_cut(document, column)} | sort | uniq -c | sort -rn | head -n 2"]
    return rng.choice(choices)


def sort_command(rng: random.Random, document: Document) -> str:
    """Draw a command that puts the lines into another order."""
    if document.delimiter is None:
        return rng.choice((f"sort {document.path}", f"tac {document.path}"))
    column = rng.randrange(len(document.rows[0]))
    numeric = "n" if document.rows[0][column].isdigit() else ""
    separator = "" if document.delimiter == " " else f"-t{document.delimiter} "
    reverse = rng.choice(("", "r"))
    by_column = f"sort {separator}-k{column + 1},{column + 1}{numeric}{reverse} {document.path}"
    return f"{rng.choice((by_column, by_column, f'sort -r {document.path}', f'tac {document.path}'))} | head -n 3"


def field_command(rng: random.Random, document: Document) -> str:
    """Draw a command that shows one column, or two."""
    width = len(document.rows[0])
    column = rng.randrange(width)
    if document.delimiter == " " and rng.random() < 0.5:
        other = rng.choice([number for number in range(width) if number != column])
        return f"awk '{{print ${column + 1}, ${other + 1}}}' {document.path}"
    return _cut(document, column)


def join_command(rng: random.Random, left: Document, right: Document) -> str:
    """Draw a command that joins two tables on their first column, or pastes them side by side."""
    return rng.choice(
        (
            f"join -t, {left.path} {right.path}",
            f"join -t, {right.path} {left.path}",
            f"join -t, -a1 {left.path} {right.path}",
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
