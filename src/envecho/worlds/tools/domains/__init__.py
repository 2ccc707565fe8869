"""The domains of the tool world: `DOMAINS["shop"]`. Each has a file of rows and tools, and one of tasks."""

from __future__ import annotations

from envecho.worlds.tools.domain import Domain
from envecho.worlds.tools.domains import (
    clinic_tasks,
    flights_tasks,
    library_tasks,
    shop_tasks,
    tracker_tasks,
    warehouse_tasks,
)

_FILES = (shop_tasks, clinic_tasks, library_tasks, flights_tasks, tracker_tasks, warehouse_tasks)

DOMAINS: dict[str, Domain] = {file.DOMAIN.name: file.DOMAIN for file in _FILES}

__all__ = ["DOMAINS"]
