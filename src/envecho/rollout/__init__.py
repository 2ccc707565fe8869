"""Rollouts: policies, the episode loop, and running many episodes side by side."""

from envecho.rollout.episode import EpisodeJob, collect, run_episode
from envecho.rollout.policies import EnginePolicy, ScriptedPolicy

__all__ = ["EnginePolicy", "EpisodeJob", "ScriptedPolicy", "collect", "run_episode"]
