"""The dataset that verl reads: one row per task of a world, as Parquet.

    python -m envecho.plugins.verl.dataset --world depot-tickets --split train --num 256 --out train.parquet

A row names its task and the agent loop that plays it; the text that the policy sees is the world's. Not here: worlds
(`envecho.worlds`), and how a task is played (`agent_loop`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from envecho.errors import ConfigError, EnvechoError
from envecho.seam import TaskSuite
from envecho.worlds.suites import open_suite

AGENT_LOOP = "envecho_world"


def task_rows(suite: TaskSuite, world: str, split: str, num: int) -> list[dict[str, Any]]:
    """Return the first `num` tasks of a split as rows of verl's dataset.

    Raises:
        ConfigError: the world has no such split, or fewer tasks.
    """
    if split not in suite.splits:
        raise ConfigError(f"{world} has the splits {', '.join(suite.splits)}, found {split!r}")
    available = suite.num_tasks(split)
    if available is not None and num > available:
        raise ConfigError(f"{world} has {available} tasks in the split {split!r}, found --num {num}")
    return [
        {
            "data_source": f"envecho/{suite.name}",
            "agent_name": AGENT_LOOP,
            "prompt": [{"role": "user", "content": suite.task_id(split, number)}],
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": number, "world": world, "split": split, "task": number},
        }
        for number in range(num)
    ]


@click.command()
@click.option("--world", required=True, help="what `envecho collect --world` takes")
@click.option("--split", default="train", show_default=True)
@click.option("--num", type=click.IntRange(min=1), required=True, help="how many tasks")
@click.option("--sandbox", default="bubblewrap", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
def main(world: str, split: str, num: int, sandbox: str, out: Path) -> None:
    """Write the tasks of a world as verl's dataset."""
    try:
        rows = task_rows(open_suite(world, sandbox=sandbox), world, split, num)
    except EnvechoError as error:
        click.echo(str(error), err=True)
        sys.exit(1)
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), out)
    click.echo(f"{len(rows)} tasks -> {out}")


if __name__ == "__main__":
    main()
