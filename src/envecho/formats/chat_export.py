"""Trajectories as chat messages for any trainer or data set: `{"messages": [...], "tools": [...]}`, one line each.

    {"id", "task_id", "reward", "tools",
     "messages": [{"role", "content", "reasoning_content"?, "tool_calls"?, "tool_call_id"?, "name"?,
                   "rfc010": {"version": 1, "spans": [...]}, "envecho"?: {...}}],
     "envecho": {"group_id", "stop_reason", "metadata", "branches"?}}

The reader of chat messages (`messages`) hands such a line to `read`. Not here: what a span says (`rfc010`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats import rfc010
from envecho.formats.assemble import ImportOptions
from envecho.formats.reading import Document
from envecho.trajectory import Trajectory

_NATURAL: Final = ("id", "task_id", "reward")


def write(trajectory: Trajectory, notes: Counter[str]) -> dict[str, Any]:
    """Return the line of a trajectory; `notes` counts what stands only under keys that others do not read."""
    messages: list[dict[str, Any]] = []
    for message in trajectory.messages:
        chat = rfc010.chat_message(message) | {rfc010.KEY: rfc010.span_block(message.segments)}
        if aside := rfc010.message_aside(message):
            chat[rfc010.OURS] = aside
        messages.append(chat)
        notes["messages whose sampled ids and log-probs stand only under `envecho`"] += message.sampled is not None
    notes["exact branches that stand only under `envecho`"] += len(trajectory.branches)
    return {
        **trajectory.model_dump(mode="json", include=set(_NATURAL)),
        "tools": list(trajectory.tools),
        "messages": messages,
        rfc010.OURS: rfc010.trajectory_aside(trajectory, without=(*_NATURAL, "tools")),
    }


def recognises(data: Any) -> bool:
    """Whether a document is or holds a list of messages with spans."""
    messages = data.get("messages") if isinstance(data, Mapping) else data
    return isinstance(messages, list) and any(isinstance(m, Mapping) and rfc010.KEY in m for m in messages)


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the trajectory of such a document.

    Raises:
        DataError: a message or its spans are malformed; the error names the message.
    """
    data = document.data if isinstance(document.data, Mapping) else {"messages": document.data}
    messages = []
    for place, chat in enumerate(data["messages"]):
        try:
            spans = rfc010.spans_of(chat[rfc010.KEY]) if rfc010.KEY in chat else []
            messages.append(rfc010.read_chat_message(chat, spans, chat.get(rfc010.OURS)))
        except DataError as error:
            raise DataError(str(error), turn=place) from None
    yield rfc010.build_trajectory(
        document,
        format="messages",
        number=number,
        fields=rfc010.natural_fields(data, (*_NATURAL, "tools")),
        aside=data.get(rfc010.OURS),
        messages=messages,
        options=options,
    )
