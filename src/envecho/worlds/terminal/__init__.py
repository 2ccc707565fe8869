"""A real bash in a sandbox as a world: incident triage on generated service boxes."""

from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_result import CommandResult, ObservationStyle
from envecho.worlds.terminal.session import BoxLike, TerminalSession
from envecho.worlds.terminal.world import Task, TerminalWorld

__all__ = ["BoxLike", "CommandResult", "Limits", "ObservationStyle", "Task", "TerminalSession", "TerminalWorld"]
