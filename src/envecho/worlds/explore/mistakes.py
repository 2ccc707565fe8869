"""Calls that a world must refuse: errors are part of what it answers, and worth learning too.

Not here: how often one is made (`policy`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, Final

from envecho.worlds.explore.catalogue import Tool
from envecho.worlds.explore.schemas import merged
from envecho.worlds.tool_calls import CallText

_UNSEEN: Final = 9000


def spoil(call: CallText, tool: Tool, rng: random.Random) -> CallText:
    """Return the call with one mistake: of those that fit it, one is drawn; some fit every call."""
    made = [spoiled for kind in _KINDS if (spoiled := kind(call, tool, rng)) is not None]
    return rng.choice(made)


def _unknown_thing(call: CallText, tool: Tool, rng: random.Random) -> CallText | None:
    """An id that nothing has, a word outside an enum."""
    names = [name for name in call.arguments if type(call.arguments[name]) in (int, str)]
    if not names:
        return None
    name = rng.choice(names)
    value = call.arguments[name]
    other = _UNSEEN + rng.randrange(1000) if isinstance(value, int) else f"no-such-{rng.randrange(100)}"
    return _with(call, {name: other})


def _missing(call: CallText, tool: Tool, rng: random.Random) -> CallText | None:
    present = [name for name in tool.required if name in call.arguments]
    if not present:
        return None
    left_out = rng.choice(present)
    return CallText(name=call.name, arguments={k: v for k, v in call.arguments.items() if k != left_out})


def _wrong_type(call: CallText, tool: Tool, rng: random.Random) -> CallText | None:
    names = [name for name in call.arguments if _wrong_value(tool, name) is not None]
    if not names:
        return None
    name = rng.choice(names)
    return _with(call, {name: _wrong_value(tool, name)})


def _wrong_value(tool: Tool, name: str) -> Any:
    schema = merged(tool.properties.get(name, {}), tool.drawer.schema)
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return _WRONG.get(kind) if isinstance(kind, str) else None


def _unknown_parameter(call: CallText, tool: Tool, rng: random.Random) -> CallText:
    return _with(call, {"_".join((*tool.things[-1:], "colour")): "blue"})


def _unknown_tool(call: CallText, tool: Tool, rng: random.Random) -> CallText:
    verb = rng.choice(("archive", "open", "rename"))
    return CallText(name="_".join((verb, *(tool.things or ("item",)))), arguments=call.arguments)


_WRONG: Final[Mapping[str, Any]] = {
    "integer": "many",
    "number": "many",
    "boolean": "perhaps",
    "string": 17,
    "array": "one",
    "object": "one",
}
_KINDS: Final[tuple[Callable[[CallText, Tool, random.Random], CallText | None], ...]] = (
    _unknown_thing,
    _unknown_thing,
    _missing,
    _wrong_type,
    _unknown_parameter,
    _unknown_tool,
)


def _with(call: CallText, arguments: Mapping[str, Any]) -> CallText:
    return CallText(name=call.name, arguments={**call.arguments, **arguments})
