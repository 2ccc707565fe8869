"""Trajectories as OpenEnv 0.10 `TrainingTrace` documents: one entry per model call, with its exact ids.

The schema forbids fields of its own beside `request`, `response` and `metadata`, which are open objects. Role spans of
the call stand in `metadata["rfc010"]`: `spans` over the text of its messages, `token_spans` over its ids, prompt and
completion together, as `loss_mask` has it. `metadata["envecho"]` says which messages of our record they are; the last
call keeps what no call shows. Source: openenv/core/harness/training.py of openenv 0.10.0. Not here: finding the calls
(`envecho.recipes.traced_calls`), reading (`training_traces`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from envecho.formats import rfc010
from envecho.trajectory import Message, Trajectory


@dataclass(frozen=True, kw_only=True)
class TracedCall:
    """One model call of an episode: the messages that its prompt shows, the turn that it wrote, and the ids.

    `trains` is False where the prompt is not the one that the turn was sampled from. `token_spans` are runs of ids
    `[start, end)` over prompt and completion with one source each, as `rfc010` writes spans.
    """

    shown: tuple[int, ...]
    answer: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    trains: bool
    token_spans: tuple[dict[str, Any], ...]


def write(trajectory: Trajectory, calls: Sequence[TracedCall], notes: Counter[str]) -> dict[str, Any]:
    """Return the document of a trajectory with at least one call; `notes` counts what other readers do not see."""
    messages = trajectory.messages
    turns = [_turn(trajectory, call, number) for number, call in enumerate(calls)]
    seen = {place for call in calls for place in (*call.shown, call.answer)}
    traced = {call.answer for call in calls}
    aside = rfc010.trajectory_aside(trajectory)
    aside["asides"] = [
        {"message": place} | kept for place, m in enumerate(messages) if (kept := _aside(m, place in traced))
    ]
    aside["rest"] = [
        {"message": place, **rfc010.chat_message(m), rfc010.KEY: rfc010.span_block(m.segments)}
        for place, m in enumerate(messages)
        if place not in seen
    ]
    turns[-1]["metadata"][rfc010.OURS]["episode"] = aside
    notes["messages behind the last call: only in `metadata.envecho`"] += len(aside["rest"])
    notes["rewards, task and group names that stand only in `metadata.envecho`"] += 1
    notes["sampled turns without log-probs: no call of the trace"] += sum(
        m.sampled is not None and place not in traced for place, m in enumerate(messages)
    )
    return {"schema_version": 1, "turns": turns}


def _aside(message: Message, is_traced: bool) -> dict[str, Any]:
    """What our record knows of a message; ids, log-probs and temperature of a traced turn stand in its call."""
    aside = rfc010.message_aside(message)
    if is_traced and message.sampled is not None:
        del aside["sampled"]
        if message.sampled.entropies is not None:
            aside["entropies"] = list(message.sampled.entropies)
    return aside


def _turn(trajectory: Trajectory, call: TracedCall, number: int) -> dict[str, Any]:
    answer = trajectory.messages[call.answer]
    shown = [trajectory.messages[place] for place in call.shown]
    spans = [
        span
        for place, message in enumerate((*shown, answer))
        for span in rfc010.span_list(message.segments, message=place)
    ]
    sampled = answer.sampled
    temperature = None if sampled is None else sampled.temperature
    mask = [0] * len(call.prompt_ids) + [int(call.trains)] * len(call.completion_ids)
    return {
        "node_id": f"call-{number}",
        "prompt_token_ids": list(call.prompt_ids),
        "completion_token_ids": list(call.completion_ids),
        "per_token_logps": list(call.logprobs),
        "loss_mask": mask,
        "request": {
            "messages": [rfc010.chat_message(message) for message in shown],
            "tools": list(trajectory.tools) or None,
        },
        "response": {"choices": [{"message": rfc010.chat_message(answer), "finish_reason": None}]},
        "metadata": {
            "index": number,
            "sampling_params": {} if temperature is None else {"temperature": temperature},
            rfc010.KEY: {"version": rfc010.VERSION, "spans": spans, "token_spans": list(call.token_spans)},
            rfc010.OURS: {"messages": list(call.shown), "answer": call.answer},
        },
    }
