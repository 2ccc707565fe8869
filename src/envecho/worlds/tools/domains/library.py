"""A library: books in copies, members, loans and reservations.

Not here: what is asked of it (`library_tasks`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from envecho.worlds.tools.api import (
    ApiError,
    Filter,
    Tool,
    changed,
    choice,
    created,
    get_tool,
    list_tool,
    need,
    ref,
    text,
)
from envecho.worlds.tools.domain import by_name, numbered
from envecho.worlds.tools.names import people
from envecho.worlds.tools.rows import Row, Rows, Table, equals

GENRES = ("novel", "history", "science", "travel")
TITLES: Mapping[str, tuple[str, ...]] = {
    "novel": ("The Green Door", "Last Summer", "A Quiet House", "The Long Night", "Two Brothers"),
    "history": ("The Old Roads", "Kings and Ships", "The First Cities", "War and Bread", "The Iron Age"),
    "science": ("The Small Cell", "Light and Time", "How Birds Fly", "The Deep Sea", "Seven Stars"),
    "travel": ("By Train to Rome", "Island Days", "The Desert Road", "Walking North", "River Towns"),
}
LENT_UNTIL, RENEWED_UNTIL = "2031-06-04", "2031-06-18"
MOST_LOANS = 3

SCHEMA = """
CREATE TABLE books (id INTEGER PRIMARY KEY AUTOINCREMENT, title TEXT NOT NULL UNIQUE, author TEXT NOT NULL,
    genre TEXT NOT NULL, available INTEGER NOT NULL CHECK (available >= 0));
CREATE TABLE members (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, status TEXT NOT NULL
    CHECK (status IN ('active', 'suspended')));
CREATE TABLE loans (id INTEGER PRIMARY KEY AUTOINCREMENT, book_id INTEGER NOT NULL REFERENCES books (id),
    member_id INTEGER NOT NULL REFERENCES members (id), due TEXT NOT NULL, status TEXT NOT NULL
    CHECK (status IN ('out', 'returned')), renewals INTEGER NOT NULL CHECK (renewals BETWEEN 0 AND 1));
CREATE TABLE reservations (id INTEGER PRIMARY KEY AUTOINCREMENT, book_id INTEGER NOT NULL REFERENCES books (id),
    member_id INTEGER NOT NULL REFERENCES members (id), UNIQUE (book_id, member_id));
"""

_BOOK, _MEMBER = ("id", "title", "author", "genre", "available"), ("id", "name", "status")
_LOAN, _RESERVATION = ("id", "book_id", "member_id", "due", "status", "renewals"), ("id", "book_id", "member_id")
BOOKS = Table(name="books", noun="book", columns=_BOOK, brief=("id", "title", "genre", "available"))
MEMBERS = Table(name="members", noun="member", columns=_MEMBER, brief=_MEMBER)
LOANS = Table(name="loans", noun="loan", columns=_LOAN, brief=("id", "book_id", "member_id", "due", "status"))
RESERVATIONS = Table(name="reservations", noun="reservation", columns=_RESERVATION, brief=_RESERVATION)
TABLES = (BOOKS, MEMBERS, LOANS, RESERVATIONS)


def populate(rng: random.Random) -> Mapping[str, list[Row]]:
    """Draw the rows of a library; nobody has more loans than allowed, and only books that are all out are reserved."""
    names = people(rng, 14)
    titles = [(title, genre) for genre in GENRES for title in rng.sample(TITLES[genre], 3)]
    rng.shuffle(titles)
    books = numbered(
        rng,
        [
            {"title": title, "author": rng.choice(names[8:]), "genre": genre, "available": rng.choice((0, 0, 1, 2, 3))}
            for title, genre in titles
        ],
    )
    members = numbered(
        rng,
        [
            {"name": name, "status": "suspended" if place in (2, 5) else "active"}
            for place, name in enumerate(names[:8])
        ],
    )
    pairs = [(book["id"], member["id"]) for member in members for book in rng.sample(books, 2)]
    loans: list[dict[str, Any]] = []
    for place, (book, member) in enumerate(rng.sample(pairs, 13)):
        day = rng.randrange(1, 29)
        loans.append(
            {
                "book_id": book,
                "member_id": member,
                "due": f"2031-05-{day:02d}" if place < 9 else f"2031-04-{day:02d}",
                "status": "out" if place < 9 else "returned",
                "renewals": int(rng.random() < 0.3),
            }
        )
    rng.shuffle(loans)
    out = {(loan["book_id"], loan["member_id"]) for loan in loans if loan["status"] == "out"}
    waiting = [
        (book["id"], member["id"])
        for book in books
        if book["available"] == 0
        for member in members
        if (book["id"], member["id"]) not in out
    ]
    reservations = [
        {"book_id": book, "member_id": member} for book, member in rng.sample(waiting, min(4, len(waiting)))
    ]
    return {
        "books": books,
        "members": members,
        "loans": numbered(rng, loans),
        "reservations": numbered(rng, reservations),
    }


def _active(rows: Rows, number: int) -> Row:
    member = need(rows, MEMBERS, number)
    if member["status"] != "active":
        raise ApiError(403, f"member {number} is {member['status']}")
    return member


def _lend(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    book, member = need(rows, BOOKS, arguments["book_id"]), _active(rows, arguments["member_id"])
    if book["available"] == 0:
        raise ApiError(409, "no copy is available")
    if len(rows.find("loans", equals(member_id=member["id"], status="out"))) >= MOST_LOANS:
        raise ApiError(409, f"member {member['id']} has {MOST_LOANS} loans already")
    rows.change("books", book["id"], {"available": book["available"] - 1})
    return created(rows, LOANS, **arguments, due=LENT_UNTIL, status="out", renewals=0)


def _out(rows: Rows, number: int) -> Row:
    loan = need(rows, LOANS, number)
    if loan["status"] != "out":
        raise ApiError(409, f"loan {number} is {loan['status']}")
    return loan


def _return(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    loan = _out(rows, arguments["loan_id"])
    book = need(rows, BOOKS, loan["book_id"])
    rows.change("books", book["id"], {"available": book["available"] + 1})
    return changed(rows, LOANS, loan["id"], status="returned")


def _renew(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    loan = _out(rows, arguments["loan_id"])
    if loan["renewals"] > 0:
        raise ApiError(409, f"loan {loan['id']} was renewed already")
    if rows.find("reservations", equals(book_id=loan["book_id"])):
        raise ApiError(409, f"book {loan['book_id']} is reserved")
    return changed(rows, LOANS, loan["id"], due=RENEWED_UNTIL, renewals=1)


def _reserve(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    book, member = need(rows, BOOKS, arguments["book_id"]), _active(rows, arguments["member_id"])
    if book["available"] > 0:
        raise ApiError(409, "a copy is available, lend it instead")
    if rows.find("reservations", equals(book_id=book["id"], member_id=member["id"])):
        raise ApiError(409, "this member has reserved this book already")
    return created(rows, RESERVATIONS, **arguments)


def _drop_reservation(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    reservation = need(rows, RESERVATIONS, arguments["reservation_id"])
    rows.remove("reservations", reservation["id"])
    return {"deleted": reservation["id"]}


def _set_status(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    member = need(rows, MEMBERS, arguments["member_id"])
    return changed(rows, MEMBERS, member["id"], status=arguments["status"])


_BOTH = {"book_id": ref("books"), "member_id": ref("members")}
_OWN = {name: Filter(parameter, name) for name, parameter in _BOTH.items()}


TOOLS = by_name(
    list_tool(
        BOOKS,
        "list_books",
        "List books.",
        filters={
            "query": Filter(text(column="books.title"), "title", "contains"),
            "genre": Filter(choice(*GENRES), "genre"),
        },
        sorts=("title", "available"),
    ),
    get_tool(BOOKS),
    list_tool(
        MEMBERS,
        "list_members",
        "List members.",
        filters={
            "query": Filter(text(column="members.name"), "name", "contains"),
            "status": Filter(choice("active", "suspended"), "status"),
        },
    ),
    get_tool(MEMBERS),
    Tool(
        name="set_member_status",
        description="Suspend a member or make one active.",
        parameters={"member_id": ref("members"), "status": choice("active", "suspended")},
        run=_set_status,
        shows="members",
        writes=("members",),
    ),
    list_tool(
        LOANS,
        "list_loans",
        "List loans.",
        filters={**_OWN, "status": Filter(choice("out", "returned"), "status")},
        sorts=("due",),
    ),
    get_tool(LOANS),
    Tool(
        name="lend_book",
        description="Lend a copy of a book to a member.",
        parameters=_BOTH,
        run=_lend,
        shows="loans",
        writes=("loans", "books"),
        creates=True,
    ),
    Tool(
        name="return_loan",
        description="Take a lent copy back.",
        parameters={"loan_id": ref("loans")},
        run=_return,
        shows="loans",
        writes=("loans", "books"),
    ),
    Tool(
        name="renew_loan",
        description="Extend a loan once.",
        parameters={"loan_id": ref("loans")},
        run=_renew,
        shows="loans",
        writes=("loans",),
    ),
    list_tool(RESERVATIONS, "list_reservations", "List reservations.", filters=_OWN),
    Tool(
        name="reserve_book",
        description="Reserve a book of which no copy is available.",
        parameters=_BOTH,
        run=_reserve,
        shows="reservations",
        writes=("reservations",),
        creates=True,
    ),
    Tool(
        name="delete_reservation",
        description="Delete a reservation.",
        parameters={"reservation_id": ref("reservations")},
        run=_drop_reservation,
        writes=("reservations",),
    ),
)
