"""Roles, rewards and `EchoConfig` -> `WeightedBatch`: what each token of one optimiser step is worth.

Everything is counted once over the whole step, before anybody cuts it into micro-batches. Not here: the division rules
(`losses.weights`), which tokens a target selects (`tokens.targets`), and any model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.errors import ConfigError, DataError
from envecho.losses import (
    SPLIT_RULES,
    PolicyLossSpec,
    TokenCounts,
    WeightedBatch,
    normalizer_weights,
)
from envecho.objective.agreement import disagreement_multipliers
from envecho.objective.config import EchoConfig
from envecho.objective.counting import count_tokens
from envecho.objective.noise import after_high_entropy
from envecho.objective.policy_data import policy_data
from envecho.objective.step import Step, flatten
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES


@dataclass(frozen=True, kw_only=True)
class CompiledBatch:
    """The batch of one optimiser step, and what was counted on the way (docs/objective.md lists the names).

    `trajectory_index` `[token]` numbers the trajectories, branches and windows of one under one number. `selected`
    `[token]` marks the targets that `world_loss_target` names; the batch reports the log-probs of all observations.
    """

    batch: WeightedBatch
    counters: dict[str, int | float]
    trajectory_index: torch.Tensor
    selected: torch.Tensor

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
    excluded_env: Mapping[str, str] | None = None,
    env_multipliers: Sequence[NDArray[np.float32]] | None = None,
) -> CompiledBatch:
    """Compile all sequences of one optimiser step; sequence k of the batch is `sequences[k]`.

        policy_weights  = policy weight of the normaliser (0 where the action is dropped, or `use_rl` is false)
        env_weights     = lambda * source and tool coefficient * multiplier * environment weight of the normaliser
        kl_weights      = kl_coeff * policy weight,  entropy_weights = entropy_coeff * policy weight

    Branches and windows of one trajectory are one sequence for the normaliser and one rollout of its group. Dropping
    an action, excluding a rollout or multiplying a weight leaves the weight of all other tokens as it is: denominators
    count what was observed.

    Args:
        world_model_coeff: lambda instead of the config's (a schedule).
        micro_batch_index: the micro-batch of each sequence, for the rules with a mean per micro-batch and no other.
        excluded_env: trajectories whose observations are not trained, with the reason (`filter_rollouts`).
        env_multipliers: one array `[token]` per sequence, from 0: what a target counts; None takes what
            `noise.disagreement_weight` finds among these.

    Raises:
        ConfigError: the normaliser needs a split and none is given, or the other way round; lambda is negative.
        DataError: a sequence occurs twice; or `use_rl` and a reward, group, sampling log-prob or temperature is
            unknown; or an entropy that `noise.after_entropy_quantile` needs is unknown.
    """
    coeff = _coeff(config, world_model_coeff)
    step = flatten(sequences, config)
    counts = _token_counts(step, config, micro_batch_index)
    policy_unit, env_unit = normalizer_weights(config.preset.normalizer, counts)
    policy = policy_data(step, config)
    multipliers, env_counters = _env_multipliers(step, sequences, config, excluded_env or {}, env_multipliers)
    policy_weights = (policy_unit * torch.from_numpy(policy.trained)).float()
    spec = _policy_loss_spec(config)
    batch = WeightedBatch(
        token_ids=torch.from_numpy(step.token_ids),
        positions=torch.from_numpy(step.positions),
        sequence_index=torch.from_numpy(step.sequence_index),
        policy_weights=policy_weights,
        advantages=torch.from_numpy(policy.advantages).float(),
        env_weights=(coeff * torch.from_numpy(multipliers) * env_unit).float(),
        env_targets=torch.from_numpy(step.obs_mask),
        kl_weights=config.policy.kl_coeff * policy_weights,
        entropy_weights=config.policy.entropy_coeff * policy_weights,
        sampling_logprobs=torch.from_numpy(step.sampling_logprobs),
        sequence_ratios=_ratios_of_one(len(policy_weights), spec),
        temperature=policy.temperature,
        policy_loss=spec,
    )
    return CompiledBatch(
        batch=batch,
        counters=count_tokens(step) | policy.counters | env_counters,
        trajectory_index=torch.from_numpy(step.trajectory_of_token),
        selected=torch.from_numpy(step.env_mask),
    )


def _coeff(config: EchoConfig, given: float | None) -> float:
    coeff = config.world_model_coeff if given is None else given
    if not 0 <= coeff < float("inf"):
        raise ConfigError(f"world_model_coeff is {coeff}, expected a number from 0")
    return coeff


def _policy_loss_spec(config: EchoConfig) -> PolicyLossSpec:
    preset = config.preset
    return PolicyLossSpec(
        name=preset.spec_name,
        clip_low=preset.clip_low,
        clip_high=preset.clip_high,
        ratio_denominator="current" if preset.spec_name == "sft" else config.policy.ratio_denominator,
        importance_cap=config.policy.importance_cap,
        env_nll_clip=config.noise.nll_clip,
    )


def _ratios_of_one(num_tokens: int, spec: PolicyLossSpec) -> torch.Tensor | None:
    """GSPO's ratios where they are 1 by definition; else they are left for a pass over the policy."""
    return torch.ones(num_tokens) if spec.name == "gspo" and spec.ratio_denominator == "current" else None


def _env_multipliers(
    step: Step,
    sequences: Sequence[TokenizedTrajectory],
    config: EchoConfig,
    excluded: Mapping[str, str],
    given: Sequence[NDArray[np.float32]] | None,
) -> tuple[NDArray[np.float64], dict[str, int | float]]:
    """What each token's environment weight is multiplied by, and how many targets and rollouts lost theirs, and why."""
    factors = np.array([config.source_coeffs.get(source, 1.0) for source in SOURCES])[step.sources]
    if config.tool_coeffs:
        factors = factors * np.concatenate([_tool_coeffs(s, config.tool_coeffs) for s in sequences])
    if given is None and config.noise.disagreement_weight is not None:
        given = disagreement_multipliers(sequences, weight=config.noise.disagreement_weight)
    discounted = np.zeros_like(step.env_mask)
    if given is not None:
        if [len(values) for values in given] != [len(sequence) for sequence in sequences]:
            raise DataError("env_multipliers needs one array per sequence, one number per token")
        joined = np.concatenate(list(given))
        factors, discounted = factors * joined, joined < 1
    left_out = np.array([episode.trajectory_id in excluded for episode in step.trajectories])[step.trajectory_of_token]
    chosen = np.ones_like(step.env_mask)
    quantile = config.noise.after_entropy_quantile
    if quantile is not None:
        chosen = after_high_entropy(step, quantile=quantile)
    present = {episode.trajectory_id for episode in step.trajectories}
    reasons = Counter(reason for trajectory, reason in excluded.items() if trajectory in present)
    counters: dict[str, int | float] = {
        "num_env_tokens_excluded": int((step.env_mask & left_out).sum()),
        "num_env_tokens_low_entropy": int((step.env_mask & ~left_out & ~chosen).sum()),
        "num_env_tokens_disagreeing": int((step.env_mask & ~left_out & chosen & discounted).sum()),
        **{f"num_rollouts_env_excluded_{reason}": count for reason, count in sorted(reasons.items())},
    }
    return np.where(left_out | ~chosen, 0.0, factors), counters


def _tool_coeffs(sequence: TokenizedTrajectory, coeffs: Mapping[str, float]) -> NDArray[np.float64]:
    by_turn = np.ones(max(len(sequence.turn_tools), int(sequence.turns.max(initial=-1)) + 1) + 1)
    for turn, tools in enumerate(sequence.turn_tools):
        found = {coeffs.get(tool, 1.0) for tool in tools}
        if len(found) > 1:
            raise DataError(
                f"trajectory {sequence.trajectory_id!r}, message {turn} holds results of {', '.join(tools)}, whose"
                " tool_coeffs differ; put each tool's result into a message of its own",
            )
        by_turn[turn] = found.pop() if found else 1.0
    return by_turn[sequence.turns]  # turn -1 (scaffold before the first message) reads the last entry, which is 1


def _token_counts(step: Step, config: EchoConfig, split: Sequence[int] | None) -> TokenCounts:
    rule = config.preset.normalizer
    needs_split = rule in SPLIT_RULES
    if needs_split != (split is not None):
        told = "needs micro_batch_index, one number per sequence" if needs_split else "takes no micro_batch_index"
        raise ConfigError(f"the normalizer {rule!r} {told}")
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
