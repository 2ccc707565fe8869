"""`envecho doctor`: what is wrong with a file of trajectories, before anything is trained on it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from envecho.recipes.doctor import DoctorOptions, DoctorReport


@click.command("doctor")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", help="Whose tokens and context: smollm2-135m, a hub name or a folder.")
@click.option(
    "--config", "config", type=click.Path(path_type=Path), metavar="TOML",
    help="Objective, steps and engine of a run; its model is the default of --model.",
)  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(min=8), help="The length from which windows begin.")
@click.option("--time", "timed", is_flag=True, help="Measure two training passes on this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(
    file: Path, model: str | None, config: Path | None, max_tokens: int | None, timed: bool, as_json: bool
) -> None:
    """Say what is wrong with the trajectories of a file or folder, and what a run over them costs.

    The exit status is 1 where a finding is an error.

    \b
    envecho doctor traces.parquet --model smollm2-135m
    envecho doctor traces.parquet --config run.toml --time
    """
    if model is None and config is None:
        raise click.UsageError(
            "--model is missing: tokens and context are a model's (or give a --config that names one)"
        )
    from envecho.collector import paused_collector

    with paused_collector():
        from envecho.recipes.doctor import DoctorOptions

    run_config = None
    if config is not None:
        from envecho.training.config import load_config

        run_config = load_config(config)
    name = model if model is not None or run_config is None else run_config.model.name
    assert name is not None
    report = _examine(file, DoctorOptions(model=name, config=run_config, max_tokens=max_tokens, timed=timed))
    if as_json:
        click.echo(json.dumps(report.as_json(), indent=1))
    else:
        from envecho.cli.doctor_report import print_report

        print_report(report)
    if report.has_errors:
        sys.exit(1)


def _examine(file: Path, options: DoctorOptions) -> DoctorReport:
    from envecho.recipes.doctor import examine
    from envecho.recipes.progress import counting

    with counting("looking at trajectories") as advance:
        return examine(file, options, on_trajectory=advance)
