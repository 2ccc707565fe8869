"""What goes over the wire of a served world: its actions and observations as OpenEnv's own kinds of model.

Imported when a server is made, not before: it loads `openenv`. An action is `{"message": TEXT}`; a world with tools
takes OpenEnv's `list_tools` and `call_tool` too. An observation keeps our segments beside what OpenEnv's clients know.
Not here: what an action does (`server_environment`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from openenv.core.env_server.mcp_types import Tool, ToolError
from openenv.core.env_server.types import Action
from openenv.core.env_server.types import Observation as OpenEnvObservation
from pydantic import BaseModel, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import Segment

Text = Annotated[str, SkipValidation]
"""Text that may hold half a surrogate pair: a model can write one, and the world says what becomes of it."""


class MessageAction(Action):
    """One assistant turn. `timeout_s` bounds this one action; the world's own limit holds without it."""

    message: Text = Field(description="The text of one assistant turn.")
    timeout_s: float | None = Field(default=None, gt=0, description="The most seconds that this action may take.")

    @model_validator(mode="after")
    def _is_text(self) -> Self:
        _check_text(self.message)
        return self


class ToolWorldAction(Action):
    """One assistant turn, or OpenEnv's `list_tools` or `call_tool`."""

    type: Literal["message", "list_tools", "call_tool"] = "message"
    message: Text | None = Field(default=None, description="The text of one assistant turn.")
    tool_name: str | None = Field(default=None, description="The tool to call, with `type` `call_tool`.")
    arguments: dict[str, Any] = Field(default_factory=dict, description="The arguments of `call_tool`.")
    timeout_s: float | None = Field(default=None, gt=0, description="The most seconds that this action may take.")

    @model_validator(mode="after")
    def _holds_what_its_type_needs(self) -> Self:
        needed = {"message": "message", "call_tool": "tool_name", "list_tools": None}[self.type]
        given = [name for name in ("message", "tool_name") if vars(self)[name] is not None]
        if given != ([needed] if needed else []):
            raise _refusal(f"an action of type {self.type!r} needs {needed or 'no text'}, found {given or 'nothing'}")
        if self.message is not None:
            _check_text(self.message)
        return self


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise _refusal(f"message is {type(text).__name__}, expected text")


def _refusal(reason: str) -> PydanticCustomError:
    """A ValueError would do, but OpenEnv's server cannot send one and ends the session over it."""
    return PydanticCustomError("action", "{reason}", {"reason": reason})


class WireSegment(BaseModel):
    """A run of text with one writer, as `envecho.trajectory.Segment`."""

    source: str
    text: str
    tool: str | None = None


class SpokenObservation(OpenEnvObservation):
    """What every answer holds: who wrote what, and the whole as one text for clients that know no segments."""

    segments: list[WireSegment] = Field(default_factory=list[WireSegment])
    text: str = ""
    timed_out: bool = False
    labels: dict[str, str] = Field(default_factory=dict)


class WorldObservation(SpokenObservation):
    """The answer to `reset` and to a message; `tools` are schemas as chat templates take them, stated by `reset`."""

    tools: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class ToolCallObservation(SpokenObservation):
    """The answer to `call_tool`: OpenEnv's `CallToolObservation` and our segments.

    It has no `tools`: OpenEnv's MCP client takes every observation with that key for a list of tools.
    """

    tool_name: str
    result: Any = None
    error: ToolError | None = None


class ToolListObservation(SpokenObservation):
    """The answer to `list_tools`: OpenEnv's `ListToolsObservation`, and no text."""

    tools: list[Tool]


def spoken(observation: Observation) -> dict[str, Any]:
    """Return the fields that all answers share.

    Raises:
        WorldError: the reward is not finite, which JSON cannot say.
    """
    if observation.reward is not None and not math.isfinite(observation.reward):
        raise WorldError(f"the world gave the reward {observation.reward}, expected None or a finite number")
    return {
        "segments": [_wire(segment) for segment in observation.segments],
        "text": "".join(segment.text for segment in observation.segments),
        "timed_out": observation.timed_out,
        "labels": dict(observation.labels),
        "done": observation.done,
        "reward": observation.reward,
        "metadata": dict(observation.metadata),
    }


def world_observation(observation: Observation) -> WorldObservation:
    """Return the wire form of an answer to `reset` or to a message."""
    return WorldObservation(**spoken(observation), tools=[dict(tool) for tool in observation.tools])


def openenv_tools(schemas: Sequence[Mapping[str, Any]]) -> list[Tool]:
    """Return tool schemas of chat templates as OpenEnv's (MCP's) own."""
    functions: list[Mapping[str, Any]] = [schema.get("function", schema) for schema in schemas]
    return [
        Tool(
            name=str(function["name"]),
            description=str(function.get("description") or ""),
            input_schema=dict(function.get("parameters") or {"type": "object", "properties": {}}),
        )
        for function in functions
    ]


def _wire(segment: Segment) -> WireSegment:
    return WireSegment(source=segment.source.value, text=segment.text, tool=segment.tool)
