"""The depot: a small text world of rooms and doors whose only knowledge is what its answers say."""

from envecho.worlds.depot.plan import DOORS, Plan, make_plan
from envecho.worlds.depot.world import DepotTask, DepotWorld

__all__ = ["DOORS", "DepotTask", "DepotWorld", "Plan", "make_plan"]
