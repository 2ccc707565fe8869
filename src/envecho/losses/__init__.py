"""Pure maths on tensors: log-probs at read positions, advantages, loss terms, and the weights that divide them."""

from envecho.losses.advantages import group_advantages
from envecho.losses.batch import PolicyLossSpec, RatioDenominator, WeightedBatch
from envecho.losses.echo import echo_loss
from envecho.losses.environment import environment_ce
from envecho.losses.logprobs import read_logprobs
from envecho.losses.objective_loss import BatchLoss, batch_loss
from envecho.losses.policy import grpo_loss, reinforce_loss
from envecho.losses.weights import SPLIT_RULES, NormalizerName, TokenCounts, normalizer_weights

__all__ = [
    "SPLIT_RULES",
    "BatchLoss",
    "NormalizerName",
    "PolicyLossSpec",
    "RatioDenominator",
    "TokenCounts",
    "WeightedBatch",
    "batch_loss",
    "echo_loss",
    "environment_ce",
    "group_advantages",
    "grpo_loss",
    "normalizer_weights",
    "read_logprobs",
    "reinforce_loss",
]
