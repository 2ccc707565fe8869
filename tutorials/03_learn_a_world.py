"""Tutorial 3: learn what a real bash answers, without any grader.

    python tutorials/03_learn_a_world.py

A folder with six files is a world: whoever types a command is told something. An explorer types commands in the
sandbox, nobody grades anything, and a small model learns the answers. Then it is asked about commands that it never
saw, and about another folder. What it says there is the lesson of this tutorial.
"""

import random
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from small_model import write_small_model

from envecho import ChatTokenizer, EchoConfig, LocalEngine, TerminalWorld, Trajectory, compile_batch
from envecho.evaluation import evaluate_baselines, evaluate_pool, fit_baselines, tokenize_pool
from envecho.rollout import EpisodeJob, collect
from envecho.seam import AdamParams
from envecho.worlds.scripts import ScriptedPolicy

# --- 1. The world: one box, and commands that look into it -----------------------------------------------------------

WORDS = "amber basil cedar dune ember fern grove heath iris jade kelp larch moss north oak pine quartz reed sage thorn"


@dataclass(frozen=True)
class Box:
    """A folder of six files with five words each, drawn from a seed; the terminal world needs no more of a task."""

    id: str
    seed: int
    instruction: str = "Look around."

    @property
    def box(self) -> "Box":
        """What the sandbox writes before the episode."""
        return self

    @property
    def files(self) -> dict[str, str]:
        """Name -> text."""
        draw = random.Random(self.seed)
        names = ("birds", "cars", "dishes", "games", "plants", "towns")
        return {name: "".join(f"{word}\n" for word in draw.sample(WORDS.split(), 5)) for name in names}

    def verify(self, answer: str | None, run: object) -> float:
        """Nothing is graded here."""
        return 0.0


def commands() -> list[str]:
    """Return everything that the explorer may type."""
    ways = ("sed -n {}p {}", "head -n {} {}", "tail -n {} {}")
    return [way.format(number, name) for way in ways for number in range(1, 6) for name in Box("", 0).files]


def explore(box: Box, asked: Iterable[str]) -> list[Trajectory]:
    """Type each command in an episode of its own, in a real bash in the sandbox."""
    jobs = [
        EpisodeJob(
            id=f"{box.id}/{command}",
            task_id=command,
            seed=0,
            make_world=lambda: TerminalWorld(lambda _: box, max_turns=2),
            make_policy=lambda command=command: ScriptedPolicy([(command, {})]),
        )
        for command in asked
    ]
    return list(collect(jobs))


everything = commands()
random.Random(0).shuffle(everything)
train_commands, new_commands = everything[18:], everything[:18]
train = explore(Box("box-1", seed=1), train_commands)
pools = {
    "new commands, same box": explore(Box("box-1", seed=1), new_commands),
    "another box": explore(Box("box-2", seed=2), new_commands),
}
print(f"{len(train)} episodes to learn from; the first one:")
print("".join(f"    {message.role:10}{message.content!r}\n" for message in train[0].messages))

# --- 2. A model that knows nothing, and the objective ----------------------------------------------------------------
#
# `use_rl=False` is verifier-free: no reward, no group, no sampling log-prob is asked for. The loss is the cross-entropy
# of the world's words alone. Commands, tags and the harness's words weigh nothing.

with tempfile.TemporaryDirectory() as folder:
    model = write_small_model(Path(folder), train)
    tokenizer = ChatTokenizer.from_pretrained(model)
    engine = LocalEngine(model, device="cpu", compute_dtype="float32", tokens_per_micro_batch=8192)
objective = EchoConfig(use_rl=False, world_model_coeff=1.0, normalizer="global_token_mean")
sequences = tokenize_pool(train, tokenizer)


def nats(pool: list[Trajectory]) -> float:
    """Mean cross-entropy of the world's words at temperature 1, in nats per token."""
    stat = evaluate_pool(engine, pool, tokenizer, num_swaps=0).result.ce_per_token
    assert stat is not None
    return stat.value


before = {name: nats(pool) for name, pool in pools.items()}

# --- 3. Train --------------------------------------------------------------------------------------------------------

rng = random.Random(0)
STEPS = 150
for step in range(1, STEPS + 1):
    batch = compile_batch(rng.sample(sequences, 24), objective).batch
    out = engine.forward_backward(batch)
    engine.optim_step(AdamParams(learning_rate=4e-3 * (1 - (step - 1) / STEPS)))
    if step in (1, 10, 50, 100, STEPS):
        print(f"step {step:3}: {out.env_loss:.2f} nats per token of what the shell said")
after = {name: nats(pool) for name, pool in pools.items()}

# --- 4. Held-out, beside what copying gives --------------------------------------------------------------------------
#
# An n-gram and a suffix-match copier are trained on the same tokens. What they can do needs no understanding.

copiers = fit_baselines(sequences, len(tokenizer.hf))
print("\nnats per token           untrained  trained  n-gram  copier")
for name, pool in pools.items():
    found = evaluate_baselines(copiers, pool, tokenizer, max_tokens=512)
    ngram, copier = (found[kind].result.ce_per_token for kind in ("ngram", "ppm"))
    assert ngram is not None
    assert copier is not None
    print(f"{name:24} {before[name]:9.2f}  {after[name]:7.2f}  {ngram.value:6.2f}  {copier.value:6.2f}")
    assert name != "new commands, same box" or ngram.value < 1.5 * after[name]

# The cost of commands that it was never shown falls to a fraction: the model knows what is in the files of this box.
assert after["new commands, same box"] < 0.3 * before["new commands, same box"]
# But copying lines does that as well, and of another box the model is sure of the wrong things: there it is no better
# than the model that knew nothing. With one box it could learn a place, and not how bash works. A falling cross-entropy
# alone does not tell the two apart. `envecho demo` trains on many boxes, where a memory of lines does not help.
assert after["another box"] > 0.8 * before["another box"]
print("\nIt learnt this box, as a copier does, and nothing about another one.")
