"""`EchoConfig`: every choice about what is trained and what it is worth.

Not here: how a choice becomes weights (`compile`), and anything about devices or steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envecho.errors import ConfigError, did_you_mean
from envecho.losses import (
    AdvantageName,
    NormalizerName,
    PolicyLossChoice,
    PolicyPreset,
    RatioDenominator,
    policy_preset,
)
from envecho.tokens import WorldLossTarget
from envecho.tokens.targets import target_sources
from envecho.trajectory import Source


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PolicyConfig(_Table):
    """The policy term; the TOML table `[objective.policy]`.

    `loss`: `grpo`, `dr_grpo`, `dapo`, `cispo`, `gspo`, or `sft` (cross-entropy on the actions that are there: no
    reward, group or sampling log-prob is asked for). `advantage` None takes the loss's own: `group_std` ((r - mean) /
    std), `group_mean` (r - mean, Dr. GRPO) or `leave_one_out` (r - mean of the others, RLOO). The ratio is clipped to
    [1 - clip_low, 1 + clip_high], None takes the loss's own; `ratio_denominator` says what it is over and
    `importance_cap` truncates the mismatch of sampler and trainer (`losses.PolicyLossSpec`). `kl_coeff` weighs k3 to
    the reference model, `entropy_coeff` rewards entropy; both divided as the policy term is.
    """

    loss: PolicyLossChoice = "grpo"
    advantage: AdvantageName | None = None
    clip_low: float | None = Field(default=None, ge=0, le=1)
    clip_high: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    ratio_denominator: RatioDenominator = "sampling"
    importance_cap: float | None = Field(default=None, gt=0)
    kl_coeff: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    entropy_coeff: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class FilterConfig(_Table):
    """RFC 010's rollout filters, which say whose observations are trained; the TOML table `[objective.filters]`.

    A rollout below `min_valid_call_fraction` or `min_parse_clean_fraction` keeps its policy term and loses its
    environment term. `correct_fraction` is the share of correct rollouts among those that feed the environment term:
    incorrect ones are left out at random (seeded) until it is reached; 0.0 and 1.0 are allowed; None: no filter. A
    rollout is correct from a reward of `correct_reward` on.
    """

    min_valid_call_fraction: float | None = Field(default=None, ge=0, le=1)
    min_parse_clean_fraction: float | None = Field(default=None, ge=0, le=1)
    correct_fraction: float | None = Field(default=None, ge=0, le=1)
    correct_reward: float = 1.0
    seed: int = Field(default=0, ge=0)


class NoiseConfig(_Table):
    """Options of the environment term against noise, and its control; the TOML table `[objective.noise]`. All off.

    `nll_clip`: tokens above this many nats get no gradient. `after_entropy_quantile`: only observations that answer an
    action whose mean token entropy is at or above this quantile of the step (PaW, arXiv:2606.02388).
    `disagreement_weight`: what a target counts on which all other runs of the same actions disagree (`agreement`).
    `shuffle_observations`: the control that trains each observation behind the history of another rollout of the step.
    """

    nll_clip: float | None = Field(default=None, gt=0)
    after_entropy_quantile: float | None = Field(default=None, ge=0, le=1)
    disagreement_weight: float | None = Field(default=None, ge=0, le=1)
    shuffle_observations: bool = False

    @model_validator(mode="after")
    def _shuffled_runs_cannot_be_compared(self) -> NoiseConfig:
        if self.shuffle_observations and self.disagreement_weight is not None:
            raise ValueError(
                "disagreement_weight compares runs of the same actions, which shuffle_observations mixes up"
            )
        return self


class ScheduleConfig(_Table):
    """world_model_coeff over the steps of a run; the TOML table `[objective.schedule]`.

    `kind`: `constant`; `linear` from world_model_coeff at the first step to `end_coeff` at step `steps` (None: the
    run's last); `step` to `end_coeff` from step `steps` on. `target_ratio` (not with a schedule) scales
    world_model_coeff so that the environment term's gradient norm is this share of the policy term's, both measured
    every `measure_every` steps. `guard` multiplies world_model_coeff by `guard_factor` whenever a collapse alarm fires.
    """

    kind: Literal["constant", "linear", "step"] = "constant"
    end_coeff: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    steps: int | None = Field(default=None, ge=1)
    target_ratio: float | None = Field(default=None, gt=0)
    measure_every: int = Field(default=0, ge=0)
    guard: bool = False
    guard_factor: float = Field(default=0.5, ge=0, lt=1)


class EchoConfig(BaseModel):
    """The objective: `L = L_GRPO(actions) + world_model_coeff * L_env(observations)`; the TOML table `[objective]`.

    `world_loss_target` selects the tokens of the environment term: `env_only` is role env_output (RFC 010's default),
    `all` adds role warning, `reference` reproduces the mask of the paper's code (all observation text but its warnings
    prefix), `stdout` is standard output and tool results alone; `grader_is_target` adds the grader's words.
    `source_coeffs` multiply the weight of targets with that source, `tool_coeffs` that of targets from that tool.
    `use_rl = false` is verifier-free: no policy term. `normalizer` is a rule of `losses.weights`; None takes the policy
    loss's own; `constant_length` belongs to the rule of that name. The tables `policy`, `filters`, `noise` and
    `schedule` are documented at their classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    world_model_coeff: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    world_loss_target: WorldLossTarget = "env_only"
    use_rl: bool = True
    normalizer: NormalizerName | None = None
    constant_length: int | None = Field(default=None, ge=1)
    source_coeffs: dict[Source, float] = {}
    tool_coeffs: dict[str, float] = {}
    grader_is_target: bool = False
    policy: PolicyConfig = PolicyConfig()
    filters: FilterConfig = FilterConfig()
    noise: NoiseConfig = NoiseConfig()
    schedule: ScheduleConfig = ScheduleConfig()

    @property
    def preset(self) -> PolicyPreset:
        """The policy term's settings: those of the loss's paper with what this config states instead."""
        stated = {
            "advantage": self.policy.advantage,
            "clip_low": self.policy.clip_low,
            "clip_high": self.policy.clip_high,
            "normalizer": self.normalizer,
        }
        preset = policy_preset(self.policy.loss)
        return dataclasses.replace(preset, **{name: value for name, value in stated.items() if value is not None})  # pyright: ignore[reportArgumentType]

    @property
    def samples_matter(self) -> bool:
        """Whether the policy term needs rewards, groups and sampling log-probs."""
        return self.use_rl and self.policy.loss != "sft"

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> EchoConfig:
        """Build the config from a TOML table.

        Raises:
            ConfigError: a key is unknown (with the nearest known one) or a value is not allowed.
        """
        _require_known(cls, table, "objective")
        for name, nested in _NESTED.items():
            inner = table.get(name, {})
            if isinstance(inner, Mapping):
                _require_known(nested, inner, f"objective.{name}")  # pyright: ignore[reportUnknownArgumentType]
        try:
            return cls.model_validate(dict(table))
        except ValidationError as error:
            raise ConfigError("[objective] " + "; ".join(_explain(detail) for detail in error.errors())) from None

    @field_validator("source_coeffs", "tool_coeffs")
    @classmethod
    def _coeffs_are_numbers_from_zero(cls, coeffs: dict[str, float]) -> dict[str, float]:
        for name, coeff in coeffs.items():
            if not 0 <= coeff < float("inf"):
                raise ValueError(f"the coefficient of {name} is {coeff}, expected a number from 0")
        return coeffs

    @model_validator(mode="after")
    def _coeffs_are_of_selected_sources(self) -> EchoConfig:
        selected = target_sources(self.world_loss_target, grader_is_target=self.grader_is_target)
        for source in self.source_coeffs.keys() - selected:
            raise ValueError(f"source_coeffs names {source}, which is no target under {self.world_loss_target!r}")
        return self

    @model_validator(mode="after")
    def _constant_length_belongs_to_its_rule(self) -> EchoConfig:
        rule = self.preset.normalizer
        if (rule == "constant_length") != (self.constant_length is not None):
            raise ValueError(
                f"constant_length is {self.constant_length} and the normalizer is {rule!r}: the rule "
                f"'constant_length' (which dr_grpo takes) needs it and no other takes it"
            )
        return self

    @model_validator(mode="after")
    def _policy_settings_fit_the_loss(self) -> EchoConfig:
        policy = self.policy
        if policy.loss == "sft":
            of_samples = ("advantage", "clip_low", "clip_high", "importance_cap")
            stated = [name for name in of_samples if getattr(policy, name) is not None]
            stated += ["ratio_denominator"] if policy.ratio_denominator != "sampling" else []
            if stated:
                raise ValueError(f"policy.{stated[0]} has no meaning for policy.loss = 'sft', which has no ratio")
        if policy.importance_cap is not None and policy.ratio_denominator != "proximal":
            raise ValueError(
                "policy.importance_cap truncates proximal over sampling probability: set policy.ratio_denominator ="
                " 'proximal'"
            )
        return self

    @model_validator(mode="after")
    def _schedule_is_one_rule(self) -> EchoConfig:
        schedule = self.schedule
        if schedule.target_ratio is not None:
            if schedule.kind != "constant":
                raise ValueError(
                    f"schedule.target_ratio sets lambda itself and excludes schedule.kind {schedule.kind!r}"
                )
            if not schedule.measure_every:
                raise ValueError("schedule.target_ratio needs schedule.measure_every, from 1 on")
            if not (self.use_rl and self.world_model_coeff > 0):
                raise ValueError("schedule.target_ratio needs use_rl and a world_model_coeff above 0 to start from")
        if schedule.kind == "step" and schedule.steps is None:
            raise ValueError("schedule.kind 'step' needs schedule.steps, the first step with end_coeff")
        return self


_NESTED: dict[str, type[BaseModel]] = {
    "policy": PolicyConfig,
    "filters": FilterConfig,
    "noise": NoiseConfig,
    "schedule": ScheduleConfig,
}


def _require_known(config: type[BaseModel], table: Mapping[str, Any], path: str) -> None:
    for key in table:
        if key not in config.model_fields:
            raise ConfigError(f"[{path}] has an unknown key {key!r}.{did_you_mean(key, config.model_fields)}")


def _explain(detail: Any) -> str:
    """One sentence for one pydantic error, with the nearest allowed value where there is a list of them."""
    path = [str(part) for part in detail["loc"] if part != "[key]"]
    message = str(detail["msg"]).removeprefix("Value error, ")
    sentence = f"{'.'.join(path)}: {message}" if path else message
    found = detail["input"]
    if isinstance(found, BaseModel) or (isinstance(found, Mapping) and not path):
        return sentence
    expected = str(detail.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    return sentence + (did_you_mean(found, expected) if isinstance(found, str) else f" (found {found!r})")
