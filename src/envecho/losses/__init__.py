"""Pure maths on tensors: log-probs at read positions, advantages, loss terms, and the weights that divide them."""

from envecho.losses.advantages import AdvantageName, group_advantages
from envecho.losses.batch import PolicyLossSpec, RatioDenominator, WeightedBatch
from envecho.losses.cispo import cispo_loss
from envecho.losses.echo import echo_loss
from envecho.losses.environment import clipped_ce, environment_ce
from envecho.losses.gspo import gspo_loss, sequence_ratios
from envecho.losses.logprobs import ReadLogprobs, read_logprobs
from envecho.losses.objective_loss import BatchLoss, batch_loss, loss_of_logprobs, policy_side
from envecho.losses.policy import grpo_loss, reinforce_loss
from envecho.losses.presets import PolicyLossChoice, PolicyPreset, policy_preset
from envecho.losses.regularizers import kl_to_reference, truncated_importance_weights
from envecho.losses.weights import SPLIT_RULES, NormalizerName, StepTotals, TokenCounts, normalizer_weights

__all__ = [
    "SPLIT_RULES",
    "AdvantageName",
    "BatchLoss",
    "NormalizerName",
    "PolicyLossChoice",
    "PolicyLossSpec",
    "PolicyPreset",
    "RatioDenominator",
    "ReadLogprobs",
    "StepTotals",
    "TokenCounts",
    "WeightedBatch",
    "batch_loss",
    "cispo_loss",
    "clipped_ce",
    "echo_loss",
    "environment_ce",
    "group_advantages",
    "grpo_loss",
    "gspo_loss",
    "kl_to_reference",
    "loss_of_logprobs",
    "normalizer_weights",
    "policy_preset",
    "policy_side",
    "read_logprobs",
    "reinforce_loss",
    "sequence_ratios",
    "truncated_importance_weights",
]
