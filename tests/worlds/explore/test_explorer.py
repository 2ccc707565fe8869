"""Explorers made from schemas, on a tiny world whose ids nobody can guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from shop_world import TOOLS, ShopWorld, function, play

from envecho.errors import ConfigError
from envecho.trajectory import CallOutcome, Message, Segment, Source, ToolCall, call_outcome
from envecho.worlds.explore import explore_actions
from envecho.worlds.explore.catalogue import Tool
from envecho.worlds.explore.history import exchanges
from envecho.worlds.explore.seen import Seen
from envecho.worlds.tool_calls import CallText, parse_action

SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


def explore(seed: int, *, num_actions: int = 12, seed_actions: Path | None = None) -> list[Message]:
    """An episode of the shop."""
    policy = explore_actions(None, TOOLS, seed_actions=seed_actions, num_actions=num_actions, seed=seed)
    return play(ShopWorld(max_turns=40), policy, seed=seed)


def told(text: str, source: Source = Source.TOOL_RESULT) -> Message:
    return Message(role="user", segments=(Segment(source=source, text=text),))


def wrote(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_ids_that_an_answer_showed_are_used():
    """Catches an explorer that draws ids blindly: of these none could be guessed, so every detail call would fail."""
    reached: set[str] = set()
    for seed in range(10):
        for exchange in exchanges(explore(seed))[1]:
            if exchange.call and exchange.is_valid:
                reached.add(exchange.call.name)
    assert reached == {"list_products", "get_product", "place_order", "get_order"}


def test_most_calls_are_carried_out_and_some_are_mistakes():
    """Catches an explorer that learns nothing, and one that never shows what an error looks like."""
    outcomes = [call_outcome(m) for seed in range(20) for m in explore(seed)[2::2]]
    valid = sum(outcome is CallOutcome.VALID for outcome in outcomes) / len(outcomes)
    assert 0.6 < valid < 0.95


def test_lists_come_before_details():
    """Catches an explorer whose first turns ask for things that it cannot know."""
    firsts = [parse_action(explore(seed, num_actions=1)[1].content) for seed in range(30)]
    names = [call.name for call in firsts if isinstance(call, CallText)]
    assert names.count("list_products") > 22


def test_calls_without_a_mistake_are_valid_for_their_schemas():
    """Catches arguments that a strict server refuses before it looks at them."""
    for seed in range(20):
        messages = explore(seed)
        for said, answer in zip(messages[1::2], messages[2::2], strict=True):
            call = parse_action(said.content)
            assert isinstance(call, CallText)
            if answer.labels["view"] != "other":
                Draft202012Validator(SCHEMAS[call.name]).validate(dict(call.arguments))


def test_the_same_seed_and_messages_give_the_same_actions():
    """Catches a draw from a generator that a process shares, or state that outlives an episode."""
    assert explore(4) == explore(4)
    assert explore(4) != explore(5)
    messages = explore(6)
    policy = explore_actions(None, TOOLS, seed_actions=None, num_actions=12, seed=6)
    backwards = [policy.act(messages[:turn]).message for turn in range(11, 0, -2)]
    assert backwards == messages[11:0:-2]


def test_no_call_is_said_over_and_over():
    """Catches an episode that learns one line by heart."""
    for seed in range(10):
        said = [message.content for message in explore(seed)[1::2]]
        assert max(said.count(text) for text in said) <= 3


def test_derivable_answers_were_given_before():
    """Catches a label that is no fact: what it marks must equal an earlier answer of the same episode, word by word."""
    marked = 0
    for seed in range(30):
        messages = explore(seed)
        for turn in range(1, len(messages), 2):
            answer = messages[turn + 1]
            if answer.labels["view"] == "derivable":
                earlier = [messages[t + 1].content for t in range(1, turn, 2) if messages[t] == messages[turn]]
                assert answer.content == earlier[-1]
                assert answer.labels["operation"] == "repeat"
                marked += 1
    assert marked > 10


def test_a_call_after_a_write_is_not_derivable():
    """Catches a label for text that a write may have changed since."""
    policy = explore_actions(None, TOOLS, seed_actions=None, num_actions=99, seed=1)
    assert not isinstance(policy, type)
    read, write = CallText(name="list_products", arguments={}), CallText(name="place_order", arguments={"productId": 1})
    messages = [told("A shop.", Source.TASK)]
    for call in (read, write):
        messages += [
            Message(role="assistant", segments=(Segment(source=Source.POLICY, text=str(call)),)),
            told('{"products": [{"id": 4217}]}'),
        ]
    history = exchanges(messages)[1]
    repeatable = policy._repeatable  # type: ignore[attr-defined]
    assert repeatable(history[:1]) == [str(read)]
    assert repeatable(history) == []


@pytest.mark.parametrize(
    ("answer", "tool", "parameter", "things", "expected"),
    [
        ('{"products": [{"id": 3}]}', "search_products", "product_id", "get_product", [3]),
        ('[{"id": 3, "name": "x"}]', "listProducts", "id", "get_product", [3]),
        ('{"result": {"items": [{"id": 3}]}}', "list_products", "productId", "buy", [3]),
        ('{"content": [{"type": "text", "text": "{\\"order\\": {\\"id\\": 9}}"}]}', "make", "order_id", "get", [9]),
        ('{"account": {"id": 5}}', "get_account", "target_account_id", "move_money", [5]),
        ('{"category_id": 8}', "get_product", "new_category_id", "update_product", [8]),
        ('{"id": 7, "product_id": 3}', "buy_product", "product_id", "get_product", [3]),
        ('{"status": "open"}', "get_order", "status", "find_orders", ["open"]),
        ('{"tags": ["red", "blue"]}', "get_product", "tag", "find_products", ["red", "blue"]),
        ("order id: 17\nstatus: open", "show", "order_id", "get", [17]),
        ("id=17 state=open", "get_order", "order_id", "x", [17]),
        ("write to mia@example.org", "show", "recipient_email", "send_mail", ["mia@example.org"]),
        ("due on 2025-03-04", "show", "start_date", "find", ["2025-03-04"]),
        ('{"name": "Brass lamp"}', "get_product", "query", "search_products", ["Brass", "lamp"]),
        ('{"users": [{"id": 3}]}', "list_users", "id", "get_product", []),
        ('{"id": 3}', "get_product", "user_id", "get_user", []),
        ("see http://example.com: ok", "show", "http", "x", []),
    ],
)
def test_values_are_joined_to_parameters_by_what_they_mean(
    answer: str, tool: str, parameter: str, things: str, expected: list[Any]
):
    """Catches an id that is not found under a like name, and one of another kind of thing that is taken for it."""
    seen = Seen()
    seen.read(told(answer), things=Tool.of(function(tool, {})).things)
    assert seen.candidates(parameter, things=Tool.of(function(things, {})).things, kind="") == expected


@pytest.mark.parametrize(
    ("name", "extra", "reads", "lists"),
    [
        ("list_products", {}, True, True),
        ("get_product", {}, True, False),
        ("get_products", {}, True, True),
        ("getAllUsers", {}, True, True),
        ("get_order_status", {}, True, False),
        ("create_order", {}, False, False),
        ("products_products_get", {}, True, False),
        ("add_item_cart_post", {}, False, False),
        ("do_it", {}, False, False),
        ("do_it", {"annotations": {"readOnlyHint": True}}, True, False),
        ("get_token", {"annotations": {"readOnlyHint": False}}, False, False),
    ],
)
def test_reading_tools_are_told_from_writing_ones(name: str, extra: dict[str, Any], reads: bool, lists: bool):
    """Catches a write that counts as a read: answers after it would be called derivable."""
    tool = Tool.of({**function(name, {"id": {"type": "integer"}}, ("id",)), **extra})
    assert (tool.reads, tool.lists) == (reads, lists)


def test_structured_calls_are_history_too():
    """Catches an explorer that sees no calls where a rollout keeps them beside the text."""
    call = ToolCall(name="get_product", arguments='{"product_id": 4217}', id="a")
    said = Message(role="assistant", segments=(), tool_calls=(call, call))
    answers = [Message(role="tool", segments=(Segment(source=Source.TOOL_RESULT, text=f"{n}"),)) for n in (1, 2)]
    found = exchanges([told("A shop.", Source.TASK), said, *answers])[1]
    assert [exchange.text for exchange in found] == ['{"name": "get_product", "arguments": {"product_id": 4217}}'] * 2
    assert [[answer.content for answer in exchange.answers] for exchange in found] == [["1"], ["2"]]


# --- actions that are no calls --------------------------------------------------------------------------------------

MOVE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "kind": {"enum": ["move", "say"]},
        "steps": {"type": "integer", "minimum": 1, "maximum": 9},
        "message": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        "metadata": {"type": "object", "additionalProperties": True},
    },
    "required": ["kind", "steps"],
}
SHELL = {
    "type": "object",
    "properties": {"command": {"type": "string"}, "metadata": {"type": "object"}},
    "required": ["command"],
}


def actions_of(schema: dict[str, Any], file: Path | None, *, seed: int = 0, count: int = 10) -> list[str]:
    """What an explorer says to a world that answers nothing."""
    policy = explore_actions(schema, (), seed_actions=file, num_actions=count, seed=seed)
    messages = [told("Go.", Source.TASK)]
    while not (turn := policy.act(messages)).finished:
        assert turn.observation_labels == {}
        messages += [turn.message, told("ok", Source.STDOUT)]
    return [message.content for message in messages[1::2]]


def test_whole_actions_are_drawn_from_the_schema_of_an_action():
    """Catches an action that the environment's server refuses, and OpenEnv's own `metadata` filled with words."""
    said = [json.loads(text) for text in actions_of(MOVE, None)]
    assert len(said) == 10
    for action in said:
        Draft202012Validator(MOVE).validate(action)
        assert "metadata" not in action
    assert len({json.dumps(action) for action in said}) > 7


def test_texts_of_a_shell_come_from_the_seed_actions(tmp_path: Path):
    """Catches words drawn at random that are sent to a shell, and a text that is said before its file was shown."""
    file = wrote(
        tmp_path / "seeds.toml",
        '[[action]]\ntext = "ls"\n[[action]]\ntext = "cat secret.txt"\nrequires = "secret.txt"\n',
    )
    for schema in (SHELL, {"type": "string"}):
        assert actions_of(schema, file) == ["ls", "ls"]
    found = {
        explore_actions(SHELL, (), seed_actions=file, num_actions=9, seed=seed)
        .act([told("secret.txt", Source.STDOUT)])
        .message.content
        for seed in range(20)
    }
    assert found == {"ls", "cat secret.txt"}


def test_text_fields_and_whole_actions_come_from_the_seed_actions_too(tmp_path: Path):
    """Catches seed actions that an environment with more than one field never sees."""
    file = wrote(
        tmp_path / "seeds.toml",
        '[[action]]\ntext = "hello there"\n[[action]]\narguments = {kind = "say", steps = 1, message = "stop"}\n',
    )
    said = [json.loads(text) for seed in range(5) for text in actions_of(MOVE, file, seed=seed)]
    assert {action.get("message") for action in said} >= {"hello there", "stop"}


def test_seed_calls_are_said_where_tools_are_called(tmp_path: Path):
    """Catches a file of calls that is read and never used."""
    call = '[[action]]\nname = "get_product"\narguments = {product_id = 5903}\n'
    file = wrote(tmp_path / "seeds.toml", call + '[[action]]\ntext = "answer: none"\nrequires = "Oak"\n')
    said = [message.content for seed in range(10) for message in explore(seed, seed_actions=file)[1::2]]
    assert '{"name": "get_product", "arguments": {"product_id": 5903}}' in said
    assert "answer: none" in said


@pytest.mark.parametrize("schema", [SHELL, {"type": "string"}])
def test_one_free_text_without_seed_actions_is_refused(schema: dict[str, Any]):
    """Catches an explorer that talks nonsense to a shell for a whole collection."""
    with pytest.raises(ConfigError, match=r"\[\[action\]\] and text"):
        explore_actions(schema, (), seed_actions=None, num_actions=3, seed=0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[action]]\ntext = 1\n", r"seeds.toml, action 1: text: Input should be a valid string"),
        ('[[action]]\ntext = "a"\n[[action]]\ntext = "a"\nwieght = 2\n', r"action 2: wieght: .*Did you mean 'weight'"),
        ('[[action]]\ntext = "a"\nname = "b"\n', r"action 1: .*either text, or name and arguments"),
        ("[[action]]\nweight = 1\n", r"action 1: .*either text, or name and arguments"),
        ('[[action]]\ntext = "a"\nweight = 0\n', r"action 1: weight: "),
        ('[[action]]\nname = "get_produkt"\n', r"action 1: no tool 'get_produkt'.*Did you mean 'get_product'"),
        ("[[action]]\narguments = {a = 1}\n", r"action 1: arguments need the name of a tool"),
        ('[[actions]]\ntext = "a"\n', r"expected one or more \[\[action\]\] entries .* unknown key 'actions'"),
        ("action = []\n", r"expected one or more \[\[action\]\]"),
        ("[[action]\n", r"seeds.toml: expected TOML"),
    ],
)
def test_a_wrong_file_of_seed_actions_is_named(tmp_path: Path, text: str, message: str):
    """Catches an entry that is dropped silently."""
    with pytest.raises(ConfigError, match=message):
        explore_actions(None, TOOLS, seed_actions=wrote(tmp_path / "seeds.toml", text), num_actions=3, seed=0)


def test_what_cannot_be_explored_is_refused(tmp_path: Path):
    """Catches a mistake of the caller, of the file's place, or of a world's schemas that shows as a traceback."""
    for schema, tools in ((None, ()), (SHELL, TOOLS)):
        with pytest.raises(ConfigError, match="either the schema of an action or the schemas of tools"):
            explore_actions(schema, tools, seed_actions=None, num_actions=3, seed=0)
    with pytest.raises(ConfigError, match="cannot be read"):
        explore_actions(SHELL, (), seed_actions=tmp_path / "none.toml", num_actions=3, seed=0)
    with pytest.raises(ConfigError, match="tool 'x': expected a JSON schema"):
        explore_actions(None, [function("x", {"a": {"type": "int"}})], seed_actions=None, num_actions=3, seed=0)
    file = wrote(tmp_path / "s.toml", '[[action]]\narguments = {kind = "fly", steps = 1}\n')
    with pytest.raises(ConfigError, match="schema refuses it"):
        explore_actions(MOVE, (), seed_actions=file, num_actions=3, seed=0)
