"""`RunConfig`: the TOML file of a training run, one table per room.

    [model]      which weights, on what, in which precision
    [data]       pools of trajectories: train, validation, held out
    [objective]  what is trained and what it is worth (`envecho.objective.EchoConfig`)
    [optimizer]  AdamW and its learning rate over the steps
    [run]        how many steps, of how many trajectories, and when to look and to save

Unknown keys are errors. `key=value` overrides and the file are the only two inputs; the resolved TOML is saved in the
run folder. Paths are relative to the working directory.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from envecho.engines.precision import ComputeDtype, Trainable
from envecho.errors import ConfigError, did_you_mean
from envecho.objective import EchoConfig

Schedule = Literal["constant", "linear"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelConfig(_Table):
    """Table `[model]`: `name` as `resolve_model` takes it; the rest as `LocalEngine` takes it."""

    name: str = "smollm2-135m"
    device: str = "auto"
    compute_dtype: ComputeDtype = "auto"
    tokens_per_micro_batch: int = Field(default=1024, ge=1)
    gradient_checkpointing: bool = False
    trainable: Trainable = "all"


class DataConfig(_Table):
    """Table `[data]`: Parquet files, folders or globs of trajectories.

    `validation` selects the checkpoint. `held_out` names the pools that judge the result later: training only proves
    that it shares no trajectory with them. `max_tokens` cuts longer sequences into windows (else the model's context).
    """

    train: tuple[str, ...] = Field(min_length=1)
    validation: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    max_tokens: int | None = Field(default=None, ge=2)

    @model_validator(mode="before")
    @classmethod
    def _one_path_is_a_list(cls, table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        pools = ("train", "validation", "held_out")
        return {k: [v] if k in pools and isinstance(v, str) else v for k, v in table.items()}


class OptimizerConfig(_Table):
    """Table `[optimizer]`: AdamW. `linear` falls from `learning_rate` to 0 over the run, after `warmup_steps`."""

    learning_rate: float = Field(default=5e-5, gt=0)
    schedule: Schedule = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.999, ge=0, lt=1)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip_norm: float = Field(default=1.0, gt=0)


class LoopConfig(_Table):
    """Table `[run]`. `validate_every` and `checkpoint_every` count steps.

    Validation also happens before the first step and after the last; `validate_every = 0` leaves it at these two.
    `checkpoint_every = 0` keeps the weights of the best model alone: little disk and time, and nothing to resume from.
    """

    steps: int = Field(ge=1)
    trajectories_per_step: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0)
    validate_every: int = Field(default=20, ge=0)
    checkpoint_every: int = Field(default=100, ge=0)


class RunConfig(_Table):
    """A whole training run; see the module."""

    model: ModelConfig = ModelConfig()
    data: DataConfig
    objective: EchoConfig = EchoConfig(use_rl=False)
    optimizer: OptimizerConfig = OptimizerConfig()
    run: LoopConfig

    @model_validator(mode="after")
    def _something_is_trained(self) -> RunConfig:
        if self.objective.use_rl:
            raise ValueError(
                "[objective] use_rl is true: rollouts on policy come with a later version; set use_rl = false for"
                " verifier-free training on trajectories that exist"
            )
        if self.objective.world_model_coeff == 0:
            raise ValueError("[objective] world_model_coeff is 0 and use_rl is false: nothing would be trained")
        return self

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> RunConfig:
        """Build the config from a parsed TOML document.

        Raises:
            ConfigError: an unknown table or key (with the nearest known one), or a value that is not allowed.
        """
        known = cls.model_fields
        for name, table in document.items():
            if name not in known:
                raise ConfigError(f"unknown table [{name}]; known: {', '.join(known)}.{did_you_mean(name, known)}")
            if not isinstance(table, Mapping):
                raise ConfigError(f"{name} is a value, expected a table [{name}]")
        objective = EchoConfig.from_table({"use_rl": False} | dict(document.get("objective", {})))
        try:
            return cls.model_validate({**document, "objective": objective})
        except ValidationError as error:
            raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from None

    def to_toml(self) -> str:
        """Return the resolved configuration as TOML; `from_document` of it gives an equal config."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


_TABLES: dict[str, type[BaseModel]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "objective": EchoConfig,
    "optimizer": OptimizerConfig,
    "run": LoopConfig,
}


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file, apply `TABLE.KEY=VALUE` overrides (VALUE as TOML; bare words are strings), and validate.

    Raises:
        ConfigError: the file is absent or no TOML, an override is no `TABLE.KEY=VALUE`, or the configuration is wrong.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    for override in overrides:
        _apply(document, override)
    try:
        return RunConfig.from_document(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def differing_keys(first: RunConfig, second: RunConfig) -> list[str]:
    """Return the `table.key` names whose values differ."""
    ours, theirs = first.model_dump(mode="json"), second.model_dump(mode="json")
    return [f"{table}.{key}" for table in ours for key in ours[table] if ours[table][key] != theirs[table][key]]


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    table, dot, name = key.strip().partition(".")
    if not equals or not dot or not name or "." in name:
        raise ConfigError(f"--set {override!r} is not TABLE.KEY=VALUE, such as optimizer.learning_rate=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    section = document.setdefault(table, {})
    if not isinstance(section, dict):
        raise ConfigError(f"--set {override!r}: {table} is a value, not a table")
    section[name] = value


def _explain(detail: Any) -> str:
    """One sentence for one pydantic error, with its table and key."""
    table, *keys = [str(part) for part in detail["loc"]] or [""]
    if not table:
        return str(detail["msg"]).removeprefix("Value error, ")
    key = ".".join(keys)
    if detail["type"] == "extra_forbidden":
        known = list(_TABLES[table].model_fields)
        return f"[{table}] has an unknown key {key!r}; known: {', '.join(known)}.{did_you_mean(key, known)}"
    if detail["type"] == "missing":
        return f"[{table}] needs {key}" if key else f"the table [{table}] is missing"
    found = f" (found {detail['input']!r})" if key else ""
    return f"[{table}] {key}: {detail['msg']}{found}".replace("  ", " ")
