"""`Domain`: a schema, rows drawn from a seed, tools and task templates.

Not here: the domains themselves (`domains`), private databases of one (`database`), and grading (`grading`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.api import Tool
from envecho.worlds.tools.rows import Row, SqlRows, Table

TODAY = "2031-05-14"
"""The date in every scenario: nothing reads a real clock."""

Statement = tuple[str, tuple[Any, ...]]
AnswerKind = Literal["text", "number", "set"]


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What a template made of a database: the instruction, calls that solve it, and what must be true afterwards.

    `changes` are SQL statements: applied to a fresh copy of the database they give the state that must be reached,
    with nothing else changed. `answer` is what must stand after `answer:`; None where nobody asks for one. `unread`
    are columns (`table.column`) in which any text will do.
    """

    instruction: str
    calls: tuple[CallText, ...]
    changes: tuple[Statement, ...] = ()
    answer: str | None = None
    answer_kind: AnswerKind = "text"
    unread: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Template:
    """A kind of task; `draw` returns None where the database has nothing of the kind."""

    name: str
    draw: Callable[[random.Random, SqlRows], Draft | None]


@dataclass(frozen=True, kw_only=True)
class Domain:
    """One service: `populate` draws the rows of all tables, ids included, in the order in which they are inserted."""

    name: str
    title: str
    schema: str
    tables: tuple[Table, ...]
    populate: Callable[[random.Random], Mapping[str, list[Row]]]
    tools: Mapping[str, Tool]
    templates: tuple[Template, ...] = field(repr=False)

    def table(self, name: str) -> Table:
        """Return a table by name."""
        return next(table for table in self.tables if table.name == name)


def by_name(*tools: Tool) -> dict[str, Tool]:
    """Return tools by their names."""
    return {tool.name: tool for tool in tools}


def call(name: str, /, **arguments: Any) -> CallText:
    """Return a call, for oracles."""
    return CallText(name=name, arguments=arguments)


def numbered(rng: random.Random, rows: list[dict[str, Any]]) -> list[Row]:
    """Give rows ascending ids that begin somewhere, so that an id must be looked up."""
    first = rng.randrange(10, 90) * 10 + rng.randrange(10)
    return [{"id": first + place, **row} for place, row in enumerate(rows)]
