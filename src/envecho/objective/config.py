"""`EchoConfig`: every choice about what is trained and what it is worth.

Not here: how a choice becomes weights (`compile`), and anything about devices or steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envecho.errors import ConfigError, did_you_mean
from envecho.losses import NormalizerName, RatioDenominator
from envecho.tokens import WorldLossTarget
from envecho.tokens.targets import target_sources
from envecho.trajectory import Source


class EchoConfig(BaseModel):
    """The objective: `L = L_GRPO(actions) + world_model_coeff * L_env(observations)`; the TOML table `[objective]`.

    `world_loss_target` selects the tokens of the environment term: `env_only` is role env_output (RFC 010's default),
    `all` adds role warning, `reference` reproduces the mask of the paper's code (all observation text but its warnings
    prefix), `stdout` is standard output and tool results alone; `grader_is_target` adds the grader's words.
    `source_coeffs` multiply the weight of targets with that source. `use_rl = false` is verifier-free: no policy term.
    `normalizer` is a rule of `losses.weights`; `constant_length` belongs to the rule of that name. `advantage_std =
    false` leaves out the division by the group's standard deviation. The policy ratio is clipped to [1 - clip_low,
    1 + clip_high]; `ratio_denominator` says what it is over (`losses.PolicyLossSpec`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    world_model_coeff: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    world_loss_target: WorldLossTarget = "env_only"
    use_rl: bool = True
    normalizer: NormalizerName = "reference_sequence_mean"
    constant_length: int | None = Field(default=None, ge=1)
    source_coeffs: dict[Source, float] = {}
    grader_is_target: bool = False
    advantage_std: bool = True
    clip_low: float = Field(default=0.2, ge=0, le=1)
    clip_high: float = Field(default=0.2, ge=0, allow_inf_nan=False)
    ratio_denominator: RatioDenominator = "sampling"

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> EchoConfig:
        """Build the config from a TOML table.

        Raises:
            ConfigError: a key is unknown (with the nearest known one) or a value is not allowed.
        """
        for key in table:
            if key not in cls.model_fields:
                raise ConfigError(f"[objective] has an unknown key {key!r}.{did_you_mean(key, cls.model_fields)}")
        try:
            return cls.model_validate(dict(table))
        except ValidationError as error:
            raise ConfigError("[objective] " + "; ".join(_explain(cls, detail) for detail in error.errors())) from None

    @field_validator("source_coeffs")
    @classmethod
    def _coeffs_are_numbers_from_zero(cls, coeffs: dict[Source, float]) -> dict[Source, float]:
        for source, coeff in coeffs.items():
            if not 0 <= coeff < float("inf"):
                raise ValueError(f"the coefficient of {source} is {coeff}, expected a number from 0")
        return coeffs

    @model_validator(mode="after")
    def _coeffs_are_of_selected_sources(self) -> EchoConfig:
        selected = target_sources(self.world_loss_target, grader_is_target=self.grader_is_target)
        for source in self.source_coeffs.keys() - selected:
            raise ValueError(f"source_coeffs names {source}, which is no target under {self.world_loss_target!r}")
        return self

    @model_validator(mode="after")
    def _constant_length_belongs_to_its_rule(self) -> EchoConfig:
        if (self.normalizer == "constant_length") != (self.constant_length is not None):
            raise ValueError(
                f"constant_length is {self.constant_length} and normalizer is {self.normalizer!r}: the rule "
                f"'constant_length' needs it and no other takes it"
            )
        return self


def _explain(config: type[EchoConfig], detail: Any) -> str:
    """One sentence for one pydantic error, with the nearest allowed value where there is a list of them."""
    path = [str(part) for part in detail["loc"] if part != "[key]"]
    sentence = f"{'.'.join(path)}: {detail['msg']}" if path else str(detail["msg"])
    found = detail["input"]
    expected = str(detail.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
    return sentence + (did_you_mean(found, expected) if isinstance(found, str) else f" (found {found!r})")
