"""The explorer: draws an episode of commands over a box, and states what each observation is.

An episode shows one document (or two tables) and then asks for parts of what it showed: slices, filters, counts, sorts,
fields and joins. Now and then a command is invalid. The labels are facts of the drawing: `view` is "first" for content
that nothing announced, "derivable" for output that is a function of text already shown and of the command, "other" for
the rest; `operation` names what a derivable command does. No command is drawn twice in an episode.
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass, field

from envecho.worlds.terminal.boxes import Box, Document
from envecho.worlds.terminal.operations import SINGLE, join_command, supports

SHOWN_KINDS = ("log", "access", "orders", "services", "yaml", "conf", "json")
DECK = ("slice", "slice", "filter", "filter", "count", "sort", "field", "field")
"""Operations are dealt from shuffled decks, not drawn one by one, so that small pools have the same mix."""
JOIN_SHARE = 0.3
JOIN_CHANCE = 0.35
INVALID_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class PlannedCommand:
    """One command and the labels of the observation that will answer it."""

    command: str
    labels: dict[str, str] = field(default_factory=dict)


def plan_episode(
    box: Box, *, seed: int, num_derivable: int = 8, exclude: Collection[str] = ()
) -> tuple[PlannedCommand, ...]:
    """Draw the commands of one episode over `box`; no derivable command is in `exclude`."""
    rng = random.Random(f"envecho-explore-{box.seed}-{seed}")
    plan: list[PlannedCommand] = []
    if rng.random() < INVALID_SHARE:
        plan.append(PlannedCommand(command=_invalid(rng, box), labels={"view": "other"}))
    tables = (box.document("users"), box.document("owners"))
    shown = tables if rng.random() < JOIN_SHARE else (box.document(rng.choice(SHOWN_KINDS)),)
    for document in shown:
        plan.append(PlannedCommand(command=f"cat {document.path}", labels={"view": "first"}))
    used = {*exclude, *(planned.command for planned in plan)}
    length, deck = len(plan) + num_derivable, list[str]()
    while len(plan) < length:
        deck = deck or rng.sample(DECK, len(DECK))
        operation, command = _derivable(rng, shown, deck.pop())
        if command not in used:
            used.add(command)
            plan.append(PlannedCommand(command=command, labels={"view": "derivable", "operation": operation}))
    return tuple(plan)


def _derivable(rng: random.Random, shown: tuple[Document, ...], operation: str) -> tuple[str, str]:
    """Draw a command of this operation; two tables are often joined instead; text without columns has no field."""
    if len(shown) == 2 and rng.random() < JOIN_CHANCE:
        return "join", join_command(rng, *shown)
    document = rng.choice(shown)
    if not supports(operation, document):
        operation = rng.choice(("slice", "filter", "count"))
    return operation, SINGLE[operation](rng, document)


def _invalid(rng: random.Random, box: Box) -> str:
    document = rng.choice(box.documents)
    return rng.choice(
        (
            f"cat {document.path}.old",
            f"cd {document.path}",
            f"grep -e {document.path}",
            f"{box.service}ctl status",
            f"ls missing/{box.service}",
            f"head -n x {document.path}",
        )
    )
