"""Rollouts: policies, the episode loop, and many episodes decoded together."""

from envecho.rollout.batch import RolloutJob, RolloutParams, rollout
from envecho.rollout.episode import EpisodeJob, collect, run_episode
from envecho.rollout.exchange import Schedule
from envecho.rollout.journal import Journal
from envecho.rollout.limits import WorldLimits
from envecho.rollout.protocol import ToolProtocol
from envecho.rollout.stats import RolloutStats

__all__ = [
    "EpisodeJob",
    "Journal",
    "RolloutJob",
    "RolloutParams",
    "RolloutStats",
    "Schedule",
    "ToolProtocol",
    "WorldLimits",
    "collect",
    "rollout",
    "run_episode",
]
