"""`envecho report`: turn a run folder into one self-contained HTML file, or several into a table side by side."""

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
    """Turn a run folder into one self-contained HTML file, with its pictures beside it as PNG.

    Several folders make one page with their headline figures side by side: each seed, the mean and the median.

    \b
    envecho report runs/demo
    envecho report runs/demo-0 runs/demo-1 runs/demo-2 --out demo.html
    """
    from envecho.reports import write_comparison, write_report

    if len(folders) == 1:
        click.echo(write_report(folders[0], out))
        return
    if out is None:
        raise click.UsageError("several folders need --out FILE.html, since the page belongs to none of them")
    click.echo(write_comparison(folders, out))
