"""Policies behind a chat server: text alone, in episodes, with nothing that claims to be exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from loopback import LoopbackServer

from envecho.errors import EngineError
from envecho.rollout import EpisodeJob, run_episode
from envecho.rollout.served import ChatParams, ChatPolicy, Wire, WireOptions
from envecho.rollout.served.chat import read_turn
from envecho.seam import Policy
from envecho.trajectory import Message, Segment, Source, StopReason
from envecho.worlds.depot.suite import DepotSuite

SUITE = DepotSuite()


def episode(url: str, **options: Any):
    with Wire(url, WireOptions(attempts=2, backoff_seconds=0.01)) as wire:
        policy = ChatPolicy(wire, ChatParams(max_tokens=32, temperature=0.6, seed=5), key=(3,))
        assert isinstance(policy, Policy)
        job = EpisodeJob(
            id="chat",
            task_id=SUITE.task_id("train", 0),
            seed=0,
            make_world=lambda: SUITE.make_world("train", 0),
            make_policy=lambda: policy,
        )
        return run_episode(job, max_turns=2)


def test_an_episode_in_text_holds_what_was_said_and_no_ids(small_dir: Path) -> None:
    """Catches a history that the server does not see, a seed that every turn shares, and text posing as exact ids."""
    with LoopbackServer(small_dir, "openai", says=lambda messages: f"go red {len(messages)}") as server:
        record = episode(server.url)
    said = [message for message in record.messages if message.role == "assistant"]
    asked = [body for path, body in server.calls if path == "/v1/chat/completions"]
    assert [message.content for message in said] == [f"go red {len(body['messages'])}" for body in asked]
    assert all(message.sampled is None for message in said)
    assert record.stop_reason is not StopReason.POLICY_ERROR
    assert len(asked) == 2
    place = [message.role for message in record.messages].index("assistant")
    assert [message["role"] for message in asked[1]["messages"][-3:]] == ["user", "assistant", "user"]
    assert [message["content"] for message in asked[1]["messages"]] == [
        message.content for message in record.messages[: place + 2]
    ]
    assert asked[0].items() >= {"model": "policy", "temperature": 0.6, "top_p": 1.0, "max_tokens": 32}.items()
    assert asked[0]["seed"] != asked[1]["seed"]


def test_a_turn_that_the_server_cut_is_not_carried_out(small_dir: Path) -> None:
    """Catches half a command that a world then runs."""
    with LoopbackServer(small_dir, "openai", says=lambda messages: "go r", finish="length") as server:
        record = episode(server.url)
    assert record.stop_reason is StopReason.POLICY_ERROR
    assert all(message.role != "assistant" for message in record.messages)
    assert "cut a turn at max_tokens = 32" in record.messages[-1].content


def test_a_server_that_goes_away_ends_the_episode_and_keeps_its_transcript(small_dir: Path) -> None:
    """Catches an episode that is lost with the server."""
    server = LoopbackServer(small_dir, "openai")

    def says(messages: Any) -> str:
        server._is_gone = True
        return "go red"

    server.options["says"] = says
    with server:
        record = episode(server.url)
    assert record.stop_reason is StopReason.POLICY_ERROR
    assert [message.content for message in record.messages if message.role == "assistant"] == ["go red"]


def test_calls_and_thinking_of_a_chat_server_are_kept_apart_from_its_text() -> None:
    """Catches a call that is lost because its message has no text, and a message that has neither."""
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    turn = read_turn({"content": None, "tool_calls": [call], "reasoning_content": "hm"})
    assert (turn.content, turn.reasoning) == ("", "hm")
    assert [(c.id, c.name, c.arguments) for c in turn.tool_calls] == [("c1", "look", '{"at": 1}')]
    assert read_turn({"content": "go"}) == Message(
        role="assistant", segments=(Segment(source=Source.POLICY, text="go"),)
    )
    with pytest.raises(EngineError, match="neither text nor a call"):
        read_turn({"content": ""})
