"""The tool world: services with tools over SQLite, in the shape of the Agent World Model."""

from envecho.worlds.tools.domains import DOMAINS
from envecho.worlds.tools.suite import ToolSuite, open_tools
from envecho.worlds.tools.tasks import ToolTask, make_task
from envecho.worlds.tools.world import ToolWorld

__all__ = ["DOMAINS", "ToolSuite", "ToolTask", "ToolWorld", "make_task", "open_tools"]
