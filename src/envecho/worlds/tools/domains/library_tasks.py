"""What is asked of the library. Not here: its rows and tools (`library`)."""

from __future__ import annotations

import random

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.domain import Domain, Draft, Statement, Template, call
from envecho.worlds.tools.domains import library
from envecho.worlds.tools.picking import last_name, pick, single
from envecho.worlds.tools.rows import Condition, Row, SqlRows, equals

_LEND = "INSERT INTO loans (book_id, member_id, due, status, renewals) VALUES (?, ?, ?, 'out', 0)"


def _find_member(member: Row) -> CallText:
    return call("list_members", query=last_name(member["name"]))


def _find_book(book: Row) -> CallText:
    return call("list_books", query=book["title"])


def _available(book_id: int, change: int) -> Statement:
    return "UPDATE books SET available = available + ? WHERE id = ?", (change, book_id)


def _one_loan(rng: random.Random, rows: SqlRows) -> tuple[Row, Row, tuple[CallText, ...]] | None:
    """Draw a member who has exactly one book out, the loan, and the calls that find it."""
    found: list[tuple[Row, Row, tuple[CallText, ...]]] = []
    for member in rows.find("members"):
        loan = single(rows.find("loans", equals(member_id=member["id"], status="out")))
        if loan is not None:
            search = (_find_member(member), call("list_loans", member_id=member["id"], status="out"))
            found.append((member, loan, search))
    return pick(rng, found)


def _may_borrow(rng: random.Random, rows: SqlRows) -> Row | None:
    active = rows.find("members", equals(status="active"))
    found = [row for row in active if len(rows.find("loans", equals(member_id=row["id"], status="out"))) < 3]
    return pick(rng, found)


def _return(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_loan(rng, rows)
    if drawn is None:
        return None
    member, loan, search = drawn
    return Draft(
        instruction=f"{member['name']} has brought the lent book back. Record the return.",
        calls=(*search, call("return_loan", loan_id=loan["id"])),
        changes=(
            ("UPDATE loans SET status = 'returned' WHERE id = ?", (loan["id"],)),
            _available(loan["book_id"], 1),
        ),
    )


def _renew(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_loan(rng, rows)
    if drawn is None or drawn[1]["renewals"] or rows.find("reservations", equals(book_id=drawn[1]["book_id"])):
        return None
    member, loan, search = drawn
    return Draft(
        instruction=f"Renew the loan of {member['name']}.",
        calls=(*search, call("renew_loan", loan_id=loan["id"])),
        changes=(("UPDATE loans SET due = ?, renewals = 1 WHERE id = ?", (library.RENEWED_UNTIL, loan["id"])),),
    )


def _lend(rng: random.Random, rows: SqlRows) -> Draft | None:
    member, book = _may_borrow(rng, rows), pick(rng, rows.find("books", (Condition("available", ">=", 1),)))
    if member is None or book is None:
        return None
    return Draft(
        instruction=f"Lend {book['title']} to {member['name']}.",
        calls=(
            _find_book(book),
            _find_member(member),
            call("lend_book", book_id=book["id"], member_id=member["id"]),
        ),
        changes=((_LEND, (book["id"], member["id"], library.LENT_UNTIL)), _available(book["id"], -1)),
    )


def _lend_or_reserve(rng: random.Random, rows: SqlRows) -> Draft | None:
    member, book = _may_borrow(rng, rows), rng.choice(rows.find("books"))
    if member is None or rows.find("reservations", equals(book_id=book["id"], member_id=member["id"])):
        return None
    ids = {"book_id": book["id"], "member_id": member["id"]}
    if book["available"]:
        last, changes = (
            call("lend_book", **ids),
            ((_LEND, (*ids.values(), library.LENT_UNTIL)), _available(book["id"], -1)),
        )
    else:
        last = call("reserve_book", **ids)
        changes = (("INSERT INTO reservations (book_id, member_id) VALUES (?, ?)", (*ids.values(),)),)
    return Draft(
        instruction=f"Lend {book['title']} to {member['name']}; if no copy is available, reserve it.",
        calls=(_find_book(book), _find_member(member), last),
        changes=changes,
    )


def _status(rng: random.Random, rows: SqlRows) -> Draft | None:
    member = rng.choice(rows.find("members"))
    status, verb = ("suspended", "Suspend") if member["status"] == "active" else ("active", "Make active again")
    return Draft(
        instruction=f"{verb}: {member['name']}.",
        calls=(_find_member(member), call("set_member_status", member_id=member["id"], status=status)),
        changes=(("UPDATE members SET status = ? WHERE id = ?", (status, member["id"])),),
    )


def _unreserve(rng: random.Random, rows: SqlRows) -> Draft | None:
    reservation = pick(rng, rows.find("reservations"))
    if reservation is None:
        return None
    book, member = rows.get("books", reservation["book_id"]), rows.get("members", reservation["member_id"])
    if book is None or member is None:
        return None
    return Draft(
        instruction=f"{member['name']} no longer wants {book['title']}. Delete the reservation.",
        calls=(
            _find_book(book),
            _find_member(member),
            call("list_reservations", book_id=book["id"], member_id=member["id"]),
            call("delete_reservation", reservation_id=reservation["id"]),
        ),
        changes=(("DELETE FROM reservations WHERE id = ?", (reservation["id"],)),),
    )


def _return_all(rng: random.Random, rows: SqlRows) -> Draft | None:
    members = [
        (member, loans)
        for member in rows.find("members")
        if len(loans := rows.find("loans", equals(member_id=member["id"], status="out"))) == 2
    ]
    drawn = pick(rng, members)
    if drawn is None:
        return None
    member, loans = drawn
    changes: list[Statement] = []
    for loan in loans:
        changes += [
            ("UPDATE loans SET status = 'returned' WHERE id = ?", (loan["id"],)),
            _available(loan["book_id"], 1),
        ]
    return Draft(
        instruction=f"{member['name']} returns both lent books. Record it.",
        calls=(
            _find_member(member),
            call("list_loans", member_id=member["id"], status="out"),
            *(call("return_loan", loan_id=loan["id"]) for loan in loans),
        ),
        changes=tuple(changes),
    )


def _author(rng: random.Random, rows: SqlRows) -> Draft | None:
    book = rng.choice(rows.find("books"))
    return Draft(
        instruction=f"Who wrote {book['title']}? Answer with the name.",
        calls=(_find_book(book), call("get_book", book_id=book["id"])),
        answer=str(book["author"]),
    )


def _earliest_due(rng: random.Random, rows: SqlRows) -> Draft | None:
    first, second = rows.find("loans", equals(status="out"), sort="due")[:2]
    book = rows.get("books", first["book_id"])
    if first["due"] == second["due"] or book is None:
        return None
    return Draft(
        instruction="Which book that is out is due first? Answer with its title.",
        calls=(call("list_loans", status="out", sort="due"), call("get_book", book_id=book["id"])),
        answer=str(book["title"]),
    )


def _num_loans(rng: random.Random, rows: SqlRows) -> Draft | None:
    member, status = rng.choice(rows.find("members")), rng.choice(("out", "returned"))
    found = rows.find("loans", equals(member_id=member["id"], status=status))
    return Draft(
        instruction=f"How many loans of {member['name']} have the status {status}? Answer with the number.",
        calls=(_find_member(member), call("list_loans", member_id=member["id"], status=status)),
        answer=str(len(found)),
        answer_kind="number",
    )


DOMAIN = Domain(
    name="library",
    title="a library",
    schema=library.SCHEMA,
    tables=library.TABLES,
    populate=library.populate,
    tools=library.TOOLS,
    templates=(
        Template(name="return", draw=_return),
        Template(name="renew", draw=_renew),
        Template(name="lend", draw=_lend),
        Template(name="lend-or-reserve", draw=_lend_or_reserve),
        Template(name="status", draw=_status),
        Template(name="unreserve", draw=_unreserve),
        Template(name="return-all", draw=_return_all),
        Template(name="author", draw=_author),
        Template(name="earliest-due", draw=_earliest_due),
        Template(name="num-loans", draw=_num_loans),
    ),
)
