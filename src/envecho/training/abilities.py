"""What a run asks of its engine, said before the run: a list of abilities from the objective, against the engine's own.

Not here: what each ability means (`envecho.seam.Ability`), and how an engine does it.
"""

from __future__ import annotations

from typing import cast

from envecho.errors import ConfigError
from envecho.objective import EchoConfig
from envecho.seam import Ability, EngineCapabilities


def needed_abilities(objective: EchoConfig) -> dict[Ability, str]:
    """Return what a run with this objective asks of its engine, each with the key that asks for it."""
    policy, needed = objective.policy, dict[Ability, str]()
    if objective.use_rl:
        preset = objective.preset
        needed[cast(Ability, f"loss_{preset.spec_name}")] = f"policy.loss = {policy.loss!r}"
        if preset.spec_name != "sft":
            denominator = policy.ratio_denominator
            needed[cast(Ability, f"ratio_{denominator}")] = f"policy.ratio_denominator = {denominator!r}"
        if policy.importance_cap is not None:
            needed["importance_cap"] = "policy.importance_cap"
        if policy.kl_coeff:
            needed["kl"] = "policy.kl_coeff"
        if policy.entropy_coeff:
            needed["entropy_bonus"] = "policy.entropy_coeff"
    if objective.noise.nll_clip is not None:
        needed["env_nll_clip"] = "noise.nll_clip"
    if objective.schedule.measure_every:
        needed["term_gradients"] = "schedule.measure_every"
    return needed


def refuse_unable(able: EngineCapabilities, objective: EchoConfig) -> None:
    """Refuse an objective that this engine cannot train, with everything that it lacks in one error.

    Raises:
        ConfigError: the engine does not train, or lacks something that the objective asks for.
    """
    if not able.trains:
        raise ConfigError(f"the engine on {able.devices} was made to score and sample alone; it cannot train")
    missing = [
        f"[objective] {key}: {able.lacks[ability]}"
        for ability, key in needed_abilities(objective).items()
        if ability in able.lacks
    ]
    if missing:
        raise ConfigError(f"the engine on {able.devices} cannot do what the objective asks: {'; '.join(missing)}")
