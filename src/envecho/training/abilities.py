"""What a run asks of its engine, said before the run: a list of abilities from its configuration, against the engine's.

Not here: what each ability means (`envecho.seam.Ability`), and how an engine does it.
"""

from __future__ import annotations

import math
from typing import cast

from envecho.errors import ConfigError
from envecho.objective import EchoConfig
from envecho.seam import Ability, EngineCapabilities
from envecho.training.config import RunConfig


def needed_abilities(config: RunConfig) -> dict[Ability, str]:
    """Return what a run asks of its engine, each with the key that asks for it."""
    needed = _of_objective(config.objective)
    if math.isfinite(config.optimizer.grad_clip_norm):
        needed["grad_clip"] = f"[optimizer] grad_clip_norm = {config.optimizer.grad_clip_norm} (inf: no clip)"
    if config.objective.samples_matter and config.rollout is not None and config.rollout.temperature != 1:
        needed["policy_temperature"] = f"[rollout] temperature = {config.rollout.temperature}"
    return needed


def _of_objective(objective: EchoConfig) -> dict[Ability, str]:
    policy, needed = objective.policy, dict[Ability, str]()
    if objective.use_rl:
        preset = objective.preset
        needed[cast(Ability, f"loss_{preset.spec_name}")] = f"[objective] policy.loss = {policy.loss!r}"
        if preset.spec_name != "sft":
            denominator = policy.ratio_denominator
            needed[cast(Ability, f"ratio_{denominator}")] = f"[objective] policy.ratio_denominator = {denominator!r}"
        if policy.importance_cap is not None:
            needed["importance_cap"] = "[objective] policy.importance_cap"
        if policy.kl_coeff:
            needed["kl"] = "[objective] policy.kl_coeff"
        if policy.entropy_coeff:
            needed["entropy_bonus"] = "[objective] policy.entropy_coeff"
    if objective.noise.nll_clip is not None:
        needed["env_nll_clip"] = "[objective] noise.nll_clip"
    if objective.schedule.measure_every:
        needed["term_gradients"] = "[objective] schedule.measure_every"
    return needed


def refuse_unable(able: EngineCapabilities, config: RunConfig) -> None:
    """Refuse a run that this engine cannot carry out, with everything that it lacks in one error.

    Raises:
        ConfigError: the engine does not train, or lacks something that the configuration asks for.
    """
    if not able.trains:
        raise ConfigError(f"the engine on {able.devices} was made to score and sample alone; it cannot train")
    missing = [
        f"{key}: {able.lacks[ability]}" for ability, key in needed_abilities(config).items() if ability in able.lacks
    ]
    if missing:
        raise ConfigError(f"the engine on {able.devices} cannot do what the configuration asks: {'; '.join(missing)}")
