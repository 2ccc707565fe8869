"""`envecho report`: turn a run or evaluation folder into one self-contained HTML file, or set several side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("report")
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The HTML file to write; DIR/report.html by default. Needed for several folders.",
)
def command(folders: tuple[Path, ...], out: Path | None) -> None:
    """Turn a run or evaluation folder into one self-contained HTML file, with its pictures beside it as PNG.

    Several folders make one page: seeds of one configuration with intervals over them, health and alarms, and
    evaluations of the same trajectories with paired differences against the first folder.

    \b
    envecho report runs/demo
    envecho report runs/demo-0 runs/demo-1 runs/demo-2 --out seeds.html
    envecho report eval/base eval/echo eval/grpo --out models.html
    """
    from envecho.reports import write_comparison, write_report

    if len(folders) == 1:
        click.echo(write_report(folders[0], out))
        return
    if out is None:
        raise click.UsageError("several folders need --out FILE.html, since the page belongs to none of them")
    click.echo(write_comparison(folders, out))
