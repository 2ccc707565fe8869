"""Which observations of a step are worth learning from: selection after high-entropy actions.

Not here: clipped cross-entropy (`losses.environment`), and the control that shuffles observations (`shuffle`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.objective.step import Step


def after_high_entropy(step: Step, *, quantile: float) -> NDArray[np.bool_]:
    """Mask `[token]` of the observations that answer an action about which the policy was uncertain.

    Each action's uncertainty is the mean over its tokens of the entropy that was recorded when it was sampled; kept are
    the observations after actions at or above `quantile` of all actions of the step (PaW, arXiv:2606.02388, keeps those
    after high-entropy actions; the quantile is ours). Observations before the first action are kept.

    Raises:
        DataError: an action's entropies are unknown.
    """
    keep = np.ones_like(step.env_mask)
    unknown = step.action_mask & ~np.isfinite(step.sampling_entropies)
    if unknown.any():
        numbers = np.unique(step.trajectory_of_token[unknown])
        names = ", ".join(repr(step.trajectories[n].trajectory_id) for n in numbers[:3])
        raise DataError(
            f"noise.after_entropy_quantile needs the entropy of every action token; {int(unknown.sum())} are unknown,"
            f" in {names}. Rollouts of envecho record them; for other trajectories leave the option out"
        )
    actions = {
        (int(trajectory), int(turn)): float(step.sampling_entropies[rows].mean())
        for trajectory, turn, rows in _runs(step, step.action_mask)
    }
    if not actions:
        return keep
    threshold = float(np.quantile(list(actions.values()), quantile))
    turns_of: dict[int, list[int]] = {}
    for trajectory, turn in sorted(actions):
        turns_of.setdefault(trajectory, []).append(turn)
    for trajectory, turn, rows in _runs(step, step.env_mask):
        before = [action for action in turns_of.get(trajectory, ()) if action < turn]
        if before and actions[trajectory, before[-1]] < threshold:
            keep[rows] = False
    return keep


def _runs(step: Step, mask: NDArray[np.bool_]) -> list[tuple[int, int, NDArray[np.int64]]]:
    """The masked tokens by trajectory and turn."""
    rows = np.flatnonzero(mask)
    keys = np.stack([step.trajectory_of_token[rows], step.turns[rows]], axis=1)
    found, index = np.unique(keys, axis=0, return_inverse=True)
    return [(int(t), int(turn), rows[index.reshape(-1) == place]) for place, (t, turn) in enumerate(found)]
