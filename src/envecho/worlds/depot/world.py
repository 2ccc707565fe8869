"""The depot world: walk from one room to another; each answer says where a door has led.

    task     You are in the kiln. Go to the dock.
    action   go red
    answer   > go red          command_echo
             room mill         stdout
             ticket 40213      stdout, with `tickets`: digits drawn anew in every episode
             [1 move left]     status

Reward 1 on arrival, which ends the episode; 0 when the moves are used up. Nothing tells what a door leads to before it
was taken: success needs knowing what commands return. It fulfils OpenEnv's `Environment` contract structurally
(`envecho.seam.World`) and runs in process, without a sandbox: an action is compared with four commands and executed by
nobody. Not here: the plan (`plan`) and which tasks there are (`suite`).
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.depot.plan import DOORS, Plan

_LONGEST_ECHO = 80


@dataclass(frozen=True, kw_only=True)
class DepotTask:
    """Walk from `start` to `goal` on a plan within `max_moves`.

    With `tickets` every answer to a known command also holds five digits that nobody can know: noise, for studies of
    what an environment term does with it. They follow from the episode's id.
    """

    id: str
    plan: Plan
    start: str
    goal: str
    max_moves: int
    tickets: bool = False

    @property
    def instruction(self) -> str:
        """What the policy is asked."""
        return f"You are in the {self.start}. Go to the {self.goal}."


class DepotWorld:
    """One task, from its `reset` to arrival or the last move.

    An action is one line `go COLOUR`. A line that is no such command, or a turn that is not one line, is answered by a
    format warning; an unknown colour by an error of the world. Both use up a move. With `notices` False the answers
    are the room alone, without echo and moves left.

    Raises:
        WorldError: `step` before `reset` or after the episode's end; `reset` with unknown arguments.
    """

    def __init__(self, task: DepotTask, *, notices: bool = True) -> None:
        self._task, self._notices = task, notices
        self._room = task.start
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": task.id, "done": True}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the task; the depot has no chance in it, so `seed` changes nothing."""
        if kwargs:
            raise WorldError(f"reset takes seed and episode_id, found {sorted(kwargs)}")
        self._room = self._task.start
        self._state = {
            "episode_id": episode_id or uuid.uuid4().hex,
            "step_count": 0,
            "task_id": self._task.id,
            "done": False,
        }
        task = Segment(source=Source.TASK, text=self._task.instruction)
        return Observation(segments=(task,), metadata={"task_id": self._task.id})

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Take a door and say which room lies behind it; nothing here takes time, so `timeout_s` never passes."""
        if self._state["done"]:
            raise WorldError("step was called but no episode is running: call reset first")
        self._state["step_count"] += 1
        outcome, answer = self._go(action)
        arrived = self._room == self._task.goal
        moves_left = self._task.max_moves - self._state["step_count"]
        self._state["done"] = arrived or moves_left <= 0
        segments = [answer]
        if self._notices:
            echo = action.strip().encode("utf-8", errors="replace").decode()[:_LONGEST_ECHO]
            segments.insert(0, Segment(source=Source.COMMAND_ECHO, text=f"> {echo}\n"))
            plural = "" if moves_left == 1 else "s"
            segments.append(Segment(source=Source.STATUS, text=f"[{moves_left} move{plural} left]"))
        return Observation(
            segments=tuple(segments),
            done=self._state["done"],
            reward=float(arrived) if self._state["done"] else None,
            labels={CALL_LABEL: outcome.value},
            metadata={"room": self._room},
        )

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    def close(self) -> None:
        """End the episode; may be called twice."""
        self._state["done"] = True

    def _go(self, action: str) -> tuple[CallOutcome, Segment]:
        words = action.split()
        if len(words) != 2 or words[0] != "go" or "\n" in action.strip():
            notice = "[expected one line: go COLOUR]\n"
            return CallOutcome.UNPARSED, Segment(source=Source.FORMAT_WARNING, text=notice)
        if words[1] not in DOORS:
            return CallOutcome.INVALID, Segment(source=Source.STDERR, text="no such door\n")
        self._room = self._task.plan.doors[self._room][words[1]]
        return CallOutcome.VALID, Segment(source=Source.STDOUT, text=f"room {self._room}\n{self._ticket()}")

    def _ticket(self) -> str:
        if not self._task.tickets:
            return ""
        draw = random.Random(f"envecho-depot-ticket-{self._state['episode_id']}-{self._state['step_count']}")
        return f"ticket {draw.randrange(100_000):05d}\n"
