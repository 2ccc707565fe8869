"""`python -m envecho.recipes.bench_session`: what a sampling session reads of prompts, kept and not kept between turns.

The same episodes by a random model of a few thousand weights, under both schedules: `kept` keeps what a row has read;
`forgotten` drops every episode that a turn does not name, and all of them where a turn names a new one, which is what a
session without a place for parked rows has to do. Worlds sleep, one step in 16 ten times as long, so that turns come at
different times. In both, every row reads its own prompt. The rows with a world's name are groups of eight episodes of
one of its tasks, with and without beginnings that are read once and copied. Not here: seconds, which are a model's own.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, final

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from envecho.engines.decoding import CachedSession
from envecho.engines.local import LocalEngine
from envecho.engines.pretrained import resolve_model
from envecho.recipes import bench
from envecho.recipes.bench_worlds import NullWorld
from envecho.recipes.progress import say
from envecho.rollout import RolloutJob, RolloutParams, Schedule, rollout
from envecho.seam import Sample, SamplingParams, TurnRequest, World
from envecho.tokens import ChatTokenizer
from envecho.worlds.suites import open_suite

MODEL: Final = "smollm2-135m"
SCHEDULES: Final[tuple[Schedule, ...]] = ("lockstep", "ready")
WORLDS: Final = ("terminal", "tools")
_GROUP_SIZE: Final = 8
_STEP_SECONDS: Final = 0.01


@final
class CountingEngine:
    """A local engine whose sessions count the prompt tokens that they read; they forget or share if told to."""

    def __init__(self, engine: LocalEngine, *, forgets: bool, shares: bool) -> None:
        self._engine, self._forgets, self._shares = engine, forgets, shares
        self.num_read = self.num_shown = 0

    @contextmanager
    def sampling_session(self) -> Generator[_CountingSession]:
        """Open a session."""
        with self._engine.sampling_session() as session:
            session.shares_beginnings = self._shares
            yield _CountingSession(session, self, forgets=self._forgets)


@final
class _CountingSession:
    def __init__(self, session: CachedSession, counts: CountingEngine, *, forgets: bool) -> None:
        self._session, self._counts, self._forgets = session, counts, forgets
        self._rows: set[int] = set()

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request, and count."""
        named = {request.row for request in requests}
        if self._forgets:
            for row in self._rows - named if named <= self._rows else self._rows:
                self._session.drop(row)
            self._rows = named
        before = self._session.num_read_tokens
        samples = self._session.sample(requests, params)
        self._counts.num_read += self._session.num_read_tokens - before
        self._counts.num_shown += sum(len(request.prompt) for request in requests)
        return [_ended(sample, params.stop_token_ids[0]) for sample in samples]

    def drop(self, row: int) -> None:
        """Free the cache of an episode that is over."""
        self._session.drop(row)


def _ended(sample: Sample, stop: int) -> Sample:
    """The turn with its end in place of its last token, which is in no cache yet: a random model hardly draws one."""
    return dataclasses.replace(sample, token_ids=np.append(sample.token_ids[:-1], np.int32(stop)), stopped=True)


def measure(
    schedule: Schedule,
    *,
    forgets: bool = False,
    shares: bool = False,
    world: str | None = None,
    episodes: int,
    seed: int,
) -> dict[str, float]:
    """Roll out episodes of eight turns, sixteen at a time, and return prompt tokens read and shown, per episode.

    With a world's name these are groups of eight, each of one of its tasks.
    """
    tokenizer = ChatTokenizer.from_pretrained(resolve_model(MODEL))
    with tempfile.TemporaryDirectory() as name:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer.hf),
            hidden_size=16,
            intermediate_size=16,
            num_attention_heads=2,
            num_hidden_layers=1,
            max_position_embeddings=65536,
        )
        LlamaForCausalLM(config).save_pretrained(name)
        local = LocalEngine(name, device="cpu", compute_dtype="float32", trains=False)
        engine = CountingEngine(local, forgets=forgets, shares=shares)
    jobs = [
        RolloutJob(
            id=f"e-{number}",
            task_id="null",
            key=(seed, number),
            make_world=functools.partial(_world, world, number),
        )
        for number in range(episodes)
    ]
    params = RolloutParams(
        max_turns=8,
        max_tokens_per_turn=4,
        max_context_tokens=65536,
        episodes_per_batch=16,
        num_workers=16,
        schedule=schedule,
        ready_seconds=_STEP_SECONDS,
    )
    counting: Any = engine
    rollout(jobs, counting, tokenizer, params)
    return {"read_tokens": engine.num_read / episodes, "shown_tokens": engine.num_shown / episodes}


def _world(name: str | None, number: int) -> World:
    if name is None:
        return NullWorld(num_steps=8, seconds=_STEP_SECONDS, tail=True, number=number)
    return open_suite(name, max_turns=8).make_world("train", number // _GROUP_SIZE)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both schedules, kept and forgotten, write the document and print its table."""
    parser = argparse.ArgumentParser(prog="python -m envecho.recipes.bench_session", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    measured: dict[str, dict[str, list[float]]] = {}
    cases: dict[str, dict[str, Any]] = {}
    for schedule, forgets in itertools.product(SCHEDULES, (False, True)):
        cases[f"{schedule}, {'forgotten' if forgets else 'kept'}"] = {"schedule": schedule, "forgets": forgets}
    for world, schedule, shares in itertools.product(WORLDS, SCHEDULES, (False, True)):
        title = f"{world}, groups of {_GROUP_SIZE}, {schedule}, {'shared' if shares else 'kept'}"
        cases[title] = {"schedule": schedule, "shares": shares, "world": world}
    for title, case in cases.items():
        for number in range(options.repetitions):
            found = measure(**case, episodes=options.episodes, seed=options.seed + number)
            say(f"{title}: {found['read_tokens']:.0f} of {found['shown_tokens']:.0f}")
            for key, value in found.items():
                measured.setdefault(title, {}).setdefault(key, []).append(value)
    material = {"episodes": options.episodes, "turns": 8, "at once": 16, "model": MODEL}
    document = bench.document("session", material, measured, options.repetitions, options.seed)
    bench.save(document, options.out)
    print(bench.table(document), end="")


if __name__ == "__main__":
    main()
