"""A web shop: customers, products, orders and reviews.

Not here: what is asked of it (`shop_tasks`).
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
from envecho.worlds.tools.domain import TODAY, by_name, numbered
from envecho.worlds.tools.names import CITIES, mail, people
from envecho.worlds.tools.rows import Row, Rows, Table, equals

CATEGORIES = ("kitchen", "garden", "office", "sport")
STATUSES = ("pending", "paid", "shipped", "delivered", "cancelled")
GOODS: Mapping[str, tuple[str, ...]] = {
    "kitchen": ("blue kettle", "steel pan", "bread knife", "tea cup", "glass bowl", "wooden spoon"),
    "garden": ("long hose", "red shovel", "flower pot", "hand rake", "bird house", "plant box"),
    "office": ("desk lamp", "paper clip", "green pen", "note book", "wall clock", "ink box"),
    "sport": ("tennis ball", "swim cap", "yoga mat", "jump rope", "bike pump", "water bottle"),
}

SCHEMA = """
CREATE TABLE customers (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, email TEXT NOT NULL UNIQUE,
    city TEXT NOT NULL);
CREATE TABLE products (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, category TEXT NOT NULL,
    price INTEGER NOT NULL CHECK (price > 0), stock INTEGER NOT NULL CHECK (stock >= 0));
CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, customer_id INTEGER NOT NULL REFERENCES customers (id),
    product_id INTEGER NOT NULL REFERENCES products (id), quantity INTEGER NOT NULL CHECK (quantity > 0),
    total INTEGER NOT NULL, status TEXT NOT NULL CHECK (status IN ('pending', 'paid', 'shipped', 'delivered',
    'cancelled')), placed_on TEXT NOT NULL);
CREATE TABLE reviews (id INTEGER PRIMARY KEY AUTOINCREMENT, product_id INTEGER NOT NULL REFERENCES products (id),
    customer_id INTEGER NOT NULL REFERENCES customers (id), rating INTEGER NOT NULL CHECK (rating BETWEEN 1 AND 5),
    UNIQUE (product_id, customer_id));
"""

_PRODUCT = ("id", "name", "category", "price", "stock")
CUSTOMERS = Table(name="customers", noun="customer", columns=("id", "name", "email", "city"), brief=("id", "name"))
PRODUCTS = Table(name="products", noun="product", columns=_PRODUCT, brief=_PRODUCT)
ORDERS = Table(
    name="orders",
    noun="order",
    columns=("id", "customer_id", "product_id", "quantity", "total", "status", "placed_on"),
    brief=("id", "customer_id", "product_id", "quantity", "status"),
)
_REVIEW = ("id", "product_id", "customer_id", "rating")
REVIEWS = Table(name="reviews", noun="review", columns=_REVIEW, brief=_REVIEW)
TABLES = (CUSTOMERS, PRODUCTS, ORDERS, REVIEWS)


def populate(rng: random.Random) -> Mapping[str, list[Row]]:
    """Draw the rows of a shop."""
    customers = numbered(
        rng, [{"name": name, "email": mail(name), "city": rng.choice(CITIES)} for name in people(rng, 7)]
    )
    goods = [(name, category) for category in CATEGORIES for name in rng.sample(GOODS[category], 3)]
    rng.shuffle(goods)
    products = numbered(
        rng,
        [
            {"name": name, "category": category, "price": rng.randrange(3, 90), "stock": rng.randrange(0, 30)}
            for name, category in goods
        ],
    )
    orders: list[dict[str, Any]] = []
    for place in range(15):
        product, quantity = rng.choice(products), rng.randrange(1, 5)
        status = STATUSES[place % 4] if place < 8 else rng.choice(STATUSES)
        orders.append(
            {
                "customer_id": rng.choice(customers)["id"],
                "product_id": product["id"],
                "quantity": quantity,
                "total": quantity * product["price"],
                "status": status,
                "placed_on": f"2031-0{rng.randrange(2, 5)}-{rng.randrange(1, 29):02d}",
            }
        )
    bought = sorted({(o["product_id"], o["customer_id"]) for o in orders if o["status"] == "delivered"})
    reviews = [
        {"product_id": product, "customer_id": customer, "rating": rng.randrange(1, 6)}
        for product, customer in rng.sample(bought, len(bought) // 2)
    ]
    rng.shuffle(orders)
    return {
        "customers": customers,
        "products": products,
        "orders": numbered(rng, orders),
        "reviews": numbered(rng, reviews),
    }


def _create_order(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    need(rows, CUSTOMERS, arguments["customer_id"])
    product, quantity = need(rows, PRODUCTS, arguments["product_id"]), arguments["quantity"]
    _take(rows, product, quantity)
    return created(rows, ORDERS, **arguments, total=quantity * product["price"], status="pending", placed_on=TODAY)


def _take(rows: Rows, product: Row, quantity: int) -> None:
    if product["stock"] < quantity:
        raise ApiError(409, f"out of stock: only {product['stock']} left")
    rows.change("products", product["id"], {"stock": product["stock"] - quantity})


def _set_quantity(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    order, quantity = _order_in(rows, arguments["order_id"], "pending"), arguments["quantity"]
    product = need(rows, PRODUCTS, order["product_id"])
    _take(rows, product, quantity - order["quantity"])
    return changed(rows, ORDERS, order["id"], quantity=quantity, total=quantity * product["price"])


def _order_in(rows: Rows, number: int, *statuses: str) -> Row:
    order = need(rows, ORDERS, number)
    if order["status"] not in statuses:
        raise ApiError(409, f"order {number} is {order['status']}, expected {' or '.join(statuses)}")
    return order


def _cancel_order(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    order = _order_in(rows, arguments["order_id"], "pending", "paid")
    product = need(rows, PRODUCTS, order["product_id"])
    rows.change("products", product["id"], {"stock": product["stock"] + order["quantity"]})
    return changed(rows, ORDERS, order["id"], status="cancelled")


def _pay_order(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    order = _order_in(rows, arguments["order_id"], "pending")
    return changed(rows, ORDERS, order["id"], status="paid")


def _ship_order(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    order = _order_in(rows, arguments["order_id"], "paid")
    return changed(rows, ORDERS, order["id"], status="shipped")


def _set_price(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    product = need(rows, PRODUCTS, arguments["product_id"])
    return changed(rows, PRODUCTS, product["id"], price=arguments["price"])


def _restock(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    product = need(rows, PRODUCTS, arguments["product_id"])
    return changed(rows, PRODUCTS, product["id"], stock=product["stock"] + arguments["quantity"])


def _move_customer(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    customer = need(rows, CUSTOMERS, arguments["customer_id"])
    return changed(rows, CUSTOMERS, customer["id"], city=arguments["city"])


def _add_review(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    pair = equals(product_id=arguments["product_id"], customer_id=arguments["customer_id"])
    need(rows, PRODUCTS, arguments["product_id"])
    need(rows, CUSTOMERS, arguments["customer_id"])
    if not rows.find("orders", (*pair, *equals(status="delivered"))):
        raise ApiError(403, "only a customer with a delivered order may review")
    if rows.find("reviews", pair):
        raise ApiError(409, "this customer has already reviewed this product")
    return created(rows, REVIEWS, **arguments)


def _order_tool(name: str, description: str, run: Any, *, also: tuple[str, ...] = (), **more: Any) -> Tool:
    parameters = {"order_id": ref("orders"), **more}
    return Tool(
        name=name, description=description, parameters=parameters, run=run, shows="orders", writes=("orders", *also)
    )


TOOLS = by_name(
    list_tool(
        CUSTOMERS,
        "list_customers",
        "List customers.",
        filters={
            "query": Filter(text(column="customers.name"), "name", "contains"),
            "city": Filter(text(*CITIES), "city"),
        },
    ),
    get_tool(CUSTOMERS),
    Tool(
        name="move_customer",
        description="Set the city of a customer.",
        parameters={"customer_id": ref("customers"), "city": text(*CITIES)},
        run=_move_customer,
        shows="customers",
        writes=("customers",),
    ),
    list_tool(
        PRODUCTS,
        "list_products",
        "List products.",
        filters={
            "query": Filter(text(column="products.name"), "name", "contains"),
            "category": Filter(choice(*CATEGORIES), "category"),
            "max_price": Filter(whole(1, 1000, 20, 35, 50, 70), "price", "<="),
        },
        sorts=("price", "stock"),
    ),
    get_tool(PRODUCTS, inside={"reviews": (REVIEWS, "product_id")}),
    Tool(
        name="set_price",
        description="Set the price of a product.",
        parameters={"product_id": ref("products"), "price": whole(1, 1000, 5, 19, 42, 77)},
        run=_set_price,
        shows="products",
        writes=("products",),
    ),
    Tool(
        name="restock_product",
        description="Add to the stock of a product.",
        parameters={"product_id": ref("products"), "quantity": whole(1, 100, 3, 10, 25)},
        run=_restock,
        shows="products",
        writes=("products",),
    ),
    list_tool(
        ORDERS,
        "list_orders",
        "List orders.",
        filters={
            "customer_id": Filter(ref("customers"), "customer_id"),
            "product_id": Filter(ref("products"), "product_id"),
            "status": Filter(choice(*STATUSES), "status"),
        },
        sorts=("quantity",),
    ),
    get_tool(ORDERS),
    Tool(
        name="create_order",
        description="Order a product for a customer.",
        parameters={
            "customer_id": ref("customers"),
            "product_id": ref("products"),
            "quantity": whole(1, 50, 1, 2, 3, 40),
        },
        run=_create_order,
        shows="orders",
        writes=("orders", "products"),
        creates=True,
    ),
    _order_tool(
        "set_quantity",
        "Change the quantity of a pending order.",
        _set_quantity,
        also=("products",),
        quantity=whole(1, 50, 1, 2, 4, 6),
    ),
    _order_tool("pay_order", "Mark a pending order as paid.", _pay_order),
    _order_tool("ship_order", "Ship a paid order.", _ship_order),
    _order_tool("cancel_order", "Cancel a pending or paid order.", _cancel_order, also=("products",)),
    Tool(
        name="add_review",
        description="Rate a product that a customer received.",
        parameters={"customer_id": ref("customers"), "product_id": ref("products"), "rating": whole(1, 5)},
        run=_add_review,
        shows="reviews",
        writes=("reviews",),
        creates=True,
    ),
)
