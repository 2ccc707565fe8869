"""world_model_coeff while a run goes on: the schedule, the measured share, and the guard.

    schedule      a function of the step (`envecho.objective.schedule`)
    target_ratio  scales it so that |gradient of the environment term| = target_ratio * |gradient of the policy term|
    guard         scales it down when a collapse alarm begins

Both scales are one number that the checkpoint keeps. Not here: what measures the gradients (the engine).
"""

from __future__ import annotations

from typing import final

from envecho.objective import EchoConfig, lambda_at
from envecho.seam import TermGradients

MOST_CHANGE = 4.0
"""A measurement moves the scale by at most this factor: gradients of one step are noisy."""


@final
class LambdaControl:
    """The coefficient in force; `scale` is what measurements and alarms have made of the schedule's."""

    def __init__(self, config: EchoConfig, *, num_steps: int, scale: float = 1.0) -> None:
        self._config, self._num_steps = config, num_steps
        self.scale = scale

    def coeff(self, step: int) -> float:
        """Return world_model_coeff of step `step`, counted from 1."""
        return lambda_at(self._config, step, self._num_steps) * self.scale

    def measures_at(self, step: int) -> bool:
        """Whether the terms' gradients are measured apart in this step: the first, and every `measure_every`."""
        every = self._config.schedule.measure_every
        return every > 0 and (step - 1) % every == 0

    def observe(self, measured: TermGradients) -> float:
        """Take in a measurement and return the factor by which the coefficient of this step changes.

        Without `target_ratio`, or where one of the terms has no gradient in this step, the factor is 1.
        """
        target = self._config.schedule.target_ratio
        if target is None or not measured.policy_norm or not measured.env_norm:
            return 1.0
        factor = target * measured.policy_norm / measured.env_norm
        factor = min(MOST_CHANGE, max(1 / MOST_CHANGE, factor))
        self.scale *= factor
        return factor

    def guard(self) -> bool:
        """A collapse alarm has begun: lower the coefficient if the configuration says so, and say whether it did."""
        if not self._config.schedule.guard:
            return False
        self.scale *= self._config.schedule.guard_factor
        return True
