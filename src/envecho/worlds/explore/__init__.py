"""Explorers from schemas: a policy for any environment that says what its actions or its tools take."""

from envecho.worlds.explore.policy import explore_actions

__all__ = ["explore_actions"]
