"""Advantages: how much better a rollout was than its group. Not here: which rollouts form a group."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from envecho.errors import DataError


def group_advantages(
    rewards: Float[Tensor, " sequence"],
    group_index: Int[Tensor, " sequence"],
    *,
    use_std: bool,
    eps: float = 1e-6,
) -> Float[Tensor, " sequence"]:
    """Return (r - mean of the group) / (std of the group + eps); without `use_std` the difference alone.

    GRPO (arXiv:2402.03300) as ECHO's reference code computes it; the standard deviation has Bessel's correction.
    Without `use_std` it is Dr. GRPO's (arXiv:2503.20783). A group whose rewards are all equal, a group of one included,
    gives exactly 0: such groups lose their policy gradient and nothing else.

    Raises:
        DataError: a reward is not finite.
    """
    known = torch.isfinite(rewards)
    if not bool(known.all()):
        where = torch.nonzero(~known).flatten().tolist()
        raise DataError(f"rewards of sequences {where} are not finite numbers; an advantage needs every reward")
    advantages = torch.zeros_like(rewards)
    for group in torch.unique(group_index):
        members = group_index == group
        values = rewards[members]
        if bool((values == values[0]).all()):
            continue
        centred = values - values.mean()
        advantages[members] = centred / (values.std() + eps) if use_std else centred
    return advantages
