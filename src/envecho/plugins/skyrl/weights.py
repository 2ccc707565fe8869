"""Marks -> weights: what each observation token is worth in one optimiser step (a mini-batch of SkyRL).

SkyRL divides its policy term by `loss_reduction`; the environment's rule must be one that goes with it, so that the
effective lambda is that of the objective. Not here: how weights travel (`channel`), and the rules (`losses.weights`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from envecho.errors import ConfigError
from envecho.losses import NormalizerName, TokenCounts, normalizer_weights
from envecho.objective import EchoConfig, NoiseConfig, PolicyConfig
from envecho.plugins.skyrl.channel import Marks

RULES: Final[dict[str, tuple[NormalizerName, ...]]] = {
    "token_mean": ("global_token_mean", "verl_token_mean"),
    "sequence_mean": ("sequence_mean_selected", "reference_sequence_mean"),
    "seq_mean_token_sum_norm": ("constant_length",),
}
"""Normalisers of the objective by the `loss_reduction` of SkyRL whose policy term they share."""


def check_objective(objective: EchoConfig, *, loss_reduction: str, max_seq_len: int | None) -> None:
    """Check that SkyRL with this reduction can do what the objective says.

    Raises:
        ConfigError: it cannot; the message says what to change.
    """
    rule = objective.preset.normalizer
    if loss_reduction not in RULES:
        raise ConfigError(
            f"trainer.algorithm.loss_reduction is {loss_reduction!r}, whose policy term has no rule here; expected one"
            f" of {', '.join(RULES)}"
        )
    if rule not in RULES[loss_reduction]:
        fits = next((name for name, rules in RULES.items() if rule in rules), None)
        told = f"set trainer.algorithm.loss_reduction={fits}, or" if fits else "choose"
        raise ConfigError(
            f"the normalizer {rule!r} does not share SkyRL's {loss_reduction!r}: {told} a normalizer of"
            f" {', '.join(RULES[loss_reduction])}"
        )
    if rule == "constant_length" and objective.constant_length != max_seq_len:
        raise ConfigError(
            f"constant_length is {objective.constant_length}, trainer.algorithm.max_seq_len {max_seq_len}: SkyRL"
            f" divides its policy term by the latter; make them equal"
        )
    theirs = {
        "policy": (objective.policy, PolicyConfig()),
        "tool_coeffs": (objective.tool_coeffs, {}),
        "source_coeffs": (objective.source_coeffs, {}),
        "noise": (objective.noise, NoiseConfig()),
        "grader_is_target": (objective.grader_is_target, False),
    }
    for name, (found, default) in theirs.items():
        if found != default:
            raise ConfigError(
                f"[objective] {name} has no effect in SkyRL, whose policy term and batches are its own; leave it out"
            )
    if objective.schedule.target_ratio is not None or objective.schedule.guard:
        raise ConfigError("[objective.schedule] target_ratio and guard need our own training loop; leave them out")
    filters = objective.filters
    asked = (filters.min_valid_call_fraction, filters.min_parse_clean_fraction, filters.correct_fraction)
    if any(value is not None for value in asked):
        raise ConfigError("[objective.filters] are not applied in SkyRL: mark no target in rollouts to be left out")


@dataclass(frozen=True, kw_only=True)
class StepWeights:
    """The weights `[row token]` of all mini-batches, lambda folded in, and what they sum up to.

    `effective_lambda` is the mean over the mini-batches that have an action, None where none has.
    """

    weights: Tensor
    effective_lambda: float | None
    num_targets: int


def step_weights(
    marks: Marks,
    loss_mask: Tensor,
    mini_batches: Sequence[tuple[int, int]],
    objective: EchoConfig,
    *,
    world_model_coeff: float,
) -> StepWeights:
    """Weigh every target; each mini-batch `[start, end)` of rows is one optimiser step, each row one trajectory."""
    weights = torch.zeros_like(loss_mask, dtype=torch.float64)
    lambdas: list[float] = []
    for start, end in mini_batches:
        rows = slice(start, end)
        shape = loss_mask[rows].shape
        counts = TokenCounts(
            action_mask=(loss_mask[rows] > 0).flatten(),
            obs_mask=marks.observations[rows].flatten(),
            env_mask=marks.targets[rows].flatten(),
            sequence_index=torch.arange(shape[0]).repeat_interleave(shape[1]),
            num_sequences=shape[0],
            constant_length=objective.constant_length,
        )
        policy, env = normalizer_weights(objective.preset.normalizer, counts)
        weights[rows] = (world_model_coeff * env).reshape(shape)
        total = float(policy.sum()) if objective.use_rl else 0.0
        if total:
            lambdas.append(world_model_coeff * float(env.sum()) / total)
    return StepWeights(
        weights=weights,
        effective_lambda=sum(lambdas) / len(lambdas) if lambdas else None,
        num_targets=int(marks.targets.sum()),
    )
