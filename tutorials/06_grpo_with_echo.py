"""Tutorial 6: GRPO and ECHO together, and how to read a run.

    python tutorials/06_grpo_with_echo.py

Six chests stand in a house, and nobody says what lies in which: whoever opens one is told. A small policy that can say
`open red`, and does not know this house, opens chests by itself. GRPO trains what it said, by reward; ECHO trains what
the world answered, in the same pass. Then we read what the run wrote down.
"""

import json
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from small_model import write_small_model

from envecho import ChatTokenizer, EchoConfig, LocalEngine, Segment, Source, compile_batch
from envecho.evaluation import tokenize_pool
from envecho.rollout import EpisodeJob, collect
from envecho.seam import AdamParams, Observation
from envecho.tokens import with_closed_turns
from envecho.training.config import RunConfig
from envecho.training.loop import train
from envecho.worlds.scripts import ScriptedPolicy

# --- 1. A world with six facts ---------------------------------------------------------------------------------------

COLOURS = ("red", "green", "blue", "white", "black", "brown")
THINGS = ("a coin", "a rope", "a lamp", "a bell", "a ring", "a map")
STEPS = 50


class Chests:
    """One chest may be opened; reward 1 for the thing that was asked for, which the seed names."""

    state: Mapping[str, Any] = {}

    def __init__(self, house: int = 0) -> None:
        things = random.Random(house).sample(THINGS, len(THINGS))
        self.inside = dict(zip((f"open {colour}" for colour in COLOURS), things, strict=True))

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Say what to look for."""
        self.wanted = THINGS[(seed or 0) % len(THINGS)]
        self.state = {"episode_id": episode_id, "step_count": 0}
        return Observation(segments=(Segment(source=Source.TASK, text=f"Find {self.wanted}."),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Open the chest that the action names."""
        inside = self.inside.get(action.strip())
        if inside is None:
            warning = Segment(source=Source.FORMAT_WARNING, text="[expected: open COLOUR]")
            return Observation(segments=(warning,), done=True, reward=0.0, labels={"call": "unparsed"})
        answer = Segment(source=Source.STDOUT, text=f"inside is {inside}\n")
        status = Segment(source=Source.STATUS, text="[no chest left]")
        reward = float(inside == self.wanted)
        return Observation(segments=(answer, status), done=True, reward=reward, labels={"call": "valid"})

    def close(self) -> None:
        """There is nothing to release."""


# --- 2. A policy to begin with: it knows how commands and answers look, from other houses -----------------------


def walk(number: int) -> EpisodeJob:
    """Return an episode with a chest drawn at random, in one of two other houses."""
    script = [f"open {random.Random(number).choice(COLOURS)}"]
    return EpisodeJob(
        id=f"walk-{number}",
        task_id=f"seed-{number}",
        seed=number,
        make_world=lambda: Chests(house=1 + number % 2),
        make_policy=lambda: ScriptedPolicy.oracle(script),
    )


def warm_start(folder: Path) -> Path:
    """Write a small model that says `open COLOUR` and expects anything behind it."""
    walks = list(collect([walk(number) for number in range(96)], max_turns=1))
    model = write_small_model(folder / "random", walks, hidden_size=48)
    tokenizer = ChatTokenizer.from_pretrained(model)
    engine = LocalEngine(model, device="cpu", compute_dtype="float32", tokens_per_micro_batch=8192)
    both = EchoConfig.from_table({"world_model_coeff": 1.0, "policy": {"loss": "sft"}})
    sequences = tokenize_pool([with_closed_turns(walk, tokenizer) for walk in walks], tokenizer)
    for step in range(200):
        engine.forward_backward(compile_batch(sequences[step % 2 :: 2], both).batch)
        engine.optim_step(AdamParams(learning_rate=5e-3))
    start = folder / "start"
    start.mkdir()
    engine.save_model(start)
    tokenizer.hf.save_pretrained(start)
    return start


# --- 3. A run is a TOML file, one table per room ---------------------------------------------------------------------
#
# Each step takes 6 tasks and rolls out each of them 6 times: the group, whose rewards GRPO compares.


def run(folder: Path, name: str, world_model_coeff: float) -> list[dict[str, Any]]:
    """Train with this lambda, and return the rows of `metrics.jsonl`."""
    document = {
        "model": {"name": str(folder / "start"), "device": "cpu", "compute_dtype": "float32"},
        "rollout": {
            "world": "__main__:Chests",
            "num_tasks": 6,
            "tasks_per_step": 6,
            "rollouts_per_task": 6,
            "max_turns": 1,
            "max_tokens_per_turn": 6,
        },
        "objective": {
            "world_model_coeff": world_model_coeff,
            "schedule": {"measure_every": 10},
            "policy": {"kl_coeff": 0.05},
        },
        "optimizer": {"learning_rate": 2e-3, "schedule": "constant"},
        "run": {"steps": STEPS, "checkpoint_every": 0},
    }
    train(RunConfig.from_document(document), folder / name)
    return [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()]


with tempfile.TemporaryDirectory() as temporary:
    warm_start(Path(temporary))
    arms = {"ECHO": run(Path(temporary), "echo", 0.2), "GRPO": run(Path(temporary), "grpo", 0.0)}

# --- 4. Reading the rows ---------------------------------------------------------------------------------------------
#
# `env_ce` is what the world's answers cost, in nats per token at temperature 1. It is logged at lambda 0 as well, so
# that GRPO alone can be compared. `zero_variance_fraction` is the share of groups from which GRPO learns nothing.
# docs/metrics.md defines every name.


def mean(name: str, key: str, part: slice) -> float:
    """Mean of a metric over some of the steps."""
    found = [row[key] for row in arms[name] if row["kind"] == "train"][part]
    return sum(found) / len(found)


first, last = slice(0, STEPS // 3), slice(-STEPS // 3, None)
KEYS = ("env_ce", "solve_rate", "zero_variance_fraction")
print("           env_ce          solve_rate      zero_variance_fraction")
print("           first   last    first   last    first   last")
for name in arms:
    print(f"{name:8}" + "".join(f"{mean(name, key, part):8.2f}" for key in KEYS for part in (first, last)))

# ECHO's policy comes to expect what lies in each chest. A policy that knew all other words of the answers and nothing
# of the house would pay ln(6) nats for one of their five tokens, 0.36 per token. GRPO alone earns as much reward here,
# and its answers become dearer: training changes the weights, and nothing holds them to what the world says.
assert mean("ECHO", "env_ce", last) < 0.9 * mean("ECHO", "env_ce", first)
assert mean("ECHO", "env_ce", last) < mean("GRPO", "env_ce", last)
# One toy and one seed say nothing about ECHO elsewhere: docs/study.md compares arms with seeds, intervals and controls.

# --- 5. Two gradients, and alarms ------------------------------------------------------------------------------------
#
# Every 10 steps the gradients of both terms were measured apart. Where that of the policy is much the smaller one,
# lambda is too large for this run, whatever its number says. A collapse lowers env_ce, too: who always says the same is
# always told the same. So a falling env_ce beside falling variety raises an alarm.

print()
for row in arms["ECHO"]:
    if row.get("policy_grad_norm") is not None:
        print(f"step {row['step']}: gradient of policy {row['policy_grad_norm']:.3f}, world {row['env_grad_norm']:.3f}")
for name, rows in arms.items():
    alarms = [f"step {row['step']}: {row['name']}, {row['reason']}" for row in rows if row["kind"] == "alarm"]
    print(f"alarms of {name}: {'; '.join(alarms) or 'none'}")
