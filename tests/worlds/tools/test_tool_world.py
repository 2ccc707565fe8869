"""The tool world as a world and as a suite: its contract, what it answers to wrong calls, and its splits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from envecho.errors import ConfigError, WorldError
from envecho.rollout.episode import EpisodeJob, run_episode
from envecho.seam import Observation, TaskSuite
from envecho.trajectory import CALL_LABEL, Source
from envecho.worlds.check import check_world
from envecho.worlds.options import SuiteOptions
from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools import DOMAINS, ToolSuite, ToolWorld, make_task, open_tools
from envecho.worlds.tools.suite import HELD_OUT_DOMAIN, NUM_DATABASES


def a_world(domain: str = "shop", template: str = "cancel", *, max_turns: int = 16) -> ToolWorld:
    found = next(one for one in DOMAINS[domain].templates if one.name == template)
    world = ToolWorld(make_task(DOMAINS[domain], found, 0), max_turns=max_turns)
    world.reset()
    return world


def call(tool: str, /, **arguments: Any) -> str:
    return str(CallText(name=tool, arguments=arguments))


def error_of(observation: Observation) -> dict[str, Any]:
    (segment,) = observation.segments
    assert segment.source is Source.TOOL_ERROR
    return json.loads(segment.text)["error"]


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_the_contract_of_a_world_holds_in_every_domain(domain: str) -> None:
    """Would catch state that instances share, an episode that goes on after its end, text spoken as the policy."""
    task = make_task(DOMAINS[domain], DOMAINS[domain].templates[0], 0)
    check_world(lambda: ToolWorld(task), actions=task.oracle, raise_on_failure=True)


def test_reset_states_the_task_and_the_schemas_of_the_tools() -> None:
    """Would catch a policy that is told nothing about what it may call, or told it inside the task's words."""
    world = a_world()
    observation = world.reset()
    assert [segment.source for segment in observation.segments] == [Source.SYSTEM, Source.TASK]
    assert [tool["function"]["name"] for tool in observation.tools] == list(DOMAINS["shop"].tools)
    assert all(tool["function"]["parameters"]["additionalProperties"] is False for tool in observation.tools)
    assert not any("list_orders" in segment.text for segment in observation.segments)


@pytest.mark.parametrize(
    ("turn", "label", "source", "status", "words"),
    [
        ("let me think", "unparsed", Source.FORMAT_WARNING, None, "nothing was run"),
        (call("list_orders", limit=2), "valid", Source.TOOL_RESULT, 200, '"total":15'),
        (call("get_orders"), "invalid", Source.TOOL_ERROR, 404, "get_order"),
        (call("get_order"), "invalid", Source.TOOL_ERROR, 422, '"field":"order_id"'),
        (call("get_order", order_id="5"), "invalid", Source.TOOL_ERROR, 422, "must be of type integer"),
        (call("get_order", order_id=True), "invalid", Source.TOOL_ERROR, 422, "must be of type integer"),
        (call("get_order", order_id=0), "invalid", Source.TOOL_ERROR, 422, "at least 1"),
        (call("list_orders", limit=9), "invalid", Source.TOOL_ERROR, 422, "at most 8"),
        (call("list_orders", state="paid"), "invalid", Source.TOOL_ERROR, 422, "unknown parameter"),
        (call("list_orders", status="lost"), "invalid", Source.TOOL_ERROR, 422, "must be one of pending"),
        (call("list_customers", query=""), "invalid", Source.TOOL_ERROR, 422, "must not be empty"),
        (call("get_order", order_id=3), "valid", Source.TOOL_ERROR, 404, "order 3 not found"),
    ],
)
def test_calls_are_labelled_by_how_they_fared(
    turn: str, label: str, source: Source, status: int | None, words: str
) -> None:
    """Would catch an API's own error (no such order) counted as a wrong call, and a wrong call counted as tried."""
    observation = a_world().step(turn)
    (segment,) = observation.segments
    assert (observation.labels[CALL_LABEL], segment.source) == (label, source)
    assert observation.metadata.get("status") == status
    assert words in segment.text


def test_errors_of_state_are_those_of_web_apis() -> None:
    """Would catch a service that lets anything be done at any time."""
    shop = a_world()
    orders = json.loads(shop.step(call("list_orders", status="shipped")).segments[0].text)["items"]
    products = json.loads(shop.step(call("list_products", sort="stock")).segments[0].text)["items"]
    customer = orders[0]["customer_id"]
    assert error_of(shop.step(call("cancel_order", order_id=orders[0]["id"])))["status"] == 409
    too_many = call("create_order", customer_id=customer, product_id=products[0]["id"], quantity=40)
    assert error_of(shop.step(too_many))["message"] == f"out of stock: only {products[0]['stock']} left"
    clinic = a_world("clinic")
    doctor = json.loads(clinic.step(call("list_doctors")).segments[0].text)["items"][0]["id"]
    patient = json.loads(clinic.step(call("list_patients")).segments[0].text)["items"][0]["id"]
    slot = {"doctor_id": doctor, "patient_id": patient, "day": "2031-05-14", "time": "09:00", "reason": "rash"}
    assert error_of(clinic.step(call("book_appointment", **slot)))["field"] == "day"
    library = a_world("library", "lend")
    suspended = json.loads(library.step(call("list_members", status="suspended")).segments[0].text)["items"][0]["id"]
    book = json.loads(library.step(call("list_books", sort="-available")).segments[0].text)["items"][0]["id"]
    assert error_of(library.step(call("lend_book", book_id=book, member_id=suspended)))["status"] == 403


HOSTILE_VALUES = (
    "'; DROP TABLE orders; --",
    "x' OR '1'='1",
    '" UNION SELECT sql FROM sqlite_master --',
    "%",
    "\x00\u202e\U0001f600",
    "\ud800",
    "x" * 100_000,
    10**400,
    -1,
    1.5,
    float("inf"),
    None,
    True,
    [],
    {"$gt": ""},
    [[[[[[[[[[]]]]]]]]]],
)


@pytest.mark.parametrize("domain", list(DOMAINS))
def test_hostile_arguments_are_inert(domain: str) -> None:
    """Would catch a value that becomes SQL, an error that repeats it at length, and an exception."""
    tools = DOMAINS[domain].tools
    world = a_world(domain, DOMAINS[domain].templates[0].name, max_turns=10_000)
    task = make_task(DOMAINS[domain], DOMAINS[domain].templates[0], 0)
    for tool in tools.values():
        good = {name: parameter.samples[0] if parameter.samples else 1 for name, parameter in tool.parameters.items()}
        for name in (*tool.parameters, "extra"):
            for value in HOSTILE_VALUES:
                turn = json.dumps({"name": tool.name, "arguments": {**good, name: value}})
                observation = world.step(turn)
                assert len(observation.segments[0].text) < 1_200
                observation.segments[0].text.encode()
    for name in ("list_orders; DROP TABLE orders", "\ud800" * 50, "x" * 10_000, ""):
        observation = world.step(json.dumps({"name": name, "arguments": {}}))
        assert observation.labels[CALL_LABEL] == "invalid"
        assert len(observation.segments[0].text) < 200
        (observation.segments[0].tool or "").encode()
    fresh = ToolWorld(task)
    fresh.reset()
    for turn in task.oracle[:-1]:
        assert fresh.step(turn).segments[0].source is Source.TOOL_RESULT


def test_deeply_nested_json_is_an_answer_too() -> None:
    """Would catch a recursion error in the parser or in the validator."""
    world = a_world()
    for depth in (50, 5_000, 200_000):
        nested = "[" * depth + "]" * depth
        observation = world.step(f'{{"name": "get_order", "arguments": {{"order_id": {nested}}}}}')
        assert observation.labels[CALL_LABEL] in ("invalid", "unparsed")


def test_a_search_word_is_text_and_not_a_pattern() -> None:
    """Would catch LIKE, with which `%` finds everybody, and a search that minds the case."""
    world = a_world()
    for word, total in (("%", 0), ("_", 0), ("zzz", 0)):
        assert json.loads(world.step(call("list_customers", query=word)).segments[0].text)["total"] == total
    name = json.loads(world.step(call("list_customers")).segments[0].text)["items"][0]["name"]
    assert json.loads(world.step(call("list_customers", query=name.upper())).segments[0].text)["total"] == 1


def test_lists_come_in_pages() -> None:
    """Would catch a list that fills the context, and pages that overlap or skip rows."""
    world = a_world()
    first = json.loads(world.step(call("list_orders")).segments[0].text)
    pages = [
        json.loads(world.step(call("list_orders", offset=offset)).segments[0].text)["items"]
        for offset in (0, 5, 10, 15)
    ]
    assert first["total"] == 15
    assert [len(page) for page in pages] == [5, 5, 5, 0]
    numbers = [item["id"] for page in pages for item in page]
    assert numbers == sorted(set(numbers))


def test_every_episode_has_a_database_of_its_own() -> None:
    """Would catch what one episode did in the next one, or in one that runs beside it."""
    task = make_task(DOMAINS["shop"], DOMAINS["shop"].templates[0], 0)
    change, look = task.oracle[-2], call("get_order", order_id=task.draft.calls[-1].arguments["order_id"])
    one, two = ToolWorld(task), ToolWorld(task)
    one.reset()
    two.reset()
    one.step(change)
    assert '"status":"cancelled"' in one.step(look).segments[0].text
    assert '"status":"pending"' in two.step(look).segments[0].text
    one.reset()
    assert '"status":"pending"' in one.step(look).segments[0].text
    one.close()
    two.close()


def test_the_last_turn_ends_the_episode_and_is_graded() -> None:
    """Would catch an episode without end, and a verdict before the end."""
    task = make_task(DOMAINS["shop"], DOMAINS["shop"].templates[0], 0)
    world = ToolWorld(task, max_turns=len(task.draft.calls))
    world.reset()
    observations = [world.step(turn) for turn in task.oracle[:-1]]
    assert [observation.reward for observation in observations] == [None] * (len(observations) - 1) + [1.0]
    assert observations[-1].done
    with pytest.raises(WorldError, match="call reset first"):
        world.step("answer: done")
    with pytest.raises(WorldError, match="reset takes"):
        world.reset(options=1)


def test_the_verdict_is_a_number_and_no_words() -> None:
    """Would catch the verifier's words where a policy, or a model of the world, could learn them."""
    world = a_world()
    observation = world.step("answer: done")
    assert observation.segments == ()
    assert (observation.done, observation.reward) == (True, 0.0)


# --- the suite ----------------------------------------------------------------------------------------------------


def test_splits_share_no_database_and_the_held_out_domain_is_in_one_split_alone() -> None:
    """Would catch held-out figures on data, or on a domain, that training saw."""
    suite: TaskSuite = open_tools(SuiteOptions())
    places = {
        split: {
            (task.domain.name, task.database.split(".")[0])
            for number in range(0, suite.num_tasks(split) or 0, 97)
            for task in [ToolSuite().task(split, number)]
        }
        for split in suite.splits
    }
    assert suite.splits == ("train", "validation", "new_data", "new_domains")
    for one in suite.splits:
        for two in suite.splits:
            assert one == two or not places[one] & places[two]
        domains = {domain for domain, _ in places[one]}
        assert (HELD_OUT_DOMAIN in domains) == (one == "new_domains")
        assert len(domains) == (1 if one == "new_domains" else len(DOMAINS) - 1)


def test_numbers_name_the_same_task_everywhere_and_start_over_after_the_last() -> None:
    """Would catch tasks that depend on the process, and two numbers of one split for one task before its end."""
    suite = ToolSuite(domains=("tracker",))
    count = suite.num_tasks("train")
    assert count == NUM_DATABASES * len(DOMAINS["tracker"].templates)
    ids = [suite.task_id("train", number) for number in range(60)]
    assert len(set(ids)) == 60
    assert suite.task_id("train", count + 3) == ids[3]
    assert len({suite.task_id("train", number) for number in range(count)}) == count
    assert suite.splits == ("train", "validation", "new_data")


def test_a_small_pool_is_of_many_databases() -> None:
    """Would catch a pool of a hundred episodes on two databases, whose rows a model remembers (training showed it)."""
    suite = ToolSuite()
    assert len({suite.task("train", number).database for number in range(100)}) >= 80


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (SuiteOptions(families=("shops",)), "Did you mean 'shop'"),
        (SuiteOptions(families=(HELD_OUT_DOMAIN,)), "held out from training"),
        (SuiteOptions(world_map=Path("map.toml")), "takes no world_map"),
    ],
)
def test_options_that_cannot_be_followed_are_refused(options: SuiteOptions, message: str) -> None:
    """Would catch an option that is dropped without a word."""
    with pytest.raises(ConfigError, match=message):
        open_tools(options)


def test_unknown_splits_and_scripts_are_refused() -> None:
    """Would catch a typing error that trains on another split."""
    suite = ToolSuite()
    with pytest.raises(ConfigError, match="the splits train"):
        suite.task("test", 0)
    with pytest.raises(ConfigError, match="oracle and explore"):
        suite.scripted_policy("train", 0, policy="random", seed=0)


@pytest.mark.parametrize("split", ["train", "validation", "new_data", "new_domains"])
def test_scripted_episodes_run_through_the_loop(split: str) -> None:
    """Would catch scripts that the world answers otherwise than they were planned."""
    suite = ToolSuite()
    for number in range(8):
        for policy in ("oracle", "explore"):
            script = suite.scripted_policy(split, number, policy=policy, seed=0)
            job = EpisodeJob(
                id="one",
                task_id=suite.task_id(split, number),
                seed=0,
                make_world=lambda number=number: suite.make_world(split, number),
                make_policy=lambda script=script: script,
            )
            trajectory = run_episode(job)
            answers = [message for message in trajectory.messages if CALL_LABEL in message.labels]
            if policy == "oracle":
                assert trajectory.reward == 1.0
                assert {message.labels[CALL_LABEL] for message in answers} == {"valid"}
            else:
                assert trajectory.reward is None
                assert all("view" in message.labels for message in answers)
                assert len(answers) == 12
