"""`envecho train`: a TOML file, or a live world, and a folder in; a run folder out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envecho.training.config import RunConfig


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option(
    "--world", metavar="WORLD",
    help="Train on this world: the rollouts of CONFIG's [rollout] run in it; without [rollout], an explorer collects "
    "the episodes first. A name, a URL, a folder of tasks, module:factory.",
)  # fmt: skip
@click.option(
    "--episodes", type=click.IntRange(min=1), default=64, show_default=True,
    help="Episodes that the explorer collects to train on; an eighth of them each to validate and to hold out.",
)  # fmt: skip
@click.option("--world-map", type=click.Path(path_type=Path), help="TOML: how the observations of --world are read.")
@click.option("--seed-actions", type=click.Path(path_type=Path), help="TOML: actions that the explorer may take.")
@click.option(
    "--from-echo-rl", "echo_rl", type=click.Path(path_type=Path), metavar="FILE.yaml",
    help="Train what a configuration of echo-rl stands for, instead of CONFIG; what became of each key is printed.",
)  # fmt: skip
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override one key of the TOML file.")
@click.option("--resume", is_flag=True, help="Continue the run in the folder, bit for bit.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the folder; its trajectories stay.")
@click.option(
    "--track", "trackers", type=click.Choice(["tensorboard", "trackio"]), multiple=True,
    help="Send the metrics there too; needs envecho[track].",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    config: Path | None, out: Path, overrides: tuple[str, ...], resume: bool, overwrite: bool,
    trackers: tuple[str, ...], as_json: bool, **live: Any,
) -> None:  # fmt: skip
    """Train a model as CONFIG says, and keep the one that its validation pool selects.

    \b
    envecho train configs/terminal-echo.toml --out runs/echo
    envecho train --world http://127.0.0.1:8000 --out runs/explored      # no policy, no grader, no configuration
    """
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from envecho.collector import paused_collector

    with paused_collector():
        from envecho.training.loop import train
        from envecho.training.progress import show_progress
        from envecho.training.summary import write_summary
        from envecho.training.trackers import open_trackers

    run_config = _run_config(config, out, overrides, **live)
    with open_trackers(trackers, out, run_config) as track, show_progress() as show:

        def on_event(event: Mapping[str, Any]) -> None:
            track(event)
            show(event)

        result = train(run_config, out, resume=resume, overwrite=overwrite, on_event=on_event)
    write_summary(run_config, result, out)
    if as_json:
        fields = dataclasses.asdict(result) | {"best_checkpoint": str(result.best_checkpoint)}
        click.echo(json.dumps(fields))
        return
    click.echo(f"best model: {result.best_checkpoint} (step {result.best_step} of {result.steps})")
    if result.best_env_ce is not None and result.base_env_ce is not None:
        click.echo(f"validation env CE: {result.base_env_ce:.4f} -> {result.best_env_ce:.4f} nats per token")
        if result.best_env_ce >= result.base_env_ce:
            click.echo("the trained model is no better than the base model on the validation pool")
    if result.num_steps_without_signal:
        click.echo(f"{result.num_steps_without_signal} steps had no token to train")
    if live["world"] is not None and run_config.rollout is None:
        pools = out / "trajectories"
        click.echo(
            f"held out: envecho eval --model {result.best_checkpoint} --base {run_config.model.name} "
            f"--data {pools / 'held_out.parquet'} --train {pools / 'train.parquet'}"
        )


def _run_config(
    config: Path | None, out: Path, overrides: tuple[str, ...], *, world: str | None, echo_rl: Path | None,
    episodes: int, world_map: Path | None, seed_actions: Path | None,
) -> RunConfig:  # fmt: skip
    """Return the configuration of the run; in a live world without `[rollout]` the pools are collected here."""
    if echo_rl is not None:
        if config is not None or world is not None:
            raise click.UsageError("--from-echo-rl takes the place of CONFIG and --world; choose with --set")
        return _echo_rl_config(echo_rl, overrides)
    if world is None:
        if config is None:
            raise click.UsageError("expected CONFIG, a TOML file, or --world, or --from-echo-rl")
        from envecho.training.config import load_config

        return load_config(config, overrides)
    from envecho.recipes.world_pools import LiveWorld, live_run_config

    live = LiveWorld(world=world, num_episodes=episodes, world_map=world_map, seed_actions=seed_actions)
    return live_run_config(live, config, out, overrides)


def _echo_rl_config(path: Path, overrides: tuple[str, ...]) -> RunConfig:
    from envecho.recipes.echo_rl import echo_rl_config, read_echo_rl

    for note in read_echo_rl(path).notes:
        click.echo(str(note), err=True)
    return echo_rl_config(path, overrides)
