"""The tools of a served world as OpenEnv's `/mcp` route reads them: by name, with a schema and a function to await.

OpenEnv serves MCP for environments that hold a FastMCP server, of which the route reads `get_tools()` alone; this is
that much of one. Not here: what a call does (`server_environment`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from openenv.core.env_server.mcp_types import Tool

    from envecho.worlds.openenv.server_models import ToolCallObservation


@dataclass(frozen=True, kw_only=True)
class ServedTool:
    """One tool; awaiting `fn` calls it in a thread and returns MCP's result."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    fn: Callable[..., Awaitable[Any]]


@final
class ToolServer:
    """The tools of one session."""

    def __init__(
        self,
        list_tools: Callable[[], Sequence[Tool]],
        call: Callable[[str, Mapping[str, Any]], ToolCallObservation],
    ) -> None:
        self._list, self._call = list_tools, call

    async def get_tools(self) -> dict[str, ServedTool]:
        """Return the tools by name."""
        return {
            tool.name: ServedTool(
                name=tool.name,
                description=tool.description,
                parameters=tool.input_schema,
                fn=self._function(tool.name),
            )
            for tool in self._list()
        }

    def _function(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(**arguments: Any) -> Any:
            observation = await asyncio.to_thread(self._call, name, arguments)
            return {**observation.result, "done": observation.done, "reward": observation.reward}

        return call
