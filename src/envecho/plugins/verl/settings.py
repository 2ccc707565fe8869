"""What of an `EchoConfig` the plug-in for verl can follow; all else is refused by name, before the first step.

Not here: what the settings do (`step_weights`, `engine`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from envecho.errors import ConfigError
from envecho.losses import SPLIT_RULES
from envecho.objective import EchoConfig
from envecho.objective.config import FilterConfig, NoiseConfig, PolicyConfig, ScheduleConfig

_OWNED_BY_VERL: Final = {
    "loss": "actor.policy_loss.loss_mode",
    "advantage": "algorithm.adv_estimator",
    "clip_low": "actor.clip_ratio_low",
    "clip_high": "actor.clip_ratio_high",
    "ratio_denominator": "algorithm.rollout_correction.bypass_mode",
    "importance_cap": "algorithm.rollout_correction.rollout_is_threshold",
    "kl_coeff": "actor.kl_loss_coef",
    "entropy_coeff": "actor.entropy_coeff",
}
"""Policy settings and the key of verl's configuration that decides it."""


def verl_objective(table: Mapping[str, Any]) -> EchoConfig:
    """Read the objective of verl's `actor.fsdp_config.objective`, the keys of the TOML table `[objective]`.

    Raises:
        ConfigError: a key or value is unknown, or the plug-in cannot follow it.
    """
    echo = EchoConfig.from_table(table)
    for name, key in _OWNED_BY_VERL.items():
        if getattr(echo.policy, name) != PolicyConfig.model_fields[name].default:
            raise ConfigError(
                f"policy.{name} is {getattr(echo.policy, name)!r}, but inside verl the policy term is verl's own: set"
                f" {key} and leave policy.{name} out of the objective"
            )
    refused = _refused(echo)
    if refused is not None:
        raise ConfigError(f"the objective cannot be followed inside verl: {refused}")
    return echo


def _refused(echo: EchoConfig) -> str | None:
    if echo.tool_coeffs:
        return "rows do not say which tool spoke, so there are no tool_coeffs; use source_coeffs"
    if echo.filters != FilterConfig():
        return "rows keep no record of calls for [filters]; an agent loop of yours can set obs_mask to zeros instead"
    if echo.noise != NoiseConfig(nll_clip=echo.noise.nll_clip):
        return "of [noise] only nll_clip is known here; `envecho train` has the others"
    if echo.schedule != ScheduleConfig():
        return "verl tells a loss no step to schedule lambda by; `envecho train` has [schedule]"
    if echo.preset.normalizer in SPLIT_RULES:
        return (
            f"the normalizer {echo.preset.normalizer!r} is a mean per micro-batch; its split-free twin is"
            " 'global_token_mean'"
        )
    if not echo.use_rl and echo.world_model_coeff == 0:
        return "world_model_coeff is 0 and use_rl is false, so nothing would be trained"
    return None
