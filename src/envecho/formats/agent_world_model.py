"""Episodes of the Agent World Model: `{"scenario", "task", "tools", "steps": [{"action", "observation"}]}`.

`tool_result` and `error` are the world's words; what a verifier says is the grader's, and no target unless asked for
(METHOD trap 9). Not here: live environments (`envecho.worlds`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.reading import Document
from envecho.formats.turns import Turn
from envecho.trajectory import Segment, Source, ToolCall, Trajectory

NAME = "agent-world-model"


def recognises(data: Any) -> bool:
    """Whether the document has a scenario and steps of actions and observations."""
    if not isinstance(data, Mapping) or "scenario" not in data or not isinstance(data.get("steps"), list):
        return False
    return all(isinstance(step, Mapping) and "action" in step for step in data["steps"])


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory]:
    """Yield the episode.

    Raises:
        DataError: a step has no tool name, or an observation that is no object.
    """
    data = document.data
    turns = [Turn(kind="user", text=str(data.get("task", "")))]
    segments: dict[int, tuple[Segment, ...]] = {}
    for place, step in enumerate(data["steps"]):
        action, observation = step.get("action"), step.get("observation")
        if not isinstance(action, Mapping) or not isinstance(action.get("tool_name"), str):
            raise DataError(f"expected an action with a tool_name, found {action!r:.80}", turn=place)
        if not isinstance(observation, Mapping):
            raise DataError(f"expected an observation, found {type(observation).__name__}", turn=place)
        name = action["tool_name"]
        arguments = json.dumps(action.get("arguments") or {}, ensure_ascii=False)
        call = ToolCall(name=name, arguments=arguments, id=f"call_{place}")
        turns.append(Turn(kind="assistant", text="", tool_calls=(call,), is_lossy=True))
        found = _observed(observation, name)
        segments[len(turns)] = found
        text = "".join(segment.text for segment in found)
        turns.append(Turn(kind="tool", text=text, tool_call_id=call.id, name=name))
    reward = data.get("reward")
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=f"{data['scenario']}/{data.get('task_idx', 0)}",
        reward=float(reward) if isinstance(reward, int | float) else None,
        action_text_lossy=True,
        segments=segments,
        tools=tuple(_schema(tool) for tool in data.get("tools") or () if isinstance(tool, str | Mapping)),
        facts={"scenario": str(data["scenario"])},
    )
    yield assemble(turns, origin, options)


def _schema(tool: str | Mapping[str, Any]) -> dict[str, Any]:
    """A tool as templates take it; episodes often keep its name alone."""
    return {"type": "function", "function": {"name": tool}} if isinstance(tool, str) else dict(tool)


def _observed(observation: Mapping[str, Any], tool: str) -> tuple[Segment, ...]:
    """The fields of an observation by source: result, error, the harness's warning, the grader's verdict."""
    parts = (
        ("tool_result", Source.GRADER if tool == "verify" else Source.TOOL_RESULT),
        ("error", Source.TOOL_ERROR),
        ("warning", Source.HARNESS_NOTICE),
        ("verify_result", Source.GRADER),
    )
    found: list[Segment] = []
    for name, source in parts:
        value = observation.get(name)
        if value not in (None, "", {}, []):
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            found.append(Segment(source=source, text=text, tool=tool))
    return tuple(found)
