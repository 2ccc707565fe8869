"""A folder of tasks as a suite: which run here, which are refused and why, and scripted policies for them.

Splits: `[metadata] split` of a task where it says `train` or `held_out`, else a hash of its name: about three in ten
are held out, and a task stays in its split when others come and go. Not here: how an episode runs (`world`).
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import final

from envecho.errors import ConfigError, did_you_mean
from envecho.seam import Policy, World
from envecho.worlds.options import SuiteOptions
from envecho.worlds.sandbox_files import pack
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.tasks.containers import HARBOR_PREFIX, harbor_places
from envecho.worlds.tasks.explorer import TaskExplorer
from envecho.worlds.tasks.folder import HarborTask, find_tasks, read_task
from envecho.worlds.tasks.locally import Refused, plan_locally
from envecho.worlds.tasks.places import TaskPlace
from envecho.worlds.tasks.shell_lines import top_level_commands
from envecho.worlds.tasks.world import LAST_WORD, HarborTaskWorld

SPLITS = ("train", "held_out")
_HELD_OUT_OF_TEN = 3
_NEEDS_ITS_FILE = re.compile(r""""\$0"|\$\{0|BASH_SOURCE|/solution|^(exit|return)\b""", re.MULTILINE)


@final
class HarborTaskSuite:
    """The tasks of one folder as a `envecho.seam.TaskSuite`.

    `refused` maps the name of each task that cannot run here to the reasons; with `open_place`, which runs tasks
    elsewhere, none is refused. A number beyond a split's tasks starts over.

    Raises:
        ConfigError: no task can run here, or no task has one of `categories`.
        DataError: a task folder is broken.
    """

    splits = SPLITS

    def __init__(
        self,
        path: Path,
        *,
        max_turns: int = 16,
        categories: Sequence[str] = (),
        open_place: Callable[[HarborTask], TaskPlace] | None = None,
    ) -> None:
        self.name, self._max_turns, self._open_place = str(path), max_turns, open_place
        tasks = _chosen([read_task(folder) for folder in find_tasks(path)], categories)
        if len({task.name for task in tasks}) != len(tasks):
            raise ConfigError(f"{path}: two task folders have the same name, expected a name for each")
        plans = {task.name: plan_locally(task) for task in tasks} if open_place is None else {}
        self._refused = {name: plan.reasons for name, plan in plans.items() if isinstance(plan, Refused)}
        runnable = [task for task in tasks if task.name not in self._refused]
        if not runnable:
            name, reasons = next(iter(self._refused.items()))
            raise ConfigError(
                f"{path}: none of {len(tasks)} tasks can run in this sandbox; {name}: {'; '.join(reasons)}. "
                "docs/tasks.md says what can, and how tasks run in containers"
            )
        self._tasks = {split: [task for task in runnable if split_of(task) == split] for split in SPLITS}

    @property
    def runnable(self) -> tuple[str, ...]:
        """The names of the tasks that run here."""
        return tuple(sorted(task.name for tasks in self._tasks.values() for task in tasks))

    @property
    def refused(self) -> Mapping[str, tuple[str, ...]]:
        """Task name -> why it does not run here."""
        return MappingProxyType(self._refused)

    def num_tasks(self, split: str) -> int:
        """How many tasks a split has before numbers start over."""
        return len(self._tasks[self._check(split)])

    def task(self, split: str, number: int) -> HarborTask:
        """Return the task of a number."""
        tasks = self._tasks[self._check(split)]
        if not tasks:
            raise ConfigError(f"{self.name} has no task in the split {split!r}; a task.toml says it: [metadata] split")
        return tasks[number % len(tasks)]

    def task_id(self, split: str, number: int) -> str:
        """Name the task of a number."""
        return f"tasks/{self.task(split, number).name}"

    def make_world(self, split: str, number: int) -> World:
        """Return a world for one task."""
        return HarborTaskWorld(self.task(split, number), max_turns=self._max_turns, open_place=self._open_place)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return the reference solution as commands (`oracle`), or the explorer of this task."""
        task = self.task(split, number)
        if policy == "oracle":
            return ScriptedPolicy.oracle((*oracle_commands(task, most=self._max_turns - 1), LAST_WORD))
        if policy == "explore":
            return TaskExplorer(f"{task.name}-{seed}", num_commands=max(1, self._max_turns - 1))
        raise ConfigError(f"tasks have scripts for oracle and explore, found {policy!r}")

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise ConfigError(f"tasks have the splits {', '.join(SPLITS)}, found {split!r}")
        return split


def open_tasks(path: Path, options: SuiteOptions) -> HarborTaskSuite:
    """Return the tasks below a folder; `options.families` keeps tasks by `[metadata] category` or by name.

    `options.sandbox` is `bubblewrap`, or `harbor:` and a provider that Harbor knows, such as `harbor:docker`.

    Raises:
        ConfigError: the options name another sandbox, Harbor is not installed, or no task is left that runs.
        DataError: a task folder is broken.
    """
    open_place = None
    if options.sandbox.startswith(HARBOR_PREFIX):
        open_place = harbor_places(options.sandbox.removeprefix(HARBOR_PREFIX))
    elif options.sandbox != "bubblewrap":
        raise ConfigError(f"tasks run in bubblewrap or {HARBOR_PREFIX}PROVIDER, found {options.sandbox!r}")
    return HarborTaskSuite(path, max_turns=options.max_turns, categories=options.families, open_place=open_place)


def split_of(task: HarborTask) -> str:
    """Return the split of a task: what its metadata says, else three in ten by a hash of the name are held out."""
    said = task.settings.metadata.get("split")
    if said in SPLITS:
        return str(said)
    return "held_out" if hashlib.sha256(task.name.encode()).digest()[0] % 10 < _HELD_OUT_OF_TEN else "train"


def oracle_commands(task: HarborTask, *, most: int) -> list[str]:
    """Return the reference solution as actions: one for each top-level command of `solution/solve.sh`.

    A script that needs itself as a file, or has more than `most` commands, is written and run by one action.

    Raises:
        ConfigError: the task has no solution.
    """
    script = task.text("solution", "solve.sh")
    if script is None:
        raise ConfigError(f"task {task.name} has no solution/solve.sh, so there is no oracle for it")
    commands = None if _NEEDS_ITS_FILE.search(script) else top_level_commands(script)
    if commands is not None and len(commands) <= most and len(task.solution) == 1:
        return commands
    archive = base64.b64encode(pack(task.solution, prefix="")).decode()
    return [f"printf %s {archive} | base64 -d | tar -x -f - -C /solution && bash /solution/solve.sh"]


def _chosen(tasks: list[HarborTask], categories: Sequence[str]) -> list[HarborTask]:
    if not categories:
        return tasks
    known = {str(task.settings.metadata.get("category")) for task in tasks} | {task.name for task in tasks}
    for category in categories:
        if category not in known:
            raise ConfigError(f"no task has the category or name {category!r}.{did_you_mean(category, known)}")
    wanted = set(categories)
    return [task for task in tasks if {str(task.settings.metadata.get("category")), task.name} & wanted]
