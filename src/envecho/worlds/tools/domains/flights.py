"""An airline: flights with seats, passengers and bookings.

Not here: what is asked of it (`flights_tasks`).
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
    day,
    get_tool,
    list_tool,
    need,
    ref,
    text,
    whole,
)
from envecho.worlds.tools.domain import by_name, numbered
from envecho.worlds.tools.names import people
from envecho.worlds.tools.rows import Row, Rows, Table, equals

PORTS = ("Berlin", "Lisbon", "Madrid", "Oslo", "Rome")
DAYS = ("2031-05-20", "2031-05-21", "2031-05-22")
STATUSES = ("confirmed", "checked_in", "cancelled")
MOST_BAGS = 3

SCHEMA = """
CREATE TABLE flights (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL UNIQUE, origin TEXT NOT NULL,
    destination TEXT NOT NULL CHECK (destination != origin), day TEXT NOT NULL, price INTEGER NOT NULL,
    seats INTEGER NOT NULL CHECK (seats >= 0));
CREATE TABLE passengers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, tier TEXT NOT NULL
    CHECK (tier IN ('basic', 'silver', 'gold')));
CREATE TABLE bookings (id INTEGER PRIMARY KEY AUTOINCREMENT, flight_id INTEGER NOT NULL REFERENCES flights (id),
    passenger_id INTEGER NOT NULL REFERENCES passengers (id), status TEXT NOT NULL CHECK (status IN ('confirmed',
    'checked_in', 'cancelled')), bags INTEGER NOT NULL CHECK (bags BETWEEN 0 AND 3), paid INTEGER NOT NULL);
"""

_FLIGHT = ("id", "code", "origin", "destination", "day", "price", "seats")
_PASSENGER, _BOOKING = ("id", "name", "tier"), ("id", "flight_id", "passenger_id", "status", "bags", "paid")
FLIGHTS = Table(name="flights", noun="flight", columns=_FLIGHT, brief=_FLIGHT)
PASSENGERS = Table(name="passengers", noun="passenger", columns=_PASSENGER, brief=_PASSENGER)
BOOKINGS = Table(name="bookings", noun="booking", columns=_BOOKING, brief=("id", "flight_id", "passenger_id", "status"))
TABLES = (FLIGHTS, PASSENGERS, BOOKINGS)


def populate(rng: random.Random) -> Mapping[str, list[Row]]:
    """Draw the rows of an airline; nobody is booked twice on a flight."""
    routes = [(a, b) for a in PORTS for b in PORTS if a != b]
    plans = [(*route, day_) for route in rng.sample(routes, 7) for day_ in rng.sample(DAYS, 2)]
    rng.shuffle(plans)
    codes = rng.sample(range(100, 1000), len(plans))
    flights = numbered(
        rng,
        [
            {
                "code": f"EA{code}",
                "origin": origin,
                "destination": destination,
                "day": day_,
                "price": rng.randrange(40, 300),
                "seats": rng.choice((0, 1, 2, 5, 9)),
            }
            for code, (origin, destination, day_) in zip(codes, plans, strict=True)
        ],
    )
    passengers = numbered(
        rng, [{"name": name, "tier": rng.choice(("basic", "basic", "silver", "gold"))} for name in people(rng, 8)]
    )
    pairs = [(flight, passenger["id"]) for passenger in passengers for flight in rng.sample(flights, 2)]
    bookings: list[dict[str, Any]] = [
        {
            "flight_id": flight["id"],
            "passenger_id": passenger,
            "status": "confirmed" if place < 8 else rng.choice(STATUSES),
            "bags": rng.randrange(3),
            "paid": flight["price"] + rng.randrange(-15, 16),
        }
        for place, (flight, passenger) in enumerate(rng.sample(pairs, 13))
    ]
    rng.shuffle(bookings)
    return {"flights": flights, "passengers": passengers, "bookings": numbered(rng, bookings)}


def _take_seat(rows: Rows, flight: Row, passenger: int) -> None:
    if flight["seats"] == 0:
        raise ApiError(409, f"flight {flight['id']} is full")
    held = rows.find("bookings", equals(flight_id=flight["id"], passenger_id=passenger))
    if any(booking["status"] != "cancelled" for booking in held):
        raise ApiError(409, f"passenger {passenger} is on flight {flight['id']} already")
    rows.change("flights", flight["id"], {"seats": flight["seats"] - 1})


def _free_seat(rows: Rows, number: int) -> None:
    flight = need(rows, FLIGHTS, number)
    rows.change("flights", number, {"seats": flight["seats"] + 1})


def _book(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    flight, passenger = need(rows, FLIGHTS, arguments["flight_id"]), need(rows, PASSENGERS, arguments["passenger_id"])
    _take_seat(rows, flight, passenger["id"])
    return created(rows, BOOKINGS, **arguments, status="confirmed", bags=0, paid=flight["price"])


def _confirmed(rows: Rows, number: int) -> Row:
    booking = need(rows, BOOKINGS, number)
    if booking["status"] != "confirmed":
        raise ApiError(409, f"booking {number} is {booking['status']}")
    return booking


def _rebook(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    booking, flight = _confirmed(rows, arguments["booking_id"]), need(rows, FLIGHTS, arguments["flight_id"])
    _take_seat(rows, flight, booking["passenger_id"])
    _free_seat(rows, booking["flight_id"])
    return changed(rows, BOOKINGS, booking["id"], flight_id=flight["id"], paid=flight["price"])


def _cancel(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    booking = _confirmed(rows, arguments["booking_id"])
    _free_seat(rows, booking["flight_id"])
    return changed(rows, BOOKINGS, booking["id"], status="cancelled")


def _check_in(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    booking = _confirmed(rows, arguments["booking_id"])
    return changed(rows, BOOKINGS, booking["id"], status="checked_in")


def _set_bags(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    booking = _confirmed(rows, arguments["booking_id"])
    passenger = need(rows, PASSENGERS, booking["passenger_id"])
    if passenger["tier"] == "basic" and arguments["bags"] > 1:
        raise ApiError(403, "the tier basic allows 1 bag")
    return changed(rows, BOOKINGS, booking["id"], bags=arguments["bags"])


def _set_tier(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    passenger = need(rows, PASSENGERS, arguments["passenger_id"])
    return changed(rows, PASSENGERS, passenger["id"], tier=arguments["tier"])


_TIER = choice("basic", "silver", "gold")


def _booking_tool(name: str, description: str, run: Any, *, also: tuple[str, ...] = (), **more: Any) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters={"booking_id": ref("bookings"), **more},
        run=run,
        shows="bookings",
        writes=("bookings", *also),
    )


TOOLS = by_name(
    list_tool(
        FLIGHTS,
        "list_flights",
        "List flights.",
        filters={
            "origin": Filter(choice(*PORTS), "origin"),
            "destination": Filter(choice(*PORTS), "destination"),
            "day": Filter(day(*DAYS), "day"),
            "max_price": Filter(whole(1, 1000, 90, 150, 220), "price", "<="),
        },
        sorts=("price", "seats"),
    ),
    get_tool(FLIGHTS),
    list_tool(
        PASSENGERS,
        "list_passengers",
        "List passengers.",
        filters={
            "query": Filter(text(column="passengers.name"), "name", "contains"),
            "tier": Filter(_TIER, "tier"),
        },
    ),
    get_tool(PASSENGERS),
    Tool(
        name="set_tier",
        description="Set the tier of a passenger.",
        parameters={"passenger_id": ref("passengers"), "tier": _TIER},
        run=_set_tier,
        shows="passengers",
        writes=("passengers",),
    ),
    list_tool(
        BOOKINGS,
        "list_bookings",
        "List bookings.",
        filters={
            "flight_id": Filter(ref("flights"), "flight_id"),
            "passenger_id": Filter(ref("passengers"), "passenger_id"),
            "status": Filter(choice(*STATUSES), "status"),
        },
    ),
    get_tool(BOOKINGS),
    Tool(
        name="book_flight",
        description="Book a passenger on a flight.",
        parameters={"flight_id": ref("flights"), "passenger_id": ref("passengers")},
        run=_book,
        shows="bookings",
        writes=("bookings", "flights"),
        creates=True,
    ),
    _booking_tool(
        "change_flight",
        "Move a confirmed booking to another flight.",
        _rebook,
        also=("flights",),
        flight_id=ref("flights"),
    ),
    _booking_tool("cancel_booking", "Cancel a confirmed booking.", _cancel, also=("flights",)),
    _booking_tool("check_in", "Check in a confirmed booking.", _check_in),
    _booking_tool("set_bags", "Set the bags of a confirmed booking.", _set_bags, bags=whole(0, MOST_BAGS)),
)
