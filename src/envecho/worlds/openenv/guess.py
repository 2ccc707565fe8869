"""Guesses for an environment that no map names: how its actions are written, and whose text a field probably is.

A guess of an action is used (an action of the wrong form is refused by the server, and seen). A guess of a source is
not: it would make targets of text that nobody vouched for, so it is only proposed (`propose`). Not here: known
environments (`maps`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from envecho.trajectory import Source
from envecho.worlds.openenv.facts import ServerFacts
from envecho.worlds.openenv.maps import ActionMap, EnvironmentMap, SourceName, shipped_maps
from envecho.worlds.openenv.reading import looks_like_a_grader

_TEXT_FIELDS: Final = (
    "message", "text", "command", "code", "query", "input", "content", "answer", "response", "action", "prompt",
)  # fmt: skip
_SOURCES: Final[tuple[tuple[str, SourceName, str], ...]] = (
    (r"stderr", Source.STDERR, "errors of a program"),
    (r"stdout|output|console|terminal|log$", Source.STDOUT, "output of a program"),
    (r"^error$|error_message|exception|traceback", Source.TOOL_ERROR, "an error; harness_error if the harness failed"),
    (r"question|task|instruction|goal|problem|prompt|objective", Source.TASK, "states the task"),
    (r"status|message|info|notice|warning|hint|phase", Source.HARNESS_NOTICE, "words of the harness"),
    (
        r"result|response|reply|answer|content|text|observation|feedback|page|state|board|echo",
        Source.TOOL_RESULT,
        "what the environment answers",
    ),
)
_IGNORED: Final = re.compile(
    r"(^|_)(id|idx|index|path|dir|count|length|steps?|iteration|turn|time|type|seed)s?$|^(num|max|is|has)_|^success$"
)


def guess_map(facts: ServerFacts) -> EnvironmentMap:
    """Return a map that knows the actions alone: every text field is the harness's until a map says otherwise."""
    action = guess_action(facts.action)
    if action.kind != "mcp":
        return EnvironmentMap(name=facts.title, action=action)
    return shipped_maps()["mcp"].model_copy(update={"name": facts.title})


def guess_action(schema: Mapping[str, Any] | None) -> ActionMap:
    """Guess how an action is written: the one text field that it must have, else the likeliest, else a JSON object.

    An action without fields is openenv's base class, whose server takes tool calls.
    """
    properties: Mapping[str, Any] = (schema or {}).get("properties") or {}
    fields = {name: kind for name, kind in properties.items() if name != "metadata"}
    if schema is not None and not fields and "oneOf" not in schema and "anyOf" not in schema:
        return ActionMap(kind="mcp")
    needed = [name for name in (schema or {}).get("required") or () if name in fields]
    if any(not _is_text(fields[name]) for name in needed):
        return ActionMap(kind="json")
    if len(needed) == 1:
        return ActionMap(kind="text", field=needed[0])
    texts = [name for name, kind in fields.items() if _is_text(kind)]
    likely = [name for name in _TEXT_FIELDS if name in texts]
    if (not needed and len(texts) == 1) or (not needed and likely):
        return ActionMap(kind="text", field=(likely or texts)[0])
    return ActionMap(kind="json")


def guess_source(name: str, kind: Mapping[str, Any]) -> tuple[SourceName, str]:
    """Guess whose text a field is, and say why."""
    if looks_like_a_grader(name):
        return Source.GRADER, "its name is a grader's; never a target"
    if _IGNORED.search(name):
        return "ignore", "bookkeeping, by its name"
    for pattern, source, why in _SOURCES:
        if re.search(pattern, name, re.IGNORECASE):
            return source, why
    if not _is_text(kind):
        return "ignore", "no text"
    return Source.HARNESS_NOTICE, "nothing in its name says whose it is; not trained"


def _is_text(kind: Mapping[str, Any]) -> bool:
    variants = [kind, *(kind.get("anyOf") or ())]
    return any(variant.get("type") == "string" and "enum" not in variant for variant in variants)
