"""Tasks in containers: the image that a task asks for, started by a provider of Harbor's.

`ContainerPlace` needs little of a container (`TaskContainer`): run one command, put files into it, stop. Each command
is a process of its own there: the working folder is kept from command to command, variables and jobs are not.
`HarborContainer` reaches Docker, Daytona, Modal and others through Harbor's environments (Harbor 0.24,
`harbor/environments/base.py`, Python 3.12). That class was never run: no container could be started where this was
written. Not here: the sandbox of this machine (`places`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import shlex
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar, final

from envecho.errors import ConfigError, WorldError, WorldLostError
from envecho.trajectory import Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_files import BoxFile
from envecho.worlds.sandbox_output import StreamTail
from envecho.worlds.sandbox_result import CommandResult, SegmentWriter
from envecho.worlds.tasks.folder import HarborTask
from envecho.worlds.tasks.grading import LOG_FOLDER, Grade, reward_of

HARBOR_PREFIX: Final = "harbor:"
_FOLDER_MARK = "envecho-folder-is:"
_CLEAR = (
    f"for f in /tests /logs {LOG_FOLDER}; do [ ! -L $f ] || rm $f; mkdir -p $f || exit 1; done; "
    f"find /tests {LOG_FOLDER} -mindepth 1 -delete"
)
_Result = TypeVar("_Result")


@dataclass(frozen=True, kw_only=True)
class Executed:
    """What one command in a container answered; `status` is None where it was stopped at its time limit."""

    stdout: str
    stderr: str
    status: int | None


class TaskContainer(Protocol):
    """A running container."""

    def execute(self, command: str, *, folder: str | None, seconds: float, env: Mapping[str, str]) -> Executed:
        """Run a command in a shell of its own; `folder` None is the container's own."""
        ...

    def upload(self, files: Mapping[str, BoxFile], target: str) -> None:
        """Put files below a folder of the container."""
        ...

    def close(self) -> None:
        """Stop and remove the container; may be called twice."""
        ...


@final
class ContainerPlace:
    """A task in a container, as a `TaskPlace`.

    Raises:
        WorldError: the container cannot start.
    """

    def __init__(self, task: HarborTask, container: TaskContainer, *, limits: Limits | None = None) -> None:
        self._task, self._container, self._limits = task, container, limits or Limits()
        asked = container.execute("pwd", folder=task.settings.environment.workdir, seconds=60.0, env={})
        self.folder = self._here = asked.stdout.strip() or "/"

    def run(self, command: str, timeout_s: float | None = None) -> CommandResult:
        """Run a command or script in the folder where the last one ended."""
        started, seconds = time.monotonic(), self._limits.command_seconds if timeout_s is None else timeout_s
        clean = command.replace("\0", "").encode("utf-8", errors="replace").decode()
        script = f"eval {shlex.quote(clean)}\nset -- $?\nprintf '\\n%s%s\\n' {_FOLDER_MARK} \"$PWD\"\nexit $1"
        found = self._container.execute(
            f"bash -c {shlex.quote(script)}",
            folder=self._here,
            seconds=seconds,
            env=self._task.settings.environment.env,
        )
        stdout, mark, folder = found.stdout.rpartition(f"\n{_FOLDER_MARK}")
        if mark:
            self._here = folder.strip()
        else:
            stdout = found.stdout
        return _result(
            Executed(stdout=stdout, stderr=found.stderr, status=found.status), seconds, started, self._limits
        )

    def grade(self) -> Grade:
        """Put the verifier's files into the container and run it, as Harbor does; processes of the policy live on."""
        verifier, nothing = self._task.settings.verifier, dict[str, str]()
        if self._container.execute(_CLEAR, folder=None, seconds=60.0, env=nothing).status != 0:
            return Grade(reward=0.0, problem="the verifier's folders could not be cleared")
        self._container.upload(self._task.tests, "/tests")
        command = f"chmod +x /tests/test.sh; /tests/test.sh >{LOG_FOLDER}/test-stdout.txt 2>&1"
        ran = self._container.execute(command, folder=self.folder, seconds=verifier.timeout_sec, env=verifier.env)
        output = self._read("test-stdout.txt") or ""
        if ran.status is None:
            return Grade(reward=0.0, output=output, problem=f"the verifier took more than {verifier.timeout_sec:g} s")
        return reward_of(self._read, output, status=ran.status)

    def close(self) -> None:
        """Remove the container."""
        self._container.close()

    def _read(self, name: str) -> str | None:
        found = self._container.execute(f"cat {LOG_FOLDER}/{name}", folder=None, seconds=60.0, env={})
        return found.stdout if found.status == 0 else None


@final
class HarborContainer:
    """A container that one of Harbor's environments runs; its coroutines run on a thread of their own. Never run."""

    def __init__(self, task: HarborTask, provider: str) -> None:
        from harbor.environments.factory import EnvironmentFactory  # type: ignore[import-not-found]
        from harbor.models.environment_type import EnvironmentType  # type: ignore[import-not-found]
        from harbor.models.task.task import Task  # type: ignore[import-not-found]
        from harbor.models.trial.paths import TrialPaths  # type: ignore[import-not-found]

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="harbor", daemon=True)
        self._thread.start()
        self._scratch = tempfile.TemporaryDirectory(prefix="envecho-harbor-", ignore_cleanup_errors=True)
        self._closed = False
        self._environment: Any = None
        try:
            asked: Any = Task(task.folder, disable_verification=True)
            paths: Any = TrialPaths(Path(self._scratch.name))
            paths.mkdir()
            self._environment = EnvironmentFactory.create_environment(
                EnvironmentType(provider),
                environment_dir=asked.paths.environment_dir,
                environment_name=asked.short_name,
                session_id=f"envecho-{uuid.uuid4().hex[:12]}",
                trial_paths=paths,
                task_env_config=asked.config.environment,
            )
            self._wait(self._environment.start(force_build=False), asked.config.environment.build_timeout_sec)
        except Exception as error:  # providers raise errors of their own kinds
            self.close()
            raise WorldError(f"task {task.name}: {provider} could not start its container: {error}") from error

    def execute(self, command: str, *, folder: str | None, seconds: float, env: Mapping[str, str]) -> Executed:
        """Run a command in a shell of its own."""
        try:
            whole = max(1, round(seconds))
            found = self._wait(
                self._environment.exec(command, cwd=folder, env=dict(env), timeout_sec=whole), seconds + 30
            )
        except TimeoutError:
            return Executed(stdout="", stderr="", status=None)
        except Exception as error:  # providers raise errors of their own kinds
            raise WorldLostError(f"the container did not answer: {error}") from error
        return Executed(stdout=found.stdout or "", stderr=found.stderr or "", status=found.return_code)

    def upload(self, files: Mapping[str, BoxFile], target: str) -> None:
        """Put files below a folder of the container."""
        with tempfile.TemporaryDirectory(prefix="envecho-upload-") as folder:
            for name, entry in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                if entry.link is not None:
                    path.symlink_to(entry.link)
                elif entry.content is None:
                    path.mkdir(exist_ok=True)
                else:
                    path.write_bytes(entry.content)
                    path.chmod(entry.mode)
            self._wait(self._environment.upload_dir(source_dir=folder, target_dir=target), 300.0)

    def close(self) -> None:
        """Stop and remove the container."""
        if self._closed:
            return
        self._closed = True
        if self._environment is not None:
            self._wait(self._environment.stop(delete=True), 120.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._scratch.cleanup()

    def _wait(self, work: Coroutine[Any, Any, _Result], seconds: float) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(seconds)


def harbor_places(provider: str) -> Callable[[HarborTask], ContainerPlace]:
    """Return what starts a task in a container of this Harbor provider.

    Raises:
        ConfigError: Harbor is not installed.
    """
    if importlib.util.find_spec("harbor") is None:
        raise ConfigError(
            f"sandbox {HARBOR_PREFIX}{provider} needs Harbor, which is not installed: pip install harbor (Python 3.12)"
        )
    return lambda task: ContainerPlace(task, HarborContainer(task, provider))


def _result(found: Executed, seconds: float, started: float, limits: Limits) -> CommandResult:
    texts = {Source.STDOUT: found.stdout, Source.STDERR: found.stderr}
    writer, truncated = SegmentWriter(), False
    for source, text in texts.items():
        tail = StreamTail(limits.output_bytes)
        tail.add(text.encode("utf-8", errors="replace"))
        shown = tail.text()
        truncated = truncated or shown.num_omitted_bytes > 0
        writer.stream(source, shown, limits)
    if found.status is None:
        writer.notice(Source.TIMEOUT_NOTICE, f"[timed out after {seconds:g} s; the command was killed]")
    elif found.status != 0:
        writer.notice(Source.STATUS, f"[exit status {found.status}]")
    return CommandResult(
        segments=writer.segments,
        exit_status=found.status,
        seconds=time.monotonic() - started,
        timed_out=found.status is None,
        truncated=truncated,
    )
