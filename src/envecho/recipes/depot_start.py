"""The starting model of a study in the depot: small, able to act and to follow a goal, ignorant of the studied plan.

It is trained from nothing on random walks through OTHER plans, never on expert play:

    1. for each of `num_plans` plans in turn: walks of one or two random doors, told as if their end had been the goal
       (hindsight), actions and answers learnt together. The model learns to read rooms, doors and goals from its
       context, and that a new plan must be learnt anew.
    2. random doors towards random goals on many plans, actions alone: doors become even again, commands still parse.

What a door of plan 0 leads to, it cannot know. Not here: the study (`envecho.recipes.study`).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from pathlib import Path

from envecho.engines.local import LocalEngine
from envecho.objective import EchoConfig, PolicyConfig, compile_batch
from envecho.recipes.depot_tokenizer import train_depot_tokenizer
from envecho.recipes.progress import progress_bar
from envecho.rollout import EpisodeJob, run_episode
from envecho.seam import AdamParams
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory, with_closed_turns
from envecho.worlds.depot import DOORS, DepotTask, DepotWorld, Plan, make_plan
from envecho.worlds.depot.plan import ROOMS
from envecho.worlds.depot.suite import MAX_MOVES
from envecho.worlds.scripts import ScriptedPolicy

FIRST_PLAN = 100
_EVEN_PLAN = 500
_ACTIONS_AND_ANSWERS = EchoConfig(
    world_model_coeff=1.0,
    world_loss_target="all",
    normalizer="global_token_mean",
    policy=PolicyConfig(loss="sft"),
)
_ACTIONS = _ACTIONS_AND_ANSWERS.model_copy(update={"world_model_coeff": 0.0})


def make_depot_start(
    folder: Path,
    *,
    seed: int = 0,
    num_plans: int = 12,
    steps_per_plan: int = 150,
    num_even_steps: int = 60,
    hidden_size: int = 144,
    learning_rate: float = 1e-3,
) -> None:
    """Train the starting model and write it, with its tokenizer, into an existing empty folder.

    Args:
        folder: where the plain Hugging Face model folder is written.
        seed: of weights and walks.
        num_plans: how many plans are learnt one after the other, from plan 100 on.
        steps_per_plan: optimiser steps on each.
        num_even_steps: optimiser steps of the second phase, each on a plan of its own, from plan 500 on.
        hidden_size: width of the four-layer Llama; 144 gives 1.1 million weights.
        learning_rate: of AdamW, constant.
    """
    tokenizer = train_depot_tokenizer()
    _write_random_model(folder, tokenizer, hidden_size=hidden_size, seed=seed)
    chat = ChatTokenizer(tokenizer)
    engine = LocalEngine(folder, device="cpu", compute_dtype="float32", tokens_per_micro_batch=8192, seed=seed)
    rng = random.Random(f"envecho-depot-start-{seed}")
    adam = AdamParams(learning_rate=learning_rate, weight_decay=0.01)
    with progress_bar("starting model", total=num_plans * steps_per_plan + num_even_steps) as advance:
        for plan in map(make_plan, range(FIRST_PLAN, FIRST_PLAN + num_plans)):
            walks = [_tokens(plan, start, way, chat) for start, way in _walks(plan)]
            for _ in range(steps_per_plan):
                _step(engine, rng.sample(walks, 64), _ACTIONS_AND_ANSWERS, adam)
                advance(1)
        for plan in map(make_plan, range(_EVEN_PLAN, _EVEN_PLAN + num_even_steps)):
            _step(engine, [_random_episode(plan, rng, chat, number) for number in range(64)], _ACTIONS, adam)
            advance(1)
    for path in folder.iterdir():
        path.unlink()
    engine.save_model(folder)
    tokenizer.save_pretrained(folder)


def _step(
    engine: LocalEngine, sequences: Sequence[TokenizedTrajectory], objective: EchoConfig, adam: AdamParams
) -> None:
    engine.forward_backward(compile_batch(sequences, objective).batch)
    engine.optim_step(adam)


def _walks(plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """All walks of one or two doors that do not end where they began."""
    ways = [way for n in range(1, MAX_MOVES + 1) for way in itertools.product(DOORS, repeat=n)]
    return [(start, way) for start in ROOMS for way in ways if _end(plan, start, way) != start]


def _end(plan: Plan, start: str, way: Sequence[str]) -> str:
    room = start
    for colour in way:
        room = plan.doors[room][colour]
    return room


def _random_episode(plan: Plan, rng: random.Random, chat: ChatTokenizer, number: int) -> TokenizedTrajectory:
    start, goal = rng.sample(ROOMS, 2)
    return _tokens(plan, start, [rng.choice(DOORS) for _ in range(MAX_MOVES)], chat, goal=goal, number=number)


def _tokens(
    plan: Plan, start: str, way: Sequence[str], chat: ChatTokenizer, *, goal: str | None = None, number: int = 0
) -> TokenizedTrajectory:
    """Walk this way in the real world, told with this goal (the walk's end where it is None), as tokens."""
    task = DepotTask(
        id=f"depot/plan-{plan.seed}",
        plan=plan,
        start=start,
        goal=goal or _end(plan, start, way),
        max_moves=MAX_MOVES,
    )
    job = EpisodeJob(
        id=f"{task.id}/{start}/{'-'.join(way)}/{number}",
        task_id=task.id,
        seed=0,
        make_world=lambda: DepotWorld(task),
        make_policy=lambda: ScriptedPolicy.oracle(f"go {colour}" for colour in way),
    )
    (sequence,) = tokenize_trajectory(with_closed_turns(run_episode(job), chat), chat)
    return sequence


def _write_random_model(folder: Path, tokenizer: object, *, hidden_size: int, seed: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),  # pyright: ignore[reportArgumentType]
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportAttributeAccessIssue]
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)  # pyright: ignore[reportAttributeAccessIssue]
