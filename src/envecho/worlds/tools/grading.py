"""The verdict on an episode: the database as it must be, row by row, and the answer that was given.

The expected database is a fresh copy with the draft's SQL applied, so a tool that forgets a side effect, or a policy
that does more than it was asked, fails. Reward is 1 or 0. Not here: words about a verdict; no policy reads any.
"""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from decimal import Decimal, InvalidOperation

from envecho.worlds.tools.database import open_database, table_names
from envecho.worlds.tools.domain import Domain, Draft

_AROUND = " \t\r\n\"'`.!"


def grade(domain: Domain, seed: str, draft: Draft, *, final: sqlite3.Connection, answer: str | None) -> float:
    """Return 1 where the final database and the answer are what the draft expects, else 0."""
    if draft.answer is not None and not same_answer(answer, draft):
        return 0.0
    with closing(open_database(domain, seed)) as expected:
        for statement, values in draft.changes:
            expected.execute(statement, values)
        return float(not changed_tables(expected, final, unread=draft.unread))


def changed_tables(
    expected: sqlite3.Connection, found: sqlite3.Connection, *, unread: tuple[str, ...] = ()
) -> list[str]:
    """Return the tables whose rows differ, the columns `unread` (`table.column`) left out."""
    names = table_names(expected)
    return [name for name in names if _content(expected, name, unread) != _content(found, name, unread)]


def same_answer(answer: str | None, draft: Draft) -> bool:
    """Compare an answer with the expected one: numbers by value, sets in any order, texts without case."""
    if answer is None or draft.answer is None:
        return False
    if draft.answer_kind == "number":
        return _number(answer) is not None and _number(answer) == _number(draft.answer)
    if draft.answer_kind == "set":
        return _words(answer) == _words(draft.answer)
    return _plain(answer) == _plain(draft.answer)


def _content(connection: sqlite3.Connection, table: str, unread: tuple[str, ...]) -> list[tuple[object, ...]]:
    columns = [str(row[1]) for row in connection.execute(f"PRAGMA table_info({table})")]
    kept = ", ".join(column for column in columns if f"{table}.{column}" not in unread)
    return [tuple(row) for row in connection.execute(f"SELECT {kept} FROM {table} ORDER BY id")]


def _plain(text: str) -> str:
    return " ".join(text.lower().strip(_AROUND).split())


def _words(text: str) -> list[str]:
    return sorted(_plain(word) for word in re.split(r"[,;\n]|\band\b", text) if _plain(word))


def _number(text: str) -> Decimal | None:
    digits = text.strip(_AROUND).removeprefix("$").removesuffix("$").strip()
    if not re.fullmatch(r"-?[0-9]{1,15}(\.[0-9]{1,9})?", digits):
        return None
    try:
        return Decimal(digits)
    except InvalidOperation:
        return None
