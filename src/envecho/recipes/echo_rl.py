"""A configuration of echo-rl (github.com/microsoft/echo-rl) as one of ours: `envecho train --from-echo-rl FILE.yaml`.

    mapping = read_echo_rl(Path("qwen3_8b_rl_wm05.yaml"))
    mapping.document        tables of our TOML, without what their file cannot say: rollout.world, run.steps
    mapping.notes           one per key of their file: where it went, or why it has no counterpart
    config = echo_rl_config(path, ["rollout.world=tasks/", "run.steps=500"])

`python -m envecho.recipes.echo_rl FILE.yaml --set rollout.world=tasks/ --set run.steps=500` prints our TOML, with the
notes as comments, and trains nothing.

Every key is mapped or noted; a key that nobody knows, and a value that ours cannot do, are errors. Defaults that their
file leaves out are theirs, never ours. Not here: the table of keys (`echo_rl_keys`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from envecho.errors import ConfigError, did_you_mean
from envecho.recipes.echo_rl_keys import KEYS, SUBTREES
from envecho.training.config import RunConfig, overridden

_TABLES = {"data", "trainer", "generator", "environment"}
_A = "trainer.algorithm"


@dataclass(frozen=True, kw_only=True)
class Note:
    """What became of one key of their file; `to` is None where it has no place of its own in ours."""

    key: str
    value: Any
    to: str | None
    remark: str

    def __str__(self) -> str:
        left = f"{self.key} = {_shown(self.value)}"
        if self.to is not None:
            return f"{left}  ->  {self.to}" + (f"  ({self.remark})" if self.remark else "")
        return f"{left}  --  {self.remark}"


@dataclass(frozen=True, kw_only=True)
class EchoRlMapping:
    """Our document, and a note for each key of theirs."""

    document: dict[str, Any]
    notes: tuple[Note, ...]


def read_echo_rl(path: Path) -> EchoRlMapping:
    """Read a YAML file of echo-rl.

    Raises:
        ConfigError: it is absent or no YAML, a key is unknown, or a value has no counterpart.
    """
    leaves = _leaves(path)
    notes: list[Note] = []
    document: dict[str, Any] = {}
    for name, value in leaves.items():
        notes.append(_note(name, value, path))
    for name, key in KEYS.items():
        value = leaves.get(name, key.default)
        if key.only is not None and value not in key.only:
            expected = " or ".join(_shown(v) for v in key.only)
            raise ConfigError(f"{path}: {name} is {_shown(value)}, which has no counterpart ({expected}): {key.why}")
        if key.to is not None and value is not None:
            _put(document, key.to, key.convert(value) if key.convert else value)
    values = {name: leaves.get(name, key.default) for name, key in KEYS.items()}
    _objective(document, values, path)
    _rollouts(document, values, path)
    return EchoRlMapping(document=document, notes=tuple(notes))


def echo_rl_config(path: Path, overrides: Iterable[str] = ()) -> RunConfig:
    """Return the run that a file of echo-rl stands for, with `TABLE.KEY=VALUE` overrides.

    Raises:
        ConfigError: see `read_echo_rl`; or the overrides do not say what their file cannot.
    """
    document = overridden(read_echo_rl(path).document, overrides)
    rollout, run = document.get("rollout", {}), document.get("run", {})
    if not document.get("data", {}).get("train") and "world" not in rollout:
        raise ConfigError(
            f"{path}: its tasks lie in parquet files of echo-rl's own; say whose tasks ours are: --set"
            f" rollout.world=WORLD, where WORLD is terminal, tools, a folder of Harbor tasks, a URL or module:factory"
        )
    if document.get("data", {}).get("train"):
        document.pop("rollout", None)
        document.pop("world", None)
    if "steps" not in run:
        raise ConfigError(
            f"{path}: it counts epochs over its own parquet, ours counts optimiser steps: --set run.steps=N (the paper"
            f" has 500)"
        )
    schedule = document["objective"].get("schedule", {})
    if schedule.get("kind") == "linear" and "steps" not in schedule:
        # Theirs is (step - 1) / steps of the way at step `step`, counted from 1: it arrives one step after the last.
        schedule["steps"] = int(run["steps"]) + 1
    try:
        return RunConfig.from_document(document)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _leaves(path: Path) -> dict[str, Any]:
    """The leaves of the YAML file by dotted name; tables that have no counterpart whatever they hold stay whole."""
    try:
        parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: the file cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the file is no YAML: {error}") from error
    if not isinstance(parsed, Mapping):
        raise ConfigError(f"{path}: expected the tables {', '.join(sorted(_TABLES))}, found {_shown(parsed)}")
    found: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and prefix not in KEYS and prefix not in SUBTREES:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif isinstance(value, Mapping) and prefix in SUBTREES:
            known = {key: inner for key, inner in value.items() if f"{prefix}.{key}" in KEYS}
            for key, inner in known.items():
                found[f"{prefix}.{key}"] = inner
            if len(known) < len(value):
                found[prefix] = {key: inner for key, inner in value.items() if key not in known}
        else:
            found[prefix] = value

    walk("", dict(parsed))
    return found


def _note(name: str, value: Any, path: Path) -> Note:
    if name in KEYS:
        key = KEYS[name]
        same = key.to is None and key.only is not None
        return Note(key=name, value=value, to=key.to, remark="as ours" if same and not key.to else key.why)
    for subtree, why in SUBTREES.items():
        if name == subtree or name.startswith(f"{subtree}."):
            return Note(key=name, value=value, to=None, remark=why)
    last = {known.rpartition(".")[2]: known for known in KEYS}
    near = did_you_mean(name, KEYS) or did_you_mean(name.rpartition(".")[2], last)
    raise ConfigError(f"{path}: {name} is no key of echo-rl.{near}")


def _objective(document: dict[str, Any], values: Mapping[str, Any], path: Path) -> None:
    """What several keys decide together: targets, normaliser, advantage, KL, entropy and the schedule."""
    objective = document["objective"]
    objective["use_rl"] = True
    objective["world_loss_target"] = _target(values, path)
    reduction, over = values[f"{_A}.loss_reduction"], values[f"{_A}.world_loss_normalization"]
    rules = {
        ("sequence_mean", "full_observation_tokens"): "reference_sequence_mean",
        ("sequence_mean", "selected_tokens"): "sequence_mean_selected",
        ("token_mean", over): "global_token_mean",
        ("seq_mean_token_sum_norm", over): "constant_length",
    }
    if (reduction, over) not in rules:
        raise ConfigError(
            f"{path}: loss_reduction {reduction!r} with world_loss_normalization {over!r} is no rule of ours"
        )
    objective["normalizer"] = rules[reduction, over]
    if reduction == "seq_mean_token_sum_norm":
        objective["constant_length"] = values[f"{_A}.max_seq_len"]
    policy = objective.setdefault("policy", {})
    policy["advantage"] = _advantage(values, path)
    policy["kl_coeff"] = values[f"{_A}.kl_loss_coef"] if values[f"{_A}.use_kl_loss"] else 0.0
    policy["entropy_coeff"] = values[f"{_A}.entropy_loss_coef"] if values[f"{_A}.use_entropy_loss"] else 0.0
    # Theirs divides by the trainer's own log-probs of the phase's start; with one step per batch every ratio is 1.
    policy["ratio_denominator"] = "current"
    objective.update(_schedule(values, path))


def _target(values: Mapping[str, Any], path: Path) -> str:
    stated = values["generator.world_loss_target"]
    if stated is None:
        stated = "full_observation" if values["generator.world_loss_on_format_warn"] else "env_only"
    known = {"env_only": "reference", "warning_plus_env": "all"}
    if stated not in known:
        raise ConfigError(
            f"{path}: generator.world_loss_target is {stated!r}, which has no counterpart: the template's own tokens"
            f" and warnings alone are never targets; expected {' or '.join(known)}.{did_you_mean(str(stated), known)}"
        )
    return known[stated]


def _advantage(values: Mapping[str, Any], path: Path) -> str:
    name = values[f"{_A}.advantage_estimator"]
    if name == "grpo":
        return "group_std" if values[f"{_A}.grpo_norm_by_std"] else "group_mean"
    if name == "rloo":
        return "leave_one_out"
    raise ConfigError(f"{path}: {_A}.advantage_estimator is {name!r}, expected grpo or rloo: ours compares a group")


def _schedule(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    kind, end = values[f"{_A}.world_model_coeff_schedule"], values[f"{_A}.world_model_coeff_end"]
    if kind == "constant":
        return {}
    if kind == "linear_decay":
        return {"schedule": {"kind": "linear", "end_coeff": end}}
    if kind == "step_decay":
        # Theirs counts steps from 0 and has the end from the transition on; ours counts from 1.
        first = int(values[f"{_A}.world_model_coeff_transition_step"]) + 1
        return {"schedule": {"kind": "step", "end_coeff": end, "steps": first}}
    known = ("constant", "linear_decay", "step_decay")
    raise ConfigError(f"{path}: world_model_coeff_schedule is {kind!r}.{did_you_mean(str(kind), known)}")


def _rollouts(document: dict[str, Any], values: Mapping[str, Any], path: Path) -> None:
    prompts, mini = values["trainer.train_batch_size"], values["trainer.policy_mini_batch_size"]
    if mini != prompts:
        raise ConfigError(
            f"{path}: trainer.policy_mini_batch_size is {mini}, train_batch_size {prompts}: ours takes one optimiser"
            f" step per batch of rollouts; make them equal"
        )
    document["rollout"]["max_tokens_per_turn"] = values["generator.max_tokens_per_generation"]
    beta1, beta2 = values["trainer.policy.optimizer_config.adam_betas"]
    document["optimizer"] |= {"beta1": beta1, "beta2": beta2}
    if "name" not in document.get("model", {}):
        raise ConfigError(f"{path}: trainer.policy.model.path is missing: which model is trained?")


def _put(document: dict[str, Any], place: str, value: Any) -> None:
    *tables, name = place.split(".")
    section = document
    for table in tables:
        section = section.setdefault(table, {})
    section[name] = value


def _shown(value: Any) -> str:
    text = " ".join(str(value).split())
    return "null" if value is None else text if len(text) <= 60 else f"{text[:57]}..."


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override one key of our document.")
def main(file: Path, overrides: tuple[str, ...]) -> None:
    """Print the run that FILE stands for as TOML, and what became of each of its keys as comments."""
    try:
        notes, config = read_echo_rl(file).notes, echo_rl_config(file, overrides)
    except ConfigError as error:
        raise click.ClickException(str(error)) from None
    for note in notes:
        click.echo(f"# {note}")
    click.echo(config.to_toml())


if __name__ == "__main__":
    main()
