"""Rows of a database as tools see them: five verbs, so that one tool runs on SQLite and on what was shown of it.

Not here: what a tool does (`api`, `domains`), and the rows that a reader of an episode knows (`ledger`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, final

Row = Mapping[str, Any]
Comparison = Literal["=", "!=", "<=", ">=", "contains"]

_SQL: Mapping[str, str] = {
    "=": "{column} = ?",
    "!=": "{column} != ?",
    "<=": "{column} <= ?",
    ">=": "{column} >= ?",
    "contains": "instr(lower({column}), ?) > 0",
}


class Condition(NamedTuple):
    """One condition on a row: `column comparison value`; `contains` does not look at the case of ASCII letters."""

    column: str
    comparison: Comparison
    value: Any

    def holds(self, row: Row) -> bool:
        """Say whether a row meets the condition, as SQLite would."""
        found = row[self.column]
        if found is None:
            return False
        if self.comparison == "contains":
            return lower_ascii(self.value) in lower_ascii(found)
        if self.comparison == "=":
            return bool(found == self.value)
        if self.comparison == "!=":
            return bool(found != self.value)
        return bool(found <= self.value if self.comparison == "<=" else found >= self.value)


def equals(**columns: Any) -> tuple[Condition, ...]:
    """Return the conditions that columns equal values."""
    return tuple(Condition(column, "=", value) for column, value in columns.items())


def lower_ascii(text: str) -> str:
    """Lower the letters A to Z and no other, as SQLite's `lower` does."""
    return "".join(letter.lower() if "A" <= letter <= "Z" else letter for letter in text)


class Rows(Protocol):
    """What a tool may do with a database."""

    def get(self, table: str, number: int) -> Row | None:
        """Return the row with this id, or None."""
        ...

    def find(self, table: str, where: Sequence[Condition] = (), *, sort: str = "id") -> Sequence[Row]:
        """Return all rows that meet the conditions, by a column and then by id; `-column` begins with the highest."""
        ...

    def insert(self, table: str, values: Row) -> int:
        """Add a row (every column but the id) and return its id."""
        ...

    def change(self, table: str, number: int, values: Row) -> None:
        """Set columns of a row that exists."""
        ...

    def remove(self, table: str, number: int) -> None:
        """Delete a row that exists."""
        ...


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table as the API shows it: `brief` columns in lists, all `columns` in a record. `noun` stands in messages."""

    name: str
    noun: str
    columns: tuple[str, ...]
    brief: tuple[str, ...]

    def record(self, row: Row) -> dict[str, Any]:
        """Return a row as a record."""
        return {column: row[column] for column in self.columns}

    def item(self, row: Row) -> dict[str, Any]:
        """Return a row as a list shows it."""
        return {column: row[column] for column in self.brief}


@final
class SqlRows:
    """The rows of an SQLite database. Names come from code alone, values are always bound."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        connection.row_factory = sqlite3.Row

    def get(self, table: str, number: int) -> Row | None:
        """Return the row with this id, or None."""
        found = self.connection.execute(f"SELECT * FROM {table} WHERE id = ?", (number,)).fetchone()
        return None if found is None else dict(found)

    def find(self, table: str, where: Sequence[Condition] = (), *, sort: str = "id") -> Sequence[Row]:
        """Return all rows that meet the conditions, sorted."""
        tests = [_SQL[condition.comparison].format(column=condition.column) for condition in where]
        values = [
            lower_ascii(condition.value) if condition.comparison == "contains" else condition.value
            for condition in where
        ]
        order = f"{sort[1:]} DESC, id" if sort.startswith("-") else f"{sort}, id"
        text = f"SELECT * FROM {table} WHERE {' AND '.join(tests) or '1'} ORDER BY {order}"
        return [dict(row) for row in self.connection.execute(text, values)]

    def insert(self, table: str, values: Row) -> int:
        """Add a row and return its id."""
        marks = ", ".join("?" * len(values))
        text = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})"
        return int(self.connection.execute(text, tuple(values.values())).lastrowid or 0)

    def change(self, table: str, number: int, values: Row) -> None:
        """Set columns of a row."""
        sets = ", ".join(f"{column} = ?" for column in values)
        self.connection.execute(f"UPDATE {table} SET {sets} WHERE id = ?", (*values.values(), number))

    def remove(self, table: str, number: int) -> None:
        """Delete a row."""
        self.connection.execute(f"DELETE FROM {table} WHERE id = ?", (number,))
