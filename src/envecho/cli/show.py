"""`envecho show`: look at trajectories: who wrote what, what of it is trained, and what a model found hard."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from envecho.recipes.showing import Totals, Viewer
    from envecho.tokens.selection import Selection

MAX_LISTED: Final = 200
MAX_ON_PAGE: Final = 200


@click.command("show")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", help="Show tokens as this model sees them: smollm2-135m, a hub name or a folder.")
@click.option("--index", type=click.IntRange(min=0), help="Show the trajectory at this place, from 0.")
@click.option(
    "--config", "config", type=click.Path(path_type=Path), metavar="TOML",
    help="Weigh the tokens as this run configuration says; its model is the default of --model.",
)  # fmt: skip
@click.option("--losses", is_flag=True, help="Losses of one forward pass, and each token shaded by its cost.")
@click.option("--find", metavar="TEXT", help="Only what holds this text; hits are set off.")
@click.option("--regex", is_flag=True, help="Take --find for a Python pattern.")
@click.option("--source", "sources", multiple=True, metavar="NAME", help="Only the words of this source; repeatable.")
@click.option("--html", "html", type=click.Path(path_type=Path, dir_okay=False), help="Write a self-contained page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(file: Path, **options: Any) -> None:
    """List the trajectories of a file or folder, or show one with its text coloured by who wrote it.

    With --model the text is shown as tokens, and those that the objective trains are underlined. --losses prints GRPO,
    environment and ECHO loss of one forward pass; the other rollouts of its group in the same file give the advantage.

    \b
    envecho show explore.parquet
    envecho show explore.parquet --find "No such file" --source stderr
    envecho show explore.parquet --index 0 --model smollm2-135m --losses
    envecho show explore.parquet --index 0 --config run.toml --html episode.html
    """
    _run(file, **options)


def _run(
    file: Path, *, index: int | None, html: Path | None, losses: bool, find: str | None, regex: bool, as_json: bool,
    **options: Any,
) -> None:  # fmt: skip
    model, config, sources = options["model"], options["config"], options["sources"]
    if regex and find is None:
        raise click.UsageError("--regex says how --find is meant; name a text to --find")
    if losses and model is None and config is None:
        raise click.UsageError("--losses needs --model: the losses are that model's")
    if losses and index is None and html is None:
        raise click.UsageError("--losses needs --index: which trajectory is to be scored?")
    from envecho.recipes.showing import Viewer
    from envecho.tokens.selection import Selection

    selection = Selection.of(find, regex=regex, sources=sources)
    run_config = None
    if config is not None:
        from envecho.training.config import load_config

        run_config = load_config(config)
    viewer = Viewer(model, config=run_config, shaded=losses, losses=losses and index is not None)
    if html is not None:
        _write_page(viewer, file, index, html, search=(find or "", regex, selection))
        click.echo(json.dumps({"html": str(html)}) if as_json else str(html))
    elif index is None:
        _list(viewer, file, selection, as_json=as_json)
    else:
        _show(viewer, file, index, selection, as_json=as_json)


def _list(viewer: Viewer, file: Path, selection: Selection, *, as_json: bool) -> None:
    from envecho.recipes.showing import Totals, list_rows
    from envecho.trajectory.store import read_trajectories

    totals = Totals()
    rows = list_rows(read_trajectories(file), viewer, selection, totals)
    if as_json:
        _echo_rows(rows, totals, viewer.unit)
        return
    from rich.text import Text

    from envecho.cli.printing import print_parts
    from envecho.cli.show_tables import list_table, summary_text

    table = list_table(islice(rows, MAX_LISTED), viewer.unit, with_hits=not selection.is_empty)
    num_left_out = sum(1 for _ in rows)
    print_parts(table, summary_text(totals, viewer.unit, selected=not selection.is_empty))
    if num_left_out:
        print_parts(Text(f"{num_left_out:,} more are not listed; --json lists all.", style="dim"))


def _echo_rows(rows: Any, totals: Totals, unit: str) -> None:
    """Print `{"trajectories": [...], "summary": {...}}` row by row, however long the file is."""
    click.echo('{"trajectories": [', nl=False)
    for number, row in enumerate(rows):
        click.echo((",\n " if number else "\n ") + json.dumps(row), nl=False)
    click.echo(f'\n],\n"summary": {json.dumps(totals.as_json(unit))}}}')


def _show(viewer: Viewer, file: Path, index: int, selection: Selection, *, as_json: bool) -> None:
    from envecho.recipes.showing import Totals, find_episode, list_rows

    trajectory, mates = find_episode(file, index, with_group=viewer.needs_group)
    episode = viewer.show(trajectory, mates)
    if as_json:
        from envecho.tokens.selection import Selection as Everything

        (facts,) = list_rows(iter([trajectory]), viewer, Everything(), Totals())
        record = {**facts, "index": index, **episode.as_json(selection, characters=viewer.tokenizer is None)}
        click.echo(json.dumps(record, indent=1))
        return
    from envecho.cli.show_tables import print_episode

    print_episode(episode, selection, unit=viewer.unit)


def _write_page(
    viewer: Viewer, file: Path, index: int | None, html: Path, *, search: tuple[str, bool, Selection]
) -> None:
    from envecho.recipes.showing import episodes_on_page
    from envecho.reports import PageSearch, write_token_page
    from envecho.tokens.view import visible_text

    find, is_pattern, selection = search
    found = episodes_on_page(viewer, file, index, selection, most=MAX_ON_PAGE)
    if found.is_cut:
        click.echo(f"the page holds the first {MAX_ON_PAGE} trajectories; --index chooses another", err=True)
    for reason in found.refused:
        click.echo(f"not on the page: {visible_text(reason)}", err=True)
    views = [item for episode in found.episodes for item in episode.views]
    write_token_page(
        [item.view.model_copy(update={"trajectory_id": item.heading}) for item in views],
        html,
        title=f"Trajectories of {file.name}",
        unit=viewer.unit,
        weights=[item.trained for item in views],
        search=PageSearch(find=find, is_pattern=is_pattern, sources=selection.sources),
    )
