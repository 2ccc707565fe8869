"""How a policy's text becomes a call, and how tools are shown to it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envecho.worlds.tool_calls import CallText, FinalAnswer, Unparsed, describe_tools, parse_action

CALL = '{"name": "get_order", "arguments": {"id": 3}}'


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        f"<tool_call>\n{CALL}\n</tool_call>",
        f"<tool_call>{CALL}",
        f"Let me look.\n<tool_call>\n{CALL}\n</tool_call>",
        f"```json\n{CALL}\n```",
        f"<think>I need order 3</think>\n{CALL}",
        f"[{CALL}]",
        '{"name": "get_order", "parameters": {"id": 3}}',
        '{"name": "get_order", "arguments": "{\\"id\\": 3}"}',
    ],
)
def test_the_forms_that_models_were_trained_on_are_one_call(text: str) -> None:
    """Catches a form that a tool-calling model writes and that is answered by a format warning."""
    assert parse_action(text) == CallText(name="get_order", arguments={"id": 3})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON object"),
        ("get_order(3)", "no JSON object"),
        ("[" * 100_000, "no JSON object"),
        ('{"arguments": {}}', '"name"'),
        ('{"name": "x", "arguments": [1]}', "found list"),
        ('{"name": "x", "arguments": "id=3"}', "found text"),
        (f"<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>", "found 2"),
    ],
)
def test_what_is_no_call_says_what_was_expected(text: str, said: str) -> None:
    """Catches a crash on what a model may write, and a reason that does not say what is wrong."""
    found = parse_action(text)
    assert isinstance(found, Unparsed)
    assert said in found.reason


def test_an_answer_ends_the_episode_whatever_its_case() -> None:
    """Catches an answer that is taken for a broken call."""
    assert parse_action(" Answer: 42 boxes ") == FinalAnswer(text="42 boxes")


@given(
    st.text(min_size=1),
    st.dictionaries(st.text(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)),
)
def test_a_written_call_is_read_as_itself(name: str, arguments: dict[str, object]) -> None:
    """Catches a script whose calls the world reads otherwise than they were meant."""
    call = CallText(name=name, arguments=arguments)
    assert "\n" not in str(call)
    assert parse_action(str(call)) == call


@given(st.text())
def test_no_text_raises(text: str) -> None:
    """Catches a parser that a model's words can crash."""
    parse_action(text)


def test_tools_are_one_line_each_with_their_types() -> None:
    """Catches a description from which a policy cannot tell what a tool takes."""
    schema = {
        "type": "object",
        "properties": {
            "id": {"type": "integer"},
            "status": {"enum": ["open", "paid"]},
            "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["id"],
    }
    tool = {"type": "function", "function": {"name": "set", "description": "Change\n  it.", "parameters": schema}}
    assert describe_tools([tool]).splitlines()[1:] == [
        'set(id: integer, status?: "open"|"paid", note?: string) - Change it.'
    ]
    assert json.loads('{"name": "...", "arguments": {}}')["name"] in describe_tools([])
