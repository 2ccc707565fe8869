"""Draws that templates share: one of some rows, the only one, another value. Not here: what is asked (`domains`)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def pick(rng: random.Random, values: Sequence[T]) -> T | None:
    """Return one of the values, or None where there are none."""
    return rng.choice(values) if values else None


def single(values: Sequence[T]) -> T | None:
    """Return the only value, or None where there is none or more than one."""
    return values[0] if len(values) == 1 else None


def other(rng: random.Random, values: Sequence[T], current: T) -> T:
    """Return one of the values that is not the current one."""
    return rng.choice([value for value in values if value != current])


def last_name(name: str) -> str:
    """Return the word by which a person is searched for."""
    return name.split()[-1]
