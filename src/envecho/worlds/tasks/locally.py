"""Can a task run in the sandbox of this machine, and how? `plan_locally` answers with a plan or with every reason.

The sandbox has this machine's programs, no network, no root and no image. So a Dockerfile is carried out where it
starts from a plain Debian, Ubuntu or Python image, copies files of its own, sets variables, makes folders and runs
commands that are known to need neither network nor root. All else is refused. Not here: running the plan (`world`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from envecho.worlds.sandbox_files import BoxFile
from envecho.worlds.sandbox_layout import RESERVED_FOLDERS, Layout, rooted_layout
from envecho.worlds.tasks.build import Build, BuildStep, carry_out
from envecho.worlds.tasks.dockerfile import parse_dockerfile
from envecho.worlds.tasks.folder import HarborTask
from envecho.worlds.tasks.programs import network_words

TASK_FOLDERS = ("/logs", "/solution", "/tests")
_COMPOSE_FILES = ("docker-compose.yaml", "docker-compose.yml", "compose.yaml", "compose.yml")
_PATH_IN_TEXT = re.compile(r"(?<![\w./~$-])(/[A-Za-z_][\w.-]*)(/?)")
_READ_ONLY_IS_FINE = ("/bin", "/dev", "/lib", "/lib64", "/proc", "/sbin", "/usr")


@dataclass(frozen=True, kw_only=True)
class LocalPlan:
    """How to make a task's start state: a layout, files by their path from the root, then commands in their folders."""

    layout: Layout
    files: Mapping[str, BoxFile]
    steps: tuple[BuildStep, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why a task cannot run in the sandbox of this machine."""

    reasons: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        """The reasons on one line."""
        return "; ".join(self.reasons)


def plan_locally(task: HarborTask) -> LocalPlan | Refused:
    """Decide, without running anything, whether and how a task runs in the sandbox of this machine."""
    reasons = [*_settings_reasons(task), *_script_reasons(task)]
    dockerfile = task.text("environment", "Dockerfile")
    if dockerfile is None:
        image = task.settings.environment.docker_image
        reasons.append(f"needs image {image}" if image else "has no environment/Dockerfile")
        return Refused(reasons=tuple(reasons))
    try:
        build = carry_out(parse_dockerfile(dockerfile), task.environment)
    except ValueError as error:
        return Refused(reasons=(*reasons, f"environment/Dockerfile: {error}"))
    reasons.extend(build.reasons)
    folder = task.settings.environment.workdir or build.folder
    if folder == "/":
        reasons.append("has no WORKDIR: commands would start in /, which is read-only here")
    writable, refused = _writable_folders(task, build, folder)
    reasons.extend(refused)
    if reasons:
        return Refused(reasons=tuple(dict.fromkeys(reasons)))
    environment = {**build.environment, **task.settings.environment.env}
    try:
        layout = rooted_layout(folder, writable=writable, environment=environment)
    except ValueError as error:
        return Refused(reasons=(str(error),))
    files = {**build.files}
    for name in (folder, *build.folders):
        files.setdefault(name.lstrip("/"), BoxFile(mode=0o755))
    return LocalPlan(layout=layout, files=files, steps=build.steps)


def _settings_reasons(task: HarborTask) -> list[str]:
    settings, environment, verifier = task.settings, task.settings.environment, task.settings.verifier
    networks = {part.network_mode for part in (environment, settings.agent, verifier)} & {"public", "allowlist"}
    variables = [*environment.env.values(), *verifier.env.values(), *settings.solution.env.values()]
    facts = {
        f"asks for the network ({', '.join(sorted(filter(None, networks)))})": bool(networks),
        f"needs {environment.gpus} GPUs": bool(environment.gpus),
        "needs a TPU": environment.tpu is not None,
        f"needs {environment.os}": environment.os.lower() != "linux",
        "needs MCP servers": bool(environment.mcp_servers),
        "needs a health check": environment.healthcheck is not None,
        "has several steps": settings.steps is not None,
        "is graded in a container of its own": verifier.environment_mode == "separate"
        or verifier.environment is not None,
        "collects from other services before grading": bool(verifier.collect),
        "takes variables from the host": any("${" in value for value in variables),
        f"runs as user {settings.agent.user}": settings.agent.user not in (None, "root", 0, "0"),
    }
    facts |= {f"needs {name}": name in task.environment for name in _COMPOSE_FILES}
    return [reason for reason, holds in facts.items() if holds]


def _script_reasons(task: HarborTask) -> list[str]:
    scripts = {"tests/test.sh": task.text("tests", "test.sh"), "solution/solve.sh": task.text("solution", "solve.sh")}
    return [f"{name} runs {word}" for name, text in scripts.items() if text for word in network_words(text)]


def _writable_folders(task: HarborTask, build: Build, folder: str) -> tuple[tuple[str, ...], list[str]]:
    """Return the top folders that the task writes or speaks of, and reasons where those belong to the sandbox."""
    paths = [folder, *build.folders, *(f"/{name}" for name in build.files), *build.named_paths]
    tops = {_top(path) for path in paths}
    spoken = {match[1] for match in _PATH_IN_TEXT.finditer(task.instruction)}
    tops |= {path for path in spoken if path not in _READ_ONLY_IS_FINE}
    tops -= {"/tmp", "/home", "/dev"}
    reserved = sorted(top for top in tops if top in RESERVED_FOLDERS)
    homes = {str(PurePosixPath(path)) for path in paths if _top(path) == "/home"}
    foreign = sorted(path for path in homes if not PurePosixPath(path).is_relative_to("/home/user") and path != "/home")
    reasons = [f"writes or speaks of {name}, which is read-only here" for name in (*reserved, *foreign)]
    return tuple(sorted({*tops, *TASK_FOLDERS} - set(reserved))), reasons


def _top(path: str) -> str:
    return "/" + PurePosixPath(path).parts[1] if len(PurePosixPath(path).parts) > 1 else "/"
