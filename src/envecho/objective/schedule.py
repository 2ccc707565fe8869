"""world_model_coeff over the steps of a run, as a pure function.

Not here: what measures and reacts (`envecho.training.lambda_control`).
"""

from __future__ import annotations

from envecho.objective.config import EchoConfig


def lambda_at(config: EchoConfig, step: int, num_steps: int) -> float:
    """Return the scheduled world_model_coeff of step `step`, counted from 1, of a run of `num_steps`.

    `constant`: world_model_coeff. `step`: world_model_coeff before step `steps`, `end_coeff` from it on. `linear`: from
    world_model_coeff at step 1 to `end_coeff` at step `steps` (the last one where it is None), and `end_coeff` after.
    """
    schedule, start = config.schedule, config.world_model_coeff
    if schedule.kind == "constant":
        return start
    last = schedule.steps or num_steps
    if schedule.kind == "step":
        return start if step < last else schedule.end_coeff
    share = 1.0 if last == 1 else min(1.0, (step - 1) / (last - 1))
    return start + share * (schedule.end_coeff - start)
