"""`envecho collect`: run episodes in a world and write their trajectories as Parquet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

_TROUBLE = {
    "num_lost": "connections lost",
    "num_retried": "starts tried again",
    "num_capacity_waits": "waits for room in a full server",
    "num_deadlines": "ended by a deadline of the rollout",
    "num_abandoned": "calls that did not come back and were left alone",
}


@click.command("collect")
@click.option(
    "--world", default="terminal", show_default=True,
    help="The world to act in: terminal, tools, depot, depot-tickets; the URL of an OpenEnv server; a folder of Harbor "
    "tasks; a .jsonl of Agent World Model scenarios; module:factory for your own.",
)  # fmt: skip
@click.option(
    "--sandbox", default="bubblewrap", show_default=True,
    help="Where it runs: bubblewrap, unsafe-host (this machine, no sandbox at all), or a provider: process, docker, "
    "aca, modal, daytona, hf.",
)  # fmt: skip
@click.option(
    "--policy", required=True,
    help="oracle, explore, replay:FILE, or a model: smollm2-135m, a hub name or a folder.",
)  # fmt: skip
@click.option(
    "--server", metavar="URL", help="A model server that samples the policy's turns; docs/served-policies.md."
)
@click.option(
    "--server-kind", type=click.Choice(["vllm", "sglang", "llama_cpp", "openai", "chat"]), default="vllm",
    show_default=True, help="Its dialect; chat: text alone, --policy is the served name.",
)  # fmt: skip
@click.option("--api-key-env", metavar="NAME", help="The environment variable with the server's key.")
@click.option(
    "--max-tokens-per-turn", type=click.IntRange(min=1), default=48, show_default=True,
    help="Tokens of one turn of a model at most.",
)  # fmt: skip
@click.option(
    "--num", "num_episodes", type=click.IntRange(min=1), default=10, show_default=True, help="Episodes to run."
)
@click.option("--split", help="Which tasks of the world (its first split without this); docs/cli.md lists ours.")
@click.option(
    "--first-task", type=click.IntRange(min=0), default=0, show_default=True, help="The number of the first task."
)
@click.option("--families", metavar="A,B", default="", help="Tasks of these families of the world alone; empty: all.")
@click.option("--world-map", type=click.Path(path_type=Path), help="TOML: how a server's observations are read.")
@click.option("--seed-actions", type=click.Path(path_type=Path), help="TOML: actions that the explorer may take.")
@click.option("--rubric", metavar="MODULE:CLASS", help="An OpenEnv rubric that grades a server's episodes here.")
@click.option("--image", help="The image that a provider starts; docs/serving.md says how to build it.")
@click.option(
    "--allow", multiple=True, metavar="HOST", help="A host that a provider's sandbox may reach; none else. *: all."
)
@click.option(
    "--workers", "num_workers", type=click.IntRange(min=1), default=4, show_default=True,
    help="Episodes of a scripted policy that run at once; worlds of a model that answer at once.",
)  # fmt: skip
@click.option("--seed", type=int, default=0, show_default=True, help="Draws the explorer's commands and samples.")
@click.option(
    "--temperature", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True,
    help="Sampling temperature of a model.",
)  # fmt: skip
@click.option(
    "--max-turns", type=click.IntRange(min=1), default=16, show_default=True, help="Actions of an episode at most."
)
@click.option(
    "--tool-protocol", type=click.Choice(["text", "template"]), default="text", show_default=True,
    help="How a world's tools and calls stand in the messages: as text, for every model, or as a chat template's own.",
)  # fmt: skip
@click.option(
    "--command-seconds", type=click.FloatRange(min=0, min_open=True),
    help="What one action may take; the world's own bound without this.",
)  # fmt: skip
@click.option(
    "--episode-seconds", type=click.FloatRange(min=0, min_open=True), help="What an episode may take; no bound without."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The .parquet file to write."
)
@click.option("--overwrite", is_flag=True, help="Replace the file if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def command(out: Path, overwrite: bool, as_json: bool, families: str, **options: Any) -> None:
    """Run episodes in a world and write their trajectories.

    \b
    envecho collect --policy explore --num 100 --out explore.parquet
    envecho collect --policy oracle --num 11 --out oracle.parquet
    envecho collect --policy smollm2-135m --num 8 --out model.parquet
    envecho collect --policy smollm2-135m --server http://127.0.0.1:8080 --server-kind llama_cpp --out exact.parquet
    envecho collect --world http://127.0.0.1:8000 --policy explore --num 32 --out served.parquet
    envecho collect --world examples/tasks --policy oracle --num 12 --out tasks.parquet
    """
    from envecho.errors import ConfigError
    from envecho.recipes.collect import REPLAY, CollectConfig, collect_to_file, replay_to_file

    if out.exists() and not overwrite:
        raise ConfigError(f"{out} exists; pass --overwrite to replace it, or another --out")
    config = CollectConfig(families=tuple(filter(None, map(str.strip, families.split(",")))), **options)
    report = None
    if config.policy.startswith(REPLAY):
        counts, report = replay_to_file(config, out)
    else:
        counts = collect_to_file(config, out)
    if as_json:
        click.echo(json.dumps(counts if report is None else counts | {"replay": report.as_json()}))
        return
    click.echo(f"{counts['num_episodes']} episodes, {counts['num_observations']} observations -> {out}")
    for reason, number in sorted(counts["stop_reasons"].items()):
        click.echo(f"  {reason:<14}{number}")
    if counts["mean_reward"] is not None:
        click.echo(f"  mean reward   {counts['mean_reward']:.2f}")
    for name, what in _TROUBLE.items():
        if counts[name]:
            click.echo(f"  {what}: {counts[name]}")
    if report is not None:
        click.echo(str(report))
