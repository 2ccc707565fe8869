"""The tool world: solve a task by calling the tools of a service over a private SQLite database.

    task     Ship the paid order of Rosa Meyer.
    action   {"name": "list_customers", "arguments": {"query": "Meyer"}}
    answer   {"items":[{"id":437,"name":"Rosa Meyer"}],"total":1}                       tool_result
    action   {"name": "ship_order", "arguments": {"order_id": 99}}
    answer   {"error":{"status":404,"message":"order 99 not found"}}                    tool_error
    action   answer: done

The shape is the Agent World Model's: scenario, task, tools, database and a verifier of its state. It runs in process:
calls bind values to SQL of ours, and a policy never says SQL. Not here: the services (`domains`), and which tasks there
are (`suite`).
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.tool_calls import CallText, FinalAnswer, Unparsed, parse_action
from envecho.worlds.tools.api import PAGE, readable
from envecho.worlds.tools.database import call_database, open_database
from envecho.worlds.tools.domain import TODAY
from envecho.worlds.tools.grading import grade
from envecho.worlds.tools.tasks import ToolTask

_REFUSED = 422
_LONGEST_NAME = 64


class ToolWorld:
    """One task, from its `reset` to the answer or the last turn, which grade it: reward 1 or 0.

    A turn that is no call is answered by a format warning, and nothing is run. A call of an unknown tool, or with
    arguments that its schema refuses, is `invalid`; an error of another kind (404, 403, 409) is an answer like others.

    Raises:
        WorldError: `step` before `reset` or after the episode's end; `reset` with unknown arguments.
    """

    def __init__(self, task: ToolTask, *, max_turns: int = 16) -> None:
        self._task, self._max_turns = task, max_turns
        self._connection: sqlite3.Connection | None = None
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": task.id, "done": True}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the task on a fresh database; nothing here is left to chance, so `seed` changes nothing."""
        if kwargs:
            raise WorldError(f"reset takes seed and episode_id, found {sorted(kwargs)}")
        self.close()
        domain = self._task.domain
        self._connection = open_database(domain, self._task.database)
        self._state = {
            "episode_id": episode_id or uuid.uuid4().hex,
            "step_count": 0,
            "task_id": self._task.id,
            "done": False,
        }
        system = (
            f"You work with {domain.title} through its tools. Today is {TODAY}. A list shows {PAGE} items unless "
            "limit and offset say otherwise. End with `answer:` and your answer, or `answer: done`."
        )
        return Observation(
            segments=(
                Segment(source=Source.SYSTEM, text=system),
                Segment(source=Source.TASK, text=self._task.draft.instruction),
            ),
            tools=tuple(tool.function for tool in domain.tools.values()),
            metadata={"task_id": self._task.id},
        )

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Make one call, or take the answer; nothing here takes time, so `timeout_s` never passes."""
        if self._connection is None:
            raise WorldError("step was called but no episode is running: call reset first")
        self._state["step_count"] += 1
        parsed = parse_action(action)
        if isinstance(parsed, FinalAnswer):
            return Observation(
                segments=(), done=True, reward=self._end(self._connection, parsed.text), metadata={"ended": "answer"}
            )
        segment, outcome, status = self._answer(self._connection, parsed)
        is_last = self._state["step_count"] >= self._max_turns
        return Observation(
            segments=(segment,),
            done=is_last,
            reward=self._end(self._connection, None) if is_last else None,
            labels={CALL_LABEL: outcome.value},
            metadata={} if status is None else {"status": status},
        )

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    def close(self) -> None:
        """End the episode and drop its database; may be called twice."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._state["done"] = True

    def _answer(
        self, connection: sqlite3.Connection, parsed: CallText | Unparsed
    ) -> tuple[Segment, CallOutcome, int | None]:
        if isinstance(parsed, Unparsed):
            notice = f"[{parsed.reason}; nothing was run]"
            return Segment(source=Source.FORMAT_WARNING, text=notice), CallOutcome.UNPARSED, None
        answer = call_database(self._task.domain, connection, parsed)
        refused = parsed.name not in self._task.domain.tools or answer.status == _REFUSED
        segment = Segment(
            source=Source.TOOL_ERROR if answer.is_error else Source.TOOL_RESULT,
            text=answer.text,
            tool=readable(parsed.name[:_LONGEST_NAME]),
        )
        return segment, CallOutcome.INVALID if refused else CallOutcome.VALID, answer.status

    def _end(self, connection: sqlite3.Connection, answer: str | None) -> float:
        task = self._task
        reward = grade(task.domain, task.database, task.draft, final=connection, answer=answer)
        self.close()
        return reward
