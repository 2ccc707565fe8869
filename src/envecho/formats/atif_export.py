"""Trajectories as ATIF-v1.8 documents, with role spans in the `extra` of steps and results, and back.

An answer of the world (a tool turn, or a user turn that holds its words) is a result of the agent step before it; every
other message is a step. ATIF's own fields hold what they can; the rest stands under `extra["envecho"]`. Source of the
fields: Harbor's RFC 0001. Not here: ATIF of other writers (`atif`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats import rfc010
from envecho.formats.assemble import ImportOptions
from envecho.formats.reading import Document
from envecho.trajectory import Message, Role, Source, SpanKind, ToolCall, Trajectory

_ROLE_OF_SOURCE: Final = {"system": "system", "user": "user", "agent": "assistant"}
_SOURCE_OF_ROLE: Final = {"system": "system", "user": "user", "assistant": "agent", "tool": "user"}


def write(trajectory: Trajectory, notes: Counter[str]) -> dict[str, Any]:
    """Return the document of a trajectory; `notes` counts what ATIF's own fields cannot say."""
    prompts = _prompts(trajectory)
    steps: list[dict[str, Any]] = []
    for place, message in enumerate(trajectory.messages):
        if _is_answer(message) and steps and steps[-1]["source"] == "agent":
            observation = steps[-1].setdefault("observation", {"results": []})
            observation["results"].append(_result(message, steps[-1]))
        else:
            notes["tool results that follow no agent step: user steps"] += message.role == "tool"
            steps.append({"step_id": len(steps) + 1, **_step(message, len(steps) + 1, prompts.get(place), notes)})
    facts = trajectory.metadata.get("import")
    facts = facts if isinstance(facts, Mapping) else {}
    agent: dict[str, Any] = {"name": str(facts.get("agent") or "unknown"), "version": "unknown"}
    if isinstance(facts.get("model"), str):
        agent["model_name"] = facts["model"]
    if trajectory.tools:
        agent["tool_definitions"] = list(trajectory.tools)
    notes["exact branches that stand only in `extra.envecho`"] += len(trajectory.branches)
    notes["rewards, task and group names that stand only in `extra.envecho`"] += 1
    return {
        "schema_version": "ATIF-v1.8",
        "trajectory_id": trajectory.id,
        "agent": agent,
        "steps": steps,
        "final_metrics": {"total_steps": len(steps)},
        "extra": {
            rfc010.KEY: {"version": rfc010.VERSION},
            rfc010.OURS: rfc010.trajectory_aside(trajectory, without=("id", "tools")),
        },
    }


def _prompts(trajectory: Trajectory) -> dict[int, list[int]]:
    """The exact prompt of each sampled turn, in the branch that owns it."""
    prompts: dict[int, list[int]] = {}
    for branch in trajectory.branches:
        start = 0
        for span in branch.spans:
            if span.kind is SpanKind.SAMPLED and start >= branch.owned_from:
                prompts[span.turn] = list(branch.token_ids[:start])
            start = span.end
    return prompts


def _is_answer(message: Message) -> bool:
    said = {segment.source.role for segment in message.segments}
    return message.role == "tool" or (message.role == "user" and bool(said & {Role.ENV_OUTPUT, Role.WARNING}))


def _extra(message: Message, aside: dict[str, Any]) -> dict[str, Any]:
    extra: dict[str, Any] = {rfc010.KEY: rfc010.span_block(message.segments)}
    return extra | ({rfc010.OURS: aside} if aside else {})


def _result(message: Message, step: Mapping[str, Any]) -> dict[str, Any]:
    known = {call["tool_call_id"] for call in step.get("tool_calls") or ()}
    call_id = message.tool_call_id if message.tool_call_id in known else None
    aside = _aside(
        message,
        role=None if message.role == ("user" if call_id is None else "tool") else message.role,
        tool_call_id=None if message.tool_call_id == call_id else message.tool_call_id,
    )
    result = {} if call_id is None else {"source_call_id": call_id}
    return result | {"content": message.content, "extra": _extra(message, aside)}


def _step(message: Message, number: int, prompt: list[int] | None, notes: Counter[str]) -> dict[str, Any]:
    source = _SOURCE_OF_ROLE[message.role]
    step: dict[str, Any] = {"source": source, "message": message.content}
    if source != "agent":
        role = None if message.role == source else message.role
        return step | {"extra": _extra(message, _aside(message, role=role, tool_call_id=message.tool_call_id))}
    if message.reasoning is not None:
        step["reasoning_content"] = message.reasoning
    if message.tool_calls:
        step["tool_calls"] = [_call(call, f"call_{number}_{k}", notes) for k, call in enumerate(message.tool_calls)]
    if message.segments and not any(segment.source is Source.POLICY for segment in message.segments):
        step["is_copied_context"] = True
    aside = _aside(message, tool_call_id=message.tool_call_id)
    if message.sampled is not None:
        kept = aside["sampled"]
        metrics = {"completion_token_ids": kept.pop("token_ids"), "logprobs": kept.pop("logprobs")}
        metrics["completion_tokens"] = len(message.sampled.token_ids)
        if prompt is not None:
            metrics |= {"prompt_tokens": len(prompt), "prompt_token_ids": prompt}
        step["metrics"] = {name: value for name, value in metrics.items() if value is not None}
        notes["sampling temperatures that stand only in `extra.envecho`"] += message.sampled.temperature is not None
    return step | {"extra": _extra(message, aside)}


def _aside(message: Message, **more: Any) -> dict[str, Any]:
    """What a message has and its step or result has no field for."""
    aside = rfc010.message_aside(message, name=message.name, **more)
    if message.role != "assistant":
        if message.reasoning is not None:
            aside["reasoning"] = message.reasoning
        if message.tool_calls:
            aside["tool_calls"] = [call.model_dump(mode="json") for call in message.tool_calls]
    return aside


def _call(call: ToolCall, invented: str, notes: Counter[str]) -> dict[str, Any]:
    """A call; its exact text and missing id are kept where an object with an id cannot say them."""
    arguments = rfc010.arguments_object(call)
    ours: dict[str, Any] = {}
    if arguments is None or rfc010.json_text(arguments) != call.arguments:
        ours["arguments"] = call.arguments
    if call.id is None:
        ours["id"] = None
    notes["call arguments that are no JSON object: text in `extra.envecho`"] += arguments is None
    notes["calls without an id: one was invented"] += call.id is None
    written = {
        "tool_call_id": invented if call.id is None else call.id,
        "function_name": call.name,
        "arguments": arguments or {},
    }
    return written | ({"extra": {rfc010.OURS: ours}} if ours else {})


def recognises(data: Mapping[str, Any]) -> bool:
    """Whether an ATIF document carries role spans."""
    extra = data.get("extra")
    return isinstance(extra, Mapping) and rfc010.KEY in extra


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the trajectory of such a document.

    Raises:
        DataError: a step or its spans are malformed; the error names the step.
    """
    data = document.data
    messages: list[Message] = []
    for place, step in enumerate(data["steps"]):
        try:
            messages.append(_message(step, _ROLE_OF_SOURCE[step["source"]], step["message"]))
            for result in (step.get("observation") or {}).get("results", ()):
                role = "user" if result.get("source_call_id") is None else "tool"
                messages.append(_message(result, role, result["content"]))
        except DataError as error:
            raise DataError(str(error), turn=place) from None
    agent = data.get("agent") or {}
    yield rfc010.build_trajectory(
        document,
        format="atif",
        number=number,
        fields={"id": str(data["trajectory_id"]), "tools": tuple(agent.get("tool_definitions") or ())},
        aside=data["extra"].get(rfc010.OURS),
        messages=messages,
        options=options,
    )


def _message(item: Mapping[str, Any], role: Any, content: Any) -> Message:
    extra = item.get("extra") or {}
    aside = dict(extra.get(rfc010.OURS) or {})
    role = aside.pop("role", role)
    if not isinstance(content, str):
        raise DataError(f"expected text with role spans, found {type(content).__name__}")
    metrics = item.get("metrics") or {}
    if "completion_token_ids" in metrics:
        sampled = {"token_ids": metrics["completion_token_ids"], "logprobs": metrics.get("logprobs")}
        aside["sampled"] = sampled | dict(aside.get("sampled") or {})
    spans = rfc010.spans_of(extra[rfc010.KEY]) if rfc010.KEY in extra else []
    fields = {
        "role": role,
        "segments": rfc010.cut(content, spans, role=role),
        "reasoning": item.get("reasoning_content"),
        "tool_calls": tuple(_read_call(call) for call in item.get("tool_calls") or ()),
        "tool_call_id": item.get("source_call_id"),
    }
    return rfc010.build_message(fields, aside)


def _read_call(call: Mapping[str, Any]) -> ToolCall:
    ours = (call.get("extra") or {}).get(rfc010.OURS) or {}
    arguments = ours.get("arguments", rfc010.json_text(call.get("arguments") or {}))
    return ToolCall(name=call["function_name"], arguments=arguments, id=ours.get("id", call["tool_call_id"]))
