"""`RunConfig`: the TOML file of a training run, one table per room.

    [model]       which weights, on what, in which precision
    [data]        pools of trajectories that exist: train, validation, held out
    [rollout]     the policy's own rollouts instead: which world, how many of which tasks, how long
    [sampler]     the model server that samples the turns of [rollout]; without it the engine does
    [world]       how the world of [rollout] is read, started and graded
    [evaluation]  held-out tasks and pools that are looked at during the run and never select a model
    [objective]   what is trained and what it is worth (`envecho.objective.EchoConfig`)
    [optimizer]   AdamW and its learning rate over the steps
    [health]      when an alarm is raised
    [run]         how many steps, of how many trajectories, and when to look and to save

A run has `[data] train` or `[rollout]`, never both.

Unknown keys are errors. `key=value` overrides and the file are the only two inputs; the resolved TOML is saved in the
run folder. Paths are relative to the working directory.
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from envecho.engines.precision import ComputeDtype, Trainable
from envecho.errors import ConfigError, did_you_mean
from envecho.objective import EchoConfig
from envecho.rollout import Schedule as RolloutSchedule
from envecho.rollout import ToolProtocol
from envecho.rollout.served import ServerKind
from envecho.rollout.served.engine import Pushes
from envecho.training.alarms import HealthConfig

Schedule = Literal["constant", "linear"]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class LoraConfig(_Table):
    """Table `[model.lora]`: an adapter is trained and the model stays frozen; as `LoraOptions` takes it."""

    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    targets: str | tuple[str, ...] = "all-linear"


class ModelConfig(_Table):
    """Table `[model]`: `name` as `resolve_model` takes it; the rest as `LocalEngine` takes it.

    `engine` "tinker" trains LoRA weights on a server behind the Tinker API, at `server` (None: the hosted service),
    which calls the model `base_model` (None: as `name`); tokenizer and template are those of `name` all the same.
    """

    name: str = "smollm2-135m"
    device: str = "auto"
    compute_dtype: ComputeDtype = "auto"
    tokens_per_micro_batch: int = Field(default=1024, ge=1)
    gradient_checkpointing: bool = False
    activation_memory_mb: int | None = Field(default=None, ge=1)
    trainable: Trainable = "all"
    lora: LoraConfig | None = None
    packing: bool = False
    engine: Literal["local", "tinker"] = "local"
    server: str | None = None
    base_model: str | None = None

    @model_validator(mode="after")
    def _a_server_is_told_what_it_can_follow(self) -> ModelConfig:
        if self.engine == "local":
            if self.server is not None or self.base_model is not None:
                raise ValueError("server and base_model belong to engine = 'tinker'")
            return self
        if self.lora is None:
            raise ValueError("engine 'tinker' trains LoRA weights alone: state [model.lora] rank")
        if self.lora != LoraConfig(rank=self.lora.rank):
            raise ValueError("lora.alpha and lora.targets are the server's choice under engine 'tinker'")
        passes = ("tokens_per_micro_batch", "gradient_checkpointing", "activation_memory_mb", "packing")
        theirs = ("device", "compute_dtype", *passes, "trainable")
        stated = [name for name in theirs if getattr(self, name) != type(self).model_fields[name].default]
        if stated:
            raise ValueError(f"{', '.join(stated)}: the server decides that under engine 'tinker'")
        return self

    @model_validator(mode="after")
    def _an_adapter_is_all_that_is_trained(self) -> ModelConfig:
        if self.lora is not None and self.trainable != "all":
            raise ValueError("trainable chooses among the model's own weights, which lora freezes: set lora.targets")
        return self


class SamplerConfig(_Table):
    """Table `[sampler]`: turns are sampled by a model server, which gets the weights before each batch of rollouts.

    `url` and `kind` name it, `model` the served name (None: its first). `folder` is where weights lie for it (None:
    `OUT/pushed`), `server_folder` the same folder as the server calls it. `pushes`: `weights`, or the `adapter` of
    `[model.lora]`. A run stops where its log-probs differ from the engine's by more than `most_mismatch` nats on
    average. `api_key_env` names the environment variable with its key.
    """

    url: str
    kind: ServerKind
    model: str | None = None
    folder: Path | None = None
    server_folder: PurePosixPath | None = None
    pushes: Pushes = "weights"
    most_mismatch: float = Field(default=0.1, gt=0)
    max_concurrent: int = Field(default=64, ge=1)
    request_seconds: float = Field(default=600.0, gt=0)
    api_key_env: str | None = None


class DataConfig(_Table):
    """Table `[data]`: Parquet files, folders or globs of trajectories.

    `validation` selects the checkpoint. `held_out` names the pools that judge the result later: training only proves
    that it shares no trajectory with them. `max_tokens` cuts longer sequences into windows (else the model's context).
    """

    train: tuple[str, ...] = ()
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


class RolloutConfig(_Table):
    """Table `[rollout]`: each step rolls out `rollouts_per_task` episodes (a group) of `tasks_per_step` tasks.

    `world` and `split` name the tasks, of these `families` alone where some are named, also in `[evaluation]`;
    `num_tasks` bounds their numbers (None: all of a finite split, else 1,000); an epoch shows each task once. The other
    keys are those of `envecho.rollout.RolloutParams`.
    """

    world: str = "terminal"
    split: str = "train"
    families: tuple[str, ...] = ()
    num_tasks: int | None = Field(default=None, ge=1)
    tasks_per_step: int = Field(default=8, ge=1)
    rollouts_per_task: int = Field(default=8, ge=1)
    max_turns: int = Field(default=6, ge=1)
    max_tokens_per_turn: int = Field(default=48, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    episodes_per_batch: int = Field(default=64, ge=1)
    command_seconds: float = Field(default=5.0, gt=0)
    sandbox: str = "bubblewrap"


class WorldConfig(_Table):
    """Table `[world]`: how the world that `[rollout] world` names is reached, shown to the policy, and waited for.

    The first five are those of `envecho.worlds.options.SuiteOptions`; `image` and `allow` belong to a `[rollout]
    sandbox` that is a provider. The others are those of `envecho.rollout.RolloutParams` and `WorldLimits`.
    """

    map: Path | None = None
    seed_actions: Path | None = None
    rubric: str | None = None
    image: str | None = None
    allow: tuple[str, ...] = ()
    tool_protocol: ToolProtocol = "text"
    schedule: RolloutSchedule = "lockstep"
    num_workers: int = Field(default=4, ge=1)
    max_live_episodes: int | None = Field(default=None, ge=1)
    episode_seconds: float | None = Field(default=None, gt=0)
    capacity_wait_seconds: float = Field(default=60.0, ge=0)
    max_attempts: int = Field(default=3, ge=1)


class EvaluationConfig(_Table):
    """Table `[evaluation]`: before the first step, every `every` steps (0: never) and after the last.

    The first `num_tasks` tasks of `split` are rolled out `rollouts_per_task` times each, with the same draws every
    time; `data` are pools of trajectories whose environment CE at T = 1 is measured. Nothing here selects a model.
    """

    every: int = Field(default=0, ge=0)
    split: str = "validation"
    num_tasks: int = Field(default=32, ge=1)
    rollouts_per_task: int = Field(default=1, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    data: tuple[str, ...] = ()


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
    keep_rollouts_every: int = Field(default=0, ge=0)


class RunConfig(_Table):
    """A whole training run; see the module."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    rollout: RolloutConfig | None = None
    sampler: SamplerConfig | None = None
    world: WorldConfig = WorldConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    objective: EchoConfig = EchoConfig(use_rl=False)
    optimizer: OptimizerConfig = OptimizerConfig()
    health: HealthConfig = HealthConfig()
    run: LoopConfig

    @model_validator(mode="after")
    def _something_is_trained(self) -> RunConfig:
        if not self.objective.use_rl and self.objective.world_model_coeff == 0:
            raise ValueError("[objective] world_model_coeff is 0 and use_rl is false: nothing would be trained")
        return self

    @model_validator(mode="after")
    def _there_is_one_source_of_trajectories(self) -> RunConfig:
        if bool(self.data.train) == (self.rollout is not None):
            found = "both" if self.data.train else "neither"
            raise ValueError(
                f"a run trains on [data] train (trajectories that exist) or on [rollout] (its own); found {found}"
            )
        if self.rollout is None and self.objective.noise.shuffle_observations:
            raise ValueError("[objective.noise] shuffle_observations is a control of runs with [rollout]")
        if self.rollout is None and self.sampler is not None:
            raise ValueError("[sampler] samples the turns of [rollout], and there is no [rollout]")
        if self.sampler is not None and self.sampler.pushes == "adapter" and self.model.lora is None:
            raise ValueError("[sampler] pushes is 'adapter', and there is no [model.lora]")
        if self.rollout is None and self.world != WorldConfig():
            raise ValueError("[world] says how the world of [rollout] is read, and there is no [rollout]")
        if self.rollout is None and self.evaluation.every:
            raise ValueError("[evaluation] every rolls out tasks of [rollout] world, and there is no [rollout]")
        if self.rollout is not None and self.rollout.rollouts_per_task == 1 and self.objective.samples_matter:
            raise ValueError("[rollout] rollouts_per_task is 1: a group of one has no advantage, take at least 2")
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
        on_policy = "rollout" in document
        objective = EchoConfig.from_table({"use_rl": on_policy} | dict(document.get("objective", {})))
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
    "rollout": RolloutConfig,
    "sampler": SamplerConfig,
    "world": WorldConfig,
    "evaluation": EvaluationConfig,
    "objective": EchoConfig,
    "optimizer": OptimizerConfig,
    "health": HealthConfig,
    "run": LoopConfig,
}


def load_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Read a TOML file, apply `TABLE.KEY=VALUE` overrides (VALUE as TOML; bare words are strings), and validate.

    Raises:
        ConfigError: the file is absent or no TOML, an override is no `TABLE.KEY=VALUE`, or the configuration is wrong.
    """
    try:
        return RunConfig.from_document(overridden(read_document(path), overrides))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def read_document(path: Path) -> dict[str, Any]:
    """Return a TOML file as it is.

    Raises:
        ConfigError: the file is absent or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the file cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the file is no TOML: {error}") from error


def overridden(document: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """Return a copy of a document with `TABLE.KEY=VALUE` overrides (VALUE as TOML; bare words are strings).

    Raises:
        ConfigError: an override is no `TABLE.KEY=VALUE`.
    """
    changed = copy.deepcopy(dict(document))
    for override in overrides:
        _apply(changed, override)
    return changed


def differing_keys(first: RunConfig, second: RunConfig) -> list[str]:
    """Return the `table.key` names whose values differ."""
    ours, theirs = first.model_dump(mode="json"), second.model_dump(mode="json")
    differing: list[str] = []
    for table in ours:
        one, other = ours[table] or {}, theirs[table] or {}
        differing += [f"{table}.{key}" for key in {**one, **other} if one.get(key) != other.get(key)]
    return differing


def _apply(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *tables, name = key.strip().split(".")
    if not equals or not tables or not all((*tables, name)):
        raise ConfigError(f"--set {override!r} is not TABLE.KEY=VALUE, such as optimizer.learning_rate=1e-4")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    section = document
    for table in tables:
        section = section.setdefault(table, {})
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
