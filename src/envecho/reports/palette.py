"""Colours and words of the report: one light and one dark value per colour, one label per predictor, pool and role.

Hues are those of Okabe and Ito, darkened where they carry text, so that no two meanings differ by red against green
alone. Not here: where they are used (`charts`, `templates/`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from envecho.evaluation.results import Control, Predictor
from envecho.tokens.view import visible_text
from envecho.trajectory import Role


@dataclass(frozen=True, kw_only=True)
class Colour:
    """The two values of one named colour."""

    light: str
    dark: str


COLOURS: Final[Mapping[str, Colour]] = {
    "ink": Colour(light="#1a1e24", dark="#e7eaee"),
    "muted": Colour(light="#5d6671", dark="#9ba6b3"),
    "rule": Colour(light="#dfe3e8", dark="#2c333c"),
    "page": Colour(light="#fdfdfc", dark="#101317"),
    "panel": Colour(light="#f4f5f7", dark="#181c22"),
    "trained": Colour(light="#3b49b8", dark="#98a5ff"),
    "base": Colour(light="#868d96", dark="#8a949f"),
    "ngram": Colour(light="#a5650a", dark="#dba24a"),
    "ppm": Colour(light="#85548f", dark="#c596d1"),
    "context": Colour(light="#68707b", dark="#8d97a3"),
    "action": Colour(light="#0064a6", dark="#62b2f0"),
    "env_output": Colour(light="#00704f", dark="#46c79d"),
    "warning": Colour(light="#8f5a00", dark="#e5a935"),
    "boilerplate": Colour(light="#c08a1e", dark="#d9a441"),
    "copied": Colour(light="#8fa3b8", dark="#74889d"),
    "predictable": Colour(light="#00805c", dark="#3fbf94"),
    "novel": Colour(light="#5a68d6", dark="#8e9bff"),
    "volatile": Colour(light="#b07fc0", dark="#c79bd4"),
    "series1": Colour(light="#2f55c7", dark="#8fa8ff"),
    "series2": Colour(light="#b3541e", dark="#f0955c"),
    "series3": Colour(light="#0e7f6b", dark="#4fc9b0"),
    "series4": Colour(light="#94438f", dark="#d792d2"),
    "series5": Colour(light="#7a6a12", dark="#cdb94a"),
    "series6": Colour(light="#5b6472", dark="#a3adba"),
}
"""Every light value is its own: `svg` finds a colour's name by it."""

SERIES: Final = tuple(name for name in COLOURS if name.startswith("series"))
"""Colours of runs and configurations that are compared, in their order."""

PREDICTOR_LABELS: Final[Mapping[Predictor, str]] = {
    "base": "base model",
    "trained": "trained model",
    "ngram": "n-gram copier",
    "ppm": "suffix copier",
    "zstd": "Zstandard",
    "lzma": "LZMA",
}

ROLE_LABELS: Final[Mapping[Role, str]] = {
    Role.CONTEXT: "context",
    Role.ACTION: "action",
    Role.ENV_OUTPUT: "env_output",
    Role.WARNING: "warning",
}

PART_LABELS: Final[Mapping[str, str]] = {
    "boilerplate": "the harness’s phrases",
    "copied": "copied output",
    "predictable": "predictable output",
    "novel": "novel output",
    "volatile": "volatile output",
}
"""The harness's phrases and the four classes of the world's own tokens, in the order of a report."""

CONTROL_LABELS: Final[Mapping[Control, str]] = {
    "action_swap": "another command",
    "action_blank": "no command",
    "observation_shuffle": "another episode",
}

_POOLS: Final[Mapping[str, str]] = {"new_boxes": "boxes never seen", "new_commands": "new commands on seen boxes"}


def pool_label(pool: str) -> str:
    """Return the pool in plain words, or its name where this project did not name it."""
    return _POOLS.get(pool, visible_text(pool).replace("\n", " ")[:60])


def pool_title(pool: str) -> str:
    """Return `pool_label` with a capital at its start and the rest as it is."""
    label = pool_label(pool)
    return label[:1].upper() + label[1:]


def ordered_pools(pools: Iterable[str]) -> list[str]:
    """Return the pools with the hardest of ours first, then the others by name."""
    known = list(_POOLS)
    return sorted(pools, key=lambda pool: (known.index(pool) if pool in known else len(known), pool))


def colour_variables(*, dark: bool) -> str:
    """Return the CSS custom properties of one mode: `--ink: #1a1e24; ...`."""
    return " ".join(f"--{name}: {colour.dark if dark else colour.light};" for name, colour in COLOURS.items())
