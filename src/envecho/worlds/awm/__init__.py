"""Scenarios of the Agent World Model: generated services and verifiers, run in a sandbox."""

from envecho.worlds.awm.scenarios import Scenario, read_scenarios
from envecho.worlds.awm.suite import AwmSuite, open_awm
from envecho.worlds.awm.world import AwmTask, AwmWorld

__all__ = ["AwmSuite", "AwmTask", "AwmWorld", "Scenario", "open_awm", "read_scenarios"]
