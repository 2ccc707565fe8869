"""Worlds that we ship, the sandbox that they run in, and the conformance kit for any world."""

from envecho.worlds.check import WorldCheck, WorldReport, check_world
from envecho.worlds.sandbox import Limits

__all__ = ["Limits", "WorldCheck", "WorldReport", "check_world"]
