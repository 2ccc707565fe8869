"""`envecho export`: trajectories become the files of other projects, and what those cannot say is counted."""

from __future__ import annotations

import json
from pathlib import Path

import click

_SHOWN = 20
TARGETS = (
    "messages",
    "atif",
    "openenv",
    "openenv-trace",
    "trl",
    "verl",
    "skyrl",
    "tinker",
    "slime",
    "rllm",
    "prime-rl",
)


@click.command("export")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "target", type=click.Choice(TARGETS), required=True, help="Whose format to write.")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True,
    help="A .jsonl file to write, or a folder with one .json file per document.",
)  # fmt: skip
@click.option(
    "--model", help="Whose tokenizer makes the tokens, for openenv-trace and the rows of trainers: "
    "smollm2-135m, a hub name or a folder.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an earlier export at this place.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(file: Path, target: str, out: Path, model: str | None, overwrite: bool, as_json: bool) -> None:
    """Write the trajectories of a file or folder in another project's format.

    \b
    envecho export traces.parquet --to openenv --out rollouts/results.jsonl
    envecho export traces.parquet --to atif --out trajectories/
    envecho export traces.parquet --to skyrl --model Qwen/Qwen3-8B --out rows.jsonl
    """
    from envecho.errors import DataError
    from envecho.recipes.documents import check_place
    from envecho.recipes.export import export_file
    from envecho.tokens.view import visible_text

    check_place(out, overwrite=overwrite)
    report = export_file(file, target, out, model=model)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        written = f"{report.num_exported:,} of {report.num_trajectories:,} trajectories -> {out}"
        click.echo(f"{written}  ({report.num_documents:,} documents of {target})")
        notes = [(name, count) for name, count in sorted(report.notes.items()) if count]
        if notes:
            click.echo(f"  what {target} has no field for:")
        for name, count in notes:
            click.echo(f"  {count:>10,}  {name}")
    for name, reason in report.left_out[:_SHOWN]:
        click.echo(visible_text(f"not exported: {name}: {reason}"), err=True)
    if len(report.left_out) > _SHOWN:
        click.echo(f"not exported: {len(report.left_out) - _SHOWN} more; --json lists all", err=True)
    if not report.num_exported:
        raise DataError("no trajectory could be exported; the reasons stand above", file=file)
