"""A row of a data set, or a request, that holds a message list: under which key, and what its other columns say.

Columns are JSON text in many data sets, so text is decoded where it may be. Not here: the messages (`turns`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from envecho.errors import DataError
from envecho.formats.assemble import Origin
from envecho.formats.reading import Document

NAME: Final = "messages"
LISTS: Final = ("messages", "conversations", "conversation", "trajectory", "traj", "input", "chat")
_TASKS: Final = ("instance_id", "task_id", "task_name", "task", "example_id", "id")
_REWARDS: Final = ("reward", "resolved", "target", "verified", "score", "result")
_FACTS: Final = ("instance_id", "traj_id", "trajectory_id", "model", "model_name", "agent", "episode", "run_id",
                 "trial_name", "stop_condition", "exit_status", "repo", "repo_name", "repository")  # fmt: skip


def holds_messages(data: Mapping[str, Any]) -> bool:
    """Whether a row has a message list under a known name, or a prompt with its completion."""
    if isinstance(data.get("completion"), list) or _is_text_pair(data):
        return True
    return any(is_message_list(decoded(data.get(name))) for name in LISTS)


def is_message_list(value: Any) -> bool:
    """Whether one entry of a list names a role; it is for the reader to say which others are no messages."""
    if not isinstance(value, list):
        return False
    words = [entry.get("role", entry.get("from")) for entry in value if isinstance(entry, Mapping)]
    return any(isinstance(word, str) for word in words)


def messages_of(row: Mapping[str, Any]) -> list[Any]:
    """Return the messages of a row that holds some, with its system text and, in logs of an API, its answer.

    Raises:
        DataError: the prompt is no list of messages.
    """
    if isinstance(row.get("completion"), list) or _is_text_pair(row):
        prompt, completion = decoded(row.get("prompt")), row["completion"]
        if prompt is not None and not isinstance(prompt, str | list):
            raise DataError(f"expected messages or text as the prompt, found {type(prompt).__name__}")
        opening = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt or ())
        said = [{"role": "assistant", "content": completion}] if isinstance(completion, str) else completion
        return [*opening, *said]
    found = next(value for name in LISTS if is_message_list(value := decoded(row.get(name))))
    messages = [*found, *_logged_answer(row.get("response"))]
    system = row.get("system") or row.get("instructions") or row.get("system_prompt")
    named = isinstance(found[0], Mapping) and found[0].get("role", found[0].get("from")) == "system"
    if system and not named and isinstance(system, str | list):
        return [{"role": "system", "content": system}, *messages]
    return messages


def _is_text_pair(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("completion"), str) and isinstance(decoded(row.get("prompt")), list)


def _logged_answer(response: Any) -> list[Any]:
    """The answer that a log of API calls keeps beside the request."""
    value = decoded(response)
    choices = value.get("choices") if isinstance(value, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    return [message] if isinstance(message, Mapping) else []


def row_origin(document: Document, row: Mapping[str, Any], number: int | None) -> Origin:
    """What the columns of known data sets say beside the messages."""
    nebius = any(isinstance(m, Mapping) and m.get("role") == "ai" for m in _list(row.get("trajectory")))
    shared = [m for m in _list(row.get("conversations")) if isinstance(m, Mapping)]
    says_loss = any(isinstance(m.get("loss"), bool) for m in shared)  # AgentInstruct: the world speaks as human
    return Origin(
        format=NAME,
        document=document,
        number=number,
        task=task_of(row),
        reward=reward_of(row),
        pack="swe-agent" if nebius else None,
        world_speaks_as_user=isinstance(row.get("completion"), list) or nebius or says_loss,
        environment_simulated=any(m.get("from") == "function_call" for m in shared),
        tools=tools_of(row),
        facts={name: row[name] for name in _FACTS if isinstance(row.get(name), str | int)},
    )


def task_of(row: Mapping[str, Any]) -> str | None:
    """Return the name of the task, where a column holds one."""
    for name in _TASKS:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool) and value not in ("", "default"):
            return str(value)
    return None


def reward_of(row: Mapping[str, Any]) -> float | None:
    """Return the reward, where a column holds a number or a truth."""
    for name in _REWARDS:
        value = row.get(name)
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                continue
        if isinstance(value, bool | int | float) and value == value and abs(value) != float("inf"):
            return float(value)
    return None


def tools_of(row: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return tool schemas as chat templates take them; a list that is none is left out."""
    info = row.get("info")
    stored = row.get("tools") or row.get("tool_defs") or row.get("functions")
    tools = decoded(stored or (info.get("oai_tools") if isinstance(info, Mapping) else None))
    if not isinstance(tools, list):
        return ()
    return tuple(dict(tool) for tool in tools if isinstance(tool, Mapping))


def decoded(value: Any) -> Any:
    """Return JSON text as its value, and anything else as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _list(value: Any) -> list[Any]:
    found = decoded(value)
    return found if isinstance(found, list) else []
