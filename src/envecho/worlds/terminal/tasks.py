"""Seeded tasks and the splits of the terminal world: one integer names one task.

Splits: `train` boxes are seen in training; `validation` and `new_boxes` come from seed ranges that training never
touches; `new_commands` are other episodes on train boxes. Not here: what a family asks (`families`).
"""

from __future__ import annotations

from envecho.worlds.terminal.boxes import Box, make_box
from envecho.worlds.terminal.families import FAMILIES, TriageTask, make_task

SPLIT_STRIDE = 1_000_000
SPLITS = ("train", "validation", "new_boxes")


def split_box(split: str, number: int, *, seed: int = 0) -> Box:
    """Return box `number` of a split; boxes of different splits or seeds never share a box seed."""
    if not 0 <= number < SPLIT_STRIDE:
        raise ValueError(f"box number is {number}, expected 0 to {SPLIT_STRIDE - 1}")
    return make_box((seed * len(SPLITS) + SPLITS.index(split)) * SPLIT_STRIDE + number)


def task_for_seed(seed: int, *, split: str = "train") -> TriageTask:
    """Return the task that this integer names: families take turns, each on a box of its own."""
    family = list(FAMILIES)[seed % len(FAMILIES)]
    return make_task(split_box(split, seed), family)
