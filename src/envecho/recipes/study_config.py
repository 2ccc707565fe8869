"""`StudyConfig`: the TOML file of a study, which says before the run what is compared, on what, and by which figure.

    [study]   name, question, seeds, threads, metric, checkpoint rule, compare_to
    [start]   how the model that all arms of a seed start from is made
    [base]    a whole run configuration as sub-tables: [base.model], [base.rollout], [base.objective], ...
    [[arms]]  name, label, set = {"objective.world_model_coeff" = 0.05}, and phases, one after the other

Strings may hold `{start}`, the folder that the start recipe filled, and `{out}`, the folder of the arm and seed.
Unknown keys are errors. Not here: running (`study`), the start recipes (`study_start`).
"""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envecho.errors import ConfigError, did_you_mean
from envecho.training.config import RunConfig

_NAME = r"^[a-z0-9][a-z0-9_.-]*$"
_RESERVED = ("start", "cost", "logs")
TABLES = ("study", "start", "base", "arms")


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Statement(_Table):
    """Table `[study]`: what is asked and how it will be judged, written down before the first run.

    `metric` is the figure that arms are compared by, over the tasks of `[base.evaluation] split`. `checkpoint` says
    which weights are judged: `last`, and no other rule exists, because any other would look at results to choose.
    """

    name: str = Field(pattern=_NAME)
    question: str = Field(min_length=1)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    threads: int = Field(default=1, ge=1)
    metric: Literal["solve_rate"] = "solve_rate"
    checkpoint: Literal["last"] = "last"
    compare_to: str = "grpo"

    @field_validator("seeds")
    @classmethod
    def _seeds_are_distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds) or min(seeds) < 0:
            raise ValueError("expected distinct seeds from 0")
        return seeds


class Start(_Table):
    """Table `[start]`: `recipe` is `none` (the model of `[base.model]` as it is) or a name in `study_start`.

    With `shared`, all seeds start from one model, made with seed 0; what they differ in is the rollouts alone.
    """

    recipe: str = "none"
    shared: bool = False
    parameters: dict[str, Any] = {}


class Phase(_Table):
    """One run of an arm: `steps` optimiser steps with the arm's and its own `set`, without the tables in `drop`.

    A phase starts from the last weights of the one before, with a new optimiser; its tasks and trajectories come in
    the order of its own steps, from the first (so all phases of all arms make the same evaluation draws).
    """

    steps: int = Field(ge=1)
    set: dict[str, Any] = {}
    drop: tuple[str, ...] = ()


class Arm(_Table):
    """One `[[arms]]`: what it changes in `[base]`. Without `phases` it is one run of `[base.run] steps`."""

    name: str = Field(pattern=_NAME)
    label: str = Field(min_length=1)
    set: dict[str, Any] = {}
    phases: tuple[Phase, ...] = ()


class StudyConfig(_Table):
    """A whole study; see the module. Every run that it asks for is validated when it is read."""

    study: Statement
    start: Start = Start()
    base: dict[str, Any]
    arms: tuple[Arm, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_fit(self) -> StudyConfig:
        names = [arm.name for arm in self.arms]
        for name in names:
            if names.count(name) > 1 or name in _RESERVED:
                raise ValueError(f"the arm name {name!r} is taken; arms need names of their own")
        if self.study.compare_to not in names:
            known = ", ".join(names)
            raise ValueError(
                f"study.compare_to is {self.study.compare_to!r}, which is no arm; arms: {known}."
                f"{did_you_mean(self.study.compare_to, names)}"
            )
        return self

    def arm(self, name: str) -> Arm:
        """Return the arm of this name.

        Raises:
            ConfigError: there is none.
        """
        for arm in self.arms:
            if arm.name == name:
                return arm
        names = [arm.name for arm in self.arms]
        raise ConfigError(f"no arm {name!r} in this study; arms: {', '.join(names)}.{did_you_mean(name, names)}")

    def phases(self, arm: Arm) -> tuple[Phase, ...]:
        """Return the arm's phases; an arm that states none has one."""
        return arm.phases or (Phase(steps=self.base["run"]["steps"]),)

    def run_configs(self, arm: Arm, seed: int, *, places: Mapping[str, str] | None = None) -> list[RunConfig]:
        """Return the configuration of each phase; `places` says what `{start}` and `{out}` stand for (None: kept).

        Raises:
            ConfigError: a phase is no valid run, selects a checkpoint by data, or would not be looked at.
        """
        configs: list[RunConfig] = []
        phases = self.phases(arm)
        for number, phase in enumerate(phases):
            document = copy.deepcopy(self.base)
            for key, value in {**arm.set, **phase.set}.items():
                _assign(document, key, value, arm=arm.name)
            for table in phase.drop:
                if document.pop(table, None) is None:
                    raise ConfigError(f"arm {arm.name}: drop names {table!r}, which [base] does not have")
            document.setdefault("run", {}).update(steps=phase.steps, seed=seed)
            name = self._model_name(phases, number)
            if name is not None:
                document.setdefault("model", {})["name"] = name
            try:
                config = RunConfig.from_document(_expand(document, places or {}))
            except ConfigError as error:
                raise ConfigError(f"arm {arm.name}, phase {number}: {error}") from None
            _check_phase(config, where=f"arm {arm.name}, phase {number}", is_last=number == len(phases) - 1)
            configs.append(config)
        return configs

    def _model_name(self, phases: tuple[Phase, ...], number: int) -> str | None:
        if number:
            return "{out}/" + f"phase-{number - 1}/checkpoints/step-{phases[number - 1].steps:06d}"
        return None if self.start.recipe == "none" else "{start}/model"


def load_study(path: Path) -> StudyConfig:
    """Read and validate a study, with every run that it asks for.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or states something that is not allowed.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error
    try:
        return study_from_document(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def study_from_document(document: Mapping[str, Any]) -> StudyConfig:
    """Build a study from what a TOML file holds; see `load_study`."""
    try:
        study = StudyConfig.model_validate(dict(document))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(detail) for detail in error.errors())) from None
    stated = study.base.get("run", {})
    if "steps" not in stated or "seed" in stated:
        raise ConfigError("[base.run] needs steps, and no seed: the seeds of a study are [study] seeds")
    for arm in study.arms:
        study.run_configs(arm, study.study.seeds[0])
    return study


def _check_phase(config: RunConfig, *, where: str, is_last: bool) -> None:
    if config.data.validation:
        raise ConfigError(
            f"{where}: [data] validation selects a checkpoint by its results, but the stated rule is"
            " checkpoint = 'last'; take it away"
        )
    if is_last and (config.rollout is None or not config.evaluation.every or not config.evaluation.data):
        raise ConfigError(
            f"{where}: the last phase of an arm needs [rollout], [evaluation] every and [evaluation] data, so that"
            " solve rate and held-out environment CE of every arm are known, that of world_model_coeff = 0 too"
        )


def _assign(document: dict[str, Any], key: str, value: Any, *, arm: str) -> None:
    *tables, name = key.split(".")
    if not tables or key in ("run.seed", "run.steps"):
        raise ConfigError(
            f"arm {arm}: set has the key {key!r}; expected TABLE.KEY, and neither run.seed ([study] seeds) nor"
            " run.steps (phases)"
        )
    section = document
    for table in tables:
        section = section.setdefault(table, {})
        if not isinstance(section, dict):
            raise ConfigError(f"arm {arm}: set {key!r}: {table} is a value, not a table")
    section[name] = copy.deepcopy(value)


def _expand(value: Any, places: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, place in places.items():
            value = value.replace("{" + name + "}", place)
        return value
    if isinstance(value, Mapping):
        return {key: _expand(inner, places) for key, inner in value.items()}
    return [_expand(inner, places) for inner in value] if isinstance(value, list | tuple) else value


def _explain(detail: Any) -> str:
    """One sentence for one pydantic error, with the nearest known key."""
    path = [str(part) for part in detail["loc"]]
    if detail["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"study": Statement, "start": Start, "arms": Arm}
        model = Phase if "phases" in path else models.get(path[0], StudyConfig)
        return f"unknown key {'.'.join(path)!r}.{did_you_mean(path[-1], model.model_fields)}"
    if detail["type"] == "literal_error":
        allowed = get_args(Statement.model_fields[path[-1]].annotation)
        return f"{'.'.join(path)} is {detail['input']!r}, expected {' or '.join(map(repr, allowed))}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{'.'.join(path)}: {message}" if path else message
