"""The plan of a depot: which door of which room leads where, drawn from a seed.

Not here: episodes (`world`) and tasks (`suite`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

ROOMS = ("attic", "barn", "cellar", "dock", "forge", "garage", "hall", "kiln", "loft", "mill", "office", "pantry")
DOORS = ("red", "green", "blue", "white")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """`doors[room][colour]` is the room behind that door. Red leads back by green, blue by white."""

    seed: int
    doors: Mapping[str, Mapping[str, str]]

    def distances(self, start: str) -> dict[str, int]:
        """Return how many doors lie between `start` and each room."""
        distance = {start: 0}
        queue = [start]
        for room in queue:
            for behind in self.doors[room].values():
                if behind not in distance:
                    distance[behind] = distance[room] + 1
                    queue.append(behind)
        return distance

    def path(self, start: str, goal: str) -> list[str]:
        """Return the colours of a shortest way, the first in the order of `DOORS` where there are several."""
        left = self.distances(goal)  # every door leads back, so distances are the same both ways
        colours: list[str] = []
        room = start
        while room != goal:
            colour = next(c for c in DOORS if left[self.doors[room][c]] < left[room])
            colours.append(colour)
            room = self.doors[room][colour]
        return colours


def make_plan(seed: int) -> Plan:
    """Draw a plan: two rings through all rooms, red/green along one and blue/white along the other.

    The four doors of a room lead to four different rooms, so that a colour matters everywhere.
    """
    rng = random.Random(f"envecho-depot-{seed}")
    while True:
        doors: dict[str, dict[str, str]] = {room: {} for room in ROOMS}
        for ahead, back in (("red", "green"), ("blue", "white")):
            ring = rng.sample(ROOMS, len(ROOMS))
            for room, following in zip(ring, [*ring[1:], ring[0]], strict=True):
                doors[room][ahead] = following
                doors[following][back] = room
        if all(len(set(behind.values())) == len(DOORS) for behind in doors.values()):
            return Plan(seed=seed, doors={room: {c: doors[room][c] for c in DOORS} for room in ROOMS})
