"""`envecho filter`: the trajectories of a store that pass some conditions, as a store of their own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import click


@click.command("filter")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The .parquet file to write, or a folder of shards."
)
@click.option("--task", "tasks", metavar="ID", multiple=True, help="Keep this task; may be given several times.")
@click.option("--min-reward", type=float, help="Keep graded trajectories with at least this reward.")
@click.option("--max-reward", type=float, help="Keep graded trajectories with at most this reward.")
@click.option("--source", "sources", metavar="NAME", multiple=True, help="Keep what holds text of this source.")
@click.option("--format", "formats", metavar="NAME", multiple=True, help="Keep what was imported from this format.")
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as one JSON object.")
def command(
    files: tuple[str, ...], out: Path, tasks: tuple[str, ...], sources: tuple[str, ...], formats: tuple[str, ...],
    overwrite: bool, as_json: bool, **rewards: float | None,
) -> None:  # fmt: skip
    """Copy the trajectories that pass every condition; without one, all: several stores become one.

    Options of one name that are given several times are alternatives. Messages of dropped trajectories are not decoded.

    \b
    envecho filter traces.parquet --out solved.parquet --min-reward 1
    envecho filter store/ --out errors/ --source stderr --source tool_error
    """
    from envecho.errors import ConfigError, DataError
    from envecho.recipes.progress import counting
    from envecho.trajectory.filters import TrajectoryFilter
    from envecho.trajectory.store import TrajectoryWriter, count_trajectories, read_batches

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; pass --overwrite to replace it, or another --out")
    if any(out.absolute() == Path(file).absolute() for file in files):
        raise ConfigError(f"{out} is read and written; choose another --out")
    where = TrajectoryFilter(
        task_ids=tasks or None,
        sources=sources or None,
        formats=formats or None,
        **rewards,
    )
    num_read = count_trajectories(files)
    rows = read_batches(files, where=where)
    first = next(rows, None)
    if first is None:
        raise DataError(f"none of {num_read:,} trajectories passes; nothing was written")
    with counting("trajectories copied:") as advance, TrajectoryWriter(out, overwrite=overwrite) as writer:
        for batch in itertools.chain([first], rows):
            writer.write_batch(batch)
            advance(batch.num_rows)
    if as_json:
        click.echo(json.dumps({"num_read": num_read, "num_written": writer.num_written}))
    else:
        click.echo(f"{writer.num_written:,} of {num_read:,} trajectories -> {out}")
