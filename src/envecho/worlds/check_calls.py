"""Checks of tools: what `reset` states can be called, and what cannot be called is answered.

Not here: what a call means (`envecho.worlds.tool_calls`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Source
from envecho.worlds.check_report import SkippedCheck, expect, expect_kind
from envecho.worlds.check_subject import Subject, typed
from envecho.worlds.tool_calls import CallText

_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
_BROKEN: Final = ('{"name": "', '{"name": 3}', '{"name": "x", "arguments": [1]}', "I would rather talk.")


def _tools_are_schemas(subject: Subject) -> None:
    with subject.world() as world:
        for seed in subject.seeds:
            tools = _tools(world.reset(seed=seed))
            names = [_checked_name(tool) for tool in tools]
            twice = {name for name in names if names.count(name) > 1}
            expect(not twice, f"tools have the same name: {', '.join(sorted(twice))}")


def _checked_name(tool: Any) -> str:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError

    expect(
        isinstance(tool, Mapping) and tool.get("type") == "function" and isinstance(tool.get("function"), Mapping),
        f'expected {{"type": "function", "function": {{...}}}}, found {tool!r:.100}',
    )
    function = tool["function"]
    name, parameters = function.get("name"), function.get("parameters")
    is_name = isinstance(name, str) and bool(_NAME.fullmatch(name))
    expect(is_name, f"a tool's name is {name!r}, expected letters, digits, _ and -")
    expect_kind(function.get("description", ""), str, f"the description of {name}")
    expect_kind(parameters, Mapping, f"the parameters of {name}")
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        place = "/".join(map(str, error.path)) or "their top"
        expect(False, f"the parameters of {name} are no JSON schema, at {place}: {error.message}")
    kind = parameters.get("type")
    expect(kind == "object", f"the parameters of {name} have type {kind!r}, expected object")
    unknown = set(parameters.get("required", ())) - set(parameters.get("properties", {}))
    expect(not unknown, f"{name} requires {', '.join(sorted(unknown))}, which its properties do not name")
    return name


def _what_cannot_be_called_is_answered(subject: Subject) -> None:
    with subject.world() as world:
        tools = _tools(world.reset(seed=subject.seeds[0]))
        functions = [tool.get("function", tool) for tool in tools]
        names = {function.get("name") for function in functions}
        unknown = next(name for name in ("no_such_tool", "no_such_tool_2") if name not in names)
        wrong = [CallText(name=unknown, arguments={})]
        needy = [function for function in functions if (function.get("parameters") or {}).get("required")]
        wrong += [CallText(name=function["name"], arguments={}) for function in needy[:1]]
        for call in wrong:
            world.reset(seed=subject.seeds[0])
            observation = typed(world.step(str(call)), f"step({str(call)!r})")
            _expect_refused(observation, str(call), (Source.TOOL_ERROR, Source.FORMAT_WARNING), CallOutcome.INVALID)
        for text in _BROKEN:
            world.reset(seed=subject.seeds[0])
            observation = typed(world.step(text), f"step({text!r})")
            _expect_refused(observation, text, (Source.FORMAT_WARNING,), CallOutcome.UNPARSED)
            expect(
                len(observation.segments) == 1,
                f"step({text!r}) answered {len(observation.segments)} segments, expected the format warning alone",
            )


def _expect_refused(observation: Observation, text: str, sources: Sequence[Source], outcome: CallOutcome) -> None:
    found = [segment.source for segment in observation.segments]
    expected = " or ".join(source.value for source in sources)
    expect(bool(set(found) & set(sources)), f"step({text!r}) answered {[s.value for s in found]}, expected {expected}")
    label = observation.labels.get(CALL_LABEL)
    expect(label == outcome.value, f"step({text!r}) has the label {CALL_LABEL}={label!r}, expected {outcome.value!r}")


def _tools(observation: Observation) -> tuple[Mapping[str, Any], ...]:
    if not observation.tools:
        raise SkippedCheck("the world has no tools")
    return observation.tools


CALL_CHECKS: Final[Mapping[str, Callable[[Subject], None]]] = {
    "tools are valid schemas": _tools_are_schemas,
    "what cannot be called is answered": _what_cannot_be_called_is_answered,
}
