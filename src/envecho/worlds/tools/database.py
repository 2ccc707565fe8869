"""Private databases of a domain, in memory, and calls on them.

Not here: what a domain is (`domain`), and what a call means (`api`).
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Mapping
from functools import lru_cache

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.api import Answer, ApiError, call_tool, compact
from envecho.worlds.tools.domain import Domain
from envecho.worlds.tools.rows import Row, SqlRows

Populate = Callable[[random.Random], Mapping[str, list[Row]]]


def open_database(domain: Domain, seed: str) -> sqlite3.Connection:
    """Return a private database, foreign keys on; the same seed gives the same rows."""
    connection = _connect()
    connection.deserialize(_image(domain.name, domain.schema, domain.populate, seed))
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def call_database(domain: Domain, connection: sqlite3.Connection, call: CallText) -> Answer:
    """Run one call as a transaction: an error changes nothing, and what the schema refuses is a 409."""
    connection.execute("BEGIN")
    try:
        answer = call_tool(domain.tools, SqlRows(connection), call.name, call.arguments)
    except sqlite3.IntegrityError:
        error = ApiError(409, "the request conflicts with the stored data")
        answer = Answer(text=compact(error.body), status=error.status)
    connection.execute("ROLLBACK" if answer.is_error else "COMMIT")
    return answer


def table_names(connection: sqlite3.Connection) -> list[str]:
    """Return the names of the tables, without SQLite's own."""
    text = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    return [str(row[0]) for row in connection.execute(text)]


def _connect() -> sqlite3.Connection:
    return sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)


@lru_cache(maxsize=256)
def _image(name: str, schema: str, populate: Populate, seed: str) -> bytes:
    connection = _connect()
    connection.execute("PRAGMA foreign_keys = ON")
    connection.executescript(schema)
    rows = SqlRows(connection)
    for table, found in populate(random.Random(f"envecho-tools-{name}-{seed}")).items():
        for row in found:
            rows.insert(table, row)
    image = connection.serialize()
    connection.close()
    return image
