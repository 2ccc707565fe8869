"""Seed actions: a user's TOML file of actions that an explorer may take.

    [[action]]
    text = "cat notes.txt"          # said as it stands
    requires = "notes.txt"          # only after the world has said this text; optional
    weight = 2                      # against 1 of the others; optional

    [[action]]
    name = "get_order"              # a call of a tool; without `name`, the fields of an environment's action
    arguments = {order_id = 7}

Not here: when one is taken (`policy`).
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from envecho.errors import ConfigError, did_you_mean
from envecho.worlds.tool_calls import CallText


class SeedAction(BaseModel):
    """One entry: a `text`, or `arguments` with or without the `name` of a tool."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str | None = None
    name: str | None = None
    arguments: dict[str, Any] | None = None
    requires: str | None = None
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_one_action(self) -> SeedAction:
        if (self.text is None) == (self.name is None and self.arguments is None):
            raise ValueError("expected either text, or name and arguments")
        return self

    @property
    def said(self) -> str:
        """The text of the turn."""
        if self.text is not None:
            return self.text
        if self.name is None:
            return json.dumps(self.arguments, ensure_ascii=False)
        return str(CallText(name=self.name, arguments=self.arguments or {}))


def read_seed_actions(file: Path | None, *, tools: Collection[str]) -> tuple[SeedAction, ...]:
    """Return the actions of a file, none without a file; `tools` are the names that a call may have.

    Raises:
        ConfigError: the file cannot be read, or an entry is wrong; the message names file and entry.
    """
    if file is None:
        return ()
    try:
        data = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: the file of seed actions cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected TOML with [[action]] entries: {error}") from error
    entries = data.get("action")
    unknown = sorted(data.keys() - {"action"})
    if unknown or not isinstance(entries, list) or not entries:
        found = f"unknown key {unknown[0]!r}" if unknown else "none"
        raise ConfigError(f"{file}: expected one or more [[action]] entries and nothing else, found {found}")
    return tuple(_entry(entry, f"{file}, action {number}", tools) for number, entry in enumerate(entries, 1))


def _entry(entry: Any, where: str, tools: Collection[str]) -> SeedAction:
    try:
        action = SeedAction.model_validate(entry)
    except ValidationError as error:
        problem = error.errors()[0]
        name = ".".join(map(str, problem["loc"]))
        guess = did_you_mean(name, SeedAction.model_fields) if problem["type"] == "extra_forbidden" else ""
        raise ConfigError(f"{where}: {f'{name}: ' if name else ''}{problem['msg']}.{guess}") from error
    if action.name is not None and action.name not in tools:
        known = f"the tools are {', '.join(sorted(tools))}" if tools else "the environment has no tools"
        raise ConfigError(f"{where}: no tool {action.name!r}; {known}.{did_you_mean(action.name, tools)}")
    if tools and action.name is None and action.text is None:
        raise ConfigError(f"{where}: arguments need the name of a tool")
    return action
