"""How much of an episode of tool calls is whose: characters, or tokens of a model, by source and by role.

    python -m envecho.recipes.tool_accounting FILE.parquet... [--model smollm2-135m] [--json]

Learnable is what a loss can be on: the policy's tokens (action) and what the world answered (env_output). The share of
observation among these says how much of an episode a policy gradient alone leaves unread. Tokens are those of
`envecho.tokens`, each counted once; the first token of a sequence is none, since nothing predicts it. Characters count
the messages, without what a chat template adds. Not here: the episode of OpenEnv's example, counted as the example does
(`awm_accounting`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np

from envecho.errors import DataError, EngineError, TemplateError
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import SOURCES, Role, Source, Trajectory
from envecho.trajectory.store import read_trajectories


def accounting(trajectories: Iterable[Trajectory], tokenizer: ChatTokenizer | None = None) -> dict[str, Any]:
    """Count characters, or tokens where there is a tokenizer, of some episodes.

    Returns `unit`, `episodes`, `observations` (messages with text that the world wrote), `by_source`, `by_role`,
    `learnable` (action + env_output) and `observation_share` = env_output / learnable, None where nothing is.
    """
    counts: Counter[Source] = Counter()
    num_episodes = num_observations = 0
    for trajectory in trajectories:
        num_episodes += 1
        num_observations += sum(
            any(segment.source.role is Role.ENV_OUTPUT for segment in message.segments)
            for message in trajectory.messages
        )
        counts.update(_characters(trajectory) if tokenizer is None else _tokens(trajectory, tokenizer))
    by_role: Counter[Role] = Counter()
    for source, count in counts.items():
        by_role[source.role] += count
    learnable = by_role[Role.ACTION] + by_role[Role.ENV_OUTPUT]
    return {
        "unit": "characters" if tokenizer is None else "tokens",
        "episodes": num_episodes,
        "observations": num_observations,
        "by_source": {source.value: counts[source] for source in SOURCES if counts[source]},
        "by_role": {role.value: by_role[role] for role in Role},
        "learnable": learnable,
        "observation_share": round(by_role[Role.ENV_OUTPUT] / learnable, 4) if learnable else None,
    }


def _characters(trajectory: Trajectory) -> Counter[Source]:
    counts: Counter[Source] = Counter()
    for message in trajectory.messages:
        for segment in message.segments:
            counts[segment.source] += len(segment.text)
        for call in message.tool_calls:
            counts[Source.POLICY] += len(call.name) + len(call.arguments)
    return counts


def _tokens(trajectory: Trajectory, tokenizer: ChatTokenizer) -> Counter[Source]:
    counts: Counter[Source] = Counter()
    for sequence in tokenize_trajectory(trajectory, tokenizer):
        found = np.bincount(sequence.sources[sequence.owned_mask()], minlength=len(SOURCES))
        counts.update({source: int(found[source.code]) for source in SOURCES})
    return counts


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--model", metavar="NAME", help="Count tokens of this model: smollm2-135m, a folder, a hub name.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the counts of each file by its stem.")
def main(files: tuple[Path, ...], model: str | None, as_json: bool) -> None:
    """Count whose text the episodes of each FILE are, and the share of observation among what can be learnt."""
    try:
        tokenizer = None if model is None else _tokenizer(model)
        found = {file.stem: accounting(read_trajectories(file), tokenizer) for file in files}
    except (DataError, EngineError, TemplateError) as error:
        raise click.ClickException(str(error)) from None
    if len(found) < len(files):
        raise click.ClickException("two files have one name; rename one, the counts are by name")
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, counts in found.items():
        click.echo(f"{name}: {counts['episodes']:,} episodes, {counts['observations']:,} observations")
        for source, count in counts["by_source"].items():
            click.echo(f"  {source:<18}{count:>11,} {counts['unit']}")
        share = counts["observation_share"]
        click.echo(
            f"  observation is {'nothing' if share is None else f'{share:.1%}'} of {counts['learnable']:,} learnable"
        )


def _tokenizer(model: str) -> ChatTokenizer:
    from envecho.engines.pretrained import resolve_model

    return ChatTokenizer.from_pretrained(resolve_model(model))


if __name__ == "__main__":
    main()
