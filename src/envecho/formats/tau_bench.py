"""tau-bench results (`{"task_id", "traj"}`) and tau2's simulations (`{"simulations": [{"task_id", "messages"}]}`).

The user is a simulated person: those turns are context unless `--user-turns world` asks for them, then `user_reply`. In
tau2 the user calls tools of its own, which the policy never sees: those calls and results are left out and counted.
Not here: the messages themselves (`turns`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from envecho.errors import DataError
from envecho.formats.assemble import ImportOptions, Origin, assemble
from envecho.formats.message_rows import is_message_list, reward_of
from envecho.formats.reading import MALFORMED, Document, Refused, refuse
from envecho.formats.turns import turns_of
from envecho.trajectory import Trajectory

NAME = "tau-bench"


def recognises(data: Any) -> bool:
    """Whether the document is a result of either version, or a file of simulations."""
    if not isinstance(data, Mapping):
        return False
    if isinstance(data.get("simulations"), list):
        return any(isinstance(s, Mapping) and "messages" in s and "task_id" in s for s in data["simulations"])
    if "task_id" in data and is_message_list(data.get("traj")):
        return True
    return is_message_list(data.get("messages")) and "task_id" in data and "reward_info" in data


def read(document: Document, options: ImportOptions, *, number: int | None = None) -> Iterator[Trajectory | Refused]:
    """Yield the episodes; a simulation that cannot be read is refused by its number."""
    simulations = document.data.get("simulations")
    for place, run in enumerate(simulations if isinstance(simulations, list) else [document.data]):
        try:
            yield _episode(document, run, place if isinstance(simulations, list) else number, options)
        except MALFORMED as error:
            yield refuse(document, error, place=f"simulation {place}" if isinstance(simulations, list) else "")


def _episode(document: Document, run: Any, number: int | None, options: ImportOptions) -> Trajectory:
    if not isinstance(run, Mapping):
        raise DataError(f"expected a simulation, found {type(run).__name__}")
    stored = run.get("traj", run.get("messages"))
    if not isinstance(stored, list):
        raise DataError(f"expected a list of messages, found {type(stored).__name__}")
    seen = list(_seen(stored))
    turns = turns_of(seen)
    if not any(turn.kind == "assistant" for turn in turns):
        raise DataError("expected at least one answer of a model, found none")
    info = run.get("reward_info")
    reward = reward_of(info if isinstance(info, Mapping) else run)
    origin = Origin(
        format=NAME,
        document=document,
        number=number,
        task=str(run.get("task_id")),
        reward=reward,
        facts={
            "user_simulated": True,
            "trial": run.get("trial"),
            "termination_reason": run.get("termination_reason"),
            "num_messages_of_the_users_tools": len(list(_flat(stored))) - len(seen),
        },
    )
    return assemble(turns, origin, options)


def _flat(messages: Sequence[Any]) -> Iterator[Any]:
    """Results of parallel calls stand in one message (`tool_messages`)."""
    for message in messages:
        inner = message.get("tool_messages") if isinstance(message, Mapping) else None
        yield from inner if isinstance(inner, list) else [message]


def _seen(messages: Sequence[Any]) -> Iterator[Any]:
    """What the policy saw: not the user's calls, nor what the user's tools answered."""
    for message in _flat(messages):
        if not isinstance(message, Mapping):
            yield message
        elif message.get("role") == "user":
            if message.get("content") or not message.get("tool_calls"):
                yield {key: value for key, value in message.items() if key != "tool_calls"}
        elif message.get("role") != "tool" or message.get("requestor", "assistant") == "assistant":
            yield message
