"""A warehouse: items, bins with a capacity, stock in bins and shipments. The domain that no training split holds.

Not here: what is asked of it (`warehouse_tasks`).
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
    whole,
)
from envecho.worlds.tools.domain import by_name, numbered
from envecho.worlds.tools.names import CITIES
from envecho.worlds.tools.rows import Row, Rows, Table, equals

ZONES = ("cold", "dry", "high")
STATUSES = ("planned", "packed", "sent", "cancelled")
ITEMS_POOL = ("rice", "flour", "sugar", "salt", "soap", "paint", "glue", "wire", "rope", "tape", "nails", "seeds")
MOST_IN_BIN = 60

SCHEMA = """
CREATE TABLE items (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, weight INTEGER NOT NULL
    CHECK (weight > 0));
CREATE TABLE bins (id INTEGER PRIMARY KEY AUTOINCREMENT, code TEXT NOT NULL UNIQUE, zone TEXT NOT NULL,
    capacity INTEGER NOT NULL CHECK (capacity > 0));
CREATE TABLE stocks (id INTEGER PRIMARY KEY AUTOINCREMENT, item_id INTEGER NOT NULL REFERENCES items (id),
    bin_id INTEGER NOT NULL REFERENCES bins (id), quantity INTEGER NOT NULL CHECK (quantity >= 0),
    UNIQUE (item_id, bin_id));
CREATE TABLE shipments (id INTEGER PRIMARY KEY AUTOINCREMENT, item_id INTEGER NOT NULL REFERENCES items (id),
    quantity INTEGER NOT NULL CHECK (quantity > 0), city TEXT NOT NULL, status TEXT NOT NULL
    CHECK (status IN ('planned', 'packed', 'sent', 'cancelled')));
"""

_ITEM, _BIN = ("id", "name", "weight"), ("id", "code", "zone", "capacity")
_STOCK, _SHIPMENT = ("id", "item_id", "bin_id", "quantity"), ("id", "item_id", "quantity", "city", "status")
ITEMS = Table(name="items", noun="item", columns=_ITEM, brief=_ITEM)
BINS = Table(name="bins", noun="bin", columns=_BIN, brief=_BIN)
STOCKS = Table(name="stocks", noun="stock", columns=_STOCK, brief=_STOCK)
SHIPMENTS = Table(name="shipments", noun="shipment", columns=_SHIPMENT, brief=_SHIPMENT)
TABLES = (ITEMS, BINS, STOCKS, SHIPMENTS)


def populate(rng: random.Random) -> Mapping[str, list[Row]]:
    """Draw the rows of a warehouse; no bin holds more than its capacity."""
    items = numbered(rng, [{"name": name, "weight": rng.randrange(1, 25)} for name in rng.sample(ITEMS_POOL, 8)])
    codes = rng.sample([f"{row}{number}" for row in "ABCDEF" for number in range(1, 10)], 7)
    bins = numbered(
        rng,
        [
            {"code": code, "zone": ZONES[place % 3], "capacity": rng.choice((40, 50, MOST_IN_BIN))}
            for place, code in enumerate(codes)
        ],
    )
    pairs = [(item["id"], bin_["id"]) for bin_ in bins for item in rng.sample(items, 2)]
    stocks = [
        {"item_id": item, "bin_id": bin_, "quantity": rng.randrange(1, 20)} for item, bin_ in rng.sample(pairs, 12)
    ]
    shipments: list[dict[str, Any]] = [
        {
            "item_id": rng.choice(items)["id"],
            "quantity": rng.randrange(1, 10),
            "city": rng.choice(CITIES),
            "status": STATUSES[place % 4] if place < 8 else rng.choice(STATUSES),
        }
        for place in range(11)
    ]
    rng.shuffle(shipments)
    return {
        "items": items,
        "bins": bins,
        "stocks": numbered(rng, stocks),
        "shipments": numbered(rng, shipments),
    }


def _put(rows: Rows, item: int, bin_: Row, quantity: int) -> dict[str, Any]:
    """Add to a bin, where it has room; return the stock's record."""
    held = rows.find("stocks", equals(bin_id=bin_["id"]))
    room = bin_["capacity"] - sum(stock["quantity"] for stock in held)
    if quantity > room:
        raise ApiError(409, f"bin {bin_['id']} has room for {room}")
    for stock in held:
        if stock["item_id"] == item:
            return changed(rows, STOCKS, stock["id"], quantity=stock["quantity"] + quantity)
    return created(rows, STOCKS, item_id=item, bin_id=bin_["id"], quantity=quantity)


def _take(rows: Rows, stock: Row, quantity: int) -> None:
    if stock["quantity"] < quantity:
        raise ApiError(409, f"stock {stock['id']} holds only {stock['quantity']}")
    rows.change("stocks", stock["id"], {"quantity": stock["quantity"] - quantity})


def _receive(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    item, bin_ = need(rows, ITEMS, arguments["item_id"]), need(rows, BINS, arguments["bin_id"])
    return _put(rows, item["id"], bin_, arguments["quantity"])


def _move(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    stock, bin_ = need(rows, STOCKS, arguments["stock_id"]), need(rows, BINS, arguments["bin_id"])
    if stock["bin_id"] == bin_["id"]:
        raise ApiError(409, "the stock is in this bin already")
    _take(rows, stock, arguments["quantity"])
    return _put(rows, stock["item_id"], bin_, arguments["quantity"])


def _count(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    stock = need(rows, STOCKS, arguments["stock_id"])
    bin_ = need(rows, BINS, stock["bin_id"])
    others = sum(row["quantity"] for row in rows.find("stocks", equals(bin_id=bin_["id"])) if row["id"] != stock["id"])
    if others + arguments["quantity"] > bin_["capacity"]:
        raise ApiError(409, f"bin {bin_['id']} has room for {bin_['capacity'] - others}")
    return changed(rows, STOCKS, stock["id"], quantity=arguments["quantity"])


def _in(rows: Rows, number: int, *statuses: str) -> Row:
    shipment = need(rows, SHIPMENTS, number)
    if shipment["status"] not in statuses:
        raise ApiError(409, f"shipment {number} is {shipment['status']}, expected {' or '.join(statuses)}")
    return shipment


def _plan(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    need(rows, ITEMS, arguments["item_id"])
    return created(rows, SHIPMENTS, **arguments, status="planned")


def _pack(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    shipment, stock = _in(rows, arguments["shipment_id"], "planned"), need(rows, STOCKS, arguments["stock_id"])
    if stock["item_id"] != shipment["item_id"]:
        raise ApiError(409, f"stock {stock['id']} holds item {stock['item_id']}, expected {shipment['item_id']}")
    _take(rows, stock, shipment["quantity"])
    return changed(rows, SHIPMENTS, shipment["id"], status="packed")


def _send(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    shipment = _in(rows, arguments["shipment_id"], "packed")
    return changed(rows, SHIPMENTS, shipment["id"], status="sent")


def _cancel(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    shipment = _in(rows, arguments["shipment_id"], "planned")
    return changed(rows, SHIPMENTS, shipment["id"], status="cancelled")


def _shipment_tool(name: str, description: str, run: Any, *, also: tuple[str, ...] = (), **more: Any) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters={"shipment_id": ref("shipments"), **more},
        run=run,
        shows="shipments",
        writes=("shipments", *also),
    )


_QUANTITY = whole(1, 500, 1, 3, 8, 45)

TOOLS = by_name(
    list_tool(
        ITEMS,
        "list_items",
        "List items.",
        filters={"query": Filter(text(column="items.name"), "name", "contains")},
        sorts=("weight",),
    ),
    get_tool(ITEMS),
    list_tool(
        BINS,
        "list_bins",
        "List bins.",
        filters={"code": Filter(text(column="bins.code"), "code"), "zone": Filter(choice(*ZONES), "zone")},
        sorts=("capacity",),
    ),
    get_tool(BINS, inside={"stocks": (STOCKS, "bin_id")}),
    list_tool(
        STOCKS,
        "list_stocks",
        "List what lies in which bin.",
        filters={"item_id": Filter(ref("items"), "item_id"), "bin_id": Filter(ref("bins"), "bin_id")},
        sorts=("quantity",),
    ),
    Tool(
        name="receive_item",
        description="Put a delivery of an item into a bin.",
        parameters={"item_id": ref("items"), "bin_id": ref("bins"), "quantity": _QUANTITY},
        run=_receive,
        shows="stocks",
        writes=("stocks",),
    ),
    Tool(
        name="move_stock",
        description="Move some of a stock into another bin.",
        parameters={"stock_id": ref("stocks"), "bin_id": ref("bins"), "quantity": _QUANTITY},
        run=_move,
        shows="stocks",
        writes=("stocks",),
    ),
    Tool(
        name="count_stock",
        description="Set the quantity of a stock after counting it.",
        parameters={"stock_id": ref("stocks"), "quantity": whole(0, 500, 2, 7, 12)},
        run=_count,
        shows="stocks",
        writes=("stocks",),
    ),
    list_tool(
        SHIPMENTS,
        "list_shipments",
        "List shipments.",
        filters={
            "item_id": Filter(ref("items"), "item_id"),
            "status": Filter(choice(*STATUSES), "status"),
            "city": Filter(text(*CITIES), "city"),
        },
        sorts=("quantity",),
    ),
    get_tool(SHIPMENTS),
    Tool(
        name="plan_shipment",
        description="Plan a shipment of an item to a city.",
        parameters={"item_id": ref("items"), "quantity": _QUANTITY, "city": text(*CITIES)},
        run=_plan,
        shows="shipments",
        writes=("shipments",),
        creates=True,
    ),
    _shipment_tool(
        "pack_shipment", "Pack a planned shipment from a stock.", _pack, also=("stocks",), stock_id=ref("stocks")
    ),
    _shipment_tool("send_shipment", "Send a packed shipment.", _send),
    _shipment_tool("cancel_shipment", "Cancel a planned shipment.", _cancel),
)
