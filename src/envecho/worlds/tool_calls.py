"""Tool calls as text: how a policy says one, and how the tools of a world are described to it.

The protocol for every chat model is one JSON object, `{"name": "list_orders", "arguments": {"user_id": 3}}`; the forms
that models were trained on (inside `<tool_call>`, or a fenced block) are read too. `answer: TEXT` ends an episode. Not
here: what a call does, and chat templates that know tools.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

ANSWER_PREFIX = "answer:"

_TAGGED = re.compile(r"<tool_call>(.*?)(?:</tool_call>|\Z)", re.DOTALL)
_FENCED = re.compile(r"```(?:json|tool_call)?\s*\n(.*?)```", re.DOTALL)
_THINKING = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class CallText:
    """A call that a policy wrote: `{"name": ..., "arguments": {...}}`."""

    name: str
    arguments: Mapping[str, Any]

    def __str__(self) -> str:
        """The call in the protocol's own form, one line."""
        return json.dumps({"name": self.name, "arguments": dict(self.arguments)}, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class FinalAnswer:
    """What stands after `answer:`; it ends the episode."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Unparsed:
    """A turn that is no call and no answer; `reason` says what was expected and what was found."""

    reason: str


def parse_action(text: str) -> CallText | FinalAnswer | Unparsed:
    """Read the text of one assistant turn; reasoning in `<think>` before it is left out.

    Never raises: what cannot be read is `Unparsed`.
    """
    text = _THINKING.sub("", text).strip()
    if text.lower().startswith(ANSWER_PREFIX):
        return FinalAnswer(text=text[len(ANSWER_PREFIX) :].strip())
    tagged = _TAGGED.findall(text)
    if len(tagged) > 1:
        return Unparsed(reason=f"expected one call, found {len(tagged)}")
    fenced = _FENCED.search(text)
    body = tagged[0] if tagged else fenced[1] if fenced else text
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return Unparsed(reason='expected one call {"name": ..., "arguments": {...}} or `answer:`, found no JSON object')
    if isinstance(found, list) and len(found) == 1:
        found = found[0]
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        return Unparsed(reason='expected one JSON object with the key "name"')
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return Unparsed(reason='expected "arguments" to be a JSON object, found text')
    if not isinstance(arguments, Mapping):
        return Unparsed(reason=f'expected "arguments" to be a JSON object, found {type(arguments).__name__}')
    return CallText(name=found["name"], arguments=dict(arguments))


def describe_tools(tools: Iterable[Mapping[str, Any]]) -> str:
    """Return the system text that shows tools to a policy whose chat template knows none: one line for each.

    `tools` are schemas as chat templates take them (`{"type": "function", "function": {...}}`, or the function alone).
    """
    lines = [_signature(tool.get("function", tool)) for tool in tools]
    how = 'Reply with one call, {"name": "...", "arguments": {...}}, or with `answer:` and your answer. Tools:'
    return "\n".join([how, *lines])


def _signature(function: Mapping[str, Any]) -> str:
    schema = function.get("parameters") or {}
    required = set(schema.get("required", ()))
    parameters = ", ".join(
        f"{name}{'' if name in required else '?'}: {_type(kind)}"
        for name, kind in (schema.get("properties") or {}).items()
    )
    description = " ".join(str(function.get("description") or "").split())
    return f"{function['name']}({parameters})" + (f" - {description}" if description else "")


def _type(schema: Any) -> str:
    if not isinstance(schema, Mapping):
        return "any"
    if "enum" in schema:
        return "|".join(json.dumps(value, ensure_ascii=False) for value in schema["enum"])
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        return "|".join(kind for kind in map(_type, alternatives) if kind != "null")
    kind = schema.get("type", "any")
    return "|".join(kind) if isinstance(kind, list) else str(kind)
