"""`envecho eval`: measure on held-out trajectories what a model knows of the world, with controls."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click


@click.command("eval")
@click.option("--model", required=True, help="The model to measure: smollm2-135m, a hub name or a folder.")
@click.option("--base", help="The model that it was trained from, measured beside it.")
@click.option(
    "--data", "data", multiple=True, metavar="[NAME=]FILE",
    help="Held-out trajectories, a .parquet file or a folder; one pool each, named after the file without a NAME.",
)  # fmt: skip
@click.option(
    "--world", metavar="WORLD",
    help="Collect a pool of this world first (as envecho collect names it), with an explorer, into OUT/trajectories.",
)  # fmt: skip
@click.option("--split", help="Which tasks of --world: held_out, or its last split, without this.")
@click.option(
    "--num", "num_episodes", type=click.IntRange(min=1), default=24, show_default=True, help="Episodes of --world."
)
@click.option(
    "--train", "train", type=click.Path(path_type=Path), metavar="FILE",
    help="What the model was trained on; then the copy baselines are measured too.",
)  # fmt: skip
@click.option(
    "--temperature", type=click.FloatRange(min=0, min_open=True), metavar="T",
    help="Also the cross-entropy at this temperature, such as that of sampling; a second pass over the pools.",
)  # fmt: skip
@click.option(
    "--controls/--no-controls", default=True, show_default=True, help="Score answers behind other or blanked actions."
)
@click.option(
    "--probes/--no-probes", default=True, show_default=True, help="Ask for exit statuses, files and line counts."
)
@click.option("--floor", is_flag=True, help="Carry the sample's actions out again, in fresh sandboxes of our worlds.")
@click.option(
    "--sample", type=click.IntRange(min=1), default=64, show_default=True, metavar="N",
    help="Trajectories of each pool that controls, probes, compressors and readouts see.",
)  # fmt: skip
@click.option(
    "--seed", type=int, default=0, show_default=True, help="Draws the sample, controls, readouts and bootstrap."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False),
    help="The folder for evaluation.json, sums.parquet and report.html.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an evaluation.json in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
def command(
    model: str, base: str | None, data: tuple[str, ...], out: Path | None, overwrite: bool, as_json: bool, **rest: Any
) -> None:
    """Measure on held-out trajectories what a model knows of the world.

    Cross-entropy is in nats per environment token at temperature 1, with 95 % bootstrap intervals over tasks.

    \b
    envecho eval --model runs/demo/checkpoints/step-000040 --base smollm2-135m \\
        --data runs/demo/trajectories/new_boxes.parquet --train runs/demo/trajectories/train.parquet --out runs/eval
    """
    from envecho.cli.eval_print import print_evaluation
    from envecho.collector import paused_collector
    from envecho.errors import ConfigError

    with paused_collector():
        from envecho.recipes.evaluate import EvaluationJob, ModelRole, evaluate

    target = None if out is None else out / "evaluation.json"
    if target is not None and target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; pass --overwrite to replace it, or another --out")
    world, collected = rest.pop("world"), {name: rest.pop(name) for name in ("split", "num_episodes")}
    pools = _named_files(data)
    if world is not None:
        if out is None:
            raise click.UsageError("--world collects a pool into OUT/trajectories: pass --out")
        pools.append(_collect_pool(world, out, overwrite=overwrite, seed=rest["seed"], **collected))
    if not pools:
        raise click.UsageError("expected held-out trajectories: --data FILE, or --world")
    models: dict[ModelRole, str] = {"trained": model} if base is None else {"base": base, "trained": model}
    done = evaluate(EvaluationJob(models=models, pools=_unique(pools), **rest))
    page = None if out is None else done.write(out)
    if as_json:
        click.echo(done.evaluation.model_dump_json(indent=1))
        return
    print_evaluation(done.evaluation)
    if page is not None:
        click.echo(f"written to {target}; open {page}")


def _named_files(data: Sequence[str]) -> list[tuple[str, Path]]:
    """Split NAME=FILE; a file that exists is taken as it is, whatever is in its name."""
    found: list[tuple[str, Path]] = []
    for text in data:
        name, equals, file = text.partition("=")
        if equals and name and file and not Path(text).exists():
            found.append((name, Path(file)))
        else:
            found.append((Path(text).stem, Path(text)))
    return found


def _unique(pools: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    from envecho.errors import ConfigError

    found: dict[str, Path] = {}
    for name, file in pools:
        if name in found:
            raise ConfigError(f"two --data are named {name!r}; give one of them another name: --data NAME={file}")
        found[name] = file
    return found


def _collect_pool(
    world: str, out: Path, *, split: str | None, num_episodes: int, seed: int, overwrite: bool
) -> tuple[str, Path]:
    """Collect an explorer's episodes and return their split and file."""
    from envecho.errors import ConfigError
    from envecho.recipes.collect import CollectConfig, collect_to_file, open_collect_suite

    config = CollectConfig(world=world, policy="explore", num_episodes=num_episodes, split=split, seed=seed)
    if split is None:
        splits = open_collect_suite(config).splits
        config = config.model_copy(update={"split": "held_out" if "held_out" in splits else splits[-1]})
    path = out / "trajectories" / f"{config.split}.parquet"
    if path.exists() and not overwrite:
        raise ConfigError(f"{path} exists; pass --overwrite to collect it anew, or evaluate it with --data")
    collect_to_file(config, path)
    return path.stem, path
