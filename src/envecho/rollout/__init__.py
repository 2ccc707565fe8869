"""Rollouts: policies, the episode loop, and many episodes decoded together."""

from envecho.rollout.batch import RolloutJob, RolloutParams, rollout
from envecho.rollout.episode import EpisodeJob, collect, run_episode
from envecho.rollout.journal import Journal

__all__ = [
    "EpisodeJob",
    "Journal",
    "RolloutJob",
    "RolloutParams",
    "collect",
    "rollout",
    "run_episode",
]
