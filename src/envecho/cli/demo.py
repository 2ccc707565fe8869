"""`envecho demo`: the main job, from a real shell to a report."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("demo")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default=Path("runs/demo"), show_default=True,
              help="The run folder.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Optimiser steps (the demo's own number when not given).")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws boxes, commands and the order of training.")
@click.option("--model", default="smollm2-135m", show_default=True, help="smollm2-135m, a hub name, or a folder.")
@click.option("--short", is_flag=True, help="A few episodes and steps: shows that everything runs, not what it learns.")
@click.option("--overwrite", is_flag=True, help="Replace the run folder if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json on stdout.")
def command(out: Path, steps: int | None, seed: int, model: str, short: bool, overwrite: bool, as_json: bool) -> None:
    """Train a real model on what a real shell answers, and report what it learnt."""
    from envecho.collector import paused_collector

    with paused_collector():
        from envecho.recipes.demo import DemoConfig, run_demo
        from envecho.recipes.demo_print import print_summary

    config = DemoConfig.short(seed=seed, model=model) if short else DemoConfig(seed=seed, model=model)
    if steps is not None:
        config = config.model_copy(update={"steps": steps})
    summary = run_demo(config, out, overwrite=overwrite)
    if as_json:
        click.echo((out / "summary.json").read_text(), nl=False)
    else:
        print_summary(summary, out)
