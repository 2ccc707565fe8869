"""When turns are decoded changes no draw: `ready` gives the tokens of `lockstep`, however late worlds answer."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from failing_worlds import FailingWorld, Registry, StopEngine, roll

from envecho.engines.local import LocalEngine
from envecho.recipes.bench_worlds import NullWorld, SilentEngine
from envecho.recipes.depot_start import make_depot_start
from envecho.rollout import RolloutJob, RolloutParams, rollout
from envecho.seam import World
from envecho.tokens import ChatTokenizer
from envecho.trajectory import StopReason
from envecho.worlds.depot.suite import DepotSuite


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Iterator[tuple[LocalEngine, ChatTokenizer]]:
    """A small Llama that has seen commands of the depot a few times: its turns end, whatever they say."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more of them wait for each other where other processes use the cores
    folder = tmp_path_factory.mktemp("depot")
    make_depot_start(folder, num_plans=1, steps_per_plan=10, num_even_steps=1, hidden_size=16, learning_rate=2e-2)
    engine = LocalEngine(folder, device="cpu", compute_dtype="float32", seed=1, trains=False)
    yield engine, ChatTokenizer.from_pretrained(folder)
    torch.set_num_threads(num_threads)


class _Late:
    """A world whose answers take a random time."""

    def __init__(self, world: World, seed: int) -> None:
        self._world, self._random = world, random.Random(seed)

    def step(self, action, timeout_s=None):
        time.sleep(self._random.random() * 0.02)
        return self._world.step(action, timeout_s)

    def __getattr__(self, name):
        return getattr(self._world, name)


def _rolled(policy, schedule: str, **fields):
    engine, tokenizer = policy
    suite = DepotSuite()
    late = random.Random(repr(fields) + schedule).random()
    jobs = [
        RolloutJob(
            id=f"e-{n}",
            task_id=suite.task_id("train", n),
            make_world=lambda n=n: _Late(suite.make_world("train", n), int(late * 1e9) + n),
            key=(7, n),
        )
        for n in range(12)
    ]
    params = RolloutParams(
        max_turns=4, max_tokens_per_turn=4, max_context_tokens=512, schedule=schedule, seed=5, num_workers=12, **fields
    )
    return rollout(jobs, engine, tokenizer, params)


def _shown(trajectories):
    return [
        ([m.sampled.token_ids if m.sampled else m.content for m in t.messages], t.stop_reason, t.reward)
        for t in trajectories
    ]


def test_ready_draws_the_tokens_of_lockstep_whatever_is_decoded_together(policy):
    """Catches draws that depend on batch mates or on the order of answers: a run that a slow disk changes."""
    lockstep = _rolled(policy, "lockstep")
    answers = {m.content for t in lockstep for m in t.messages if m.role == "user"}
    assert sum(m.sampled is not None for t in lockstep for m in t.messages) > 20
    assert len(answers) > 12 + 3
    for fields in ({}, {"max_live_episodes": 3}, {"episodes_per_batch": 2, "ready_seconds": 0.0}):
        ready = _rolled(policy, "ready", **fields)
        assert _shown(ready) == _shown(lockstep)
        for one, other in zip(lockstep, ready, strict=True):
            for a, b in zip(one.messages, other.messages, strict=True):
                if a.sampled is not None:
                    np.testing.assert_allclose(a.sampled.logprobs, b.sampled.logprobs, atol=1e-4)


def test_lockstep_gives_the_same_bits_however_late_worlds_answer(policy):
    """Catches a lockstep whose batches are made of those who happened to answer first."""
    assert _rolled(policy, "lockstep") == _rolled(policy, "lockstep")
    few = _rolled(policy, "lockstep", max_live_episodes=5)
    assert _shown(few) == _shown(_rolled(policy, "lockstep", episodes_per_batch=5))


def test_lockstep_decodes_every_live_episode_each_turn(smollm2_tokenizer):
    """Catches an episode that is left behind its batch by a slow world."""
    engine = StopEngine()
    roll(["fine", "slow", "step_fails", "fine"], Registry(), ChatTokenizer(smollm2_tokenizer), engine=engine)
    assert engine.batches == [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 3]]


@pytest.mark.parametrize(("num_slow", "ready_seconds"), [(1, 30.0), (6, 0.01)])
def test_ready_waits_neither_for_the_slowest_world_nor_for_ever(smollm2_tokenizer, num_slow, ready_seconds):
    """Catches a schedule that is called ready and is lockstep: half of the episodes, or a moment, is enough."""
    engine, registry = StopEngine(), Registry()
    ends: dict[int, float] = {}

    class Ending(FailingWorld):
        def close(self):
            ends[self.number] = time.monotonic()
            super().close()

    jobs = [
        RolloutJob(
            id=f"e-{n}",
            task_id="t",
            make_world=lambda n=n: Ending(registry, "fine", n, seconds=0.2 if n < num_slow else 0.0),
            key=(n,),
        )
        for n in range(8)
    ]
    params = RolloutParams(
        max_turns=5,
        max_tokens_per_turn=4,
        max_context_tokens=2048,
        schedule="ready",
        num_workers=8,
        ready_seconds=ready_seconds,
    )
    trajectories = rollout(jobs, engine, ChatTokenizer(smollm2_tokenizer), params)
    assert {t.stop_reason for t in trajectories} == {StopReason.COMPLETED}
    assert max(ends[n] for n in range(num_slow, 8)) < min(ends[n] for n in range(num_slow)) - 0.2
    assert any(len(batch) > 1 for batch in engine.batches)


def test_ready_waits_a_moment_for_company(smollm2_tokenizer):
    """Catches turns that are decoded one by one because the first answer is always alone."""
    engine = StopEngine(seconds=0.01)
    roll(["fine"] * 32, Registry(), ChatTokenizer(smollm2_tokenizer), engine=engine, schedule="ready")
    assert len(engine.batches) <= 12
    assert sum(map(len, engine.batches)) == 32 * 3


def test_a_batch_is_never_larger_than_asked(smollm2_tokenizer):
    """Catches a key-value cache of 256 episodes where memory was planned for 8."""
    engine = StopEngine()
    fields = {"schedule": "ready", "episodes_per_batch": 8, "max_live_episodes": 24}
    roll(["fine"] * 24, Registry(), ChatTokenizer(smollm2_tokenizer), engine=engine, **fields)
    assert max(map(len, engine.batches)) == 8
    assert threading.active_count() < 24


def test_a_row_whose_episode_ended_is_refilled_and_batches_stay_full(smollm2_tokenizer):
    """Catches two halves that take turns, and an episode that starts only when the others have had their turn."""
    engine, lengths = SilentEngine(0.05), [3 + (7 * n) % 8 for n in range(24)]
    jobs = [
        RolloutJob(id=f"e-{n}", task_id="t", make_world=lambda n=n: NullWorld(num_steps=lengths[n]), key=(n,))
        for n in range(len(lengths))
    ]
    params = RolloutParams(
        max_turns=10, max_tokens_per_turn=1, max_context_tokens=4096, episodes_per_batch=6, schedule="ready"
    )
    rollout(jobs, engine, ChatTokenizer(smollm2_tokenizer), params)
    assert sum(engine.batch_sizes) == sum(lengths)
    full = engine.batch_sizes[:15]  # 24 episodes of 6.5 turns in six rows take 26 batches
    assert sum(full) >= 0.75 * 6 * len(full)
