"""What is trained and what it is worth: `EchoConfig`, and its compilation into one weight per token."""

from envecho.objective.agreement import disagreement, disagreement_multipliers
from envecho.objective.compile import CompiledBatch, compile_batch
from envecho.objective.config import EchoConfig, FilterConfig, NoiseConfig, PolicyConfig, ScheduleConfig
from envecho.objective.filters import FilterResult, RolloutFilter, filter_rollouts
from envecho.objective.schedule import lambda_at
from envecho.objective.shuffle import compile_with_shuffled_env, shuffle_observations

__all__ = [
    "CompiledBatch",
    "EchoConfig",
    "FilterConfig",
    "FilterResult",
    "NoiseConfig",
    "PolicyConfig",
    "RolloutFilter",
    "ScheduleConfig",
    "compile_batch",
    "compile_with_shuffled_env",
    "disagreement",
    "disagreement_multipliers",
    "filter_rollouts",
    "lambda_at",
    "shuffle_observations",
]
