"""`envecho train`: a TOML file and a folder in, a run folder out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The run folder.")
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Override one key of the TOML file.")
@click.option("--resume", is_flag=True, help="Continue the run in the folder, bit for bit.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the folder; its trajectories stay.")
@click.option(
    "--track", "trackers", type=click.Choice(["tensorboard", "trackio"]), multiple=True,
    help="Send the metrics there too; needs envecho[track].",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def command(
    config: Path, out: Path, overrides: tuple[str, ...], resume: bool, overwrite: bool, trackers: tuple[str, ...],
    as_json: bool,
) -> None:  # fmt: skip
    """Train a model on trajectories as CONFIG says, and keep the one that its validation pool selects."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other")
    from envecho.training.config import load_config
    from envecho.training.loop import train
    from envecho.training.progress import show_progress
    from envecho.training.summary import write_summary
    from envecho.training.trackers import open_trackers

    run_config = load_config(config, overrides)
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
