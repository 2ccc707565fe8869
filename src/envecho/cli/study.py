"""`envecho study`: arms x seeds of training runs, paired, and every figure with its interval."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("study")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The study's folder.")
@click.option("--arms", metavar="A,B", help="Run these arms only.")
@click.option("--seeds", metavar="0,1", help="Run these of the stated seeds only.")
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True,
              help="Runs at once, in processes of their own; 0: one by one in this process.")  # fmt: skip
@click.option("--report-only", is_flag=True, help="Run nothing; make figures from the runs (or runs.jsonl) in --out.")
@click.option("--json", "as_json", is_flag=True, help="Print study.json on stdout.")
def command(
    config: Path, out: Path, arms: str | None, seeds: str | None, workers: int, report_only: bool, as_json: bool
) -> None:
    """Run what is not finished of a study, and report what is.

    Stop it with Ctrl-C or kill it; the same command continues. Arms and seeds added to CONFIG later run alone.

    \b
    envecho study configs/study.toml --out runs/study --workers 2
    envecho study configs/study.toml --out results/study --report-only
    """
    from envecho.recipes.study_config import load_study
    from envecho.recipes.study_report import report_study

    study = load_study(config)
    if not report_only:
        from envecho.recipes.study import run_study

        run_study(
            study,
            out,
            arms=None if arms is None else _names(arms),
            seeds=None if seeds is None else _numbers(seeds),
            num_workers=workers,
        )
    again = f"envecho study {config.name if config.is_absolute() else config.as_posix()} --out runs/{study.study.name}"
    report_study(study, out, command=again)
    click.echo((out / ("study.json" if as_json else "study.md")).read_text(encoding="utf-8"), nl=False)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _numbers(text: str) -> list[int]:
    try:
        return [int(name) for name in _names(text)]
    except ValueError:
        raise click.BadParameter(f"expected numbers such as 0,1, found {text!r}", param_hint="--seeds") from None
