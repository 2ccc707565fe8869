"""ATIF, Harbor's Agent Trajectory Interchange Format, versions 1.0 to 1.8: `{"schema_version": "ATIF-v1.x"}`.

Read leniently: newer writers add keys. An agent step was sampled unless it is copied context or says that no model was
called. Where `metrics` hold the ids of every call they are kept, and the prefix test says which calls continue which.
Not here: words of the harness around an observation (`rules`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats import atif_export, token_fields
from envecho.formats.assemble import ImportOptions, Origin
from envecho.formats.exact import Call, assemble_with_calls
from envecho.formats.reading import Document
from envecho.formats.rules import PACKS, split
from envecho.formats.token_fields import COMPLETION, PROMPT, has_call
from envecho.formats.turns import Turn
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "atif"
_SOURCES = ("system", "user", "agent")


def recognises(data: Any) -> bool:
    """Whether the document names a version of ATIF (some writers leave the prefix out), or has its agent and steps."""
    if not isinstance(data, Mapping) or not isinstance(data.get("steps"), list):
        return False
    return str(data.get("schema_version", "")).removeprefix("ATIF-v").startswith("1.")


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
    agent = data["agent"] if isinstance(data.get("agent"), Mapping) else {}
    name = str(agent.get("name", "")).lower()
    pack = next((found for found in ("terminus", "openhands", "mini-swe-agent", "swe-agent") if found in name), None)
    rules = options.rules + (PACKS[pack] if pack else ())
    turns: list[Turn] = []
    segments: dict[int, tuple[Segment, ...]] = {}
    calls: dict[int, Call] = {}
    for place, step in enumerate(data["steps"]):
        if not isinstance(step, Mapping) or step.get("source") not in _SOURCES:
            found = step.get("source") if isinstance(step, Mapping) else type(step).__name__
            raise DataError(f"expected a step with source system, user or agent, found {found!r}", turn=place)
        for turn in _turns(step, place):
            if turn.kind != "assistant" and step["source"] == "agent":
                copied = bool(step.get("is_copied_context"))
                context = (Segment(source=Source.TASK, text=turn.text),)
                segments[len(turns)] = (
                    context if copied else split(turn.text, rules, body=Source.TOOL_RESULT, tool=turn.name)
                )
            elif turn.kind == "assistant" and turn.sampled and has_call(step.get("metrics")):
                calls[len(turns)] = _ids(step["metrics"], place)
            turns.append(turn)
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(data["task_id"]) if isinstance(data.get("task_id"), str) else None,
        pack=pack,
        segments=segments,
        action_text_lossy=True,
        tools=tuple(dict(t) for t in agent.get("tool_definitions") or () if isinstance(t, Mapping)),
        facts={
            "format_version": str(data["schema_version"]),
            "session_id": data.get("session_id"),
            "agent": agent.get("name"),
            "model": agent.get("model_name"),
        },
    )
    yield assemble_with_calls(turns, calls, origin, options)
    for place, inner in enumerate(data.get("subagent_trajectories") or ()):
        if recognises(inner):
            yield from _read(document, inner, options, 1000 * (number or 0) + place + 1)


def _turns(step: Mapping[str, Any], place: int) -> list[Turn]:
    text, dropped = _text(step.get("message"), place)
    results = step["observation"].get("results") if isinstance(step.get("observation"), Mapping) else None
    copied = bool(step.get("is_copied_context"))
    if step["source"] != "agent":
        return [Turn(kind="system" if step["source"] == "system" else "user", text=text, num_dropped_parts=dropped)]
    calls = tuple(_call(call, place) for call in step.get("tool_calls") or ())
    reasoning = step.get("reasoning_content")
    said = Turn(
        kind="assistant",
        text=text,
        reasoning=reasoning if isinstance(reasoning, str) and reasoning else None,
        tool_calls=calls,
        is_lossy=bool(calls),
        num_dropped_parts=dropped,
        sampled=not copied and step.get("llm_call_count") != 0,
    )
    found = [said]
    for result in results or ():
        if not isinstance(result, Mapping) or result.get("subagent_trajectory_ref"):
            continue
        text, dropped = _text(result.get("content"), place)
        call_id = result.get("source_call_id")
        kind = "tool" if isinstance(call_id, str) else "user"
        name = next((call.name for call in calls if call.id == call_id), None)
        found.append(
            Turn(
                kind=kind,
                text=text,
                tool_call_id=call_id if kind == "tool" else None,
                name=name,
                num_dropped_parts=dropped,
            )
        )
    return found


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


def _text(content: Any, place: int) -> tuple[str, int]:
    """The text of a message or result, and how many parts have none."""
    if content is None or isinstance(content, str):
        return content or "", 0
    if not isinstance(content, list):
        raise DataError(f"expected text or parts, found {type(content).__name__}", turn=place)
    texts = [str(p.get("text", "")) for p in content if isinstance(p, Mapping) and p.get("type") == "text"]
    return "".join(texts), len(content) - len(texts)
