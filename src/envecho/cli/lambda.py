"""`envecho lambda`: what lambda really is under each peer's rule, and what to write into another stack."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from envecho.recipes.lambdas import LambdaReport


@click.command("lambda")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--model", help="Whose tokenizer counts, for trajectories: smollm2-135m, a hub name or a folder.")
@click.option("--coeff", type=click.FloatRange(min=0), help="The lambda; by default each peer's own.")
@click.option("--from", "source", metavar="PEER", help="The peer, or normalizer, that the lambda belongs to.")
@click.option("--to", metavar="PEER", help="The peer, or normalizer, that it is carried to.")
@click.option(
    "--micro-batches", "num_micro_batches", type=click.IntRange(min=1), default=8, show_default=True,
    help="Into how many micro-batches a step is cut, for the rule that depends on it.",
)  # fmt: skip
@click.option("--constant-length", type=click.IntRange(min=1), help="The length of the rule constant_length.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
def command(
    file: Path, model: str | None, coeff: float | None, source: str | None, to: str | None,
    num_micro_batches: int, constant_length: int | None, as_json: bool,
) -> None:  # fmt: skip
    """Print the effective lambda of every peer on the trajectories of FILE, taken as one optimiser step.

    FILE is Parquet, or what the generator of echo-rl wrote: JSON lines of token ids with masks.

    \b
    envecho lambda traces.parquet --model smollm2-135m
    envecho lambda traces.parquet --model smollm2-135m --from verl-token-mean --coeff 0.05 --to echo-rl
    """
    if (source is None) != (to is None):
        raise click.UsageError("--from and --to belong together")
    from envecho.recipes.lambdas import lambda_report

    report = lambda_report(
        file, model, coeff=coeff, source=source, to=to,
        num_micro_batches=num_micro_batches, constant_length=constant_length,
    )  # fmt: skip
    if as_json:
        click.echo(json.dumps(report.as_json()))
        return
    _print_table(report)
    if report.carried is not None:
        carried = report.carried
        click.echo(f"\n{source} -> {to}: write {carried.coeff:.6g}  (effective lambda {carried.effective_lambda:.6g})")
        click.echo(carried.sentence)


def _print_table(report: LambdaReport) -> None:
    from envecho.objective.peers import PEERS

    click.echo(
        f"{report.num_trajectories:,} trajectories: {report.num_action_tokens:,} action,"
        f" {report.num_env_output_tokens:,} env_output and {report.num_warning_tokens:,} warning tokens\n"
    )
    click.echo(f"{'peer':<18}{'lambda':>8}{'effective':>12}   normalizer")
    for name, found in report.effective.items():
        effective = "none" if found is None else f"{found:.4f}"
        click.echo(f"{name:<18}{report.coeffs[name]:>8.4g}{effective:>12}   {PEERS[name].normalizer}")
