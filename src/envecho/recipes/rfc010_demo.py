"""`python -m envecho.recipes.rfc010_demo --out DIR`: the design of RFC 010's own demo, and what it leaves out.

One fixed box; 12 training commands, one per episode, that show every file; 6 held-out commands on the same files; 60
steps; the best step is chosen on the held-out commands. Beside it stand the weights after the last step, an n-gram and
a copier that saw the same training tokens, and the same six commands on a box that nothing showed. The model is
SmolLM2-135M where the RFC's example has distilgpt2, and the commands are our own: `ls`, `cat`, `grep`, `wc` and
`head`, as there.

Source of the design: OpenEnv RFC 010, `examples/echo_world_model` (huggingface/OpenEnv pull request 819). Not here: the
main demo, whose boxes are new (`envecho.recipes.demo`).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from envecho.engines.local import LocalEngine
from envecho.engines.pretrained import resolve_model
from envecho.errors import ConfigError
from envecho.evaluation import PoolResult, evaluate_baselines, evaluate_pool, fit_baselines, tokenize_pool
from envecho.recipes.demo_data import collect_pools, write_pools
from envecho.recipes.progress import progress_bar, say
from envecho.recipes.terminal_jobs import explore_job
from envecho.rollout import EpisodeJob
from envecho.tokens import ChatTokenizer
from envecho.training.config import RunConfig, load_config
from envecho.training.loop import train
from envecho.training.progress import show_progress
from envecho.trajectory import Trajectory
from envecho.trajectory.store import read_trajectories
from envecho.worlds.terminal.boxes import Box, make_box
from envecho.worlds.terminal.explorer import PlannedCommand

FORMAT: Final = "envecho.rfc010_demo"
BOX, NEW_BOX = 10, 1010
"""Seeds of the fixed box, and of the box that nothing showed."""

KINDS: Final = ("log", "orders", "users", "notes")

DEFAULT_CONFIG: Final = Path("configs/rfc010-demo.toml")
_HELD_OUT: Final = ("held_out", "new_box")
_PREDICTORS: Final = ("base", "best step on held-out", "last step", "ngram", "ppm")


def small_box(seed: int) -> Box:
    """Return a box of four files: two tables, a log and notes."""
    box = make_box(seed)
    return dataclasses.replace(box, documents=tuple(box.document(kind) for kind in KINDS))


def training_commands(box: Box) -> list[str]:
    """Return the 12 training commands: a listing, every file as it is, and searches, counts and heads of some."""
    log, orders, users, notes = (box.document(kind) for kind in KINDS)
    return [
        "ls",
        *(f"cat {document.path}" for document in box.documents),
        f"grep {log.rows[0][1]} {log.path}",
        f"grep {orders.rows[0][0]} {orders.path}",
        f"grep {users.rows[1][1]} {users.path}",
        f"wc -l {log.path}",
        f"wc -l {notes.path}",
        f"head -n 2 {orders.path}",
        f"head -n 2 {users.path}",
    ]


def held_out_commands(box: Box) -> list[str]:
    """Return the 6 held-out commands: the same programs on other files, or for other words.

    All that they print, but for two counts, stood in an answer to a training command.
    """
    log, orders, users, notes = (box.document(kind) for kind in KINDS)
    return [
        f"grep {log.rows[2][2]} {log.path}",
        f"grep {notes.rows[1][0].split()[1]} {notes.path}",
        f"wc -l {orders.path}",
        f"wc -l {users.path}",
        f"head -n 2 {log.path}",
        f"head -n 2 {notes.path}",
    ]


def demo_jobs(number: int) -> dict[str, list[EpisodeJob]]:
    """Return the episodes of each pool, one command in each; `number` is the seed of the fixed box."""
    box, other = small_box(number), small_box(NEW_BOX)
    commands = {
        "train": (box, training_commands(box)),
        "held_out": (box, held_out_commands(box)),
        "new_box": (other, held_out_commands(other)),
    }
    return {pool: [_job(pool, box, n, line) for n, line in enumerate(lines)] for pool, (box, lines) in commands.items()}


def _job(pool: str, box: Box, number: int, command: str) -> EpisodeJob:
    job = explore_job(box, [PlannedCommand(command=command)], name=f"{pool}-{number}", sandbox="bubblewrap")
    # Each command is a task of its own: the intervals are over commands.
    return dataclasses.replace(job, task_id=f"{job.task_id}/{pool}-{number}")


def run(config: RunConfig, out: Path) -> None:
    """Collect the pools and train.

    Raises:
        WorldError: the sandbox cannot start.
    """
    jobs = demo_jobs(BOX)
    with progress_bar("a real bash answers", total=sum(map(len, jobs.values()))) as advance:
        write_pools(collect_pools(jobs, advance), out / "trajectories")
    with show_progress() as on_event:
        train(config, out / "run", overwrite=True, on_event=on_event)


def figures(config: RunConfig, out: Path) -> dict[str, Any]:
    """Return every figure of a finished run.

    Raises:
        ConfigError: `out` holds no finished run of this demo.
    """
    rows_file, last = out / "run" / "metrics.jsonl", out / "run" / "checkpoints" / f"step-{config.run.steps:06d}"
    if not last.is_dir() or not rows_file.is_file():
        raise ConfigError(f"{out / 'run'} is no finished run of {config.run.steps} steps: leave --report-only out")
    looks = [
        row
        for row in map(json.loads, rows_file.read_text(encoding="utf-8").splitlines())
        if row["kind"] == "validation"
    ]
    curve = {int(row["step"]): float(row["env_ce"]) for row in looks}
    best_step = min((step for step in curve if step), key=lambda step: curve[step])
    folder = resolve_model(config.model.name)
    models = {
        "base": folder,
        "best step on held-out": last.with_name(f"step-{best_step:06d}"),
        "last step": last,
    }
    tokenizer = ChatTokenizer.from_pretrained(folder)
    pools = {name: list(read_trajectories(out / "trajectories" / f"{name}.parquet")) for name in ("train", *_HELD_OUT)}
    results = {pool: _baselines(pools, pool, tokenizer) for pool in _HELD_OUT}
    for name, model in models.items():
        engine = LocalEngine(model, trains=False)
        for pool in _HELD_OUT:
            results[pool][name] = evaluate_pool(engine, pools[pool], tokenizer, num_swaps=0)
    return {
        "format": FORMAT,
        "version": 1,
        "model": config.model.name,
        "steps": config.run.steps,
        "best_step": best_step,
        "curve": curve,
        "pools": {pool: {name: _figures(found[name]) for name in _PREDICTORS} for pool, found in results.items()},
    }


def _baselines(pools: Mapping[str, Sequence[Trajectory]], pool: str, tokenizer: ChatTokenizer) -> dict[str, PoolResult]:
    fitted = fit_baselines(tokenize_pool(pools["train"], tokenizer), len(tokenizer.hf))
    found = evaluate_baselines(fitted, pools[pool], tokenizer)
    return {"ngram": found["ngram"], "ppm": found["ppm"]}


def _figures(found: PoolResult) -> dict[str, Any]:
    ce, top1 = found.result.ce_per_token, found.result.top1_accuracy
    assert ce is not None
    assert top1 is not None
    return {"ce_per_token": ce.model_dump(), "top1_accuracy": top1.model_dump()}


def table(document: Mapping[str, Any]) -> str:
    """Return the figures as a Markdown table, nats per token with intervals over commands."""
    lines = [
        "| nats per token at T = 1 | held-out commands, the same box | the same commands, another box |",
        "|---|---|---|",
    ]
    for name in _PREDICTORS:
        label = {
            "best step on held-out": f"best step on held-out ({document['best_step']})",
            "last step": f"last step ({document['steps']})",
            "ngram": "order-6 n-gram, the same training tokens",
            "ppm": "suffix-match copier, the same training tokens",
        }.get(name, name)
        cells = [_cell(document["pools"][pool][name]["ce_per_token"]) for pool in ("held_out", "new_box")]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(stat: Mapping[str, Any]) -> str:
    return f"{stat['value']:.2f} [{stat['low']:.2f}, {stat['high']:.2f}]"


def main() -> None:
    """Run it and print the table."""
    summary = (__doc__ or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.rfc010_demo", description=summary)
    parser.add_argument("--out", type=Path, default=Path("runs/rfc010-demo"), help="pools, checkpoints, metrics")
    parser.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help="the run's TOML")
    parser.add_argument("--results", type=Path, help="where the figures are written (default: OUT/results.json)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--report-only", action="store_true", help="the figures of a finished run in OUT again")
    arguments = parser.parse_args()
    pools = arguments.out / "trajectories"
    paths = [f'data.train="{pools / "train.parquet"}"', f'data.validation="{pools / "held_out.parquet"}"']
    config = load_config(arguments.config, [*paths, *arguments.overrides])
    if not arguments.report_only:
        run(config, arguments.out)
    document = figures(config, arguments.out)
    path = arguments.results or arguments.out / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(table(document))
    say(f"written to {path}")


if __name__ == "__main__":
    main()
