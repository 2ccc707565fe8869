"""Actions: the text of a turn becomes what the environment's `step` takes, as its map says.

A turn that is none is answered here, and nothing is sent. Actions that the map keeps for itself (grading, releasing,
listing tasks) are refused to the policy: an answer that was graded once could be asked for until it is right. Not here:
the connection, and what an answer means (`reading`).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast, final

from envecho.errors import ConfigError
from envecho.trajectory import CallOutcome
from envecho.worlds.openenv.maps import EnvironmentMap
from envecho.worlds.openenv.reading import clean
from envecho.worlds.tool_calls import CallText, FinalAnswer, Unparsed, parse_action

_FENCED: Final = re.compile(r"```[\w+-]*[ \t]*\n(.*?)\n?```", re.DOTALL)
_THINKING: Final = re.compile(r"\A\s*<think>.*?</think>\s*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Sent:
    """An action to send; `tool` is the tool that it calls."""

    action: Mapping[str, Any]
    tool: str | None = None


@dataclass(frozen=True, kw_only=True)
class NotSent:
    """A turn that is no action: what the policy is told, and how it fared."""

    outcome: CallOutcome
    notice: str


@final
class ActionWriter:
    """Turns text into actions.

    Args:
        environment: the environment's map.
        schema: the JSON schema of its actions, None where the server states none.
    """

    def __init__(self, environment: EnvironmentMap, schema: Mapping[str, Any] | None) -> None:
        self._map, self._rule, self._schema = environment, environment.action, schema
        self._fields = frozenset((schema or {}).get("properties") or ()) - {"metadata"}
        own = [step.action for step in environment.finish.steps]
        asked = environment.tasks.ask
        self._kept = [_constants(action) for action in (*own, *([asked] if asked else []))]

    def write(self, text: str) -> Sent | NotSent | FinalAnswer:
        """Read one turn."""
        if self._rule.kind == "message":
            return Sent(action={self._rule.field: clean(text)})
        parsed = parse_action(text)
        if isinstance(parsed, FinalAnswer) and self._map.ends_on_answer:
            return FinalAnswer(text=clean(parsed.text))
        written = self._call(parsed) if self._rule.kind == "mcp" else self._action(_THINKING.sub("", clean(text)))
        if isinstance(written, Sent) and any(_holds(written.action, kept) for kept in self._kept):
            return NotSent(outcome=CallOutcome.INVALID, notice="[this action is not the policy's to take]")
        return written

    def misfit(self, action: Mapping[str, Any]) -> str | None:
        """Say why an action does not fit the server's schema of actions; None where it does, or there is none."""
        return None if self._schema is None else schema_error(action, self._schema)

    def _call(self, parsed: CallText | FinalAnswer | Unparsed) -> Sent | NotSent:
        if isinstance(parsed, CallText):
            arguments = _clean_values(parsed.arguments)
            action = {"type": "call_tool", "tool_name": clean(parsed.name), "arguments": arguments}
            return Sent(action=action, tool=clean(parsed.name))
        reason = parsed.reason if isinstance(parsed, Unparsed) else "expected a call, found `answer:`"
        return NotSent(outcome=CallOutcome.UNPARSED, notice=f"[{reason}]")

    def _action(self, text: str) -> Sent | NotSent:
        rule = self._rule
        found = _json_object(text)
        if rule.kind == "json":
            if found is None:
                return NotSent(outcome=CallOutcome.UNPARSED, notice="[expected one JSON object]")
            return Sent(action={**rule.constants, **found})
        if rule.kind == "tokens":
            return Sent(action={**rule.constants, rule.field: _token_ids(rule.tokenizer, text)})
        if found and rule.accepts_json and self._fields and found.keys() <= self._fields:
            return Sent(action={**rule.constants, **found})
        fenced = _FENCED.findall(text) if rule.fences else []
        return Sent(action={**rule.constants, rule.field: fenced[0] if len(fenced) == 1 else text})


def call_misfit(action: Mapping[str, Any], tools: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether a call names no listed tool, or gives arguments that the tool's schema refuses.

    What the server calls an error's kind is guessed from its words (a shop's "invalid coupon" would be one), so that
    the schemas decide.
    """
    for tool in tools:
        function = tool["function"]
        if function["name"] == action["tool_name"]:
            return schema_error(action["arguments"], function.get("parameters") or {}) is not None
    return True


def schema_error(value: Any, schema: Mapping[str, Any]) -> str | None:
    """Return what a JSON schema has against a value, in one line; None where it has nothing or is no schema."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, best_match

    try:
        Draft202012Validator.check_schema(schema)
        error = best_match(Draft202012Validator(schema).iter_errors(value))
    except SchemaError:
        return None
    return None if error is None else str(error.message).splitlines()[0][:200]


def _json_object(text: str) -> dict[str, Any] | None:
    fenced = _FENCED.fullmatch(text.strip())
    try:
        found: Any = json.loads(fenced[1] if fenced else text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", _clean_values(found)) if isinstance(found, dict) else None


def _clean_values(value: Any) -> Any:
    """JSON text may escape a lone surrogate, which no server can take."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {clean(key): _clean_values(part) for key, part in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_clean_values(part) for part in cast("list[Any]", value)]
    return value


def _constants(action: Mapping[str, Any]) -> dict[str, Any]:
    """What is fixed in an action of the map: by these a policy's action is known to be the same."""
    return {
        key: value for key, value in action.items() if isinstance(value, str | bool | int) and "{" not in str(value)
    }


def _holds(action: Mapping[str, Any], kept: Mapping[str, Any]) -> bool:
    return bool(kept) and all(action.get(key) == value for key, value in kept.items())


def _token_ids(name: str, text: str) -> list[int]:
    if not name:
        raise ConfigError("actions are token ids here: name the server's tokenizer, [action] tokenizer, in the map")
    return _tokenizer(name)(text, add_special_tokens=False)["input_ids"]


@functools.cache
def _tokenizer(name: str) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError(f"the map's tokenizer {name!r} cannot be loaded: {error}") from error
