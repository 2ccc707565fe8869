"""Reading by a map as properties: text is split and never changed, growing fields tell everything once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envecho.trajectory import CallOutcome, Source
from envecho.worlds.openenv.actions import ActionWriter, NotSent, Sent, call_misfit, schema_error
from envecho.worlds.openenv.address import parse_address
from envecho.worlds.openenv.facts import ServerFacts
from envecho.worlds.openenv.maps import EnvironmentMap
from envecho.worlds.openenv.reading import Reader
from envecho.worlds.tool_calls import FinalAnswer


def reader(**fields: Any) -> Reader:
    """Return a reader of an environment with these fields."""
    return Reader(EnvironmentMap.model_validate({"name": "m", "action": {"kind": "json"}, "fields": fields}), "here")


CUTS = [{"pattern": r"^\[\w*\]\n", "source": "wrapper"}, {"pattern": "a+", "source": "status"}]


@given(text=st.text(alphabet="ab[]\n é", max_size=30))
def test_cutting_loses_and_adds_nothing(text: str):
    """Catches a cut that drops or moves characters, or puts a line break where none was."""
    segments = reader(out={"source": "stdout", "cut": CUTS}).read_step({"out": text})
    assert "".join(segment.text for segment in segments) == text
    assert all("a" not in segment.text for segment in segments if segment.source is Source.STDOUT)


def test_the_first_of_two_rules_holds_where_both_match():
    """Catches an order of rules that depends on where they match."""
    segments = reader(out={"source": "stdout", "cut": CUTS}).read_step({"out": "[aa]\nbab"})
    assert [(segment.source.value, segment.text) for segment in segments] == [
        ("wrapper", "[aa]\n"),
        ("stdout", "b"),
        ("status", "a"),
        ("stdout", "b"),
    ]


@given(parts=st.lists(st.text(alphabet="ab\n", max_size=5), max_size=6))
def test_a_growing_text_is_told_once(parts: list[str]):
    """Catches an answer that is shown twice, and one that is lost because it repeats the last."""
    one = reader(story={"source": "tool_result", "growing": True})
    so_far = ["".join(parts[: end + 1]) for end in range(len(parts))]
    told = [segment.text for text in so_far for segment in one.read_step({"story": text})]
    assert "".join(told) == "".join(parts)


@given(parts=st.lists(st.text(alphabet="ab", min_size=1, max_size=3), max_size=6), cut=st.integers(0, 6))
def test_a_growing_list_is_told_once(parts: list[str], cut: int):
    """Catches items that are shown twice, in a list and in an item that itself grows."""
    rule = {"source": "user_reply", "growing": True, "each": {"text": "content"}}
    one = reader(history=rule)
    steps = [[{"content": part} for part in parts[: end + 1]] for end in range(len(parts))]
    told = [segment.text for items in steps for segment in one.read_step({"history": items}) if segment.text != "\n"]
    assert told == parts
    whole = reader(history=rule)
    texts = ["".join(parts)[:cut], "".join(parts)]
    grown = [whole.read_step({"history": [{"content": text}]}) for text in texts]
    assert "".join(segment.text for segments in grown for segment in segments) == "".join(parts)


def test_a_text_that_was_rewritten_is_told_again():
    """Catches a growing field that starts over and shows nothing."""
    one = reader(story={"source": "tool_result", "growing": True})
    assert one.read_step({"story": "once"})[0].text == "once"
    assert one.read_step({"story": "again"})[0].text == "again"


def test_fields_are_shown_in_the_order_of_the_map():
    """Catches an order that is the server's, or the alphabet's."""
    segments = reader(b="stdout", a="stderr").read_step({"a": "1", "b": "2"})
    assert [segment.text for segment in segments] == ["2", "\n", "1"]


def writer(schema: dict[str, Any] | None = None, **action: Any) -> ActionWriter:
    document = {"name": "m", "action": action, "finish": {"steps": [{"action": {"do": "grade"}}]}}
    return ActionWriter(EnvironmentMap.model_validate(document), schema)


SCHEMA = {"properties": {"do": {"type": "string"}, "line": {"type": "string"}, "metadata": {"type": "object"}}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ls", Sent(action={"do": "run", "line": "ls"})),
        ('{"do": "look"}', Sent(action={"do": "look"})),
        ('{"do": "look", "other": 1}', Sent(action={"do": "run", "line": '{"do": "look", "other": 1}'})),
        ("[1]", Sent(action={"do": "run", "line": "[1]"})),
        ("{}", Sent(action={"do": "run", "line": "{}"})),
        ("```\nls\n```", Sent(action={"do": "run", "line": "```\nls\n```"})),
        ("<think>x</think> ls", Sent(action={"do": "run", "line": "ls"})),
        ('{"do": "grade", "line": "\\ud800"}', None),
        ("Answer: 7", FinalAnswer(text="7")),
    ],
)
def test_a_text_becomes_an_action(text: str, expected: object):
    """Catches JSON typed as a command or a command read as JSON, and a grade that the policy may ask for."""
    written = writer(SCHEMA, kind="text", field="line", constants={"do": "run"}).write(text)
    if expected is None:
        assert isinstance(written, NotSent)
        assert written.outcome is CallOutcome.INVALID
    else:
        assert written == expected


def test_a_schema_decides_what_fits():
    """Catches a misfit that is the server's failure, and a wrong schema that makes every call a mistake."""
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"required": ["x"]}}}]
    assert call_misfit({"tool_name": "f", "arguments": {}}, tools)
    assert not call_misfit({"tool_name": "f", "arguments": {"x": 1}}, tools)
    assert call_misfit({"tool_name": "g", "arguments": {}}, tools)
    assert schema_error(3, {"type": "no such type"}) is None
    assert schema_error(3, {"type": "string"}) == "3 is not of type 'string'"


def test_fields_of_variants_are_all_known():
    """Catches Agent World Model's action, which is one of two, taken for one without fields."""
    schema = {
        "oneOf": [{"$ref": "#/$defs/List"}, {"$ref": "#/$defs/Call"}],
        "$defs": {"List": {"properties": {"type": {}}}, "Call": {"properties": {"type": {}, "tool_name": {}}}},
    }
    facts = ServerFacts(
        address=parse_address("http://127.0.0.1:1"), environment="", name="", description="", action=schema,
        observation=None, reset_observation=None, splits=(),
    )  # fmt: skip
    assert facts.action_fields == {"type", "tool_name"}
    assert facts.title == "127.0.0.1:1"
