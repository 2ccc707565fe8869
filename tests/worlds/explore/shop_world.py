"""A tiny world of tools for tests: products and orders behind ids that nobody can guess."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from envecho.errors import WorldError
from envecho.seam import Observation, Policy
from envecho.trajectory import CALL_LABEL, CallOutcome, Message, Segment, Source
from envecho.worlds.tool_calls import CallText, FinalAnswer, Unparsed, parse_action


def function(name: str, parameters: Mapping[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    """A function schema as chat templates take it."""
    schema = {"type": "object", "properties": dict(parameters), "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": f"{name}.", "parameters": schema}}


TOOLS = (
    function("list_products", {"limit": {"type": "integer", "minimum": 1, "maximum": 50}}),
    function("get_product", {"product_id": {"type": "integer"}}, ("product_id",)),
    function("place_order", {"productId": {"type": "integer"}, "email": {"type": "string"}}, ("productId", "email")),
    function("get_order", {"order_id": {"type": "string"}}, ("order_id",)),
)


class ShopWorld:
    """Products have ids in the thousands, orders have texts; `max_turns` actions end an episode."""

    def __init__(self, *, max_turns: int = 12) -> None:
        self.max_turns = max_turns
        self.steps, self.running, self.episode, self.orders = 0, False, "", 0
        self.calls: list[CallText] = []

    @property
    def products(self) -> dict[int, str]:
        return {4217: "Brass lamp", 5903: "Oak table", 7361: "Wool rug"}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        self.steps, self.running, self.orders = 0, True, 0
        self.episode = episode_id or f"episode-of-{id(self)}"
        task = Segment(source=Source.TASK, text=f"Look at shop {seed}. The buyer is mia.kurz@example.org.")
        return Observation(segments=(task,), tools=TOOLS)

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        if not self.running:
            raise WorldError("no episode is running")
        self.steps += 1
        said = parse_action(action)
        if isinstance(said, FinalAnswer):
            self.running = False
            return Observation(segments=(), done=True, reward=1.0)
        is_last = self.steps >= self.max_turns
        self.running = not is_last
        if isinstance(said, Unparsed):
            segment, outcome = Segment(source=Source.FORMAT_WARNING, text=f"[{said.reason}]"), CallOutcome.UNPARSED
        else:
            self.calls.append(said)
            segment, outcome = self._call(said)
        return Observation(
            segments=(segment,), done=is_last, reward=0.0 if is_last else None, labels={CALL_LABEL: outcome.value}
        )

    def _call(self, call: CallText) -> tuple[Segment, CallOutcome]:
        arguments = call.arguments
        match call.name:
            case "list_products":
                answer: Any = {"products": [{"id": key, "name": name} for key, name in self.products.items()]}
            case "get_product" if arguments.get("product_id") in self.products:
                answer = {"id": arguments["product_id"], "name": self.products[arguments["product_id"]], "stock": 3}
            case "place_order" if arguments.get("productId") in self.products and "email" in arguments:
                self.orders += 1
                answer = {"order": {"id": f"ord-{self.orders}-x", "product_id": arguments["productId"]}}
            case "get_order" if arguments.get("order_id") in {f"ord-{n + 1}-x" for n in range(self.orders)}:
                answer = {"order": {"id": arguments["order_id"], "status": "open"}}
            case _:
                text = json.dumps({"error": "not found"})
                return Segment(source=Source.TOOL_ERROR, text=text, tool=call.name), CallOutcome.INVALID
        return Segment(source=Source.TOOL_RESULT, text=json.dumps(answer), tool=call.name), CallOutcome.VALID

    @property
    def state(self) -> Mapping[str, Any]:
        return {"episode_id": self.episode, "step_count": self.steps, "task_id": "shop"}

    def close(self) -> None:
        self.running = False


def play(world: Any, policy: Policy, *, seed: int = 0) -> list[Message]:
    """Let a policy act until it has finished; return the messages, each answer with the policy's labels."""
    messages = [Message(role="user", segments=world.reset(seed=seed).segments)]
    while not (turn := policy.act(messages)).finished:
        observation = world.step(turn.message.content)
        labels = {**observation.labels, **turn.observation_labels}
        messages += [turn.message, Message(role="user", segments=observation.segments, labels=labels)]
        if observation.done:
            break
    return messages
