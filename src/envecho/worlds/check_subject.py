"""What a check of a world is given, and what the checks share. Not here: the checks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from envecho.errors import EnvechoError
from envecho.seam import Observation, World
from envecho.trajectory import Segment
from envecho.trajectory.roles import Role
from envecho.worlds.check_report import FailedCheck, expect, expect_kind


@dataclass(frozen=True, kw_only=True)
class Expectations:
    """What a world promises beside its contract; the checks of it are skipped where nothing is promised.

    `max_turns` actions end an episode. No observation has more than `most_characters`, also after `flood_action`, which
    writes more. `grader_texts` are words of the world's grader that no answer may hold.
    """

    max_turns: int | None = None
    most_characters: int = 1_000_000
    flood_action: str | None = None
    grader_texts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is checked: a way to get a world, actions that it understands, and what it promises.

    `many` says that `make` makes a new world each time. `seeds` are at least one; `slow_action` takes longer than a
    second.
    """

    make: Callable[[], World]
    many: bool
    actions: tuple[str, ...]
    seeds: tuple[int, ...]
    slow_action: str | None
    expectations: Expectations

    @contextmanager
    def world(self) -> Generator[World]:
        """A world to use; one that was made for the purpose is closed afterwards."""
        world = self.make()
        try:
            yield world
        finally:
            if self.many:
                world.close()

    def play(self, seed: int) -> list[Observation]:
        """Return what reset and each action answer, until the episode ends."""
        with self.world() as world:
            seen = [world.reset(seed=seed)]
            for action in self.actions:
                seen.append(world.step(action))
                if seen[-1].done:
                    break
            return seen

    def where(self, number: int) -> str:
        """Name the place of an observation of `play`."""
        return "reset" if number == 0 else f"step({self.actions[number - 1]!r:.80})"


def typed(observation: object, where: str) -> Observation:
    """Return the observation if it is one whose every field has the type that the seam states."""
    if not isinstance(observation, Observation):
        raise FailedCheck(f"{where} answered {type(observation).__name__}, expected Observation")
    for segment in observation.segments:
        expect_kind(segment, Segment, f"a segment of {where}")
        expect(segment.source.role is not Role.ACTION, f"{where} speaks as the policy: {segment.text[:60]!r}")
    reward = observation.reward
    expect(reward is None or math.isfinite(reward), f"{where} has reward {reward!r}, expected None or a finite number")
    for text in (*observation.labels.keys(), *observation.labels.values()):
        expect_kind(text, str, f"a label of {where}")
    json.dumps(dict(observation.metadata))
    return observation


def expect_error(call: Callable[[], object], what: str) -> None:
    """Fail the check where a call raises no error of ours."""
    try:
        call()
    except EnvechoError:
        return
    raise FailedCheck(f"{what} raised no WorldError")


def text_of(observation: Observation) -> str:
    """Return the joined text of the segments."""
    return "".join(segment.text for segment in observation.segments)
