"""What the instructions of a Dockerfile come to in a sandbox: files, variables, folders and commands to run.

Nothing is run here; what cannot be carried out becomes a reason. Not here: settings of the task (`locally`).
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from envecho.worlds.sandbox_files import BoxFile
from envecho.worlds.tasks.dockerfile import Instruction, expand
from envecho.worlds.tasks.programs import is_package_step, step_reason
from envecho.worlds.tasks.shell_lines import simple_commands

PLAIN_IMAGES = re.compile(
    r"(?:docker\.io/)?(?:library/)?(?:debian|ubuntu|python)(?::[\w.-]+)?"
    r"|ghcr\.io/laude-institute/t-bench/(?:ubuntu-24-04|python-3-13)(?::[\w.-]+)?"
)
"""Images that hold nothing but a distribution and Python."""

_IGNORED = {"CMD", "EXPOSE", "LABEL", "MAINTAINER", "STOPSIGNAL", "VOLUME"}
"""What changes nothing for a shell in the container; Harbor replaces CMD."""
_SHELLS = (["/bin/bash", "-c"], ["/bin/bash", "-lc"], ["/bin/sh", "-c"], ["bash", "-c"], ["sh", "-c"])


@dataclass(frozen=True, kw_only=True)
class BuildStep:
    """One RUN: the folder that it runs in, the command as bash takes it, and how the Dockerfile says it."""

    folder: str
    command: str
    said: str


@dataclass(kw_only=True)
class Build:
    """What was carried out so far; `reasons` says what could not be.

    `folder` is the WORKDIR, `folders` are those that exist without a file in them, `named_paths` are absolute paths
    that commands name.
    """

    folder: str = "/"
    shell: list[str] = field(default_factory=lambda: ["/bin/sh", "-c"])
    files: dict[str, BoxFile] = field(default_factory=dict[str, BoxFile])
    folders: list[str] = field(default_factory=list[str])
    environment: dict[str, str] = field(default_factory=dict[str, str])
    arguments: dict[str, str] = field(default_factory=dict[str, str])
    steps: tuple[BuildStep, ...] = ()
    named_paths: list[str] = field(default_factory=list[str])
    reasons: list[str] = field(default_factory=list[str])


def carry_out(instructions: Sequence[Instruction], context: Mapping[str, BoxFile]) -> Build:
    """Carry out the instructions on a build context; `Build.reasons` is empty where all of them can be."""
    build = Build()
    if ".dockerignore" in context:
        build.reasons.append("environment/.dockerignore is not read")
    if sum(instruction.keyword == "FROM" for instruction in instructions) != 1:
        build.reasons.append("environment/Dockerfile has more than one stage, or none")
    for instruction in instructions:
        try:
            _apply(build, instruction, context)
        except ValueError as error:
            build.reasons.append(f"{instruction}: {error}")
    return build


def _apply(build: Build, instruction: Instruction, context: Mapping[str, BoxFile]) -> None:
    keyword, text = instruction.keyword, instruction.text
    known = {**build.arguments, **build.environment}
    match keyword:
        case "FROM":
            _from(expand(text, known))
        case "WORKDIR":
            build.folder = _joined(build.folder, expand(text, known).strip("\"'"))
            build.folders.append(build.folder)
        case "ENV":
            build.environment.update(_variables(expand(text, known)))
        case "ARG":
            name, _, value = expand(text, known).partition("=")
            build.arguments[name.strip()] = value.strip("\"'")
        case "COPY" | "ADD":
            _copy(build, expand(text, known), context, adds=keyword == "ADD")
        case "RUN":
            _run(build, instruction)
        case "SHELL":
            build.shell = json.loads(text)
            if build.shell not in _SHELLS:
                raise ValueError("another shell than bash or sh")
        case "USER":
            if text not in ("root", "0", "root:root"):
                raise ValueError("commands run as one user here")
        case _:
            if keyword not in _IGNORED:
                raise ValueError("is not carried out here")


def _from(text: str) -> None:
    words = [word for word in text.split() if not word.startswith("--")]
    if not words or PLAIN_IMAGES.fullmatch(words[0]) is None:
        raise ValueError(f"needs image {words[0] if words else '?'}")


def _variables(text: str) -> dict[str, str]:
    words = shlex.split(text)
    if words and "=" not in words[0]:
        return {words[0]: text.split(None, 1)[1] if len(words) > 1 else ""}
    if any("=" not in word for word in words):
        raise ValueError("expected NAME=VALUE")
    return {word.partition("=")[0]: word.partition("=")[2] for word in words}


def _copy(build: Build, text: str, context: Mapping[str, BoxFile], *, adds: bool) -> None:
    words = json.loads(text) if text.startswith("[") else shlex.split(text)
    options = [word for word in words if word.startswith("--")]
    *sources, target = [word for word in words if not word.startswith("--")]
    mode = _mode(options)
    if any(adds and ("://" in source or ".tar" in source or source.endswith(".tgz")) for source in sources):
        raise ValueError("ADD of a URL or an archive is not carried out here")
    folder = target if target.startswith("/") else _joined(build.folder, target)
    path = _joined("/", folder)
    into_folder = target.endswith(("/", ".")) or path in _known_folders(build) or len(sources) > 1
    for source in sources:
        for name, entry in _copied(source, context, path, into_folder=into_folder).items():
            changed = entry if mode is None or entry.content is None else dataclasses.replace(entry, mode=mode)
            build.files[name.lstrip("/")] = changed


def _copied(source: str, context: Mapping[str, BoxFile], target: str, *, into_folder: bool) -> dict[str, BoxFile]:
    """Return where the files of one source go: a folder's content into the target, a file into or onto it."""
    pattern = str(PurePosixPath(source.lstrip("/")))
    inside = {
        name: entry
        for name, entry in context.items()
        if pattern == "." or (PurePosixPath(name).is_relative_to(pattern) and name != pattern)
    }
    if inside:
        start = "" if pattern == "." else pattern
        return {_joined(target, str(PurePosixPath(name).relative_to(start))): entry for name, entry in inside.items()}
    matches = [name for name in context if fnmatch.fnmatchcase(name, pattern) and name.count("/") == pattern.count("/")]
    if not matches:
        raise ValueError(f"environment/{source} does not exist")
    if into_folder or len(matches) > 1:
        return {_joined(target, PurePosixPath(name).name): context[name] for name in matches}
    return {target: context[matches[0]]}


def _mode(options: list[str]) -> int | None:
    mode = None
    for option in options:
        name, _, value = option.partition("=")
        if name == "--chmod" and re.fullmatch(r"0?[0-7]{3}", value):
            mode = int(value, 8)
        elif name == "--from":
            raise ValueError("copies from another image")
        elif name not in ("--link", "--chown"):
            raise ValueError(f"{option} is not carried out here")
    return mode


def _known_folders(build: Build) -> set[str]:
    parents = {f"/{parent}" for name in build.files for parent in PurePosixPath(name).parents if parent.parts}
    return {*build.folders, *parents, "/", "/tmp"}


def _run(build: Build, instruction: Instruction) -> None:
    text = instruction.text
    if text.startswith("["):
        text = shlex.join(json.loads(text))
    if text.startswith("--"):
        raise ValueError("RUN options are not carried out here")
    reason = step_reason(text)
    if reason is not None:
        raise ValueError(reason)
    commands = list(simple_commands(text))
    if all(is_package_step(words) for words in commands):
        return
    if any(is_package_step(words) for words in commands):
        raise ValueError("packages and other commands in one RUN: write two")
    for words in commands:
        build.named_paths += [word for word in words[1:] if word.startswith("/") and not word.startswith("/dev/null")]
        if words[0] == "mkdir":
            build.folders += [_joined(build.folder, word) for word in words[1:] if re.match(r"[\w./]", word)]
    if build.arguments:
        text = "".join(f"export {name}={shlex.quote(value)}; " for name, value in build.arguments.items()) + text
    command = shlex.join([*build.shell, text])
    build.steps += (BuildStep(folder=build.folder, command=command, said=str(instruction)),)


def _joined(folder: str, name: str) -> str:
    """Join as a container does: an absolute name wins, `.` and `..` are resolved, the root is the highest."""
    parts: list[str] = []
    for part in PurePosixPath(folder, name).parts[1:] if folder.startswith("/") else PurePosixPath(folder, name).parts:
        if part == "..":
            parts = parts[:-1]
        elif part != ".":
            parts.append(part)
    return "/" + "/".join(parts)
