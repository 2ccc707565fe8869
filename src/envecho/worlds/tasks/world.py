"""One Harbor task as a world: a real bash on the task's start state, and the task's verifier at the end.

Not here: where it runs (`places`, `containers`), what can run in the sandbox (`locally`), and grading (`grading`).
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_result import ObservationStyle
from envecho.worlds.tasks.folder import HarborTask
from envecho.worlds.tasks.grading import Grade
from envecho.worlds.tasks.places import SandboxPlace, TaskPlace, require_plan
from envecho.worlds.terminal.world import command_observation
from envecho.worlds.tool_calls import ANSWER_PREFIX

SYSTEM_PROMPT = "You are in a bash shell. Reply with one command or script, or with `done` once the task is done."
LAST_WORD = "done"
_NOTHING = "[expected a command, or `done`; found nothing, nothing was run]"


class HarborTaskWorld:
    """An episode of one task.

    An action is a bash command, or a script of several lines. `done`, or a text that starts with `answer:`, ends the
    episode; so does the last of `max_turns` actions. Then the task's verifier gives the reward. An empty action is
    answered by a format warning. What the verifier prints is in the last observation's metadata, never in its text.

    Args:
        task: the task; the seed of `reset` changes nothing, a task has one start state.
        limits: what an episode may use; the task's own `[environment]` sizes are not read.
        max_turns: how many actions an episode has.
        style: what observations show beside the output.
        open_place: where the task runs, started for each episode; without it, the sandbox of this machine.

    Raises:
        WorldError: the task cannot run in this sandbox (all reasons are named), or a step of its Dockerfile fails.
    """

    def __init__(
        self,
        task: HarborTask,
        *,
        limits: Limits | None = None,
        max_turns: int = 16,
        style: ObservationStyle | None = None,
        open_place: Callable[[HarborTask], TaskPlace] | None = None,
    ) -> None:
        self._task, self._max_turns = task, max_turns
        self._open_place = open_place or _sandbox(task, limits or Limits(), style or ObservationStyle())
        self._place: TaskPlace | None = None
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": task.name, "done": True}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Make the task's start state in a fresh sandbox."""
        if kwargs:
            raise WorldError(f"reset takes seed and episode_id, found {sorted(kwargs)}")
        self.close()
        self._place = self._open_place(self._task)
        self._state = {
            "episode_id": episode_id or uuid.uuid4().hex,
            "step_count": 0,
            "task_id": self._task.name,
            "done": False,
        }
        segments = (
            Segment(source=Source.SYSTEM, text=SYSTEM_PROMPT),
            Segment(source=Source.TASK, text=self._task.instruction),
        )
        metadata = {"task_id": self._task.name, "folder": self._place.folder}
        return Observation(segments=segments, metadata=metadata)

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Run one command or script, or end the episode; `timeout_s` bounds this command."""
        if self._place is None or self._state["done"]:
            what = "the episode is over" if self._state["episode_id"] else "no episode has started"
            raise WorldError(f"step was called but {what}: call reset first")
        self._state["step_count"] += 1
        text, is_last = action.strip(), self._state["step_count"] >= self._max_turns
        if text.lower() == LAST_WORD or text.lower().startswith(ANSWER_PREFIX):
            return self._graded(Observation(segments=()))
        if not text:
            notice = Segment(source=Source.FORMAT_WARNING, text=_NOTHING)
            unread = Observation(segments=(notice,), labels={CALL_LABEL: CallOutcome.UNPARSED.value})
            return self._graded(unread) if is_last else unread
        result = self._place.run(action, timeout_s)
        answer = command_observation(result, done=False, reward=None)
        return self._graded(answer) if is_last or result.sandbox_stopped is not None else answer

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    def close(self) -> None:
        """End the episode and its sandbox; may be called twice."""
        if self._place is not None:
            self._place.close()
            self._place = None
        self._state["done"] = True

    def _graded(self, observation: Observation) -> Observation:
        given = Grade(reward=0.0) if self._place is None else self._place.grade()
        self.close()
        metadata = {**observation.metadata, "verifier_output": given.output, "verifier_problem": given.problem}
        return dataclasses.replace(observation, done=True, reward=given.reward, metadata=metadata)


def _sandbox(task: HarborTask, limits: Limits, style: ObservationStyle) -> Callable[[HarborTask], TaskPlace]:
    plan = require_plan(task)
    return lambda task: SandboxPlace(task, plan, limits=limits, style=style)
