"""The tasks of the tool world as a suite: `open_tools(SuiteOptions())`.

Number n of a split is template n modulo the number of templates. Each template has its own order of databases, so that
the first hundred tasks are on a hundred databases and not on two: a model that sees few remembers their rows. The
splits are disjoint by construction: they draw databases from seed ranges of their own, and one domain is in no other
split than `new_domains`.

    train        domains for training, databases 0 to 199
    validation   the same domains and templates, databases 10,000 to 10,199
    new_data     the same domains and templates, databases 20,000 to 20,199
    new_domains  the held-out domain, databases 30,000 to 30,199

Not here: how an episode runs (`world`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import final

from envecho.errors import ConfigError, did_you_mean
from envecho.seam import Policy, World
from envecho.worlds.options import SuiteOptions
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.tools.domain import Domain, Template
from envecho.worlds.tools.domains import DOMAINS
from envecho.worlds.tools.explorer import plan_calls
from envecho.worlds.tools.tasks import ToolTask, make_task
from envecho.worlds.tools.world import ToolWorld

SPLITS = ("train", "validation", "new_data", "new_domains")
HELD_OUT_DOMAIN = "warehouse"
NUM_DATABASES = 200
"""How many databases a split has for each template."""

_SEED_STRIDE = 10_000
_DATABASE_STRIDE = 37
"""How far apart the databases of neighbouring templates are; no common divisor with `NUM_DATABASES`."""

_LONGEST_EXPLORATION = 12


@final
class ToolSuite:
    """The tool world's tasks as a `envecho.seam.TaskSuite`.

    `domains` keeps some of the domains. `explore_calls` is how many calls an explorer makes at most.

    Raises:
        ConfigError: no domain has a name, or none is left to train on.
    """

    name = "tools"

    def __init__(
        self, *, domains: Sequence[str] = (), max_turns: int = 16, explore_calls: int = _LONGEST_EXPLORATION
    ) -> None:
        for name in domains:
            if name not in DOMAINS:
                known = ", ".join(DOMAINS)
                raise ConfigError(f"no domain {name!r} in the tool world; it has {known}.{did_you_mean(name, DOMAINS)}")
        kept = [domain for name, domain in DOMAINS.items() if not domains or name in domains]
        train = _take_turns([domain for domain in kept if domain.name != HELD_OUT_DOMAIN])
        held_out = _take_turns([domain for domain in kept if domain.name == HELD_OUT_DOMAIN])
        if not train:
            raise ConfigError(
                f"the domain {HELD_OUT_DOMAIN!r} is held out from training; name one of the others, or none: "
                "its tasks are the split new_domains"
            )
        self._max_turns, self._explore_calls = max_turns, min(explore_calls, max_turns)
        self._templates = {split: held_out if split == "new_domains" else train for split in SPLITS}
        self.splits = tuple(split for split in SPLITS if self._templates[split])

    def num_tasks(self, split: str) -> int:
        """How many tasks a split has before numbers start over."""
        return len(self._templates[self._check(split)]) * NUM_DATABASES

    def task(self, split: str, number: int) -> ToolTask:
        """Return the task of a number."""
        templates = self._templates[self._check(split)]
        lap, place = divmod(number, len(templates))
        domain, template = templates[place]
        database = (lap + place * _DATABASE_STRIDE) % NUM_DATABASES
        return _task(domain.name, template.name, SPLITS.index(split) * _SEED_STRIDE + database)

    def task_id(self, split: str, number: int) -> str:
        """Name the task of a number."""
        return self.task(split, number).id

    def make_world(self, split: str, number: int) -> World:
        """Return a world for one task."""
        return ToolWorld(self.task(split, number), max_turns=self._max_turns)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return the calls that solve the task (`oracle`), or what the explorer draws on its database (`explore`)."""
        task = self.task(split, number)
        if policy == "oracle":
            return ScriptedPolicy.oracle(task.oracle)
        if policy == "explore":
            plan = plan_calls(task.domain, task.database, seed=seed, num_calls=self._explore_calls)
            return ScriptedPolicy((str(planned.call), planned.labels) for planned in plan)
        raise ConfigError(f"the tool world has scripts for oracle and explore, found {policy!r}")

    def _check(self, split: str) -> str:
        if split not in self.splits:
            raise ConfigError(f"the tool world has the splits {', '.join(self.splits)}, found {split!r}")
        return split


def open_tools(options: SuiteOptions) -> ToolSuite:
    """Return the tool world's tasks; `options.families` are domains.

    Raises:
        ConfigError: an option that this world cannot follow.
    """
    for name in ("world_map", "seed_actions", "rubric"):
        if getattr(options, name) is not None:
            raise ConfigError(f"the tool world takes no {name}")
    return ToolSuite(domains=options.families, max_turns=options.max_turns)


def _take_turns(domains: Sequence[Domain]) -> list[tuple[Domain, Template]]:
    """Return all templates, the domains taking turns."""
    longest = max((len(domain.templates) for domain in domains), default=0)
    return [
        (domain, domain.templates[place])
        for place in range(longest)
        for domain in domains
        if place < len(domain.templates)
    ]


@lru_cache(maxsize=4096)
def _task(domain: str, template: str, seed: int) -> ToolTask:
    found = next(one for one in DOMAINS[domain].templates if one.name == template)
    return make_task(DOMAINS[domain], found, seed)
