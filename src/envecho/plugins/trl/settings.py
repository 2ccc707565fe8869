"""What of an `EchoConfig` and of a `GRPOTrainer` ECHO inside TRL can follow; all else is refused by name.

A setting that would do nothing, or that TRL owns, is an error before the first step and never a silent default. Not
here: what the settings do (`step_weights`, `trainer`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from transformers import ProcessorMixin

from envecho.errors import ConfigError
from envecho.losses import SPLIT_RULES
from envecho.objective import EchoConfig
from envecho.objective.config import FilterConfig, NoiseConfig, PolicyConfig, ScheduleConfig

if TYPE_CHECKING:
    from trl.trainer.grpo_trainer import GRPOTrainer

_OWNED_BY_TRL: Final = {
    "loss": "loss_type",
    "advantage": "scale_rewards",
    "clip_low": "epsilon",
    "clip_high": "epsilon_high",
    "ratio_denominator": "num_iterations and steps_per_generation",
    "importance_cap": "vllm_importance_sampling_clip_max",
    "kl_coeff": "beta",
    "entropy_coeff": "entropy_coef",
}
"""Policy settings and the argument of `GRPOConfig` that decides it here."""

_WHY_NOT: Final = {
    "filters": "TRL keeps no record of a rollout's calls; give rows an obs_mask of zeros instead",
    "noise.after_entropy_quantile": "TRL keeps no entropies of sampled actions",
    "noise.disagreement_weight": "TRL keeps no record of which observation answers which action",
    "noise.shuffle_observations": "the control needs whole records; `envecho train` has it",
    "schedule.target_ratio": "it measures gradients apart; `envecho train` has it",
    "schedule.measure_every": "it measures gradients apart; `envecho train` has it",
    "schedule.guard": "it follows the alarms of `envecho train`",
    "source_coeffs": "TRL's rows say whose a token is by role alone; use world_loss_target or an obs_mask of your own",
    "grader_is_target": "no grader's words stand in TRL's completions",
}


def refuse_options(echo: EchoConfig) -> None:
    """Raise ConfigError for the first option of the objective that cannot be followed inside TRL."""
    for name, argument in _OWNED_BY_TRL.items():
        if getattr(echo.policy, name) != PolicyConfig.model_fields[name].default:
            raise ConfigError(
                f"policy.{name} is {getattr(echo.policy, name)!r}, but inside TRL the policy term is TRL's own: set"
                f" GRPOConfig's {argument} and leave policy.{name} out of EchoConfig"
            )
    for name, reason in _WHY_NOT.items():
        if _differs(echo, name):
            raise ConfigError(f"EchoConfig.{name} cannot be followed inside TRL: {reason}")
    if echo.world_loss_target not in ("env_only", "all"):
        raise ConfigError(
            f"world_loss_target is {echo.world_loss_target!r}; inside TRL a row has obs_mask and warning_mask alone, so"
            " it is 'env_only' or 'all'. Put what else you select into the obs_mask of your rows"
        )
    if echo.preset.normalizer in SPLIT_RULES:
        raise ConfigError(
            f"the normalizer {echo.preset.normalizer!r} is a mean per micro-batch, which this plug-in exists to avoid;"
            " its split-free twin is 'global_token_mean'"
        )
    if not echo.use_rl and echo.world_model_coeff == 0:
        raise ConfigError("world_model_coeff is 0 and use_rl is false: nothing would be trained")


def refuse_setup(trainer: GRPOTrainer, echo: EchoConfig) -> None:
    """Raise ConfigError where ECHO would be inert or inexact in this trainer."""
    for refused in (_of_observations(trainer, echo), _of_model(trainer), _of_accumulation(trainer)):
        if refused is not None:
            raise ConfigError(refused)


def _of_observations(trainer: GRPOTrainer, echo: EchoConfig) -> str | None:
    tools, rollout_func = bool(trainer.tools), trainer.rollout_func is not None
    if not tools and not rollout_func:
        return (
            "nothing of a completion is an observation: pass environment_factory or tools (TRL calls them and appends"
            " what they say), or a rollout_func whose rows have obs_mask"
        )
    if tools and rollout_func:
        return (
            "rollout_func and tools are given together, and TRL then ignores the rows' env_mask; call the tools inside"
            " rollout_func, or leave it out"
        )
    if echo.tool_coeffs and rollout_func:
        return "tool_coeffs needs tools that TRL calls itself; a row of a rollout_func does not say which tool spoke"
    if isinstance(trainer.processing_class, ProcessorMixin):
        return "the model reads images: which tokens of a multimodal tool result are its words is not proved here"
    return None


def _of_model(trainer: GRPOTrainer) -> str | None:
    args: Any = trainer.args
    if args.torch_compile:
        return "torch_compile hides the hidden states that the environment term is read from; set torch_compile=False"
    plugin = args.deepspeed_plugin
    if plugin is not None and plugin.zero_stage == 3:
        return "DeepSpeed ZeRO-3 has no output embedding outside of its own forward; use ZeRO-2, FSDP or DDP"
    return None


def _of_accumulation(trainer: GRPOTrainer) -> str | None:
    args: Any = trainer.args
    generate_every = args.steps_per_generation * trainer.num_iterations
    if generate_every % args.gradient_accumulation_steps:
        return (
            f"gradient_accumulation_steps is {args.gradient_accumulation_steps}, but TRL generates every"
            f" {generate_every} micro-batches (steps_per_generation * num_iterations): an optimiser step would mix"
            " generations and its tokens cannot be counted before it begins. Make the second a multiple of the first"
        )
    return None


def _differs(echo: EchoConfig, name: str) -> bool:
    table, _, key = name.partition(".")
    if not key:
        default = EchoConfig.model_fields[table].default
        return getattr(echo, table) != (FilterConfig() if table == "filters" else default)
    defaults: Any = {"noise": NoiseConfig(), "schedule": ScheduleConfig()}[table]
    return getattr(getattr(echo, table), key) != getattr(defaults, key)
