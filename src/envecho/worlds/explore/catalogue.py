"""What can be told of a tool from its schema: whether it lists, reads or writes, and what it is about.

MCP's `readOnlyHint` decides where it is given; else the name: its first word as a verb, or the HTTP verb at its end
(`list_products_products_get`). Not here: which tool is called (`policy`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from envecho.errors import ConfigError
from envecho.worlds.explore.drawing import Drawer
from envecho.worlds.explore.schemas import merged
from envecho.worlds.explore.seen import OWN_NAMES, Seen, words_of

_LISTING: Final = frozenset(["list", "search", "find", "query", "browse", "index"])
_READING: Final = _LISTING | {
    "get", "read", "show", "view", "count", "describe", "fetch", "lookup", "look", "check", "retrieve", "inspect",
    "calculate", "compute", "is", "has", "summarize",
}  # fmt: skip
_HTTP: Final = {"get": True, "head": True, "post": False, "put": False, "patch": False, "delete": False}
_MAKING: Final = frozenset(["create", "add", "insert", "register", "new", "make", "post"])
_DESTROYING: Final = frozenset(["delete", "remove", "cancel", "drop", "clear", "reset", "destroy"])
_JOINTS: Final = frozenset(["by", "for", "of", "in", "from", "with", "to", "on", "at"])
_GENERIC: Final = frozenset(["all", "detail", "info", "list", "record", "data"])
_VOLATILE: Final = frozenset(["time", "now", "random", "clock", "uptime", "roll", "generate"])


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that can be called: `things` are the words of what it is about.

    `is_stable` says that the same call gives the same answer while nothing is written.
    """

    name: str
    drawer: Drawer
    things: tuple[str, ...]
    reads: bool
    lists: bool
    makes: bool
    destroys: bool
    is_stable: bool

    @classmethod
    def of(cls, schema: Mapping[str, Any]) -> Tool:
        """Return the tool of a function schema, with or without `{"type": "function", "function": ...}` around it.

        Raises:
            ConfigError: it has no name, or its parameters are no JSON schema.
        """
        function = schema.get("function", schema)
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(name, str) or not name:
            raise ConfigError(f"expected a function schema with a name, found {schema!r:.120}")
        parameters = function.get("parameters") or {"type": "object", "properties": {}}
        drawer = Drawer.of(_closed(parameters), f"tool {name!r}")
        words = words_of(name)
        annotations = {**(schema.get("annotations") or {}), **(function.get("annotations") or {})}
        reads = bool(annotations.get("readOnlyHint", _reads(words)))
        things = _things(words)
        plural = name.rstrip("_").lower().endswith("s") and bool(things) and not name.lower().endswith(things[-1])
        lists = reads and (words[0] in _LISTING or "all" in words or plural or not parameters.get("required"))
        return cls(
            name=name,
            drawer=drawer,
            things=things,
            reads=reads,
            lists=lists,
            makes=not reads and words[0] in _MAKING,
            destroys=not reads and words[0] in _DESTROYING,
            is_stable=reads and not _VOLATILE & set(words),
        )

    @property
    def properties(self) -> Mapping[str, Any]:
        """The parameters by name."""
        return self._parameters.get("properties", {})

    @property
    def required(self) -> Sequence[str]:
        """The names of the parameters that a call must have."""
        return self._parameters.get("required", ())

    @property
    def _parameters(self) -> Mapping[str, Any]:
        return merged(self.drawer.schema, self.drawer.schema)

    def is_ready(self, seen: Seen) -> bool:
        """Whether every thing that a call must name was seen: an `order_id` cannot be guessed."""
        return all(
            seen.candidates(name, things=self.things, kind="")
            for name in self.required
            if words_of(name)[-1:] and words_of(name)[-1] in OWN_NAMES and not self._is_stated(name)
        )

    def _is_stated(self, name: str) -> bool:
        schema = merged(self.properties.get(name, {}), self.drawer.schema)
        return isinstance(schema, Mapping) and bool({"enum", "const", "default", "examples"} & schema.keys())


def _closed(parameters: Any) -> Any:
    """The schema of an object: a tool without a stated type takes one all the same."""
    return {"type": "object", **parameters} if isinstance(parameters, Mapping) else parameters


def _reads(words: Sequence[str]) -> bool:
    if not words:
        return False
    if words[0] in _READING and words[-1] not in _HTTP:
        return True
    return _HTTP.get(words[-1], _HTTP.get(words[0], words[0] in _READING))


def _things(words: Sequence[str]) -> tuple[str, ...]:
    """The words of a tool's name without verbs, what is general, and what follows a preposition."""
    nouns: list[str] = []
    for word in words[1:]:
        if word in _JOINTS:
            break
        if word not in _GENERIC and word not in _HTTP:
            nouns.append(word)
    return tuple(dict.fromkeys(nouns))
