"""What is logged of a step and of a look at the validation pool; docs/metrics.md defines every key.

Not here: the file (`metrics`), and anything that changes what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation import label_tokens, score_pool
from envecho.rollout.served import SamplerCheck
from envecho.seam import Engine, ForwardBackwardOutput, TermGradients
from envecho.tokens import TokenizedTrajectory
from envecho.training.metrics import MetricsRow
from envecho.training.rollout_health import policy_row, rollout_row
from envecho.training.sources import StepBatch
from envecho.trajectory import SOURCES, Role, Trajectory

LOGGED_COUNTERS = (
    "num_env_tokens",
    "num_context_tokens",
    "num_action_tokens",
    "num_env_output_tokens",
    "num_warning_tokens",
    "num_repeated_tokens",
    "num_env_tokens_disagreeing",
    "num_sequences",
    "num_trajectories",
    "num_trajectories_without_observation",
)
"""The counters of `compile_batch` that a train row repeats."""

_IS_WARNING = np.array([source.role is Role.WARNING for source in SOURCES])


@dataclass(frozen=True, kw_only=True)
class StepFacts:
    """What happened in a step besides its batch; seconds are those of the wall clock.

    `train_seconds` is what compiling, passes, forward, backward and step took; `num_passes` the passes without a
    gradient (proximal, reference) that were needed; `sampler` how near the server that sampled the turns is.
    """

    grad_norm: float | None
    learning_rate: float
    world_model_coeff: float
    train_seconds: float
    num_passes: int = 0
    terms: TermGradients | None = None
    sampler: SamplerCheck | None = None


def train_row(step: int, *, batch: StepBatch, output: ForwardBackwardOutput, facts: StepFacts) -> dict[str, Any]:
    """Return the row of one optimiser step; with the keys of rollouts where it had any."""
    compiled = batch.compiled
    nlls = -output.env_logprobs.astype(np.float64)
    all_sources = _sources(batch.sequences, len(nlls))
    reported = compiled.batch.env_targets.numpy()
    targets = reported & compiled.selected.numpy()
    nll, sources = nlls[targets], all_sources[targets]
    warnings = reported & _IS_WARNING[all_sources]
    seconds = facts.train_seconds + batch.rollout_seconds
    row: dict[str, Any] = {
        "kind": "train",
        "step": step,
        "loss": output.loss,
        "env_ce": _mean(nll),
        "env_ce_by_source": {SOURCES[code].value: _mean(nll[sources == code]) for code in np.unique(sources)},
        "warning_ce": _mean(nlls[warnings]),
        "grad_norm": facts.grad_norm,
        "learning_rate": facts.learning_rate,
        "effective_lambda": compiled.effective_lambda,
        "world_model_coeff": facts.world_model_coeff,
        "has_env_signal": bool((compiled.batch.env_weights != 0).any()),
        **{name: compiled.counters[name] for name in LOGGED_COUNTERS},
        "tokens_per_second": len(nlls) / facts.train_seconds,
        "seconds": seconds,
    }
    if batch.trajectories is None:
        return row
    counters = compiled.counters
    num_groups = counters["num_groups"]
    without = counters["num_trajectories_without_observation"]
    terms = facts.terms
    return (
        row
        | {name: value for name, value in sorted(counters.items()) if name not in row}
        | rollout_row(batch.trajectories)
        | policy_row(compiled.batch, output)
        | {
            "policy_loss": output.policy_loss,
            "env_loss": output.env_loss,
            "kl_loss": output.kl_loss,
            "entropy_loss": output.entropy_loss,
            "has_policy_signal": bool(((compiled.batch.policy_weights != 0) & (compiled.batch.advantages != 0)).any()),
            "zero_variance_fraction": counters["num_zero_variance_groups"] / num_groups if num_groups else None,
            "without_observation_fraction": without / counters["num_trajectories"],
            "correct_fraction": batch.correct_fraction,
            "policy_grad_norm": None if terms is None else terms.policy_norm,
            "env_grad_norm": None if terms is None else terms.env_norm,
            "grad_cosine": None if terms is None else terms.cosine,
            "seconds_rollout": batch.rollout_seconds,
            "seconds_measuring": None if terms is None else terms.seconds,
            "num_passes": facts.num_passes,
            "push_mismatch": None if facts.sampler is None else facts.sampler.mean_difference,
            "seconds_push": None if facts.sampler is None else facts.sampler.push_seconds,
        }
    )


def _sources(sequences: Sequence[TokenizedTrajectory], num_tokens: int) -> NDArray[np.uint8]:
    """The source of each token; tokens that a control appended to the batch have none and are no targets."""
    sources = np.concatenate([sequence.sources for sequence in sequences])
    return np.concatenate([sources, np.zeros(num_tokens - len(sources), dtype=np.uint8)])


def validation_row(
    step: int, engine: Engine, trajectories: Sequence[Trajectory], sequences: Sequence[TokenizedTrajectory]
) -> MetricsRow:
    """Score the validation pool at T = 1 and return its row.

    Raises:
        DataError: the pool has no environment token, so it cannot select a model.
    """
    tokens = score_pool(engine, sequences)
    if not len(tokens):
        raise DataError("[data] validation has no token of role env_output, so it cannot select a checkpoint")
    derivable = label_tokens(tokens, trajectories).derivable
    return {
        "kind": "validation",
        "step": step,
        "env_ce": _mean(tokens.nll),
        "env_ce_derivable": _mean(tokens.nll[derivable]),
        "num_env_tokens": len(tokens),
    }


def _mean(values: NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
