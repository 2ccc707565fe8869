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


def refuse_setup(config: Mapping[str, Any], *, allow_filter_groups: bool = False) -> None:
    """Refuse a configuration of verl under which ECHO would be absent, inexact or silently without its rows.

    Args:
        config: verl's whole configuration.
        allow_filter_groups: whether it is known that verl's group filter drops groups, with their observations.

    Raises:
        ConfigError: it says which key to set.
    """
    refused = _of_engine(config) or _of_actor(config) or _of_rollouts(config, allow_filter_groups)
    if refused is not None:
        raise ConfigError(refused)


def _of_engine(config: Mapping[str, Any]) -> str | None:
    if not _at(config, "trainer.use_v1"):
        return "verl's old trainer pads its batches and hands workers no extra_fields; set trainer.use_v1=True"
    strategy = _at(config, "actor_rollout_ref.actor.strategy")
    if strategy not in ("fsdp", "fsdp2"):
        return f"actor.strategy is {strategy!r}; ECHO is an engine for 'fsdp' and 'fsdp2'"
    target = str(_at(config, "actor_rollout_ref.actor.fsdp_config._target_"))
    if target.rpartition(".")[2] != "EchoFSDPEngineConfig":
        return (
            f"actor.fsdp_config._target_ is {target!r}, so the actor would train without ECHO; set"
            " actor_rollout_ref.actor.fsdp_config._target_=envecho.plugins.verl.EchoFSDPEngineConfig"
        )
    return None


def _of_actor(config: Mapping[str, Any]) -> str | None:
    actor = "actor_rollout_ref.actor"
    summed = _at(config, f"{actor}.loss_agg_mode") == "seq-mean-token-sum-norm"
    if summed and _at(config, f"{actor}.loss_scale_factor") is None:
        return LENGTH_OF_MICRO_BATCH
    if _at(config, "actor_rollout_ref.rollout.temperature") == 1.0:
        return None
    if _at(config, f"{actor}.fsdp_config.ulysses_sequence_parallel_size") not in (None, 1):
        return needs_whole_logits("ulysses_sequence_parallel_size")
    if _at(config, "actor_rollout_ref.model.use_fused_kernels"):
        return needs_whole_logits("use_fused_kernels")
    return None


def _of_rollouts(config: Mapping[str, Any], allow_filter_groups: bool) -> str | None:
    if not _at(config, "actor_rollout_ref.rollout.calculate_log_probs"):
        return "rows of sampled actions need log-probs; set actor_rollout_ref.rollout.calculate_log_probs=True"
    if _at(config, "algorithm.filter_groups.enable") and not allow_filter_groups:
        return (
            "algorithm.filter_groups drops the groups whose rewards are equal before they are trained, and their"
            " observations with them; switch it off, or state allow_filter_groups: true in the agent loop's YAML"
        )
    return None


def needs_whole_logits(name: str) -> str:
    """Say why a setting of verl's does not go with another temperature than 1."""
    return (
        f"actions are sampled at another temperature than 1, and {name} leaves no whole logits to read observations"
        " from at T = 1; switch it off, or set rollout.temperature=1.0"
    )


LENGTH_OF_MICRO_BATCH: Final = (
    "loss_agg_mode 'seq-mean-token-sum-norm' without loss_scale_factor divides by the longest response of each"
    " micro-batch, so no lambda is relative to it; set actor.loss_scale_factor"
)


def _at(config: Mapping[str, Any], path: str) -> Any:
    """The value of a dotted key, None where it is absent."""
    found: Any = config
    for key in path.split("."):
        found = found.get(key) if found is not None else None
    return found
