"""The labels of the tool world's explorer: what is called derivable is a function of what was shown."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from contextlib import closing

import pytest

from envecho.errors import WorldError
from envecho.evaluation.scores import VIEWS
from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools import DOMAINS
from envecho.worlds.tools.api import Answer
from envecho.worlds.tools.database import call_database, open_database
from envecho.worlds.tools.domain import Domain
from envecho.worlds.tools.explorer import OPERATIONS, PlannedCall, plan_calls
from envecho.worlds.tools.ledger import Ledger
from envecho.worlds.tools.rows import SqlRows

EVERY_DOMAIN = pytest.mark.parametrize("domain", DOMAINS.values(), ids=list(DOMAINS))


def answers(domain: Domain, connection: sqlite3.Connection, calls: list[CallText]) -> list[Answer]:
    """Make the calls on a copy of the database."""
    with closing(open_database(domain, "0")) as copy:
        copy.deserialize(connection.serialize())
        copy.execute("PRAGMA foreign_keys = ON")
        return [call_database(domain, copy, call) for call in calls]


def change_something(domain: Domain, connection: sqlite3.Connection, rng: random.Random) -> bool:
    """Change one value, delete a row or add one, as another database might have it; False where none came of it."""
    table = rng.choice(domain.tables).name
    rows = SqlRows(connection)
    row = rng.choice(rows.find(table) or [{"id": 0}])
    with closing(open_database(domain, f"other-{rng.randrange(20)}")) as other:
        model = dict(rng.choice(SqlRows(other).find(table) or [row]))
    keys = {key[3]: key[2] for key in connection.execute(f"PRAGMA foreign_key_list({table})")}
    for column, points_to in keys.items():
        model[column] = rng.choice(rows.find(points_to))["id"]
    del model["id"]
    kind = rng.random()
    try:
        if kind < 0.15:
            rows.remove(table, row["id"])
        elif kind < 0.3:
            rows.insert(table, model)
        else:
            column = rng.choice(list(model))
            if row.get(column) == model[column]:
                return False
            rows.change(table, row["id"], {column: model[column]})
    except sqlite3.IntegrityError:
        return False
    return True


@EVERY_DOMAIN
def test_databases_that_agree_on_what_was_shown_give_the_answers_that_are_called_derivable(domain: Domain) -> None:
    """Would catch a label "derivable" on an answer that text cannot tell: no model could ever learn it.

    Each database differs from the true one where the episode does not show it. The first answer that differs must
    be one that the explorer calls first or other.
    """
    betrayed: Counter[str] = Counter()
    unseen = 0
    for seed in range(4):
        rng = random.Random(f"{domain.name}-{seed}")
        plan = plan_calls(domain, str(seed), seed=seed, num_calls=14)
        calls = [planned.call for planned in plan]
        with closing(open_database(domain, str(seed))) as changing:
            true = answers(domain, changing, calls)
            for _ in range(60):
                before = changing.serialize()
                if not change_something(domain, changing, rng):
                    continue
                found = answers(domain, changing, calls)
                differing = [place for place, answer in enumerate(found) if answer != true[place]]
                if not differing:
                    unseen += 1
                    continue
                first = differing[0]
                betrayed[plan[first].labels["view"]] += 1
                told = (str(plan[first].call), true[first].text, found[first].text)
                assert plan[first].labels["view"] != "derivable", told
                changing.deserialize(before)
                changing.execute("PRAGMA foreign_keys = ON")
    assert betrayed["first"] > 20
    assert unseen > 20


@EVERY_DOMAIN
def test_about_half_of_the_calls_are_derivable_and_of_every_kind(domain: Domain) -> None:
    """Would catch an explorer whose episodes hold nothing that proves learnt dynamics, or nothing else."""
    views: Counter[str] = Counter()
    operations: Counter[str] = Counter()
    for seed in range(25):
        for planned in plan_calls(domain, str(seed), seed=0, num_calls=12):
            views[planned.labels["view"]] += 1
            operations[planned.labels.get("operation", "")] += 1
            assert ("operation" in planned.labels) == (planned.labels["view"] == "derivable")
    assert set(views) <= set(VIEWS)
    assert 0.35 < views["derivable"] / views.total() < 0.65
    assert set(OPERATIONS) == set(operations) - {""}


@EVERY_DOMAIN
def test_the_ledger_is_never_wrong_on_long_episodes(domain: Domain) -> None:
    """Would catch a ledger that overlooks a side effect: it raises where another answer came than it foretold."""
    for seed in range(2):
        assert len(plan_calls(domain, str(seed), seed=9, num_calls=50)) == 50


def test_episodes_follow_from_the_seed_and_differ_between_seeds() -> None:
    """Would catch an explorer that draws from a generator of its own, so that runs cannot be repeated."""
    domain = DOMAINS["shop"]
    first = plan_calls(domain, "0", seed=1, num_calls=12)
    assert plan_calls(domain, "0", seed=1, num_calls=12) == first
    assert plan_calls(domain, "0", seed=2, num_calls=12) != first
    assert all(isinstance(planned, PlannedCall) for planned in first)


# --- single inferences --------------------------------------------------------------------------------------------


def shop_ledger(*calls: CallText) -> tuple[Ledger, sqlite3.Connection]:
    """Return what these calls show of shop 0, and the shop after them."""
    connection, ledger = open_database(DOMAINS["shop"], "0"), Ledger(DOMAINS["shop"])
    for call in calls:
        ledger.observe(call, call_database(DOMAINS["shop"], connection, call))
    return ledger, connection


def call(tool: str, /, **arguments: object) -> CallText:
    return CallText(name=tool, arguments=arguments)


def an_order(status: str) -> int:
    with closing(open_database(DOMAINS["shop"], "0")) as connection:
        return int(connection.execute("SELECT id FROM orders WHERE status = ?", (status,)).fetchone()[0])


def test_a_record_follows_from_a_list_only_where_the_list_shows_all_its_fields() -> None:
    """Would catch knowledge of columns that a list leaves out."""
    ledger, connection = shop_ledger(call("list_products", category="office"), call("list_customers", city="Oslo"))
    with closing(connection):
        product = connection.execute("SELECT id FROM products WHERE category = 'office'").fetchone()[0]
        customer = connection.execute("SELECT id FROM customers").fetchone()[0]
    assert ledger.predict(call("list_products", category="office", sort="-price", limit=1)) is not None
    assert ledger.predict(call("get_product", product_id=product)) is None, "its reviews were not shown"
    assert ledger.predict(call("get_customer", customer_id=customer)) is None, "its e-mail was not shown"
    assert ledger.predict(call("list_products")) is None, "other categories were not shown"


def test_an_error_follows_from_the_change_that_makes_it_come() -> None:
    """Would catch an explorer that cannot prove dynamics: paying twice must fail, and it says how."""
    number = an_order("pending")
    ledger, connection = shop_ledger(call("get_order", order_id=number), call("pay_order", order_id=number))
    connection.close()
    foretold = ledger.predict(call("pay_order", order_id=number))
    assert foretold is not None
    assert foretold.status == 409
    assert f"order {number} is paid" in foretold.text
    shipped = ledger.predict(call("ship_order", order_id=number))
    assert shipped is not None
    assert '"status":"shipped"' in shipped.text


def test_a_change_that_was_not_foretold_makes_what_it_may_touch_unknown() -> None:
    """Would catch stale knowledge: cancelling gives stock back to a product whose stock had been shown."""
    number = an_order("pending")
    ledger, connection = shop_ledger(call("list_products", category="sport"), call("cancel_order", order_id=number))
    connection.close()
    assert ledger.predict(call("list_products", category="sport")) is None
    assert ledger.predict(call("cancel_order", order_id=number)) is not None


def test_an_answer_of_another_database_is_refused() -> None:
    """Would catch a ledger that silently takes in what contradicts what it knows."""
    number = an_order("paid")
    ledger, connection = shop_ledger(call("get_order", order_id=number))
    connection.close()
    with pytest.raises(WorldError, match="follows"):
        ledger.observe(call("get_order", order_id=number), Answer(text='{"id":1}'))
