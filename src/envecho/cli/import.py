"""`envecho import`: agent traces of any known format become one Parquet file in which every character has a source."""

from __future__ import annotations

import contextlib
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from envecho.formats import ImportOptions, ImportReport

_SHOWN_PROBLEMS = 20


@click.command("import")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True,
    help="The .parquet file to write, or a folder of shards.",
)  # fmt: skip
@click.option("--format", "format_name", metavar="NAME", help="Take every document for this format.")
@click.option(
    "--rules", type=click.Path(path_type=Path),
    help="TOML with your own rules for harness text, and patterns of secrets.",
)  # fmt: skip
@click.option(
    "--user-turns", type=click.Choice(["auto", "world", "person"]), default="auto", show_default=True,
    help="Whose words user turns after an answer are.",
)  # fmt: skip
@click.option(
    "--calls-as-text", is_flag=True,
    help="Write tool calls into the answers' text, for models whose chat template knows no tools.",
)  # fmt: skip
@click.option(
    "--text-only", is_flag=True,
    help="Leave exact token ids behind: for a model of another tokenizer than the one that wrote them.",
)  # fmt: skip
@click.option(
    "--model", metavar="NAME_OR_DIR",
    help="Read the text of traces that hold token ids alone by this model's tokenizer and chat template.",
)  # fmt: skip
@click.option("--no-redact", is_flag=True, help="Leave secrets in; without it they are taken out and counted.")
@click.option(
    "--redact-hook", metavar="NAME",
    help="Your own search for secrets, MODULE:FUNCTION or FILE.py:FUNCTION: text to (start, end, name) of each.",
)  # fmt: skip
@click.option(
    "--workers", "num_workers", type=click.IntRange(min=1),
    help="Processes; without it one per core for many files, one for few. The result is the same.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    paths: tuple[str, ...], out: Path, format_name: str | None, rules: Path | None, num_workers: int | None,
    overwrite: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Read traces that others wrote; files, folders, globs and archives alike.

    \b
    envecho import traces/ --out traces.parquet
    envecho import "runs/*.traj" data.jsonl.gz --out traces.parquet --rules my-rules.toml
    """
    from envecho.errors import ConfigError, DataError
    from envecho.formats import ImportReport, import_batches
    from envecho.recipes.progress import counting
    from envecho.trajectory.store import TrajectoryWriter

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; pass --overwrite to replace it, or another --out")
    how = _how(rules, **options)
    report = ImportReport()
    found = import_batches(
        paths, report, format=format_name, options=how, num_workers=num_workers, spool=out.absolute().parent
    )
    with contextlib.closing(found), counting("trajectories imported:") as advance:
        first = next(found, None)
        if first is not None:  # else no empty file takes the place of another
            with TrajectoryWriter(out, overwrite=overwrite) as writer:
                for rows in itertools.chain([first], found):
                    writer.write_batch(rows)
                    advance(rows.num_rows)
    if as_json:
        click.echo(json.dumps(report.as_json()))
    else:
        _print(report, out)
    for problem in report.problems[:_SHOWN_PROBLEMS]:
        click.echo(f"not imported: {problem}", err=True)
    if len(report.problems) > _SHOWN_PROBLEMS:
        click.echo(f"not imported: {len(report.problems) - _SHOWN_PROBLEMS} more; --json lists all", err=True)
    if not report.num_trajectories:
        raise DataError("no trajectory was found; the reasons stand above")


def _how(
    rules: Path | None, *, no_redact: bool, redact_hook: str | None, model: str | None, **options: Any
) -> ImportOptions:
    from envecho.formats import ImportOptions, Redactor, load_hook, load_patterns, load_rules

    if no_redact and redact_hook is not None:
        raise click.UsageError("--no-redact leaves secrets in, so --redact-hook would never be asked; drop one of them")
    redactor = None
    if not no_redact:
        hook = load_hook(redact_hook) if redact_hook is not None else None
        redactor = Redactor(patterns=load_patterns(rules) if rules else (), hook=hook)
    reader = None
    if model is not None:
        from envecho.engines.pretrained import resolve_model
        from envecho.tokens.id_text import IdReader

        reader = IdReader(resolve_model(model))
    return ImportOptions(rules=load_rules(rules) if rules else (), redactor=redactor, reader=reader, **options)


def _print(report: object, out: Path) -> None:
    from envecho.formats import ImportReport
    from envecho.trajectory import Source

    assert isinstance(report, ImportReport)
    found = ", ".join(f"{name} {count:,}" for name, count in report.formats.most_common())
    click.echo(f"{report.num_trajectories:,} trajectories from {report.num_files:,} files -> {out}  ({found})")
    total = sum(report.characters.values()) or 1
    for source in Source:
        if count := report.characters[source.value]:
            click.echo(f"  {source.role.value:<12}{source.value:<19}{count:>12,} characters  {count / total:6.1%}")
    click.echo(
        f"  {report.num_observations:,} observations, {report.num_observations_without_rule:,} untouched by any rule"
    )
    if report.num_turns_of_a_person:
        words = "user turns after an answer are taken for a person's words (--user-turns world: for the world's)"
        click.echo(f"  {report.num_turns_of_a_person:,} {words}")
    if report.num_parts_dropped:
        click.echo(f"  {report.num_parts_dropped:,} images and other parts without text were left out")
    _print_redacted(report)
    if lines := report.repeated_lines():
        click.echo("  lines that stand in many observations; a rule can say that they are the harness's:")
        for line, count in lines:
            click.echo(f"    {count:>6,}  {line!r}")


def _print_redacted(report: ImportReport) -> None:
    if report.num_trajectories_not_searched:
        click.echo("  redaction is off (--no-redact): secrets that the traces hold are in the file and may be trained")
    if report.num_calls_not_searched:
        words = "model calls hold ids without text, where no secret was looked for (--model reads them)"
        click.echo(f"  {report.num_calls_not_searched:,} {words}")
    if not report.redacted:
        return
    kinds = ", ".join(f"{count:,} {name}" for name, count in report.redacted.most_common())
    click.echo(f"  redacted: {kinds} in {report.num_trajectories_redacted:,} trajectories; `envecho show` marks them")
    if report.num_redacted_in_ids:
        words = "of them stand in texts with exact token ids, which stay as they are: never trained, but in the file"
        click.echo(f"  {report.num_redacted_in_ids:,} {words} (--text-only leaves the ids behind)")
