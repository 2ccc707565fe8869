"""Roles, rewards and `EchoConfig` -> `WeightedBatch`: what each token of one optimiser step is worth.

Everything is counted once over the whole step, before anybody cuts it into micro-batches. Not here: the division rules
(`losses.weights`), which tokens a target selects (`tokens.targets`), and any model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from envecho.errors import ConfigError
from envecho.losses import (
    SPLIT_RULES,
    PolicyLossSpec,
    TokenCounts,
    WeightedBatch,
    normalizer_weights,
)
from envecho.objective.config import EchoConfig
from envecho.objective.counting import count_tokens
from envecho.objective.policy_data import PolicyData, policy_data
from envecho.objective.step import Step, flatten
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES


@dataclass(frozen=True, kw_only=True)
class CompiledBatch:
    """The batch of one optimiser step, and what was counted on the way (docs/objective.md lists the names)."""

    batch: WeightedBatch
    counters: dict[str, int | float]

    @property
    def effective_lambda(self) -> float | None:
        """sum(env_weights) / sum(policy_weights), None where no action is trained."""
        return self.batch.effective_lambda


def compile_batch(
    sequences: Sequence[TokenizedTrajectory],
    config: EchoConfig,
    *,
    world_model_coeff: float | None = None,
    micro_batch_index: Sequence[int] | None = None,
) -> CompiledBatch:
    """Compile all sequences of one optimiser step; sequence k of the batch is `sequences[k]`.

        policy_weights = policy weight of the normaliser (0 where the action is dropped, or `use_rl` is false)
        env_weights    = lambda * source coefficient * environment weight of the normaliser

    Branches and windows of one trajectory are one sequence for the normaliser and one rollout of its group. Dropping
    an action leaves the weight of all others as it is. `world_model_coeff` overrides the config's lambda (a schedule);
    `micro_batch_index` gives the micro-batch of each sequence to the rules with a mean per micro-batch, and to no
    other.

    Raises:
        ConfigError: the normaliser needs a split and none is given, or the other way round; lambda is negative.
        DataError: a sequence occurs twice; or `use_rl` and a reward, group, sampling log-prob or temperature is
            unknown.
    """
    coeff = config.world_model_coeff if world_model_coeff is None else world_model_coeff
    if not 0 <= coeff < float("inf"):
        raise ConfigError(f"world_model_coeff is {coeff}, expected a number from 0")
    step = flatten(sequences, config)
    policy_unit, env_unit = normalizer_weights(config.normalizer, _token_counts(step, config, micro_batch_index))
    policy = policy_data(step, config) if config.use_rl else PolicyData.absent(step)
    coeffs = np.array([config.source_coeffs.get(source, 1.0) for source in SOURCES])[step.sources]
    zeros = torch.zeros(len(step.sources))
    batch = WeightedBatch(
        token_ids=torch.from_numpy(step.token_ids),
        positions=torch.from_numpy(step.positions),
        sequence_index=torch.from_numpy(step.sequence_index),
        policy_weights=(policy_unit * torch.from_numpy(policy.trained)).float(),
        advantages=torch.from_numpy(policy.advantages).float(),
        env_weights=(coeff * torch.from_numpy(coeffs) * env_unit).float(),
        env_targets=torch.from_numpy(step.env_mask),
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=torch.from_numpy(step.sampling_logprobs),
        temperature=policy.temperature,
        policy_loss=PolicyLossSpec(
            clip_low=config.clip_low, clip_high=config.clip_high, ratio_denominator=config.ratio_denominator
        ),
    )
    return CompiledBatch(batch=batch, counters=count_tokens(step) | policy.counters)


def _token_counts(step: Step, config: EchoConfig, split: Sequence[int] | None) -> TokenCounts:
    needs_split = config.normalizer in SPLIT_RULES
    if needs_split != (split is not None):
        told = "needs micro_batch_index, one number per sequence" if needs_split else "takes no micro_batch_index"
        raise ConfigError(f"the normalizer {config.normalizer!r} {told}")
    if split is not None and len(split) != step.num_sequences:
        raise ConfigError(f"micro_batch_index has {len(split)} entries for {step.num_sequences} sequences")
    return TokenCounts(
        action_mask=torch.from_numpy(step.action_mask),
        obs_mask=torch.from_numpy(step.obs_mask),
        env_mask=torch.from_numpy(step.env_mask),
        sequence_index=torch.from_numpy(step.trajectory_of_token),
        num_sequences=len(step.trajectories),
        constant_length=config.constant_length,
        micro_batch_index=None if split is None else torch.tensor(split)[torch.from_numpy(step.sequence_index)],
    )
