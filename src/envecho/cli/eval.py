"""`envecho eval`: measure on held-out trajectories what a model knows of the world, with controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import click

if TYPE_CHECKING:
    from rich.table import Table

    from envecho.evaluation import (
        Comparison,
        Evaluation,
        ObservationRef,
        PoolResult,
        Predictor,
        PredictorResult,
        ReadoutPrediction,
        Stat,
    )
    from envecho.tokens import ChatTokenizer
    from envecho.trajectory import Trajectory

NUM_READOUTS: Final = 6
NUM_SWAPS: Final = 2
ModelRole = Literal["base", "trained"]


@click.command("eval")
@click.option("--model", required=True, help="The model to measure: smollm2-135m, a hub name or a folder.")
@click.option("--base", help="The model that it was trained from, measured beside it.")
@click.option(
    "--data", "data", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Held-out trajectories, a .parquet file or a folder; one pool each, named after the file.",
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
@click.option("--seed", type=int, default=0, show_default=True, help="Draws swaps, readouts and bootstrap samples.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The folder for evaluation.json.")
@click.option("--overwrite", is_flag=True, help="Replace an evaluation.json in that folder.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
def command(
    model: str,
    base: str | None,
    data: tuple[Path, ...],
    train: Path | None,
    out: Path | None,
    overwrite: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure on held-out trajectories what a model knows of the world.

    Cross-entropy is in nats per environment token at temperature 1, with 95 % bootstrap intervals over tasks.

    \b
    envecho eval --model runs/demo/checkpoints/step-000040 --base smollm2-135m \\
        --data runs/demo/trajectories/new_boxes.parquet --train runs/demo/trajectories/train.parquet
    """
    from envecho.errors import ConfigError
    from envecho.evaluation import write_evaluation

    target = None if out is None else out / "evaluation.json"
    if target is not None and target.exists() and not overwrite:
        raise ConfigError(f"{target} exists; pass --overwrite to replace it, or another --out")
    world, seed = options.pop("world"), options["seed"]
    if world is not None:
        if out is None:
            raise click.UsageError("--world collects a pool into OUT/trajectories: pass --out")
        data = (*data, _collect_pool(world, out, overwrite=overwrite, **options))
    if not data:
        raise click.UsageError("expected held-out trajectories: --data FILE, or --world")
    models: dict[ModelRole, str] = {"trained": model} if base is None else {"base": base, "trained": model}
    job = _Job(pools=_read_pools(data), train=train, seed=seed)
    evaluation = job.run(models)
    if target is not None:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_evaluation(target, evaluation)
    if as_json:
        click.echo(evaluation.model_dump_json(indent=1))
        return
    _print(evaluation)
    if target is not None:
        click.echo(f"written to {target}")


def _collect_pool(world: str, out: Path, *, split: str | None, num_episodes: int, seed: int, overwrite: bool) -> Path:
    """Collect an explorer's episodes and return their file, named after their split."""
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
    return path


def _read_pools(files: Sequence[Path]) -> dict[str, list[Trajectory]]:
    from envecho.errors import ConfigError, DataError
    from envecho.trajectory.store import read_trajectories

    pools: dict[str, list[Trajectory]] = {}
    for file in files:
        if file.stem in pools:
            raise ConfigError(f"two --data are named {file.stem!r}; pools are named after their files, so rename one")
        pools[file.stem] = list(read_trajectories(file))
        if not pools[file.stem]:
            raise DataError("expected at least one held-out trajectory, found none", file=file)
    return pools


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The evaluation of some predictors on some pools; one model is in memory at a time."""

    pools: Mapping[str, Sequence[Trajectory]]
    train: Path | None
    seed: int
    results: dict[str, dict[Predictor, PoolResult]] = field(default_factory=dict)
    readouts: dict[str, dict[Predictor, Sequence[ReadoutPrediction]]] = field(default_factory=dict)

    def run(self, models: Mapping[ModelRole, str]) -> Evaluation:
        from envecho.engines.pretrained import resolve_model
        from envecho.evaluation import choose_observations
        from envecho.recipes.progress import progress_bar
        from envecho.tokens import ChatTokenizer

        refs = {pool: choose_observations(found, NUM_READOUTS, seed=self.seed) for pool, found in self.pools.items()}
        steps = (len(models) + (self.train is not None)) * len(self.pools)
        with progress_bar("evaluating", total=steps) as advance:
            folders = [resolve_model(name) for name in models.values()]
            tokenizer = _one_tokenizer([ChatTokenizer.from_pretrained(folder) for folder in folders])
            contexts = [
                self._add_model(role, folder, tokenizer, refs, advance)
                for role, folder in zip(models, folders, strict=True)
            ]
            if self.train is not None:
                self._add_baselines(self.train, tokenizer, contexts[-1], advance)
        return self._evaluation(refs, tokenizer)

    def _add_model(
        self,
        role: ModelRole,
        folder: Path,
        tokenizer: ChatTokenizer,
        refs: Mapping[str, Sequence[ObservationRef]],
        advance: Callable[[int], None],
    ) -> int:
        """Measure one model on every pool and return its context length."""
        from envecho.engines.distributed import open_local
        from envecho.evaluation import evaluate_pool, read_out

        engine = open_local(folder, trains=False)
        for pool, trajectories in self.pools.items():
            found = evaluate_pool(engine, trajectories, tokenizer, num_swaps=NUM_SWAPS, seed=self.seed)
            answers = read_out(engine, found.sequences, found.tokens, refs[pool], tokenizer)
            self.results.setdefault(pool, {})[role] = found
            self.readouts.setdefault(pool, {})[role] = answers
            advance(1)
        return engine.capabilities.max_context_tokens

    def _add_baselines(
        self, train: Path, tokenizer: ChatTokenizer, max_tokens: int, advance: Callable[[int], None]
    ) -> None:
        from envecho.evaluation import evaluate_baselines, fit_baselines, tokenize_pool
        from envecho.evaluation.results import BASELINES
        from envecho.trajectory.store import read_trajectories

        sequences = tokenize_pool(list(read_trajectories(train)), tokenizer, max_tokens=max_tokens)
        fitted = fit_baselines(sequences, len(tokenizer.hf), seed=self.seed)
        for pool, trajectories in self.pools.items():
            found = evaluate_baselines(fitted, trajectories, tokenizer, max_tokens=max_tokens, seed=self.seed)
            self.results[pool].update({name: found[name] for name in BASELINES})
            advance(1)

    def _evaluation(self, refs: Mapping[str, Sequence[ObservationRef]], tokenizer: ChatTokenizer) -> Evaluation:
        from envecho.evaluation import Evaluation, build_readouts, compare_predictors, view_trajectory

        readouts = [
            readout
            for pool, trajectories in self.pools.items()
            for readout in build_readouts(pool, trajectories, refs[pool], self.readouts[pool])
        ]
        views = [
            view
            for pool, found in self.results.items()
            for view in view_trajectory(
                pool,
                refs[pool][0].trajectory_id if refs[pool] else self.pools[pool][0].id,
                found["trained"].sequences,
                {name: result.tokens for name, result in found.items()},
                tokenizer,
            )
        ]
        return Evaluation(
            pools={pool: {name: r.result for name, r in found.items()} for pool, found in self.results.items()},
            comparisons=tuple(
                c for pool, r in self.results.items() for c in compare_predictors(pool, r, seed=self.seed)
            ),
            readouts=tuple(readouts),
            token_views=tuple(views),
        )


def _one_tokenizer(tokenizers: Sequence[ChatTokenizer]) -> ChatTokenizer:
    """Return the tokenizer that all models share."""
    from envecho.errors import ConfigError

    first, *others = tokenizers
    for other in others:
        if other.hf.get_vocab() != first.hf.get_vocab() or other.hf.chat_template != first.hf.chat_template:
            raise ConfigError(
                "--base and --model have different tokenizers or chat templates, so their tokens cannot be compared; "
                "give the model that --model was trained from, or evaluate each alone"
            )
    return first


def _print(evaluation: Evaluation) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    for pool, results in evaluation.pools.items():
        console.print(_figures(pool, results))
        if any(result.by_operation for result in results.values()):
            console.print(_operations(results))
        for comparison in evaluation.comparisons:
            if comparison.pool == pool:
                console.print(_sentence(comparison), markup=False)
        counts = results["trained"].swap_counts
        if counts is not None:
            console.print(
                f"swaps: {counts.num_draws} draws over {counts.num_observations} derivable observations; left out: "
                f"{counts.num_without_candidate} without another command, {counts.num_unaligned} with other tokens"
            )


def _figures(pool: str, results: Mapping[Predictor, PredictorResult]) -> Table:
    from rich.table import Table
    from rich.text import Text

    rows = {
        "derivable": "ce_derivable",
        "first view": "ce_first_view",
        "all": "ce_per_token",
        "per byte": "ce_per_byte",
        "swap gap": "action_swap_gap",
        "top-1 share": "top1_accuracy",
    }
    title = Text(f"{pool}: nats per token at T = 1 [95 % interval over tasks]")
    table = Table(title=title, title_justify="left", show_lines=True)
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right")
    for row, attribute in rows.items():
        table.add_row(row, *(Text(_cell(getattr(result, attribute), "\n")) for result in results.values()))
    return table


def _operations(results: Mapping[Predictor, PredictorResult]) -> Table:
    from rich.table import Table

    table = Table(title="derivable output by operation: nats per token (top-1)", title_justify="left")
    table.add_column("operation")
    table.add_column("share", justify="right")
    for name in results:
        table.add_column(name, justify="right")
    shares = {operation: found.share for r in results.values() for operation, found in r.by_operation.items()}
    for operation, share in shares.items():
        found = [result.by_operation.get(operation) for result in results.values()]
        cells = ["-" if f is None else f"{f.ce.value:.3f} ({f.top1_accuracy.value:.0%})" for f in found]
        table.add_row(operation, f"{share:.0%}", *cells)
    return table


def _cell(stat: Stat | None, separator: str = " ") -> str:
    if stat is None:
        return "-"
    return f"{stat.value:.3f}" + ("" if stat.low is None else f"{separator}[{stat.low:.3f}, {stat.high:.3f}]")


def _sentence(comparison: Comparison) -> str:
    ratio, difference = _cell(comparison.ratio), _cell(comparison.difference)
    names = f"{comparison.predictor} / {comparison.reference}"
    return f"{names} on {comparison.tokens} tokens: {ratio}; difference {difference}"
