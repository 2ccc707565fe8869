"""ATIF, Harbor's Agent Trajectory Interchange Format, versions 1.0 to 1.8: `{"schema_version": "ATIF-v1.x"}`.

Read leniently: newer writers add keys, which are noted. An agent step was sampled unless it is copied context or says
that no model was called. What a step of system or user observes, and what a sub-agent reports, is context. Where
`metrics` hold the ids of every call they are kept, and the prefix test says which calls continue which. Not here: words
of the harness around an observation (`rules`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from envecho.errors import DataError
from envecho.formats import atif_export, token_fields
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, assemble_with_calls
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS
from envecho.formats.token_fields import COMPLETION, PROMPT, has_call
from envecho.formats.turns import Turn, turns_of
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "atif"
_SOURCES = ("system", "user", "agent")
_PREFIX = "ATIF-v"
_ROOT_KEYS = {
    "schema_version", "session_id", "trajectory_id", "agent", "steps", "notes", "final_metrics", "extra",
    "continued_trajectory_ref", "subagent_trajectories", "task_id",
}  # fmt: skip
_STEP_KEYS = {
    "step_id", "timestamp", "source", "model_name", "reasoning_effort", "message", "reasoning_content", "tool_calls",
    "observation", "metrics", "is_copied_context", "llm_call_count", "extra",
}  # fmt: skip


def recognises(data: Any) -> bool:
    """Whether the document names a version of ATIF; some writers leave the prefix out."""
    if not isinstance(data, Mapping) or "steps" not in data:
        return False
    version = data.get("schema_version")
    return isinstance(version, str) and (version.startswith(_PREFIX) or ("agent" in data and version[:1].isdigit()))


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the trajectory, and those of sub-agents that are embedded in it.

    Raises:
        DataError: a step has an unknown source, or content that is no text.
    """
    if atif_export.recognises(document.data):
        yield from atif_export.read(document, options, number=number)
        return
    yield from _read(document, document.data, options, number)


def _read(
    document: Document, data: Mapping[str, Any], options: ImportOptions, number: int | None
) -> Iterator[Trajectory]:
    version = str(data["schema_version"]).removeprefix(_PREFIX)
    if not version.startswith("1."):
        raise DataError(f"expected ATIF-v1.0 to 1.8, found {data['schema_version']!r}; ask for an importer of it")
    if not isinstance(data["steps"], list):
        raise DataError(f"expected a list under steps, found {type(data['steps']).__name__}")
    agent = data["agent"] if isinstance(data.get("agent"), Mapping) else {}
    name = str(agent.get("name", "")).lower()
    pack = next((found for found in PACKS if found in name), None)
    unknown = {key for key in data if key not in _ROOT_KEYS}
    turns: list[Turn] = []
    segments: dict[int, tuple[Segment, ...]] = {}
    calls: dict[int, Call] = {}
    for place, step in enumerate(data["steps"]):
        if not isinstance(step, Mapping) or step.get("source") not in _SOURCES:
            found = step.get("source") if isinstance(step, Mapping) else type(step).__name__
            raise DataError(f"expected a step with source system, user or agent, found {found!r}", turn=place)
        unknown |= {f"steps.{key}" for key in step if key not in _STEP_KEYS}
        for turn, is_context in _turns(step, place):
            if is_context and turn.kind != "system":
                segments[len(turns)] = (Segment(source=Source.TASK, text=turn.text),)
            elif turn.kind == "assistant" and turn.sampled and has_call(step.get("metrics")):
                calls[len(turns)] = _ids(step["metrics"], place)
            turns.append(turn)
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(data["task_id"]) if isinstance(data.get("task_id"), str) else None,
        pack=pack,
        world_speaks_as_user=True,
        segments=segments,
        action_text_lossy=True,
        tools=tuple(dict(t) for t in agent.get("tool_definitions") or () if isinstance(t, Mapping)),
        facts={
            "format_version": str(data["schema_version"]),
            "session_id": data.get("session_id"),
            "agent": agent.get("name"),
            "model": agent.get("model_name"),
            "trajectory_id": data.get("trajectory_id"),
            "continued_trajectory_ref": data.get("continued_trajectory_ref"),
            "unknown_keys": sorted(unknown) or None,
        },
    )
    yield assemble_with_calls(turns, calls, origin, options)
    for place, inner in enumerate(data.get("subagent_trajectories") or ()):
        if recognises(inner):
            yield from _read(document, inner, options, 1000 * (number or 0) + place + 1)


def _turns(step: Mapping[str, Any], place: int) -> Iterator[tuple[Turn, bool]]:
    """The turns of a step, and whether each is context: what it says, then what it observes."""
    message = _content("assistant" if step["source"] == "agent" else step["source"], step.get("message"), place)
    is_copied = bool(step.get("is_copied_context"))
    calls: tuple[ToolCall, ...] = ()
    if step["source"] == "agent":
        calls = tuple(_call(call, place) for call in _list(step.get("tool_calls"), "tool_calls", place))
        reasoning = step.get("reasoning_content")
        yield (
            replace(
                message,
                reasoning=reasoning if isinstance(reasoning, str) and reasoning else None,
                tool_calls=calls,
                is_lossy=bool(calls),
                sampled=not is_copied and step.get("llm_call_count") != 0,
            ),
            False,
        )
    else:
        yield message, True
    observation = step.get("observation")
    results = observation.get("results") if isinstance(observation, Mapping) else None
    for result in _list(results, "observation.results", place):
        if not isinstance(result, Mapping):
            raise DataError(f"expected a result of an observation, found {type(result).__name__}", turn=place)
        call_id = result.get("source_call_id")
        is_answer = isinstance(call_id, str) and step["source"] == "agent"
        turn = _content("tool" if is_answer else "user", result.get("content"), place)
        is_context = is_copied or step["source"] != "agent" or bool(result.get("subagent_trajectory_ref"))
        if turn.text or not is_context:
            yield replace(turn, tool_call_id=call_id if is_answer else None), is_context


def _ids(metrics: Mapping[str, Any], place: int) -> Call:
    return Call(
        prompt_ids=token_fields.ids(metrics, PROMPT, place),
        completion_ids=token_fields.ids(metrics, COMPLETION, place),
        logprobs=token_fields.logprobs(metrics),
    )


def _call(call: Any, place: int) -> ToolCall:
    if not isinstance(call, Mapping) or not isinstance(call.get("function_name"), str):
        raise DataError(f"expected a tool call with a function_name, found {call!r:.80}", turn=place)
    arguments = call.get("arguments")
    text = arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)
    return ToolCall(name=call["function_name"], arguments=text, id=call.get("tool_call_id"))


def _content(role: str, content: Any, place: int) -> Turn:
    try:
        (turn,) = turns_of([{"role": role, "content": "" if content is None else content}])
    except (DataError, ValueError) as error:
        raise DataError(f"expected text or parts of text and images: {error}", turn=place) from None
    return turn


def _list(value: Any, name: str, place: int) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise DataError(f"expected a list under {name}, found {type(value).__name__}", turn=place)
    return value or []
