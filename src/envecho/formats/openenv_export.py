"""Trajectories as OpenEnv 0.10 `EpisodeRecord` lines, as its collector writes them to `results.jsonl`.

The record's own fields hold the episode for every reader; `extra["rfc010"]` holds one list of role spans over all
messages, `extra["envecho"]` what only our record knows. Source of the fields: openenv/core/harness/collect.py of
openenv 0.10.0. Not here: reading such lines (`openenv_records`), and token ids (`envecho.recipes.export_traces`).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from envecho.formats import rfc010
from envecho.trajectory import Message, Role, StopReason, ToolCall, Trajectory


def write(trajectory: Trajectory, notes: Counter[str]) -> dict[str, Any]:
    """Return the line of a trajectory; `notes` counts what the record's own fields cannot say."""
    spans = [
        span
        for place, message in enumerate(trajectory.messages)
        for span in rfc010.span_list(message.segments, message=place)
    ]
    asides = [{"message": k} | aside for k, m in enumerate(trajectory.messages) if (aside := rfc010.message_aside(m))]
    ours = rfc010.trajectory_aside(trajectory, without=("id", "reward"))
    notes["messages whose sampled ids and log-probs stand only in `extra.envecho`"] += sum(
        m.sampled is not None for m in trajectory.messages
    )
    notes["exact branches that stand only in `extra.envecho`"] += len(trajectory.branches)
    notes["episodes without a reward: `reward` is null"] += trajectory.reward is None
    trace = _tool_trace(trajectory.messages, notes)
    return {
        "episode_id": trajectory.id,
        "messages": [rfc010.chat_message(message) for message in trajectory.messages],
        "reward": trajectory.reward,
        "done": trajectory.stop_reason is StopReason.COMPLETED,
        "tool_trace": trace,
        "metrics": {"turns": sum(m.role == "assistant" for m in trajectory.messages), "tool_calls": len(trace)},
        "verify_metrics": {},
        "artifacts": {},
        "task": trajectory.task_id,
        "extra": {
            rfc010.KEY: {"version": rfc010.VERSION, "spans": spans},
            rfc010.OURS: ours | {"messages": asides},
        },
    }


def _tool_trace(messages: tuple[Message, ...], notes: Counter[str]) -> list[dict[str, Any]]:
    """Each call with the body of its answer; answers are found by id, else by order."""
    trace: list[dict[str, Any]] = []
    waiting: list[ToolCall] = []
    for message in messages:
        if message.role == "assistant":
            notes["calls without an answer: not in `tool_trace`"] += len(waiting)
            waiting = list(message.tool_calls)
        elif message.role == "tool":
            call = next((c for c in waiting if c.id is not None and c.id == message.tool_call_id), None)
            call = call or (waiting[0] if waiting else None)
            if call is None:
                notes["tool results without a call: not in `tool_trace`"] += 1
                continue
            waiting.remove(call)
            trace.append(_trace_entry(call, message, notes))
    notes["calls without an answer: not in `tool_trace`"] += len(waiting)
    return trace


def _trace_entry(call: ToolCall, answer: Message, notes: Counter[str]) -> dict[str, Any]:
    arguments = rfc010.arguments_object(call)
    if arguments is None:
        notes["call arguments that are no JSON object: `{}` in `tool_trace`"] += 1
    body = "".join(s.text for s in answer.segments if s.source.role is Role.ENV_OUTPUT)
    result = {"data": body, "done": False, "metadata": {}, "error": None}
    return {"tool_name": call.name, "arguments": arguments or {}, "result": result}
