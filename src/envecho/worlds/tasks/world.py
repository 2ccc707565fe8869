"""One Harbor task as a world: a real bash on the task's start state, and the task's verifier at the end.

Not here: what can run in the sandbox (`locally`), grading (`grading`), and how a session works (`terminal.session`).
"""

from __future__ import annotations

import dataclasses
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_files import FILE_TIME, BoxFile
from envecho.worlds.sandbox_result import CommandResult, ObservationStyle
from envecho.worlds.tasks.folder import HarborTask
from envecho.worlds.tasks.grading import Grade, grade
from envecho.worlds.tasks.locally import LocalPlan, Refused, plan_locally
from envecho.worlds.terminal.session import TerminalSession
from envecho.worlds.terminal.world import command_observation
from envecho.worlds.tool_calls import ANSWER_PREFIX

SYSTEM_PROMPT = "You are in a bash shell. Reply with one command or script, or with `done` once the task is done."
LAST_WORD = "done"
_NOTHING = "[expected a command, or `done`; found nothing, nothing was run]"


@dataclass(frozen=True, kw_only=True)
class _Box:
    seed: int
    files: Mapping[str, BoxFile]


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
    ) -> None:
        plan = plan_locally(task)
        if isinstance(plan, Refused):
            raise WorldError(f"task {task.name} cannot run in this sandbox: {plan}; docs/tasks.md says what can")
        self._task, self._plan, self._max_turns = task, plan, max_turns
        self._limits, self._style = limits or Limits(), style or ObservationStyle()
        self._session: TerminalSession | None = None
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": task.name, "done": True}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Make the task's start state in a fresh sandbox."""
        if kwargs:
            raise WorldError(f"reset takes seed and episode_id, found {sorted(kwargs)}")
        self.close()
        self._session = start_session(self._task, self._plan, self._limits, self._style)
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
        metadata = {"task_id": self._task.name, "folder": self._plan.layout.folder}
        return Observation(segments=segments, metadata=metadata)

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Run one command or script, or end the episode; `timeout_s` bounds this command."""
        if self._session is None or self._state["done"]:
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
        result = self._session.run(action, timeout_s)
        answer = command_observation(result, done=False, reward=None)
        return self._graded(answer) if is_last or result.sandbox_stopped is not None else answer

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    def close(self) -> None:
        """End the episode and its sandbox; may be called twice."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._state["done"] = True

    def _graded(self, observation: Observation) -> Observation:
        session = self._session
        given = Grade(reward=0.0) if session is None else grade(session, self._task, self._plan.layout.folder)
        self.close()
        metadata = {**observation.metadata, "verifier_output": given.output, "verifier_problem": given.problem}
        return dataclasses.replace(observation, done=True, reward=given.reward, metadata=metadata)


def start_session(task: HarborTask, plan: LocalPlan, limits: Limits, style: ObservationStyle) -> TerminalSession:
    """Start a session on the task's start state: files first, then the steps of its Dockerfile, then a fresh shell.

    Raises:
        WorldError: the sandbox cannot start, or a step fails.
    """
    box = _Box(seed=zlib.crc32(task.name.encode()), files=plan.files)
    session = TerminalSession(box, limits=limits, style=style, layout=plan.layout)
    try:
        for step in plan.steps:
            seconds = task.settings.environment.build_timeout_sec
            _expect_success(task, step.said, session.run(f"cd {step.folder} && {step.command}", seconds))
        if plan.steps:
            folders = " ".join(plan.layout.writable)
            pinned = session.run(f"find {folders} -xdev -exec touch -h -d @{FILE_TIME} {{}} +")
            _expect_success(task, "pinning the times of its files", pinned)
            session.start_fresh_shell()
    except BaseException:
        session.close()
        raise
    return session


def _expect_success(task: HarborTask, said: str, result: CommandResult) -> None:
    if result.exit_status != 0:
        how = "timed out" if result.timed_out else f"ended with status {result.exit_status}"
        raise WorldError(f"task {task.name}: {said} {how}: {(result.stderr or result.stdout).strip()[-300:]}")
