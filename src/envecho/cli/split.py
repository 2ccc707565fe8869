"""`envecho split`: training, validation and held-out files between which nothing leaks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import click


@click.command("split")
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write.")
@click.option("--held-out", type=float, default=0.1, show_default=True, help="Share of the held-out file.")
@click.option("--validation", type=float, default=0.0, show_default=True, help="Share of the validation file.")
@click.option(
    "--by", type=click.Choice(["task", "repository", "session", "auto"]), default="auto", show_default=True,
    help="What stays together beside near-duplicates; auto: all that is known.",
)  # fmt: skip
@click.option(
    "--similarity", type=float, default=0.8, show_default=True,
    help="From which share of common three-word runs two openings are near-duplicates.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Draws which groups are held out.")
@click.option("--overwrite", is_flag=True, help="Replace the split that the folder holds.")
@click.option("--json", "as_json", is_flag=True, help="Print split.json.")
def command(
    files: tuple[str, ...], out: Path, held_out: float, validation: float, seed: int,
    by: Literal["task", "repository", "session", "auto"], **options: Any,
) -> None:  # fmt: skip
    """Split trajectories by task, repository and session, with near-duplicates kept together.

    \b
    envecho split traces.parquet --out data --held-out 0.1 --validation 0.1
    envecho split store/ --out data --by repository --seed 1
    """
    from envecho.recipes.progress import working
    from envecho.recipes.split import SplitPlan, split_store

    shares = {"held_out": held_out} | ({"validation": validation} if validation else {})
    plan = SplitPlan(shares=shares, by=by, seed=seed, similarity=options["similarity"])
    with working("splitting"):
        document = split_store(files, out, plan, overwrite=options["overwrite"])
    if options["as_json"]:
        click.echo(json.dumps(document))
    else:
        _print(document, out)


def _print(document: Mapping[str, Any], out: Path) -> None:
    near = document["near_duplicates"]
    click.echo(f"{'':<12}{'trajectories':>14}{'groups':>10}{'share':>9}{'wanted':>9}")
    for name, facts in document["splits"].items():
        click.echo(
            f"{name:<12}{facts['num_trajectories']:>14,}{facts['num_groups']:>10,}{facts['share']:>9.1%}"
            f"{facts['wanted_share']:>9.1%}"
        )
    used = {kind: facts for kind, facts in document["keys"].items() if facts["used"] and kind != "id"}
    kept = ", ".join(f"{kind} ({facts['num_values']:,})" for kind, facts in used.items() if facts["num_values"])
    click.echo(f"kept together by {kept}; {near['num_merges']:,} groups joined to others as near-duplicates")
    for kind, facts in used.items():
        if missing := document["num_trajectories"] - facts["num_trajectories"]:
            click.echo(f"  {missing:,} trajectories state no {kind}")
    for note in document["notes"]:
        click.echo(f"note: {note}", err=True)
    click.echo(f"-> {out}/ (split.json says which groups are largest, and what near-duplicates joined)")
