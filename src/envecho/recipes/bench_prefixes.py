"""`python -m envecho.recipes.bench_prefixes`: what it saves to compute a common beginning once, on groups of episodes.

    python -m envecho.recipes.bench_prefixes --out results/bench/prefixes.json

A step is four tasks of a world and eight episodes of each, as GRPO draws them. The explorer acts, with another seed for
each episode: a trained policy's rollouts are more alike. Computed tokens are those of the flat rows that the engine
plans on a CPU. In the row with thinking, made-up words stand before every action, and a template like Qwen3's drops
them after the next message, so that each turn is a branch that begins like the ones before it. Windows of a long
session overlap without a common beginning, and are not in it. The time is of `forward_backward` of one step by the
model of `bench_packing`: processor seconds with sharing over those without, in turns. Not here: what
reading prompts costs a sampler (`bench_session`), and padding (`bench_packing`).
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch

from envecho.engines.local import LocalEngine
from envecho.engines.precision import ComputeDtype
from envecho.engines.pretrained import resolve_model
from envecho.engines.token_forest import plan_forests
from envecho.losses import WeightedBatch
from envecho.objective import EchoConfig, compile_batch
from envecho.recipes import bench
from envecho.recipes.bench_packing import MODEL, TOKENS, processor_seconds, save_two_layers
from envecho.recipes.collect_episodes import CollectConfig, episodes
from envecho.recipes.progress import say
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory
from envecho.training.data import step_order
from envecho.trajectory import Message, Segment, Source, Trajectory

Episode = Sequence[TokenizedTrajectory]
"""The sequences of one episode: its branches."""

WORLDS: Final = ("depot", "terminal", "tools")
THINKING: Final = "terminal"
TIMED: Final = "depot"
TIMED_TOKENS: Final = 8192
NUM_TASKS: Final = 40
NUM_STEPS: Final = 20
_GROUPS_OF_STEP: Final = 4
_GROUPS_TIMED: Final = 2
_GROUP_SIZE: Final = 8
_STEPS_WITH_THINKING: Final = 5
_EPISODES_ALONE: Final = 20
_WORDS_OF_THINKING: Final = 30
_THINKING_TEMPLATE: Final = """\
{%- set seen = namespace(last=0) -%}
{%- for message in messages -%}
  {%- if message.role != 'assistant' -%}{%- set seen.last = loop.index -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages -%}
  {%- set text = message.content -%}
  {%- if loop.index < seen.last and '</think>' in text -%}
    {%- set text = text.split('</think>')[-1].lstrip('\n') -%}
  {%- endif -%}
  {{- '<|im_start|>' + message.role + '\n' + text + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"""


def groups_of(world: str, *, num_tasks: int, group_size: int, seed: int) -> list[list[Trajectory]]:
    """Return a group of the explorer's episodes for each of a world's first tasks, each with a seed of its own."""
    laps = [
        list(episodes(CollectConfig(world=world, policy="explore", num_episodes=num_tasks, seed=seed + lap)))
        for lap in range(group_size)
    ]
    return [list(group) for group in zip(*laps, strict=True)]


def with_thinking(trajectory: Trajectory, *, seed: int) -> Trajectory:
    """Return an episode with made-up words of thought before every action."""
    draw = random.Random(f"envecho-bench-thinking-{seed}-{trajectory.id}")
    words = sorted({word for message in trajectory.messages for word in message.content.split()})

    def thought(message: Message) -> Message:
        if message.role != "assistant":
            return message
        text = f"<think>\n{' '.join(draw.choices(words, k=_WORDS_OF_THINKING))}\n</think>\n\n"
        return message.model_copy(
            update={"segments": (Segment(source=Source.POLICY, text=text), *message.segments), "sampled": None}
        )

    return trajectory.model_copy(update={"messages": tuple(map(thought, trajectory.messages))})


def steps_of(groups: Sequence[Sequence[Episode]], *, num_steps: int, seed: int) -> list[list[Episode]]:
    """Return the episodes of each step: whole groups, in the order in which training takes tasks."""
    orders = (
        step_order(len(groups), step, trajectories_per_step=_GROUPS_OF_STEP, seed=seed)
        for step in range(1, num_steps + 1)
    )
    return [[episode for place in order for episode in groups[place]] for order in orders]


def prompt_percent(step: Sequence[Episode]) -> float:
    """Tokens of a step that stand before the first action of their sequence, in percent of all."""
    sequences = [sequence for episode in step for sequence in episode]
    before = sum(int(np.argmax(s.action_mask)) if s.action_mask.any() else len(s) for s in sequences)
    return 100 * before / sum(map(len, sequences))


def computed_percent(step: Sequence[Episode], tokens: int) -> float:
    """Tokens of a step that flat rows compute where beginnings are shared, in percent of all."""
    ids = [sequence.token_ids for episode in step for sequence in episode]
    return 100 * sum(map(len, plan_forests(ids, tokens))) / sum(map(len, ids))


def observation_batch(step: Sequence[Episode]) -> WeightedBatch:
    """Return the environment term of a step, with ids that count the distinct tokens alone: a small head will do."""
    sequences = [sequence for episode in step for sequence in episode]
    batch = compile_batch(sequences, EchoConfig(use_rl=False, world_model_coeff=1.0, normalizer="global_token_mean"))
    ids = torch.unique(batch.batch.token_ids, return_inverse=True)[1]
    return dataclasses.replace(batch.batch, token_ids=ids)


def engines(folder: Path, *, dtype: ComputeDtype, tokens: int) -> tuple[LocalEngine, LocalEngine]:
    """Return the same model twice: one computes every sequence whole, the other shares beginnings."""
    whole, shared = (
        LocalEngine(folder, device="cpu", compute_dtype=dtype, tokens_per_micro_batch=tokens) for _ in range(2)
    )
    whole.shares_prefixes = False
    return whole, shared


def times(batch: WeightedBatch, *, tokens: int, repetitions: int) -> list[float]:
    """Return processor seconds with sharing in percent of those without, once for each repetition after a first."""
    with tempfile.TemporaryDirectory() as name:
        save_two_layers(Path(name), vocab_size=int(batch.token_ids.max()) + 1)
        pair = engines(Path(name), dtype="float32", tokens=tokens)
    found: list[float] = []
    for _ in range(1 + repetitions):
        whole, shared = (processor_seconds(engine, batch) for engine in pair)
        found.append(100 * shared / whole)
    return found[1:]


def measure_thinking(
    trajectories: Sequence[Sequence[Trajectory]], *, num_steps: int, num_alone: int, seed: int
) -> dict[str, dict[str, list[float]]]:
    """Return the figures of steps and of single episodes whose turns think, under a template that drops it later."""
    hf = ChatTokenizer.from_pretrained(resolve_model(MODEL)).hf
    hf.chat_template = _THINKING_TEMPLATE
    tokenizer = ChatTokenizer(hf)
    groups = [
        [tokenize_trajectory(with_thinking(episode, seed=seed), tokenizer) for episode in group]
        for group in trajectories[: num_steps * _GROUPS_OF_STEP]
    ]
    alone = [[episode] for group in groups for episode in group][:num_alone]
    found = measure(f"{THINKING} with thinking", steps_of(groups, num_steps=num_steps, seed=seed))
    return found | measure(f"{THINKING} with thinking, one episode", alone)


def measure(title: str, steps: Sequence[Sequence[Episode]]) -> dict[str, dict[str, list[float]]]:
    """Return the figures of the steps of a world, for every size of a micro-batch."""
    prompts = [prompt_percent(step) for step in steps]
    return {
        f"{title}, {tokens:,} tokens": {
            "prompt_percent": prompts,
            "computed_percent": [computed_percent(step, tokens) for step in steps],
        }
        for tokens in TOKENS
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Collect the groups, measure them, write the document and print its table."""
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.bench_prefixes", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=3, help="timed steps")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    tokenizer = ChatTokenizer.from_pretrained(resolve_model(MODEL))
    measured: dict[str, dict[str, list[float]]] = {}
    material: dict[str, object] = {
        "model": MODEL,
        "tasks": NUM_TASKS,
        "steps": NUM_STEPS,
        "steps with thinking": _STEPS_WITH_THINKING,
        "groups": _GROUPS_OF_STEP,
        "group size": _GROUP_SIZE,
        "threads": torch.get_num_threads(),
    }
    for world in WORLDS:
        say(f"{world}: collecting")
        trajectories = groups_of(world, num_tasks=NUM_TASKS, group_size=_GROUP_SIZE, seed=options.seed)
        groups = [[tokenize_trajectory(episode, tokenizer) for episode in group] for group in trajectories]
        measured |= measure(world, steps_of(groups, num_steps=NUM_STEPS, seed=options.seed))
        if world == TIMED:
            step = [episode for group in groups[:_GROUPS_TIMED] for episode in group]
            measured[f"{world}, the step of {_GROUPS_TIMED} groups, {TIMED_TOKENS:,} tokens"] = {
                "prompt_percent": [prompt_percent(step)],
                "computed_percent": [computed_percent(step, TIMED_TOKENS)],
                "shared_time_percent": times(
                    observation_batch(step), tokens=TIMED_TOKENS, repetitions=options.repetitions
                ),
            }
        if world == THINKING:
            measured |= measure_thinking(
                trajectories, num_steps=_STEPS_WITH_THINKING, num_alone=_EPISODES_ALONE, seed=options.seed
            )
    document = bench.document("prefixes", material, measured, options.repetitions, options.seed)
    bench.save(document, options.out)
    print(bench.table(document), end="")


if __name__ == "__main__":
    main()
