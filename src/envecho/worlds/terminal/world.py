"""The terminal world: one task on one box, a real bash to solve it with, and a verifier at the end.

It fulfils OpenEnv's `Environment` contract structurally (`envecho.seam.World`). Not here: which tasks there are
(`tasks`, `families`) and how commands run (`session`).
"""

from __future__ import annotations

import dataclasses
import random
import uuid
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Protocol

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import CALL_LABEL, CallOutcome, Segment, Source
from envecho.worlds.sandbox import Limits, SandboxName
from envecho.worlds.sandbox_result import CommandResult, ObservationStyle
from envecho.worlds.terminal.session import BoxLike, TerminalSession
from envecho.worlds.tool_calls import ANSWER_PREFIX

SYSTEM_PROMPT = "You are in a bash shell. Reply with one command, or with `answer:` and your answer."
_NOT_RUN = (126, 127)
"""Exit statuses with which bash says that a command cannot be executed, or was not found."""

RunCommand = Callable[[str], str]


class Task(Protocol):
    """What the world needs of a task: its text, its box, and a verifier that may look at the live box."""

    @property
    def id(self) -> str:
        """Names the task; results of one task are clustered by it."""
        ...

    @property
    def instruction(self) -> str:
        """What the policy is asked."""
        ...

    @property
    def box(self) -> BoxLike:
        """The files that the episode starts with."""
        ...

    def verify(self, answer: str | None, run: RunCommand) -> float:
        """Grade the episode from 0 to 1; `run` executes a command in the live box and returns its stdout."""
        ...


class TerminalWorld:
    """A task per seed, a shell per episode.

    An action is the text of one assistant turn, one line. A line that starts with `answer:` ends the episode and is
    graded; any other is run as a bash command. Nothing, or more than one line, is answered by a format warning and not
    run. Answers carry the label `call`: `valid`, `invalid` (bash found no such command, or may not execute it),
    `unparsed`. The episode also ends, and is graded without an answer, after `max_turns`
    actions; it ends with reward 0 where its sandbox was stopped by a limit. A timeout ends a command, not the episode.

    Args:
        task_for_seed: the task that an integer names.
        sandbox: `bubblewrap`, or `unsafe-host` (see `envecho.worlds.sandbox`).
        limits: what an episode may use.
        max_turns: how many actions an episode has.
        style: what observations show beside the output.

    Raises:
        WorldError: the sandbox cannot start; `step` before `reset` or after the episode's end.
    """

    def __init__(
        self,
        task_for_seed: Callable[[int], Task],
        *,
        sandbox: SandboxName = "bubblewrap",
        limits: Limits | None = None,
        max_turns: int = 16,
        style: ObservationStyle | None = None,
    ) -> None:
        self._task_for_seed, self._max_turns = task_for_seed, max_turns
        self._sandbox: SandboxName = sandbox
        self._limits, self._style = limits or Limits(), style or ObservationStyle()
        self._session: TerminalSession | None = None
        self._task: Task | None = None
        self._state: dict[str, Any] = {"episode_id": None, "step_count": 0, "task_id": None, "seed": None, "done": True}

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start the episode of this seed (a random one where it is None) on a fresh box."""
        if kwargs:
            raise WorldError(f"reset takes seed and episode_id, found {sorted(kwargs)}")
        self.close()
        seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
        self._task = self._task_for_seed(seed)
        self._session = TerminalSession(self._task.box, limits=self._limits, sandbox=self._sandbox, style=self._style)
        self._state = {
            "episode_id": episode_id or uuid.uuid4().hex,
            "step_count": 0,
            "task_id": self._task.id,
            "seed": seed,
            "done": False,
        }
        segments = (
            Segment(source=Source.SYSTEM, text=SYSTEM_PROMPT),
            Segment(source=Source.TASK, text=self._task.instruction),
        )
        return Observation(segments=segments, metadata={"task_id": self._task.id, "folder": self._session.folder})

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Run one command, or take the answer; `timeout_s` bounds this command instead of the limits' seconds."""
        if self._session is None or self._task is None or self._state["done"]:
            what = "the episode is over" if self._task is not None else "no episode has started"
            raise WorldError(f"step was called but {what}: call reset first")
        self._state["step_count"] += 1
        text, is_last = action.strip(), self._state["step_count"] >= self._max_turns
        if text.lower().startswith(ANSWER_PREFIX):
            return self._finish(text[len(ANSWER_PREFIX) :].strip(), None)
        if not text or len(text.splitlines()) > 1:
            unread = _not_one_line(len(text.splitlines()))
            return dataclasses.replace(unread, done=True, reward=self._end(None)) if is_last else unread
        result = self._session.run(action, timeout_s)
        if result.sandbox_stopped is not None or is_last:
            return self._finish(None, result)
        return command_observation(result, done=False, reward=None)

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count, task id, seed, and whether the episode is over."""
        return MappingProxyType(dict(self._state))

    def close(self) -> None:
        """End the episode and its sandbox; may be called twice."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._state["done"] = True

    def _finish(self, answer: str | None, result: CommandResult | None) -> Observation:
        reward = self._end(answer)
        if result is None:
            return Observation(segments=(), done=True, reward=reward, metadata={"answer": answer})
        return command_observation(result, done=True, reward=reward)

    def _end(self, answer: str | None) -> float:
        reward = self._grade(answer)
        self.close()
        return reward

    def _grade(self, answer: str | None) -> float:
        """Verify in a fresh shell: what the policy's own shell says (functions, PATH) is not evidence."""
        session, task = self._session, self._task
        if session is None or task is None or not session.start_fresh_shell():
            return 0.0

        def run(command: str) -> str:
            return "" if session.stopped is not None else session.run(command).stdout

        return task.verify(answer, run)


def _not_one_line(num_lines: int) -> Observation:
    notice = f"[expected one line: a command, or `answer:` and your answer; found {num_lines} lines, nothing was run]"
    return Observation(
        segments=(Segment(source=Source.FORMAT_WARNING, text=notice),),
        labels={CALL_LABEL: CallOutcome.UNPARSED.value},
    )


def command_observation(result: CommandResult, *, done: bool, reward: float | None) -> Observation:
    """Return what a command answered as an observation, with its label `call` and what people may want to know."""
    metadata = {
        "exit_status": result.exit_status,
        "seconds": result.seconds,
        "truncated": result.truncated,
        "shell_restarted": result.shell_restarted,
        "sandbox_stopped": result.sandbox_stopped,
        "num_replaced": result.num_replaced,
    }
    outcome = CallOutcome.INVALID if result.exit_status in _NOT_RUN else CallOutcome.VALID
    return Observation(
        segments=result.segments,
        done=done,
        reward=reward,
        timed_out=result.timed_out,
        labels={CALL_LABEL: outcome.value},
        metadata=metadata,
    )
