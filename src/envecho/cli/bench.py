"""`envecho bench`: how fast, and in how much memory; one subcommand per room."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

_folder = click.option(
    "--folder", type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Where the material lies meanwhile; the system's folder for temporary files without it.",
)  # fmt: skip
_repetitions = click.option(
    "--repetitions", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each phase."
)
_seed = click.option("--seed", type=int, default=0, show_default=True, help="Draws the material.")
_out = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the JSON here too.")
_ROLLOUT_PARTS = ("script", "served", "model", "refill", "decode")
_STEP_SUBJECTS = ("grpo", "echo", "all-logits", "trl", "body")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group("bench")
def command() -> None:
    """Measure rates and peak memory on material that the command makes; each phase in a process of its own."""


@command.command("import")
@click.option("--megabytes", type=click.IntRange(min=1), default=64, show_default=True, help="Size of the traces.")
@click.option("--model", default="smollm2-135m", show_default=True, help="Whose tokenizer and chat template.")
@_repetitions
@_seed
@_folder
@_out
@_json
def bench_import(megabytes: int, model: str, out: Path | None, as_json: bool, **how: Any) -> None:
    """Measure import by one and two processes, and chat text to masks on one core."""
    from envecho.recipes import bench

    _show(bench.bench_import(num_bytes=megabytes * 1_000_000, model=model, **how), out, as_json)


@command.command("store")
@click.option("--num", type=click.IntRange(min=100), default=100_000, show_default=True, help="Trajectories.")
@_repetitions
@_seed
@_folder
@_out
@_json
def bench_store(num: int, out: Path | None, as_json: bool, **how: Any) -> None:
    """Measure writing, reading, filtering and splitting a store of small trajectories."""
    from envecho.recipes import bench

    _show(bench.bench_store(num=num, **how), out, as_json)


@command.command("rollout")
@click.option("--worlds", default="1,4,16,64,256", show_default=True, help="How many worlds run at once, each in turn.")
@click.option("--steps", type=click.IntRange(min=2), default=20, show_default=True, help="Actions of an episode.")
@click.option("--step-seconds", default="0,0.01", show_default=True, help="How long a world sleeps in a step.")
@click.option(
    "--part", "parts", multiple=True, default=_ROLLOUT_PARTS, show_default=True,
    type=click.Choice(_ROLLOUT_PARTS), help="What acts, and where; may be given more than once.",
)  # fmt: skip
@click.option("--model", default="smollm2-135m", show_default=True, help="The real model of `decode`.")
@_repetitions
@_seed
@_out
@_json
def bench_rollout(worlds: str, step_seconds: str, out: Path | None, as_json: bool, **how: Any) -> None:
    """Measure what the episode loop costs beside the worlds, for numbers of worlds at once, and decoding itself."""
    from envecho.recipes import bench_rollout as measure

    numbers = [int(number) for number in _numbers("--worlds", worlds)]
    if not all(numbers):
        raise click.UsageError(f"--worlds is {worlds!r}, expected whole numbers of at least 1")
    seconds = _numbers("--step-seconds", step_seconds)
    _show(measure.bench_rollout(worlds=numbers, step_seconds=seconds, **how), out, as_json)


@command.command("step")
@click.option("--model", default="smollm2-135m", show_default=True, help="Whose step.")
@click.option("--tokens", default="1024", show_default=True, help="Tokens of a step, each in turn.")
@click.option(
    "--length", type=click.IntRange(min=8), default=512, show_default=True,
    help="Tokens of a row; fewer tokens are one row.",
)  # fmt: skip
@click.option(
    "--shares", multiple=True, default=("30/10/60",), show_default=True,
    help="Percent of prompt/action/observation tokens; may be given more than once.",
)  # fmt: skip
@click.option(
    "--dtype", "dtypes", multiple=True, default=("auto",), show_default=True,
    type=click.Choice(("auto", "float32", "bfloat16")), help="What a pass computes in; may be given more than once.",
)  # fmt: skip
@click.option(
    "--checkpointing", type=click.Choice(("off", "on", "both")), default="off", show_default=True,
    help="Compute activations again in the backward pass.",
)  # fmt: skip
@click.option(
    "--micro-batch-tokens", type=click.IntRange(min=1), default=1024, show_default=True,
    help="Tokens of a forward pass; a longer row stands alone.",
)  # fmt: skip
@click.option("--group", type=click.IntRange(min=1), default=1, show_default=True, help="Rows that share a prompt.")
@click.option("--ragged", is_flag=True, help="Draw lengths from half of --length up to it.")
@click.option(
    "--subject", "subjects", multiple=True, default=_STEP_SUBJECTS, show_default=True,
    type=click.Choice(_STEP_SUBJECTS), help="Who takes the step; may be given more than once.",
)  # fmt: skip
@_repetitions
@_seed
@_out
@_json
def bench_step(
    model: str, tokens: str, subjects: tuple[str, ...], repetitions: int, out: Path | None, as_json: bool, **how: Any
) -> None:
    """Measure training steps side by side: ECHO, plain GRPO, all logits at once, TRL's GRPO, the body by itself.

    On a GPU where there is one: peak memory is then the allocator's.
    """
    from envecho.recipes import bench, bench_step, bench_step_cases, bench_step_table

    numbers = [int(number) for number in _numbers("--tokens", tokens)]
    cases = bench_step_cases.cases_of(tokens=numbers, **how)
    document = bench_step.bench_step(cases=cases, subjects=subjects, model=model, repetitions=repetitions)
    if out is not None:
        bench.save(document, out)
    click.echo(json.dumps(document, indent=1) if as_json else bench_step_table.table(document), nl=as_json)


@command.command("start")
@click.option("--model", default="smollm2-135m", show_default=True, help="The model that is made ready.")
@click.option("--repetitions", type=click.IntRange(min=1), default=7, show_default=True, help="Starts of each.")
@_out
@_json
def bench_start(model: str, repetitions: int, out: Path | None, as_json: bool) -> None:
    """Measure what one waits for: import envecho, --help, and a model that is ready; each a process of its own.

    The exit status is 1 where the best start of something took longer than its limit.
    """
    from envecho.recipes import bench_start as measure

    document = measure.bench_start(model=model, repetitions=repetitions)
    _show(document, out, as_json)
    over = measure.over_limit(document["results"])
    for title in over:
        click.echo(f"over its limit: {title}", err=True)
    if over:
        raise SystemExit(1)


@command.command("evaluation")
@click.option("--model", default="smollm2-135m", show_default=True, help="The real model.")
@click.option("--num", type=click.IntRange(min=1), default=24, show_default=True, help="Trajectories for it.")
@click.option("--num-narrow", type=click.IntRange(min=4), default=2000, show_default=True, help="For a narrow one.")
@click.option("--part", type=click.IntRange(min=1), default=4, show_default=True, help="Trajectories of a turn.")
@_seed
@_folder
@_out
@_json
def bench_evaluation(out: Path | None, as_json: bool, **how: Any) -> None:
    """Measure what an evaluation costs beside a bare forward pass over the same tokens, and its peak memory."""
    from envecho.recipes import bench_evaluation as measure

    _show(measure.bench_evaluation(**how), out, as_json)


@command.command("agreement")
@click.option("--subject", "subjects", multiple=True, default=("local",), show_default=True, help="May be given often.")
@click.option("--setting", "names", multiple=True, help="Measure these settings alone; may be given often.")
@_out
@_json
def bench_agreement(subjects: tuple[str, ...], names: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Measure how far an engine's or a plug-in's gradient is from the float64 reference, on one committed batch.

    Subjects: local, local_distributed, trl, verl, skyrl, tinker; each needs its packages in this environment. The exit
    status is 1 where a gradient differs by more than 1e-5.
    """
    from envecho.recipes.agreement import run

    document = run.measure_agreement(subjects, names)
    text = json.dumps(document, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    rows = run.rows_of(document)
    click.echo(text if as_json else run.table(rows))
    if run.failures(rows):
        raise SystemExit(1)


def _numbers(name: str, text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 0:
        raise click.UsageError(f"{name} is {text!r}, expected numbers with commas between them, such as 1,4,16")
    return found


def _show(document: Mapping[str, Any], out: Path | None, as_json: bool) -> None:
    from envecho.recipes import bench

    if out is not None:
        bench.save(document, out)
    click.echo(json.dumps(document, indent=1) if as_json else bench.table(document), nl=as_json)
