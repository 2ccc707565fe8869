"""Documents that are known and not imported, each with what to do instead.

They hold no turns (screen recordings), one call of many (spans), or text whose borders are lost (dumps of trainers).
Not here: documents that nobody knows, of which the error lists the keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

_Sign = Callable[[Mapping[str, Any]], bool]


def _is_cast(data: Mapping[str, Any]) -> bool:
    return data.get("version") in (1, 2, 3) and ("width" in data or "term" in data) and "messages" not in data


def _is_otel(data: Mapping[str, Any]) -> bool:
    attributes = data.get("attributes")
    names = attributes if isinstance(attributes, Mapping) else data
    is_genai = any(isinstance(name, str) and name.startswith("gen_ai.") for name in names)
    return is_genai or "resourceSpans" in data or ("trace_id" in data and "span_id" in data)


def _is_langsmith(data: Mapping[str, Any]) -> bool:
    return "inputs" in data and ("run_type" in data or "dotted_order" in data or data.get("lc") == 1)


def _is_dump(data: Mapping[str, Any]) -> bool:
    names = set(data)
    verl = {"input", "output", "step"} <= names and ("score" in names or "gts" in names)
    skyrl = {"input_prompt", "output_response"} <= names
    return (verl or skyrl) and isinstance(data.get("output", data.get("output_response")), str)


def _is_lengths(data: Mapping[str, Any]) -> bool:
    steps = data.get("steps")
    return isinstance(steps, list) and any(isinstance(s, Mapping) and {"ob_len", "ac_len"} <= set(s) for s in steps)


_REASONS: Final[tuple[tuple[_Sign, str], ...]] = (
    (_is_cast, "this is a screen recording (asciicast): it has no turns and no thoughts; import the agent's own logs "
     "(terminal-bench keeps them under agent-logs/) instead"),
    (_is_otel, "these are OpenTelemetry spans, each one call of many: for each trace write the messages of the call "
     'with the longest input, and its output, as one line {"messages": [...]}'),
    (_is_langsmith, "this is a LangSmith run, one call of many: for each trace write the messages of the last model "
     'run, inputs and outputs together, as one line {"messages": [...]}'),
    (_is_dump, "this is a trainer's text dump, which was decoded without special tokens, so the borders between turns "
     "are lost; write the `calls` format from the rollout instead (docs/formats/import.md)"),
    (_is_lengths, "this is a summary of rollouts with lengths and no tokens; write the `calls` format from the rollout "
     "instead (docs/formats/import.md)"),
)  # fmt: skip


def reason(data: Any) -> str | None:
    """Return why a known document is not imported and what to do instead; None for any other."""
    if not isinstance(data, Mapping):
        return None
    return next((text for sign, text in _REASONS if sign(data)), None)


def goes_on(first: Any, data: Any) -> bool:
    """Whether a line belongs to the refused document before it: the events of a recording."""
    is_event = isinstance(data, list) and len(data) == 3 and isinstance(data[1], str)
    return is_event and isinstance(first, Mapping) and _is_cast(first)
