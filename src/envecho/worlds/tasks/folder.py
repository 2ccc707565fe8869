"""A task folder in Harbor's format: what lies in it, read once and checked.

    NAME/task.toml  instruction.md  environment/Dockerfile  tests/test.sh  solution/solve.sh

The format is Harbor's (https://www.harborframework.com/docs/tasks), that of TerminalBench-2.0. Not here: whether a task
can run on this machine (`locally`), and running it (`world`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from envecho.errors import DataError
from envecho.worlds.sandbox_files import BoxFile
from envecho.worlds.tasks.settings import TaskSettings, read_settings

TASK_FILE = "task.toml"
_MAX_DEPTH = 6
_CANARY = re.compile(r"\s*(<!--.*canary.*-->|#.*canary.*)\s*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class HarborTask:
    """One task: its settings, what the policy is asked, and the files of each of its folders.

    `environment`, `tests` and `solution` map relative paths to files; `solution` is empty where there is none.
    `unknown_keys` are keys of `task.toml` that this reader does not know.
    """

    name: str
    folder: Path
    settings: TaskSettings
    instruction: str
    environment: Mapping[str, BoxFile]
    tests: Mapping[str, BoxFile]
    solution: Mapping[str, BoxFile]

    @property
    def unknown_keys(self) -> tuple[str, ...]:
        """Keys of `task.toml` that nothing here reads."""
        return self.settings.unknown_keys

    def text(self, part: str, name: str) -> str | None:
        """Return a text file of the folder `environment`, `tests` or `solution`, or None where there is none."""
        file = {"environment": self.environment, "tests": self.tests, "solution": self.solution}[part].get(name)
        if file is None or file.content is None:
            return None
        try:
            return file.content.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"expected UTF-8 text: {error}", file=self.folder / part / name) from error


def find_tasks(path: Path) -> list[Path]:
    """Return the task folders of `path`, in the order of their names: itself, or those below it.

    Hidden folders and symbolic links are not followed; folders of tasks may be grouped, up to six levels deep.

    Raises:
        DataError: there is no such folder, or no task in it.
    """
    if not path.is_dir():
        raise DataError("expected a folder of task folders; there is none", file=path)
    found = [path] if (path / TASK_FILE).is_file() else list(_below(path, 1))
    if not found:
        raise DataError(f"no folder with a {TASK_FILE} in it; expected NAME/{TASK_FILE}, see docs/tasks.md", file=path)
    return found


def read_task(folder: Path) -> HarborTask:
    """Read one task folder.

    Raises:
        DataError: a file is missing or cannot be read; the message names it and says what to do.
    """
    settings = read_settings(folder / TASK_FILE)
    instruction = folder / "instruction.md"
    tests = _files(folder / "tests")
    if settings.steps is None:
        if not instruction.is_file():
            raise DataError("missing: write what the policy is asked into it", file=instruction)
        if "test.sh" not in tests:
            said = "missing: write a script that puts a number into /logs/verifier/reward.txt"
            raise DataError(said, file=folder / "tests" / "test.sh")
    try:
        text = instruction.read_text(encoding="utf-8") if instruction.is_file() else ""
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8 text: {error}", file=instruction) from error
    return HarborTask(
        name=folder.resolve().name,
        folder=folder,
        settings=settings,
        instruction=_without_canary(text).strip(),
        environment=_files(folder / "environment"),
        tests=tests,
        solution=_files(folder / "solution"),
    )


def _below(folder: Path, depth: int) -> Iterator[Path]:
    for child in sorted(folder.iterdir()):
        if child.name.startswith(".") or child.is_symlink() or not child.is_dir():
            continue
        if (child / TASK_FILE).is_file():
            yield child
        elif depth < _MAX_DEPTH:
            yield from _below(child, depth + 1)


def _files(folder: Path) -> dict[str, BoxFile]:
    """Return every file, link and empty folder below `folder` by its relative path."""
    found: dict[str, BoxFile] = {}
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = BoxFile(link=_inner_link(folder, path))
        elif path.is_file():
            mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
            found[name] = BoxFile(content=path.read_bytes(), mode=mode)
        elif path.is_dir() and not any(path.iterdir()):
            found[name] = BoxFile(mode=0o755)
    return found


def _inner_link(folder: Path, path: Path) -> str:
    target = path.readlink()
    if target.is_absolute() or not path.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"a link to {target}, outside its folder: replace it by the file", file=path)
    return PurePosixPath(target).as_posix()


def _without_canary(text: str) -> str:
    """Drop the lines at the start that mark a benchmark's text for crawlers; Harbor does not show them either."""
    lines = text.splitlines(keepends=True)
    while lines and (_CANARY.fullmatch(lines[0]) or not lines[0].strip()):
        del lines[0]
    return "".join(lines)
