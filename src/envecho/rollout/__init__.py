"""Rollouts: policies, the episode loop, and many episodes decoded together."""

from envecho.rollout.batch import RolloutJob, RolloutParams, rollout
from envecho.rollout.episode import EpisodeJob, collect, run_episode
from envecho.rollout.journal import Journal
from envecho.rollout.protocol import ToolProtocol

__all__ = [
    "EpisodeJob",
    "Journal",
    "RolloutJob",
    "RolloutParams",
    "ToolProtocol",
    "collect",
    "rollout",
    "run_episode",
]
