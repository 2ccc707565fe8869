"""What is asked of the warehouse. Not here: its rows and tools (`warehouse`)."""

from __future__ import annotations

import random

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.domain import Domain, Draft, Statement, Template, call
from envecho.worlds.tools.domains import warehouse
from envecho.worlds.tools.names import CITIES
from envecho.worlds.tools.picking import other, pick, single
from envecho.worlds.tools.rows import Row, SqlRows, equals


def _find_item(item: Row) -> CallText:
    return call("list_items", query=item["name"])


def _find_bin(bin_: Row) -> CallText:
    return call("list_bins", code=bin_["code"])


def _room(rows: SqlRows, bin_: Row) -> int:
    held = rows.find("stocks", equals(bin_id=bin_["id"]))
    return int(bin_["capacity"]) - sum(stock["quantity"] for stock in held)


def _more(stock: Row, change: int) -> Statement:
    return "UPDATE stocks SET quantity = quantity + ? WHERE id = ?", (change, stock["id"])


def _status(shipment: Row, status: str) -> Statement:
    return "UPDATE shipments SET status = ? WHERE id = ?", (status, shipment["id"])


def _drawn_stock(rng: random.Random, rows: SqlRows) -> tuple[Row, Row, Row]:
    """Draw a stock, with its item and its bin."""
    stock = rng.choice(rows.find("stocks"))
    (item,), (bin_,) = rows.find("items", equals(id=stock["item_id"])), rows.find("bins", equals(id=stock["bin_id"]))
    return stock, item, bin_


def _receive(rng: random.Random, rows: SqlRows) -> Draft | None:
    stock, item, bin_ = _drawn_stock(rng, rows)
    room = _room(rows, bin_)
    if room < 1:
        return None
    quantity = rng.randrange(1, min(room, 12) + 1)
    return Draft(
        instruction=f"A delivery of {quantity} {item['name']} goes into bin {bin_['code']}, where there is some. "
        "Record it.",
        calls=(
            _find_item(item),
            _find_bin(bin_),
            call("receive_item", item_id=item["id"], bin_id=bin_["id"], quantity=quantity),
        ),
        changes=(_more(stock, quantity),),
    )


def _store_new(rng: random.Random, rows: SqlRows) -> Draft | None:
    item, bin_ = rng.choice(rows.find("items")), rng.choice(rows.find("bins"))
    room = _room(rows, bin_)
    if room < 1 or rows.find("stocks", equals(item_id=item["id"], bin_id=bin_["id"])):
        return None
    quantity = rng.randrange(1, min(room, 12) + 1)
    return Draft(
        instruction=f"Receive {quantity} {item['name']} into bin {bin_['code']}.",
        calls=(
            _find_item(item),
            _find_bin(bin_),
            call("receive_item", item_id=item["id"], bin_id=bin_["id"], quantity=quantity),
        ),
        changes=(
            ("INSERT INTO stocks (item_id, bin_id, quantity) VALUES (?, ?, ?)", (item["id"], bin_["id"], quantity)),
        ),
    )


def _move(rng: random.Random, rows: SqlRows) -> Draft | None:
    stock, item, bin_ = _drawn_stock(rng, rows)
    target = other(rng, rows.find("bins"), bin_)
    there = single(rows.find("stocks", equals(item_id=item["id"], bin_id=target["id"])))
    quantity = rng.randrange(1, stock["quantity"] + 1)
    if quantity > _room(rows, target):
        return None
    put = (
        ("INSERT INTO stocks (item_id, bin_id, quantity) VALUES (?, ?, ?)", (item["id"], target["id"], quantity))
        if there is None
        else _more(there, quantity)
    )
    return Draft(
        instruction=f"Move {quantity} {item['name']} from bin {bin_['code']} to bin {target['code']}.",
        calls=(
            _find_item(item),
            _find_bin(bin_),
            _find_bin(target),
            call("list_stocks", item_id=item["id"], bin_id=bin_["id"]),
            call("move_stock", stock_id=stock["id"], bin_id=target["id"], quantity=quantity),
        ),
        changes=(_more(stock, -quantity), put),
    )


def _count(rng: random.Random, rows: SqlRows) -> Draft | None:
    stock, item, bin_ = _drawn_stock(rng, rows)
    quantity = other(rng, range(max(1, stock["quantity"])), stock["quantity"])
    return Draft(
        instruction=f"Counting found {quantity} {item['name']} in bin {bin_['code']}. Correct the stock.",
        calls=(
            _find_item(item),
            _find_bin(bin_),
            call("list_stocks", item_id=item["id"], bin_id=bin_["id"]),
            call("count_stock", stock_id=stock["id"], quantity=quantity),
        ),
        changes=(("UPDATE stocks SET quantity = ? WHERE id = ?", (quantity, stock["id"])),),
    )


def _plan(rng: random.Random, rows: SqlRows) -> Draft | None:
    item, quantity, city = rng.choice(rows.find("items")), rng.randrange(1, 10), rng.choice(CITIES)
    return Draft(
        instruction=f"Plan a shipment of {quantity} {item['name']} to {city}.",
        calls=(_find_item(item), call("plan_shipment", item_id=item["id"], quantity=quantity, city=city)),
        changes=(
            (
                "INSERT INTO shipments (item_id, quantity, city, status) VALUES (?, ?, ?, 'planned')",
                (item["id"], quantity, city),
            ),
        ),
    )


def _pack(rng: random.Random, rows: SqlRows) -> Draft | None:
    options: list[tuple[Row, Row]] = []
    for shipment in rows.find("shipments", equals(status="planned")):
        stock = single(rows.find("stocks", equals(item_id=shipment["item_id"])))
        if stock is not None and stock["quantity"] >= shipment["quantity"]:
            options.append((shipment, stock))
    drawn = pick(rng, options)
    if drawn is None:
        return None
    shipment, stock = drawn
    return Draft(
        instruction=f"Pack shipment {shipment['id']} from the only stock of its item.",
        calls=(
            call("get_shipment", shipment_id=shipment["id"]),
            call("list_stocks", item_id=shipment["item_id"]),
            call("pack_shipment", shipment_id=shipment["id"], stock_id=stock["id"]),
        ),
        changes=(_status(shipment, "packed"), _more(stock, -shipment["quantity"])),
    )


def _send_all(rng: random.Random, rows: SqlRows) -> Draft | None:
    packed = rows.find("shipments", equals(status="packed"))
    if not 1 < len(packed) <= 5:
        return None
    return Draft(
        instruction="Send all packed shipments.",
        calls=(
            call("list_shipments", status="packed"),
            *(call("send_shipment", shipment_id=row["id"]) for row in packed),
        ),
        changes=tuple(_status(row, "sent") for row in packed),
    )


def _cancel(rng: random.Random, rows: SqlRows) -> Draft | None:
    planned = rows.find("shipments", equals(status="planned"))
    shipment = pick(
        rng, [row for row in planned if len(rows.find("shipments", equals(status="planned", city=row["city"]))) == 1]
    )
    if shipment is None:
        return None
    return Draft(
        instruction=f"Cancel the planned shipment to {shipment['city']}.",
        calls=(
            call("list_shipments", status="planned", city=shipment["city"]),
            call("cancel_shipment", shipment_id=shipment["id"]),
        ),
        changes=(_status(shipment, "cancelled"),),
    )


def _heaviest(rng: random.Random, rows: SqlRows) -> Draft | None:
    first, second = rows.find("items", sort="-weight")[:2]
    if first["weight"] == second["weight"]:
        return None
    return Draft(
        instruction=f"Which item is the {rng.choice(('heaviest', 'one with the highest weight'))}? "
        "Answer with its name.",
        calls=(call("list_items", sort="-weight"),),
        answer=str(first["name"]),
    )


def _where(rng: random.Random, rows: SqlRows) -> Draft | None:
    item = rng.choice(rows.find("items"))
    bins = [rows.get("bins", stock["bin_id"]) for stock in rows.find("stocks", equals(item_id=item["id"]))]
    if not 0 < len(bins) <= 3:
        return None
    return Draft(
        instruction=f"In which bins does {item['name']} lie? Answer with the codes, separated by commas.",
        calls=(
            _find_item(item),
            call("list_stocks", item_id=item["id"]),
            *(call("get_bin", bin_id=bin_["id"]) for bin_ in bins if bin_),
        ),
        answer=", ".join(bin_["code"] for bin_ in bins if bin_),
        answer_kind="set",
    )


DOMAIN = Domain(
    name="warehouse",
    title="a warehouse",
    schema=warehouse.SCHEMA,
    tables=warehouse.TABLES,
    populate=warehouse.populate,
    tools=warehouse.TOOLS,
    templates=(
        Template(name="receive", draw=_receive),
        Template(name="store-new", draw=_store_new),
        Template(name="move", draw=_move),
        Template(name="count", draw=_count),
        Template(name="plan", draw=_plan),
        Template(name="pack", draw=_pack),
        Template(name="send-all", draw=_send_all),
        Template(name="cancel", draw=_cancel),
        Template(name="heaviest", draw=_heaviest),
        Template(name="where", draw=_where),
    ),
)
