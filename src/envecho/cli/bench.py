"""`envecho bench`: how fast, and in how much memory; one subcommand per room."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

_folder = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the material lies meanwhile; the system's folder for temporary files without it.",
)  # fmt: skip
_repetitions = click.option(
    "--repetitions", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each phase."
)
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Draws the material.")
_out = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON here too.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("bench")
def command() -> None:
    """Measure rates and peak memory on material that the command makes; each phase in a process of its own."""


@command.command("import")
@click.option("--megabytes", type=click.IntRange(min=1), default=64, show_default=True, help="Size of the traces.")
@click.option("--model", default="smollm2-135m", show_default=True, help="Whose tokenizer and chat template.")
@_repetitions
@_seed
@_folder
@_out
@_json
def bench_import(megabytes: int, model: str, out: Path | None, as_json: bool, **how: Any) -> None:
    """Measure import by one and two processes, and chat text to masks on one core."""
    from envecho.recipes import bench

    _show(bench.bench_import(num_bytes=megabytes * 1_000_000, model=model, **how), out, as_json)


@command.command("store")
@click.option("--num", type=click.IntRange(min=100), default=100_000, show_default=True, help="Trajectories.")
@_repetitions
@_seed
@_folder
@_out
@_json
def bench_store(num: int, out: Path | None, as_json: bool, **how: Any) -> None:
    """Measure writing, reading, filtering and splitting a store of small trajectories."""
    from envecho.recipes import bench

    _show(bench.bench_store(num=num, **how), out, as_json)


def _show(document: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    from envecho.recipes import bench

    if out is not None:
        bench.save(document, out)
    click.echo(json.dumps(document, indent=1) if as_json else bench.table(document), nl=as_json)
