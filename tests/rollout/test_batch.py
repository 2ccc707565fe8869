"""Batched rollouts: exact tokens, repeatable draws, and a record of whatever happens."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from envecho.engines.local import LocalEngine
from envecho.errors import WorldError
from envecho.rollout import Journal, RolloutJob, RolloutParams, rollout
from envecho.seam import Observation, ScoreRequest
from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import CallOutcome, Role, Segment, Source, StopReason, call_outcomes
from envecho.worlds.suites import open_suite

PARAMS = RolloutParams(
    max_turns=3, max_tokens_per_turn=6, max_context_tokens=2048, temperature=0.9, episodes_per_batch=4, seed=3
)


@pytest.fixture(scope="module")
def engine(tiny_dir):
    return LocalEngine(tiny_dir, device="cpu", compute_dtype="float32", seed=1)


@pytest.fixture(scope="module")
def tokenizer(tiny_dir):
    return ChatTokenizer.from_pretrained(tiny_dir)


class TalkingWorld:
    """Answers every action with a line, and ends, fails or times out as it is told."""

    def __init__(self, end: str) -> None:
        self.end, self.num_steps, self.closed = end, 0, False

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        if self.end == "no_start":
            raise WorldError("there is no world")
        return Observation(segments=(Segment(source=Source.TASK, text=f"Task {seed}"),))

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        self.num_steps += 1
        if self.end == "fails" and self.num_steps == 2:
            raise WorldError("the world is gone")
        over = self.num_steps == 2 and self.end in ("completes", "times_out")
        return Observation(
            segments=(Segment(source=Source.STDOUT, text=f"line {self.num_steps}\n"),),
            done=over,
            reward=1.0 if over and self.end == "completes" else None,
            timed_out=over and self.end == "times_out",
        )

    @property
    def state(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None:
        self.closed = True


def job(number: int, make_world, step: int = 0) -> RolloutJob:
    return RolloutJob(
        id=f"episode-{number}",
        task_id=f"task-{number}",
        group_id="g",
        make_world=make_world,
        key=(step, number),
        world_seed=number,
    )


def test_sampled_turns_stand_token_for_token_behind_the_prompts_that_they_were_sampled_from(engine, tokenizer):
    """Catches drift (METHOD trap 5): log-probs kept beside ids that are not those that the policy drew."""
    suite = open_suite("depot", max_turns=3)
    jobs = [job(n, lambda n=n: suite.make_world("train", n)) for n in range(6)]
    for trajectory in rollout(jobs, engine, tokenizer, PARAMS):
        (sequence,) = tokenize_trajectory(trajectory, tokenizer)
        actions = sequence.action_mask
        kept = [token for m in trajectory.messages if m.sampled for token in m.sampled.token_ids]
        assert sequence.token_ids[actions].tolist() == kept
        (scores,) = engine.logprobs(
            [ScoreRequest(token_ids=sequence.token_ids, read=actions)], temperature=0.9, with_entropies=True
        )
        np.testing.assert_allclose(scores.logprobs[actions], sequence.sampling_logprobs[actions], atol=2e-4)
        np.testing.assert_allclose(scores.entropies[actions], sequence.sampling_entropies[actions], atol=2e-3)


def test_the_same_jobs_give_the_same_bits_and_another_step_other_draws(engine, tokenizer):
    """Catches draws that depend on threads, time or what ran before: a run could not be continued."""
    suite = open_suite("depot", max_turns=3)

    def run(step: int):
        jobs = [job(n, lambda n=n: suite.make_world("train", n), step) for n in range(6)]
        return rollout(jobs, engine, tokenizer, PARAMS)

    assert run(1) == run(1)
    assert [t.messages for t in run(1)] != [t.messages for t in run(2)]


def test_a_turn_that_was_cut_is_answered_by_the_harness_and_not_carried_out(engine, tokenizer):
    """Catches half a command that is run, and a cut that ends the episode or vanishes from the counts."""
    worlds = []

    def make():
        worlds.append(TalkingWorld("completes"))
        return worlds[-1]

    (trajectory,) = rollout([job(0, make)], engine, tokenizer, PARAMS)
    cut = [m for m in trajectory.messages if any(s.source is Source.FORMAT_WARNING for s in m.segments)]
    assert trajectory.metadata["num_cut_turns"] == len(cut) > 0
    assert worlds[0].num_steps == 3 - len(cut)
    assert call_outcomes(trajectory).count(CallOutcome.UNPARSED) == len(cut)
    assert all(segment.source.role is Role.WARNING for m in cut for segment in m.segments)


@pytest.mark.parametrize(
    ("end", "stop", "reward", "num_answers"),
    [
        ("completes", StopReason.COMPLETED, 1.0, 2),
        ("times_out", StopReason.TIMEOUT, None, 2),
        ("fails", StopReason.WORLD_ERROR, None, 2),
        ("goes_on", StopReason.MAX_TURNS, 0.0, 3),
        ("no_start", StopReason.WORLD_ERROR, None, 0),
    ],
)
def test_trap_24_whatever_ends_an_episode_keeps_its_transcript(tiny_dir, tokenizer, end, stop, reward, num_answers):
    """Catches a timeout or a broken world that throws the transcript away, and (trap 11) a lost last observation."""
    made = []

    def make():
        made.append(TalkingWorld(end))
        return made[-1]

    engine = _EveryTokenStops(LocalEngine(tiny_dir, device="cpu", compute_dtype="float32"), tokenizer)
    trajectories = rollout([job(0, make), job(1, lambda: TalkingWorld("goes_on"))], engine, tokenizer, PARAMS)
    first = trajectories[0]
    assert (first.stop_reason, first.reward) == (stop, reward)
    answers = [m for m in first.messages if m.role == "user"][1:] if end != "no_start" else []
    assert len(answers) == num_answers
    assert trajectories[1].stop_reason is StopReason.MAX_TURNS
    assert all(world.closed for world in made)
    if end == "completes":
        (sequence,) = tokenize_trajectory(first, tokenizer)
        assert "line 2" in tokenizer.hf.decode(sequence.token_ids[sequence.obs_mask])


class _EveryTokenStops:
    """An engine whose turns are one end-of-turn token, so that every world is asked every turn."""

    def __init__(self, engine: LocalEngine, tokenizer: ChatTokenizer) -> None:
        self._engine, self._end = engine, tokenizer.end_of_turn_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def sampling_session(self):
        from contextlib import contextmanager

        from envecho.seam import Sample

        @contextmanager
        def session():
            class _Session:
                def sample(self, requests, params):
                    ids = np.array([params.stop_token_ids[0]], dtype=np.int32)
                    return [Sample(token_ids=ids, logprobs=np.zeros(1, np.float32), stopped=True) for _ in requests]

                def drop(self, row):
                    pass

            yield _Session()

        return session()


class _Watched:
    """An engine whose sessions say after every turn how many episodes they hold keys and values of."""

    def __init__(self, engine: LocalEngine) -> None:
        self._engine, self.held = engine, list[int]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    @contextmanager
    def sampling_session(self):
        with self._engine.sampling_session() as session:
            sample = session.sample

            def watched(requests, params):
                samples = sample(requests, params)
                self.held.append(len({*session._batch.rows, *session._parked}))
                return samples

            session.sample = watched
            yield session


def test_a_cache_lives_as_long_as_its_episode(engine, tokenizer):
    """Catches a session that holds keys and values of every episode of a step: memory that grows with the step."""
    watched = _Watched(engine)
    params = dataclasses.replace(PARAMS, max_turns=2, episodes_per_batch=1, max_live_episodes=2, schedule="ready")
    jobs = [job(n, lambda: TalkingWorld("goes_on")) for n in range(8)]
    assert len(rollout(jobs, watched, tokenizer, params)) == 8
    assert len(watched.held) == 16
    # An episode that has just ended is dropped when its record is taken out, one turn later at most.
    assert 2 <= max(watched.held) <= 4


def test_an_episode_without_room_for_another_turn_is_over_and_kept(engine, tokenizer):
    """Catches a prompt that outgrows the context and crashes the whole batch."""
    params = RolloutParams(max_turns=50, max_tokens_per_turn=6, max_context_tokens=90, episodes_per_batch=4)
    jobs = [job(n, lambda: TalkingWorld("goes_on")) for n in range(2)]
    for trajectory in rollout(jobs, engine, tokenizer, params):
        assert trajectory.stop_reason is StopReason.MAX_TOKENS
        assert trajectory.reward == 0.0
        assert sum(m.role == "assistant" for m in trajectory.messages) > 1


def test_the_terminal_world_runs_what_a_model_says(engine, tokenizer):
    """Catches a rollout that works in a toy alone: real bash in its sandbox, several episodes at once."""
    suite = open_suite("terminal", max_turns=2)
    params = RolloutParams(max_turns=2, max_tokens_per_turn=8, max_context_tokens=2048, episodes_per_batch=4)
    jobs = [job(n, lambda n=n: suite.make_world("train", n)) for n in range(3)]
    for trajectory in rollout(jobs, engine, tokenizer, params):
        assert trajectory.reward == 0.0
        assert len(trajectory.messages) >= 4


def test_a_batch_in_the_journal_is_read_and_not_decoded_again(engine, tokenizer, tmp_path):
    """Catches rollouts that are paid for twice, and a journal that changes a bit of what it keeps."""
    suite = open_suite("depot", max_turns=3)
    jobs = [job(n, lambda n=n: suite.make_world("train", n)) for n in range(6)]
    journal = Journal(tmp_path / "step")
    first = rollout(jobs, engine, tokenizer, PARAMS, journal=journal)
    assert len(list((tmp_path / "step").glob("*.parquet"))) == 2

    def refuse():
        raise AssertionError("a world was made for an episode that the journal holds")

    again = rollout([job(n, refuse) for n in range(6)], engine, tokenizer, PARAMS, journal=journal)
    assert again == first
    torn = sorted((tmp_path / "step").glob("*.parquet"))[0]
    torn.write_bytes(torn.read_bytes()[:-20])
    assert rollout(jobs, engine, tokenizer, PARAMS, journal=journal) == first
    journal.clear()
    assert not (tmp_path / "step").exists()


def test_a_rollout_that_is_killed_leaves_whole_batches_or_none(tiny_dir, tokenizer, tmp_path):
    """Catches a batch that is half written under its own name: five SIGKILLs at random moments, then the same bits."""
    suite = open_suite("depot", max_turns=3)
    jobs = [job(n, lambda n=n: suite.make_world("train", n)) for n in range(12)]
    engine = LocalEngine(tiny_dir, device="cpu", compute_dtype="float32", seed=1)
    expected = rollout(jobs, engine, tokenizer, PARAMS)
    rng = np.random.default_rng(0)
    for _ in range(5):
        child = os.fork()
        if child == 0:
            rollout(jobs, engine, tokenizer, PARAMS, journal=Journal(tmp_path / "step"))
            os._exit(0)
        time.sleep(float(rng.uniform(0.01, 0.15)))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert rollout(jobs, engine, tokenizer, PARAMS, journal=Journal(tmp_path / "step")) == expected
