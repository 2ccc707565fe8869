"""What a step holds, by role: the numbers that logs and reports print."""

from __future__ import annotations

import numpy as np

from envecho.objective.step import Step
from envecho.trajectory import SOURCES, Role


def count_tokens(step: Step) -> dict[str, int | float]:
    """Count the tokens of a step by role, each once however many branches and windows show it."""
    fresh_sources = step.sources[step.fresh]
    roles = np.array([source.role for source in SOURCES])
    by_role = {f"num_{role}_tokens": int((roles[fresh_sources] == role).sum()) for role in Role}
    with_observation = np.unique(step.trajectory_of_token[step.obs_mask])
    return {
        "num_sequences": step.num_sequences,
        "num_trajectories": len(step.trajectories),
        "num_trajectories_without_observation": len(step.trajectories) - len(with_observation),
        "num_repeated_tokens": int((~step.fresh).sum()),
        "num_env_tokens": int(step.env_mask.sum()),
        **by_role,
    }
