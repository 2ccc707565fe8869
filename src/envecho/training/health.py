"""What is logged of a step and of a look at the validation pool; docs/metrics.md defines every key.

Not here: the file (`metrics`), and anything that changes what is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.evaluation import label_tokens, score_pool
from envecho.objective import CompiledBatch
from envecho.seam import Engine, ForwardBackwardOutput
from envecho.tokens import TokenizedTrajectory
from envecho.training.metrics import MetricsRow
from envecho.trajectory import SOURCES, Trajectory

LOGGED_COUNTERS = (
    "num_env_tokens",
    "num_context_tokens",
    "num_action_tokens",
    "num_env_output_tokens",
    "num_warning_tokens",
    "num_repeated_tokens",
    "num_sequences",
    "num_trajectories",
    "num_trajectories_without_observation",
)
"""The counters of `compile_batch` that a train row repeats."""


def train_row(
    step: int,
    *,
    compiled: CompiledBatch,
    sequences: Sequence[TokenizedTrajectory],
    output: ForwardBackwardOutput,
    grad_norm: float,
    learning_rate: float,
    seconds: float,
) -> MetricsRow:
    """Return the row of one optimiser step; `seconds` is what compiling, forward, backward and step took."""
    targets = compiled.batch.env_targets.numpy()
    nll = -output.env_logprobs.astype(np.float64)[targets]
    sources = np.concatenate([sequence.sources for sequence in sequences])[targets]
    return {
        "kind": "train",
        "step": step,
        "loss": output.loss,
        "env_ce": _mean(nll),
        "env_ce_by_source": {SOURCES[code].value: _mean(nll[sources == code]) for code in np.unique(sources)},
        "grad_norm": grad_norm,
        "learning_rate": learning_rate,
        "effective_lambda": compiled.effective_lambda,
        **{name: compiled.counters[name] for name in LOGGED_COUNTERS},
        "tokens_per_second": len(targets) / seconds,
        "seconds": seconds,
    }


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
