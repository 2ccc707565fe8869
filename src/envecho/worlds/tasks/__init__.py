"""Tasks in Harbor's folder format as worlds: a shell on the task's start state, and the task's own verifier."""

from envecho.worlds.tasks.folder import HarborTask, find_tasks, read_task
from envecho.worlds.tasks.locally import LocalPlan, Refused, plan_locally
from envecho.worlds.tasks.suite import HarborTaskSuite, open_tasks
from envecho.worlds.tasks.world import HarborTaskWorld

__all__ = [
    "HarborTask",
    "HarborTaskSuite",
    "HarborTaskWorld",
    "LocalPlan",
    "Refused",
    "find_tasks",
    "open_tasks",
    "plan_locally",
    "read_task",
]
