"""Explorers made from schemas: policies that draw valid actions and reuse what the answers have shown.

    list_products {}                 -> [{"id": 41, "name": "Brass lamp"}, {"id": 57, ...}]
    get_product {"product_id": 57}   -> the id of a product, as it was seen

What an explorer says is a function of its seed and of the messages alone. Labels of tool calls are facts: `view` is
"derivable" (with `operation` "repeat") where the same call of a reading tool was answered before and nothing was
written since, "other" for a call with a mistake made on purpose, "first" for the rest; actions that are no calls have
no label. Not here: what an answer teaches (`seen`), values (`drawing`), mistakes (`mistakes`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, final

from envecho.errors import ConfigError
from envecho.seam import Policy, PolicyTurn
from envecho.trajectory import Message, Segment, Source
from envecho.worlds.explore.catalogue import Tool
from envecho.worlds.explore.drawing import OPTIONAL_SHARE, Drawer, Hint
from envecho.worlds.explore.history import Exchange, exchanges
from envecho.worlds.explore.mistakes import spoil
from envecho.worlds.explore.schemas import merged
from envecho.worlds.explore.seeds import SeedAction, read_seed_actions
from envecho.worlds.explore.seen import Seen
from envecho.worlds.tool_calls import CallText

REUSE_SHARE: Final = 0.85
"""How often an argument is a value that was seen, where one fits."""
MISTAKE_SHARE: Final = 0.12
REPEAT_SHARE: Final = 0.1
SEED_SHARE: Final = 0.3
"""How often an action comes from the seed actions where tools can be called too."""
MOST_USES_OF_A_SEED: Final = 2
FIRST_LIST_SHARE: Final = 0.1
"""How often a parameter that need not be written is, in the first call of a tool that lists."""
_TRIES: Final = 8
_TEXT_FIELDS: Final = frozenset({"command", "code", "message", "text", "content", "action", "input"})


def explore_actions(
    schema: Mapping[str, Any] | None,
    tools: Sequence[Mapping[str, Any]],
    *,
    seed_actions: Path | None,
    num_actions: int,
    seed: int,
) -> Policy:
    """Return a policy that explores an environment by what its schema says that it takes.

    Args:
        schema: the JSON schema of the environment's action; None where tools are called instead.
        tools: function schemas, as `Observation.tools`; empty where a schema is given.
        seed_actions: a TOML file of actions, see `envecho.worlds.explore.seeds`.
        num_actions: after how many actions the policy has finished.
        seed: what it draws from.

    Raises:
        ConfigError: both or none of schema and tools are given, one of them is no JSON schema, the file is wrong, or
            the action is one free text and no file says which texts there are.
    """
    if (schema is None) == (not tools):
        raise ConfigError("an explorer needs either the schema of an action or the schemas of tools, not both")
    if schema is None:
        known = {tool.name: tool for tool in map(Tool.of, tools)}
        return ToolExplorer(known, read_seed_actions(seed_actions, tools=known), num_actions=num_actions, seed=seed)
    seeds, drawer = read_seed_actions(seed_actions, tools=()), Drawer.of(schema, "the environment's action")
    if is_free_text(schema):
        if not seeds:
            raise ConfigError(
                "the environment's action is one free text, and no schema says which texts it understands. Write some "
                'into a TOML file, one entry each, [[action]] and text = "...", and name it as seed_actions'
            )
        return TextExplorer(seeds, num_actions=num_actions, seed=seed)
    return ActionExplorer(drawer, seeds, num_actions=num_actions, seed=seed)


def is_free_text(schema: Mapping[str, Any]) -> bool:
    """Whether an action is one text about which the schema says nothing: a string, or an object with one such field."""
    plain = merged(schema, schema)
    if not isinstance(plain, Mapping):
        return False
    if plain.get("type") == "object":
        inner = [merged(field, schema) for field in plain.get("properties", {}).values()]
        # A field that may be any object, like OpenEnv's `metadata`, is no part of what is said.
        telling = [field for field in inner if not _is_any_object(field)]
        return len(telling) == 1 and _is_free_string(telling[0])
    return _is_free_string(plain)


def _is_any_object(schema: Any) -> bool:
    return isinstance(schema, Mapping) and schema.get("type") == "object" and not schema.get("properties")


def _is_free_string(schema: Any) -> bool:
    stated = {"enum", "const", "pattern", "format"}
    return isinstance(schema, Mapping) and schema.get("type") == "string" and not stated & schema.keys()


@final
class TextExplorer:
    """Says the seed actions, in an order drawn from the seed: new ones first, none more than twice."""

    def __init__(self, seeds: Sequence[SeedAction], *, num_actions: int, seed: int) -> None:
        self._seeds, self._num_actions, self._seed = tuple(seeds), num_actions, seed

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next action."""
        opening, history = exchanges(messages)
        rng = _rng(self._seed, messages)
        chosen = _draw_seed(self._seeds, history, _seen(opening, history, {}), rng)
        return _turn(None if chosen is None or len(history) >= self._num_actions else chosen.said, {})


@final
class ActionExplorer:
    """Draws whole actions from the schema of an environment's action, as JSON text."""

    def __init__(self, drawer: Drawer, seeds: Sequence[SeedAction], *, num_actions: int, seed: int) -> None:
        self._drawer, self._num_actions, self._seed = drawer, num_actions, seed
        self._texts = tuple(action.text for action in seeds if action.text is not None)
        self._actions = tuple(action for action in seeds if action.text is None)
        for action in self._actions:
            for problem in drawer.validator.iter_errors(action.arguments):
                raise ConfigError(f"seed action {action.said}: the environment's schema refuses it: {problem.message}")

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next action."""
        opening, history = exchanges(messages)
        if len(history) >= self._num_actions:
            return _turn(None, {})
        rng = _rng(self._seed, messages)
        seen = _seen(opening, history, {})
        if self._actions and rng.random() < SEED_SHARE and (chosen := _draw_seed(self._actions, history, seen, rng)):
            return _turn(chosen.said, {})
        hint = _hint(self._drawer, seen, (), Counter(), rng, texts=self._texts)
        said = {exchange.text for exchange in history}
        text = ""
        for _ in range(_TRIES):
            text = json.dumps(self._drawer.draw(rng, hint), ensure_ascii=False)
            if text not in said:
                break
        return _turn(text, {})


@final
class ToolExplorer:
    """Calls tools: lists and searches first, then what needs the ids that these have shown."""

    def __init__(self, tools: Mapping[str, Tool], seeds: Sequence[SeedAction], *, num_actions: int, seed: int) -> None:
        self._tools, self._seeds = dict(tools), tuple(seeds)
        self._num_actions, self._seed = num_actions, seed

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next call."""
        opening, history = exchanges(messages)
        if len(history) >= self._num_actions:
            return _turn(None, {})
        rng = _rng(self._seed, messages)
        seen = _seen(opening, history, self._tools)
        if self._seeds and rng.random() < SEED_SHARE and (chosen := _draw_seed(self._seeds, history, seen, rng)):
            return _turn(chosen.said, self._labels(chosen.said, history))
        repeatable = self._repeatable(history)
        if repeatable and rng.random() < REPEAT_SHARE:
            text = rng.choice(repeatable)
            return _turn(text, self._labels(text, history))
        call, tool = self._new_call(seen, history, rng)
        if rng.random() < MISTAKE_SHARE:
            return _turn(str(spoil(call, tool, rng)), {"view": "other"})
        return _turn(str(call), self._labels(str(call), history))

    def _new_call(self, seen: Seen, history: Sequence[Exchange], rng: random.Random) -> tuple[CallText, Tool]:
        """Draw a call, if it can be one that was not said before."""
        counts = Counter(exchange.call.name for exchange in history if exchange.call)
        said, uses = {exchange.text for exchange in history}, _uses(history)
        names = sorted(self._tools)
        weights = [self._weight(self._tools[name], counts[name], seen) for name in names]
        tool, call = self._tools[names[0]], None
        for _ in range(_TRIES):
            tool = self._tools[rng.choices(names, weights)[0]]
            # What a tool makes has a name of its own.
            hint = _hint(tool.drawer, seen, () if tool.makes else tool.things, uses, rng)
            # The first list of a kind is to show much of it.
            share = FIRST_LIST_SHARE if tool.lists and not counts[tool.name] else OPTIONAL_SHARE
            call = CallText(name=tool.name, arguments=tool.drawer.draw(rng, hint, optional_share=share))
            if str(call) not in said:
                break
        assert call is not None
        return call, tool

    def _weight(self, tool: Tool, num_calls: int, seen: Seen) -> float:
        if not tool.is_ready(seen):
            return 0.05
        base = 3.0 if tool.lists and not num_calls else 2.0 if tool.reads else 0.5 if tool.destroys else 1.0
        return base / (1 + num_calls)

    def _labels(self, text: str, history: Sequence[Exchange]) -> dict[str, str]:
        """What is known of the answer to this call before it is given."""
        if text in self._repeatable(history):
            return {"view": "derivable", "operation": "repeat"}
        return {"view": "first"}

    def _repeatable(self, history: Sequence[Exchange]) -> list[str]:
        """Calls of reading tools that were answered, and since which nothing was called that may write."""
        found: list[str] = []
        for exchange in reversed(history):
            tool = self._tools.get(exchange.call.name) if exchange.call else None
            if tool is None and exchange.call is None:
                break
            if tool is not None and not tool.reads:
                break
            if tool is not None and tool.is_stable and exchange.is_valid and exchange.text not in found:
                found.append(exchange.text)
        return found


def _seen(opening: Sequence[Message], history: Sequence[Exchange], tools: Mapping[str, Tool]) -> Seen:
    seen = Seen()
    for message in opening:
        seen.read(message)
    for exchange in history:
        tool = tools.get(exchange.call.name) if exchange.call else None
        for answer in exchange.answers:
            seen.read(answer, things=tool.things if tool else ())
    return seen


def _uses(history: Sequence[Exchange]) -> Counter[tuple[str, str]]:
    """How often each argument had each value."""
    return Counter(
        (name, json.dumps(value))
        for exchange in history
        if exchange.call
        for name, value in exchange.call.arguments.items()
    )


def _hint(
    drawer: Drawer,
    seen: Seen,
    things: Sequence[str],
    uses: Counter[tuple[str, str]],
    rng: random.Random,
    *,
    texts: Sequence[str] = (),
) -> Hint:
    """Return what proposes seen values for a property: those that fit its schema, the least used first."""

    def propose(name: str, schema: Mapping[str, Any]) -> Sequence[Any]:
        if texts and name.lower() in _TEXT_FIELDS and _is_free_string(schema):
            return (rng.choice(texts),)
        kind = str(schema.get("format", ""))
        found = seen.candidates(name, things=things, kind=kind)
        if not found or rng.random() > REUSE_SHARE:
            return ()
        validator = drawer.validator.evolve(schema=dict(schema))
        fitting = [value for value in (_as(value, schema) for value in found) if validator.is_valid(value)]
        rng.shuffle(fitting)
        return sorted(fitting, key=lambda value: uses[name, json.dumps(value)])

    return propose


def _as(value: Any, schema: Mapping[str, Any]) -> Any:
    """A seen value in the type that a parameter wants: an id is often a number here and a text there."""
    if schema.get("type") == "string" and isinstance(value, int | float):
        return str(value)
    if schema.get("type") == "integer" and isinstance(value, str) and value.isdecimal():
        return int(value)
    return value


def _draw_seed(
    seeds: Sequence[SeedAction], history: Sequence[Exchange], seen: Seen, rng: random.Random
) -> SeedAction | None:
    """Draw a seed action whose condition holds; None where each was said often enough."""
    counts = Counter(exchange.text for exchange in history)
    open_ = [
        action
        for action in seeds
        if counts[action.said] < MOST_USES_OF_A_SEED and (action.requires is None or seen.holds(action.requires))
    ]
    if not open_:
        return None
    fewest = min(counts[action.said] for action in open_)
    least_used = [action for action in open_ if counts[action.said] == fewest]
    return rng.choices(least_used, [action.weight for action in least_used])[0]


def _rng(seed: int, messages: Sequence[Message]) -> random.Random:
    digest = hashlib.sha256()
    for message in messages:
        digest.update(f"{message.role}\n{message.content}\n".encode(errors="replace"))
    return random.Random(f"envecho-explore-{seed}-{digest.hexdigest()}")


def _turn(text: str | None, labels: Mapping[str, str]) -> PolicyTurn:
    """The turn that says a text; None: there is nothing more to do."""
    segments = () if text is None else (Segment(source=Source.POLICY, text=text),)
    message = Message(role="assistant", segments=segments)
    return PolicyTurn(message=message, observation_labels=labels, finished=text is None)
