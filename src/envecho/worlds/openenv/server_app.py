"""The served world of a container: `uvicorn envecho.worlds.openenv.server_app:app`, as OpenEnv's tools start one.

What is served stands in variables: ENVECHO_WORLD (default `terminal`), ENVECHO_SANDBOX (`bubblewrap`),
ENVECHO_MAX_TURNS (16), ENVECHO_MAX_SESSIONS (64), ENVECHO_SPLIT (`train`), ENVECHO_FAMILIES (all, or `A,B`). Importing
this module opens the world, which is what uvicorn wants of it. On a machine of yours use `envecho serve`, which guards
the port.
"""

from __future__ import annotations

import logging
import os

from envecho.errors import ConfigError
from envecho.worlds.openenv.server import MAX_SESSIONS, make_app
from envecho.worlds.suites import open_suite


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, str(default))
    if not text.isdigit() or text == "0":
        raise ConfigError(f"{name} is {text!r}, expected a positive number")
    return int(text)


logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")

app = make_app(
    open_suite(
        os.environ.get("ENVECHO_WORLD", "terminal"),
        sandbox=os.environ.get("ENVECHO_SANDBOX", "bubblewrap"),
        max_turns=_number("ENVECHO_MAX_TURNS", 16),
        families=[family for family in os.environ.get("ENVECHO_FAMILIES", "").split(",") if family],
    ),
    split=os.environ.get("ENVECHO_SPLIT", "train"),
    max_sessions=_number("ENVECHO_MAX_SESSIONS", MAX_SESSIONS),
)
