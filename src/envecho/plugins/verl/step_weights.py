"""What each target is worth over verl's whole mini-batch, whichever way verl cuts it and whatever its loss_agg_mode.

verl divides its policy term by `loss_agg_mode`; our rules divide both terms. Lambda is a ratio, so the environment
weights of a rule are scaled by

    sum of verl's policy weights / sum of the rule's policy weights

and the effective lambda, sum(env weights) / sum(policy weights), is what the rule says under every mode. Where the mode
divides the policy term as the rule does, the factor is 1. Without a policy term (`use_rl = false`, or no action in the
mini-batch) the rule's weights stand as they are.

Sums over ranks are the caller's `add_up`. Not here: where masks come from (`row_masks`), and verl's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envecho.losses import TokenCounts, normalizer_weights
from envecho.losses.weights import StepTotals
from envecho.objective import EchoConfig
from envecho.plugins.verl.row_masks import RowMasks

AddUp = Callable[[Tensor], Tensor]
"""The sum of a tensor over all data parallel ranks."""


@dataclass(frozen=True, kw_only=True)
class RankRows:
    """The rows of one rank of a mini-batch: masks, and which response tokens verl's policy term trains.

    `masks[k]` is None for a row that verl made up; `action_masks[k]` is bool `[token]` over the response of row k.
    """

    masks: Sequence[RowMasks | None]
    action_masks: Sequence[Tensor]


@dataclass(frozen=True, kw_only=True)
class EnvironmentWeights:
    """What the environment term weighs on this rank, and what the whole mini-batch holds.

    `weights` are float32 and `targets` bool, `[token]` over the response of each row. The numbers are of the mini-batch
    over all ranks; `effective_lambda` is None without a policy term.
    """

    weights: Sequence[Tensor]
    targets: Sequence[Tensor]
    num_env_tokens: int
    num_env_tokens_dropped: int
    effective_lambda: float | None


def environment_weights(
    rows: RankRows, echo: EchoConfig, *, add_up: AddUp, policy_weight_sum: Callable[[StepTotals], float]
) -> EnvironmentWeights:
    """Weigh the targets of this rank's rows.

    Args:
        rows: the rank's part of the mini-batch.
        echo: the objective.
        add_up: sums over the ranks; every rank calls it twice.
        policy_weight_sum: what verl's weights of the policy term add up to on this rank, given the mini-batch's totals.
    """
    real = [(mask, action) for mask, action in zip(rows.masks, rows.action_masks, strict=True) if mask is not None]
    actions = _joined([action.bool() for _, action in real])
    targets = _joined([torch.from_numpy(mask.targets) for mask, _ in real])
    dropped = sum(mask.num_dropped for mask, _ in real)
    counted = torch.tensor([int(actions.sum()), int(targets.sum()), len(real), dropped])
    num_actions, num_targets, num_sequences, num_dropped = [int(n) for n in add_up(counted).tolist()]
    totals = StepTotals(num_action_tokens=num_actions, num_env_tokens=num_targets, num_sequences=num_sequences)
    lengths = [len(action) for _, action in real]
    counts = TokenCounts(
        action_mask=actions,
        obs_mask=_joined([torch.from_numpy(mask.observed) for mask, _ in real]),
        env_mask=targets,
        sequence_index=torch.arange(len(real)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64)),
        num_sequences=len(real),
        constant_length=echo.constant_length,
        totals=totals,
    )
    policy_unit, env_unit = normalizer_weights(echo.preset.normalizer, counts)
    coeffs = torch.cat([torch.zeros(0, dtype=torch.float64), *(torch.from_numpy(mask.coeffs) for mask, _ in real)])
    env = echo.world_model_coeff * coeffs * env_unit
    is_relative = echo.use_rl and num_actions > 0
    of_verl = policy_weight_sum(totals) if is_relative else 0.0
    sums = add_up(torch.tensor([float(policy_unit.sum()), float(env.sum()), of_verl], dtype=torch.float64))
    rule_sum, env_sum, verl_sum = sums.tolist()
    scale = verl_sum / rule_sum if is_relative else 1.0
    return EnvironmentWeights(
        weights=_per_row((scale * env).float(), lengths, rows),
        targets=_per_row(targets, lengths, rows),
        num_env_tokens=num_targets,
        num_env_tokens_dropped=num_dropped,
        effective_lambda=scale * env_sum / verl_sum if is_relative else None,
    )


def _joined(masks: Sequence[Tensor]) -> Tensor:
    return torch.cat([torch.zeros(0, dtype=torch.bool), *masks])


def _per_row(values: Tensor, lengths: Sequence[int], rows: RankRows) -> list[Tensor]:
    """Cut what real rows have and give made-up rows zeros."""
    parts = iter(values.split(list(lengths)))
    return [
        torch.zeros(len(action), dtype=values.dtype) if mask is None else next(parts)
        for mask, action in zip(rows.masks, rows.action_masks, strict=True)
    ]
