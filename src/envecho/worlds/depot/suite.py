"""The tasks of the depot: all pairs of rooms that lie near enough, in two splits on one plan.

`train` and `held_out` are disjoint pairs (start, goal) on the same plan: a model that knows the plan can solve both, a
model that remembers ways alone only the first. Not here: how an episode runs (`world`).
"""

from __future__ import annotations

import random
from functools import cached_property
from typing import final

from envecho.errors import ConfigError
from envecho.seam import Policy, World
from envecho.worlds.depot.plan import DOORS, ROOMS, make_plan
from envecho.worlds.depot.world import DepotTask, DepotWorld
from envecho.worlds.scripts import ScriptedPolicy

SPLITS = ("train", "held_out")
MAX_MOVES = 2
_TRAIN_SHARE = 0.7


@final
class DepotSuite:
    """The depot's tasks as a `envecho.seam.TaskSuite`.

    `plan_seed` names the plan; studies train on plan 0, and starting models see plans from 100 on. `tickets` adds noise
    to the answers (`DepotTask`). A task number beyond the split's pairs starts over.
    """

    splits = SPLITS

    def __init__(
        self, *, plan_seed: int = 0, max_moves: int = MAX_MOVES, notices: bool = True, tickets: bool = False
    ) -> None:
        self.name = "depot-tickets" if tickets else "depot"
        self._plan, self._max_moves, self._notices = make_plan(plan_seed), max_moves, notices
        self._tickets = tickets

    def num_tasks(self, split: str) -> int:
        """How many tasks a split has before numbers start over."""
        return len(self._pairs[self._check(split)])

    def task_id(self, split: str, number: int) -> str:
        """Name the task of a number."""
        start, goal = self._pair(split, number)
        return f"depot/plan-{self._plan.seed}/{start}-{goal}"

    def make_world(self, split: str, number: int) -> World:
        """Return a world for one task."""
        start, goal = self._pair(split, number)
        task = DepotTask(
            id=self.task_id(split, number),
            plan=self._plan,
            start=start,
            goal=goal,
            max_moves=self._max_moves,
            tickets=self._tickets,
        )
        return DepotWorld(task, notices=self._notices)

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return a shortest way (`oracle`), or as many doors drawn at random as there are moves (`explore`)."""
        start, goal = self._pair(split, number)
        if policy == "oracle":
            return ScriptedPolicy.oracle(f"go {colour}" for colour in self._plan.path(start, goal))
        if policy == "explore":
            rng = random.Random(f"envecho-depot-explore-{self._plan.seed}-{split}-{number}-{seed}")
            return ScriptedPolicy.oracle(f"go {rng.choice(DOORS)}" for _ in range(self._max_moves))
        raise ConfigError(f"the depot has scripts for oracle and explore, found {policy!r}")

    @cached_property
    def _pairs(self) -> dict[str, list[tuple[str, str]]]:
        near = [
            (start, goal)
            for start in ROOMS
            for goal, distance in sorted(self._plan.distances(start).items())
            if 0 < distance <= self._max_moves
        ]
        random.Random(f"envecho-depot-tasks-{self._plan.seed}").shuffle(near)
        cut = round(_TRAIN_SHARE * len(near))
        return {"train": near[:cut], "held_out": near[cut:]}

    def _pair(self, split: str, number: int) -> tuple[str, str]:
        pairs = self._pairs[self._check(split)]
        return pairs[number % len(pairs)]

    def _check(self, split: str) -> str:
        if split not in SPLITS:
            raise ConfigError(f"the depot has the splits {', '.join(SPLITS)}, found {split!r}")
        return split
