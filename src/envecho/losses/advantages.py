"""Advantages: how much better a rollout was than its group. Not here: which rollouts form a group."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from envecho.errors import DataError

AdvantageName = Literal["group_std", "group_mean", "leave_one_out"]


def group_advantages(
    rewards: Float[Tensor, " sequence"],
    group_index: Int[Tensor, " sequence"],
    *,
    kind: AdvantageName,
    eps: float = 1e-6,
) -> Float[Tensor, " sequence"]:
    """Return the advantage of each rollout within its group of n.

        group_std      (r - mean) / (std + eps)        GRPO (arXiv:2402.03300), as ECHO's reference code computes it
        group_mean     r - mean                        Dr. GRPO (arXiv:2503.20783)
        leave_one_out  r - mean of the n - 1 others    RLOO (arXiv:2402.14740); n / (n - 1) times group_mean

    The standard deviation has Bessel's correction. A group whose rewards are all equal, a group of one included, gives
    exactly 0: such groups lose their policy gradient and nothing else.

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
        if kind == "group_std":
            centred = centred / (values.std() + eps)
        elif kind == "leave_one_out":
            centred = centred * (len(values) / (len(values) - 1))
        advantages[members] = centred
    return advantages
