"""`ChatPolicy`: a policy behind any server of OpenAI's chat completions, text in and text out.

For collecting from servers that return no token ids. Its turns are text: a trajectory then has no sampled ids and no
log-probs, so it is material for training on observations, not for the policy term. Not here: token-exact sampling
(`sampler`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from envecho.errors import EngineError
from envecho.formats.rfc010 import chat_message
from envecho.rollout.served.dialect import dig
from envecho.rollout.served.sampler import request_seed
from envecho.rollout.served.wire import Wire
from envecho.seam import PolicyTurn
from envecho.trajectory import Message, Segment, Source, ToolCall

_ROUTE: Final = "/v1/chat/completions"
_OF: Final = f"the answer of {_ROUTE}"


@dataclass(frozen=True, kw_only=True)
class ChatParams:
    """How a chat server is asked; `model` None is the first that it names."""

    model: str | None = None
    temperature: float = 1.0
    max_tokens: int = 1024
    seed: int = 0


@final
class ChatPolicy:
    """One episode of a chat server; fulfils `envecho.seam.Policy`.

    Args:
        wire: the server; many episodes share it.
        params: how it is asked.
        key: names the episode; the seed of a turn is a function of `params.seed`, the key and the turn.
    """

    def __init__(self, wire: Wire, params: ChatParams, *, key: tuple[int, ...] = ()) -> None:
        self._wire, self._params, self._key = wire, params, key

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next assistant turn.

        Raises:
            EngineError: the server fails, or cut the turn at `max_tokens`: half a turn is not carried out.
        """
        params, turn = self._params, sum(message.role == "assistant" for message in messages)
        reply = self._wire.post(
            _ROUTE,
            {
                "model": params.model or first_model(self._wire),
                "messages": [chat_message(message) for message in messages],
                "temperature": params.temperature,
                "top_p": 1.0,
                "max_tokens": params.max_tokens,
                "seed": request_seed(params.seed, (*self._key, turn)),
                "stream": False,
            },
        )
        choice = dig(reply, "choices", 0, of=_OF)
        if choice.get("finish_reason") == "length":
            raise EngineError(
                f"{self._wire.url} cut a turn at max_tokens = {params.max_tokens}; half a turn is not carried out."
                " Allow more tokens"
            )
        return PolicyTurn(message=read_turn(dig(choice, "message", of=f"{_OF}, choices.0,")))


def first_model(wire: Wire) -> str:
    """Return the first model that the server names.

    Raises:
        EngineError: it names none.
    """
    return str(dig(wire.get("/v1/models"), "data", 0, "id", of=f"{wire.url}/v1/models"))


def read_turn(said: dict[str, Any]) -> Message:
    """Return the assistant turn of a chat message.

    Raises:
        EngineError: it has neither text nor a call.
    """
    content, reasoning = said.get("content") or "", said.get("reasoning_content")
    calls = tuple(
        ToolCall(
            id=call.get("id"),
            name=dig(call, "function", "name", of=f"{_OF}, tool_calls,"),
            arguments=call["function"].get("arguments") or "{}",
        )
        for call in said.get("tool_calls") or ()
    )
    if not content and not calls:
        raise EngineError(f"{_OF} has neither text nor a call")
    segments = (Segment(source=Source.POLICY, text=content),) if content else ()
    return Message(role="assistant", segments=segments, reasoning=reasoning, tool_calls=calls)
