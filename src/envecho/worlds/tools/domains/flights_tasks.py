"""What is asked of the airline. Not here: its rows and tools (`flights`)."""

from __future__ import annotations

import random

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.domain import Domain, Draft, Statement, Template, call
from envecho.worlds.tools.domains import flights
from envecho.worlds.tools.picking import last_name, other, pick, single
from envecho.worlds.tools.rows import Row, SqlRows, equals


def _find_passenger(passenger: Row) -> CallText:
    return call("list_passengers", query=last_name(passenger["name"]))


def _find_flight(flight: Row) -> CallText:
    return call("list_flights", origin=flight["origin"], destination=flight["destination"], day=flight["day"])


def _route(flight: Row) -> str:
    return f"from {flight['origin']} to {flight['destination']} on {flight['day']}"


def _seats(flight_id: int, change: int) -> Statement:
    return "UPDATE flights SET seats = seats + ? WHERE id = ?", (change, flight_id)


def _one_booking(rng: random.Random, rows: SqlRows) -> tuple[Row, Row, tuple[CallText, ...]] | None:
    """Draw a passenger with exactly one confirmed booking, the booking, and the calls that find it."""
    found: list[tuple[Row, Row, tuple[CallText, ...]]] = []
    for passenger in rows.find("passengers"):
        booking = single(rows.find("bookings", equals(passenger_id=passenger["id"], status="confirmed")))
        if booking is not None:
            search = (
                _find_passenger(passenger),
                call("list_bookings", passenger_id=passenger["id"], status="confirmed"),
            )
            found.append((passenger, booking, search))
    return pick(rng, found)


def _bookable(rows: SqlRows, passenger: Row) -> list[Row]:
    held = {booking["flight_id"] for booking in rows.find("bookings", equals(passenger_id=passenger["id"]))}
    return [flight for flight in rows.find("flights") if flight["seats"] and flight["id"] not in held]


def _insert(flight: Row, passenger: Row) -> Statement:
    text = "INSERT INTO bookings (flight_id, passenger_id, status, bags, paid) VALUES (?, ?, 'confirmed', 0, ?)"
    return text, (flight["id"], passenger["id"], flight["price"])


def _book(rng: random.Random, rows: SqlRows) -> Draft | None:
    passenger = rng.choice(rows.find("passengers"))
    flight = pick(rng, _bookable(rows, passenger))
    if flight is None:
        return None
    return Draft(
        instruction=f"Book {passenger['name']} on the flight {_route(flight)}.",
        calls=(
            _find_passenger(passenger),
            _find_flight(flight),
            call("book_flight", flight_id=flight["id"], passenger_id=passenger["id"]),
        ),
        changes=(_insert(flight, passenger), _seats(flight["id"], -1)),
    )


def _book_cheapest(rng: random.Random, rows: SqlRows) -> Draft | None:
    passenger, origin = rng.choice(rows.find("passengers")), rng.choice(flights.PORTS)
    offers = rows.find("flights", equals(origin=origin), sort="price")
    if len(offers) < 2 or offers[0]["price"] == offers[1]["price"]:
        return None
    if offers[0] not in _bookable(rows, passenger):
        return None
    return Draft(
        instruction=f"Book {passenger['name']} on the cheapest flight from {origin}.",
        calls=(
            _find_passenger(passenger),
            call("list_flights", origin=origin, sort="price"),
            call("book_flight", flight_id=offers[0]["id"], passenger_id=passenger["id"]),
        ),
        changes=(_insert(offers[0], passenger), _seats(offers[0]["id"], -1)),
    )


def _cancel(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booking(rng, rows)
    if drawn is None:
        return None
    passenger, booking, search = drawn
    return Draft(
        instruction=f"Cancel the confirmed booking of {passenger['name']}.",
        calls=(*search, call("cancel_booking", booking_id=booking["id"])),
        changes=(
            ("UPDATE bookings SET status = 'cancelled' WHERE id = ?", (booking["id"],)),
            _seats(booking["flight_id"], 1),
        ),
    )


def _check_in(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booking(rng, rows)
    if drawn is None:
        return None
    passenger, booking, search = drawn
    return Draft(
        instruction=f"Check in {passenger['name']} for the confirmed booking.",
        calls=(*search, call("check_in", booking_id=booking["id"])),
        changes=(("UPDATE bookings SET status = 'checked_in' WHERE id = ?", (booking["id"],)),),
    )


def _bags_and_check_in(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booking(rng, rows)
    if drawn is None:
        return None
    passenger, booking, search = drawn
    bags = other(rng, (0, 1) if passenger["tier"] == "basic" else (0, 1, 2, 3), booking["bags"])
    return Draft(
        instruction=f"{passenger['name']} has one confirmed booking. Set the bags to {bags}, then check in.",
        calls=(
            *search,
            call("set_bags", booking_id=booking["id"], bags=bags),
            call("check_in", booking_id=booking["id"]),
        ),
        changes=(("UPDATE bookings SET bags = ?, status = 'checked_in' WHERE id = ?", (bags, booking["id"])),),
    )


def _change(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booking(rng, rows)
    flight = pick(rng, _bookable(rows, drawn[0])) if drawn else None
    if drawn is None or flight is None:
        return None
    passenger, booking, search = drawn
    return Draft(
        instruction=f"Move the confirmed booking of {passenger['name']} to the flight {_route(flight)}.",
        calls=(
            *search,
            _find_flight(flight),
            call("change_flight", booking_id=booking["id"], flight_id=flight["id"]),
        ),
        changes=(
            (
                "UPDATE bookings SET flight_id = ?, paid = ? WHERE id = ?",
                (flight["id"], flight["price"], booking["id"]),
            ),
            _seats(flight["id"], -1),
            _seats(booking["flight_id"], 1),
        ),
    )


def _tier(rng: random.Random, rows: SqlRows) -> Draft | None:
    passenger = rng.choice(rows.find("passengers"))
    tier = other(rng, ("basic", "silver", "gold"), passenger["tier"])
    return Draft(
        instruction=f"Set the tier of {passenger['name']} to {tier}.",
        calls=(_find_passenger(passenger), call("set_tier", passenger_id=passenger["id"], tier=tier)),
        changes=(("UPDATE passengers SET tier = ? WHERE id = ?", (tier, passenger["id"])),),
    )


def _price(rng: random.Random, rows: SqlRows) -> Draft | None:
    flight = rng.choice(rows.find("flights"))
    return Draft(
        instruction=f"What does the flight {_route(flight)} cost? Answer with the number.",
        calls=(_find_flight(flight),),
        answer=str(flight["price"]),
        answer_kind="number",
    )


def _destinations(rng: random.Random, rows: SqlRows) -> Draft | None:
    origin = rng.choice(flights.PORTS)
    found = rows.find("flights", equals(origin=origin))
    if not found or len(found) > 8:
        return None
    return Draft(
        instruction=f"To which cities are there flights from {origin}? Answer with the names, separated by commas.",
        calls=(call("list_flights", origin=origin, limit=8),),
        answer=", ".join(sorted({row["destination"] for row in found})),
        answer_kind="set",
    )


def _code(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booking(rng, rows)
    if drawn is None:
        return None
    passenger, booking, search = drawn
    flight = rows.get("flights", booking["flight_id"])
    if flight is None:
        return None
    return Draft(
        instruction=f"What is the code of the flight of {passenger['name']}'s confirmed booking?",
        calls=(*search, call("get_flight", flight_id=flight["id"])),
        answer=str(flight["code"]),
    )


DOMAIN = Domain(
    name="flights",
    title="an airline",
    schema=flights.SCHEMA,
    tables=flights.TABLES,
    populate=flights.populate,
    tools=flights.TOOLS,
    templates=(
        Template(name="book", draw=_book),
        Template(name="book-cheapest", draw=_book_cheapest),
        Template(name="cancel", draw=_cancel),
        Template(name="check-in", draw=_check_in),
        Template(name="bags-and-check-in", draw=_bags_and_check_in),
        Template(name="change", draw=_change),
        Template(name="tier", draw=_tier),
        Template(name="price", draw=_price),
        Template(name="destinations", draw=_destinations),
        Template(name="code", draw=_code),
    ),
)
