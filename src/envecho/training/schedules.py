"""The learning rate as a pure function of the step. Not here: the optimiser."""

from __future__ import annotations

from envecho.training.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of step `step`, counted from 1.

    `warmup(step) = min(1, step / warmup_steps)` (1 without warm-up);
    `constant: learning_rate * warmup(step)`; `linear: learning_rate * warmup(step) * (1 - (step - 1) / num_steps)`.
    """
    factor = min(1.0, step / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "linear":
        factor *= 1 - (step - 1) / num_steps
    return config.learning_rate * factor
