"""What is asked of the shop. Not here: its rows and tools (`shop`)."""

from __future__ import annotations

import random

from envecho.worlds.tools.domain import TODAY, Domain, Draft, Statement, Template, call
from envecho.worlds.tools.domains import shop
from envecho.worlds.tools.names import CITIES
from envecho.worlds.tools.picking import last_name, other, pick, single
from envecho.worlds.tools.rows import Condition, Row, SqlRows, equals


def _find_customer(customer: Row):
    return call("list_customers", query=last_name(customer["name"]))


def _find_product(product: Row):
    return call("list_products", query=product["name"])


def _stock(product_id: int, change: int) -> Statement:
    return "UPDATE products SET stock = stock + ? WHERE id = ?", (change, product_id)


def _status(order: Row, status: str) -> Statement:
    return "UPDATE orders SET status = ? WHERE id = ?", (status, order["id"])


def _one_order(rng: random.Random, rows: SqlRows, status: str) -> tuple[Row, Row] | None:
    """Draw a customer who has exactly one order of this status, and the order."""
    found: list[tuple[Row, Row]] = []
    for customer in rows.find("customers"):
        order = single(rows.find("orders", equals(customer_id=customer["id"], status=status)))
        if order is not None:
            found.append((customer, order))
    return pick(rng, found)


def _cancel(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_order(rng, rows, "pending")
    if drawn is None:
        return None
    customer, order = drawn
    return Draft(
        instruction=f"{customer['name']} has one pending order. Cancel it.",
        calls=(
            _find_customer(customer),
            call("list_orders", customer_id=customer["id"], status="pending"),
            call("cancel_order", order_id=order["id"]),
        ),
        changes=(_status(order, "cancelled"), _stock(order["product_id"], order["quantity"])),
    )


def _ship(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_order(rng, rows, "paid")
    if drawn is None:
        return None
    customer, order = drawn
    return Draft(
        instruction=f"Ship the paid order of {customer['name']}.",
        calls=(
            _find_customer(customer),
            call("list_orders", customer_id=customer["id"], status="paid"),
            call("ship_order", order_id=order["id"]),
        ),
        changes=(_status(order, "shipped"),),
    )


def _pay_and_ship(rng: random.Random, rows: SqlRows) -> Draft | None:
    order = pick(rng, rows.find("orders", equals(status="pending")))
    if order is None:
        return None
    return Draft(
        instruction=f"Order {order['id']} was paid today. Record that, and ship it.",
        calls=(call("pay_order", order_id=order["id"]), call("ship_order", order_id=order["id"])),
        changes=(_status(order, "shipped"),),
    )


def _quantity(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_order(rng, rows, "pending")
    if drawn is None:
        return None
    customer, order = drawn
    product = rows.get("products", order["product_id"])
    quantity = other(rng, range(1, 7), order["quantity"])
    if product is None or product["stock"] < quantity:
        return None
    return Draft(
        instruction=f"Change the pending order of {customer['name']} to a quantity of {quantity}.",
        calls=(
            _find_customer(customer),
            call("list_orders", customer_id=customer["id"], status="pending"),
            call("set_quantity", order_id=order["id"], quantity=quantity),
        ),
        changes=(
            (
                "UPDATE orders SET total = ? * (SELECT price FROM products WHERE id = product_id), quantity = ? "
                "WHERE id = ?",
                (quantity, quantity, order["id"]),
            ),
            _stock(product["id"], order["quantity"] - quantity),
        ),
    )


def _buy(rng: random.Random, rows: SqlRows) -> Draft | None:
    customer, quantity = rng.choice(rows.find("customers")), rng.randrange(1, 4)
    product = pick(rng, rows.find("products", (Condition("stock", ">=", quantity),)))
    if product is None:
        return None
    return Draft(
        instruction=f"Order {quantity} of the {product['name']} for {customer['name']}.",
        calls=(
            _find_customer(customer),
            _find_product(product),
            call("create_order", customer_id=customer["id"], product_id=product["id"], quantity=quantity),
        ),
        changes=(
            (
                "INSERT INTO orders (customer_id, product_id, quantity, total, status, placed_on) "
                "VALUES (?, ?, ?, ?, 'pending', ?)",
                (customer["id"], product["id"], quantity, quantity * product["price"], TODAY),
            ),
            _stock(product["id"], -quantity),
        ),
    )


def _price(rng: random.Random, rows: SqlRows) -> Draft | None:
    product = rng.choice(rows.find("products"))
    price = other(rng, range(3, 90), product["price"])
    return Draft(
        instruction=f"Set the price of the {product['name']} to {price}.",
        calls=(_find_product(product), call("set_price", product_id=product["id"], price=price)),
        changes=(("UPDATE products SET price = ? WHERE id = ?", (price, product["id"])),),
    )


def _restock_lowest(rng: random.Random, rows: SqlRows) -> Draft | None:
    category, quantity = rng.choice(shop.CATEGORIES), rng.choice((5, 10, 20))
    lowest = rows.find("products", equals(category=category), sort="stock")
    if lowest[0]["stock"] == lowest[1]["stock"]:
        return None
    return Draft(
        instruction=f"Find the {category} product with the lowest stock and restock it by {quantity}.",
        calls=(
            call("list_products", category=category, sort="stock"),
            call("restock_product", product_id=lowest[0]["id"], quantity=quantity),
        ),
        changes=(_stock(lowest[0]["id"], quantity),),
    )


def _move(rng: random.Random, rows: SqlRows) -> Draft | None:
    customer = rng.choice(rows.find("customers"))
    city = other(rng, CITIES, customer["city"])
    return Draft(
        instruction=f"{customer['name']} has moved to {city}. Update the customer.",
        calls=(_find_customer(customer), call("move_customer", customer_id=customer["id"], city=city)),
        changes=(("UPDATE customers SET city = ? WHERE id = ?", (city, customer["id"])),),
    )


def _review(rng: random.Random, rows: SqlRows) -> Draft | None:
    open_orders = [
        order
        for order in rows.find("orders", equals(status="delivered"))
        if not rows.find("reviews", equals(product_id=order["product_id"], customer_id=order["customer_id"]))
    ]
    order, rating = pick(rng, open_orders), rng.randrange(1, 6)
    if order is None:
        return None
    customer, product = rows.get("customers", order["customer_id"]), rows.get("products", order["product_id"])
    if customer is None or product is None:
        return None
    ids = {"customer_id": customer["id"], "product_id": product["id"]}
    return Draft(
        instruction=f"{customer['name']} gives the {product['name']} a rating of {rating}. Add the review.",
        calls=(_find_customer(customer), _find_product(product), call("add_review", **ids, rating=rating)),
        changes=(("INSERT INTO reviews (customer_id, product_id, rating) VALUES (?, ?, ?)", (*ids.values(), rating)),),
    )


def _count(rng: random.Random, rows: SqlRows) -> Draft | None:
    customer, status = rng.choice(rows.find("customers")), rng.choice(shop.STATUSES)
    found = rows.find("orders", equals(customer_id=customer["id"], status=status))
    return Draft(
        instruction=f"How many {status} orders does {customer['name']} have? Answer with the number.",
        calls=(_find_customer(customer), call("list_orders", customer_id=customer["id"], status=status)),
        answer=str(len(found)),
        answer_kind="number",
    )


def _cheapest(rng: random.Random, rows: SqlRows) -> Draft | None:
    category = rng.choice(shop.CATEGORIES)
    first, second = rows.find("products", equals(category=category), sort="price")[:2]
    if first["price"] == second["price"]:
        return None
    return Draft(
        instruction=f"Which {category} product is the cheapest? Answer with its name.",
        calls=(call("list_products", category=category, sort="price"),),
        answer=str(first["name"]),
    )


def _total(rng: random.Random, rows: SqlRows) -> Draft | None:
    order = rng.choice(rows.find("orders"))
    return Draft(
        instruction=f"What is the total of order {order['id']}? Answer with the number.",
        calls=(call("get_order", order_id=order["id"]),),
        answer=str(order["total"]),
        answer_kind="number",
    )


DOMAIN = Domain(
    name="shop",
    title="a web shop",
    schema=shop.SCHEMA,
    tables=shop.TABLES,
    populate=shop.populate,
    tools=shop.TOOLS,
    templates=(
        Template(name="cancel", draw=_cancel),
        Template(name="ship", draw=_ship),
        Template(name="pay-and-ship", draw=_pay_and_ship),
        Template(name="quantity", draw=_quantity),
        Template(name="buy", draw=_buy),
        Template(name="price", draw=_price),
        Template(name="restock-lowest", draw=_restock_lowest),
        Template(name="move", draw=_move),
        Template(name="review", draw=_review),
        Template(name="count", draw=_count),
        Template(name="cheapest", draw=_cheapest),
        Template(name="total", draw=_total),
    ),
)
