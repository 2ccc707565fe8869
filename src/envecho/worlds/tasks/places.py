"""Where a task runs: `TaskPlace`, and the sandbox of this machine as one.

Not here: containers (`containers`), and what an episode is (`world`).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, final

from envecho.errors import WorldError
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_files import FILE_TIME, BoxFile
from envecho.worlds.sandbox_result import CommandResult, ObservationStyle
from envecho.worlds.tasks.folder import HarborTask
from envecho.worlds.tasks.grading import Grade, grade
from envecho.worlds.tasks.locally import LocalPlan, Refused, plan_locally
from envecho.worlds.terminal.session import TerminalSession


class TaskPlace(Protocol):
    """One start state of one task, with a shell in it."""

    @property
    def folder(self) -> str:
        """Where the shell starts."""
        ...

    def run(self, command: str, timeout_s: float | None = None) -> CommandResult:
        """Run a command or script; never raises for what it does."""
        ...

    def grade(self) -> Grade:
        """Run the task's verifier; the place is not used afterwards."""
        ...

    def close(self) -> None:
        """Release everything; may be called twice."""
        ...


@dataclass(frozen=True, kw_only=True)
class _Box:
    seed: int
    files: Mapping[str, BoxFile]


@final
class SandboxPlace:
    """The bubblewrap sandbox with a task's start state: its files first, then the steps of its Dockerfile.

    Raises:
        WorldError: the sandbox cannot start, or a step fails.
    """

    def __init__(self, task: HarborTask, plan: LocalPlan, *, limits: Limits, style: ObservationStyle) -> None:
        self._task, self.folder = task, plan.layout.folder
        box = _Box(seed=zlib.crc32(task.name.encode()), files=plan.files)
        self._session = TerminalSession(box, limits=limits, style=style, layout=plan.layout)
        try:
            self._build(plan)
        except BaseException:
            self._session.close()
            raise

    def run(self, command: str, timeout_s: float | None = None) -> CommandResult:
        """Run a command or script in the episode's shell."""
        return self._session.run(command, timeout_s)

    def grade(self) -> Grade:
        """Run the task's verifier in a fresh shell."""
        return grade(self._session, self._task, self.folder)

    def close(self) -> None:
        """End the sandbox."""
        self._session.close()

    def _build(self, plan: LocalPlan) -> None:
        for step in plan.steps:
            seconds = self._task.settings.environment.build_timeout_sec
            self._expect_success(step.said, self._session.run(f"cd {step.folder} && {step.command}", seconds))
        if plan.steps:
            folders = " ".join(plan.layout.writable)
            pinned = self._session.run(f"find {folders} -xdev -exec touch -h -d @{FILE_TIME} {{}} +")
            self._expect_success("pinning the times of its files", pinned)
            self._session.start_fresh_shell()

    def _expect_success(self, said: str, result: CommandResult) -> None:
        if result.exit_status != 0:
            how = "timed out" if result.timed_out else f"ended with status {result.exit_status}"
            words = (result.stderr or result.stdout).strip()[-300:]
            raise WorldError(f"task {self._task.name}: {said} {how}: {words}")


def require_plan(task: HarborTask) -> LocalPlan:
    """Return how the task runs in the sandbox, or raise WorldError with every reason why it does not."""
    plan = plan_locally(task)
    if isinstance(plan, Refused):
        raise WorldError(f"task {task.name} cannot run in this sandbox: {plan}; docs/tasks.md says what can")
    return plan
