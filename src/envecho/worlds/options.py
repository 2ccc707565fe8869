"""`SuiteOptions`: what a user may say about a world beside its name. Not here: which worlds there are (`suites`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """Where a world is started for us: the image that a provider runs, and the hosts that it may reach (none: nothing).

    Read where `SuiteOptions.sandbox` names a provider (`envecho.worlds.providers`).
    """

    image: str | None = None
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SuiteOptions:
    """Options of `envecho.worlds.suites.open_suite`; a world refuses what it cannot follow.

    `sandbox` is where the world runs. `max_turns` bounds the actions of an episode. `families` keeps some of a world's
    task families. `world_map` is a TOML file that says how an OpenEnv server's observations are read and its actions
    written; `seed_actions` a TOML file of actions that an explorer may take. `rubric` names an OpenEnv rubric,
    `module:Class`, that grades on this side.
    """

    sandbox: str = "bubblewrap"
    max_turns: int = 16
    families: tuple[str, ...] = ()
    world_map: Path | None = None
    seed_actions: Path | None = None
    rubric: str | None = None
    host: HostOptions = HostOptions()
