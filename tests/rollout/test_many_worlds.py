"""Many worlds at once, some of which fail: every episode is recorded, every world closed once, and the rest go on."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from failing_worlds import (
    NUM_STEPS,
    FailingWorld,
    Registry,
    StopEngine,
    eventually,
    quick,
    roll,
    scripted_jobs,
    sources,
)

from envecho.errors import ConfigError, EngineError, WorldCapacityError
from envecho.rollout import (
    EpisodeJob,
    Journal,
    RolloutJob,
    RolloutParams,
    RolloutStats,
    WorldLimits,
    collect,
    rollout,
    run_episode,
)
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Source, StopReason

OUTCOMES = {
    "fine": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "slow": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "capacity:2": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "make_capacity:1": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "lost_at_start:1": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "close_raises": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "close_hangs": (StopReason.COMPLETED, [Source.TASK] + [Source.STDOUT] * 3),
    "lost_at_start:9": (StopReason.WORLD_ERROR, [Source.HARNESS_ERROR]),
    "make_raises": (StopReason.WORLD_ERROR, [Source.HARNESS_ERROR]),
    "reset_raises": (StopReason.WORLD_ERROR, [Source.HARNESS_ERROR]),
    "reset_nonsense": (StopReason.WORLD_ERROR, [Source.HARNESS_ERROR]),
    "step_raises": (StopReason.WORLD_ERROR, [Source.TASK, Source.STDOUT, Source.HARNESS_ERROR]),
    "step_fails": (StopReason.WORLD_ERROR, [Source.TASK, Source.STDOUT, Source.HARNESS_ERROR]),
    "step_lost": (StopReason.WORLD_ERROR, [Source.TASK, Source.STDOUT, Source.HARNESS_ERROR]),
    "step_exits": (StopReason.WORLD_ERROR, [Source.TASK, Source.STDOUT, Source.HARNESS_ERROR]),
    "lost_close_hangs:1": (StopReason.TIMEOUT, [Source.TIMEOUT_NOTICE]),
    "reset_hangs": (StopReason.TIMEOUT, [Source.TIMEOUT_NOTICE]),
    "step_hangs": (StopReason.TIMEOUT, [Source.TASK, Source.STDOUT, Source.TIMEOUT_NOTICE]),
}
"""For each kind of world: how its episode ends, and who wrote the messages that are no actions."""


@pytest.fixture(scope="module")
def tokenizer(smollm2_tokenizer) -> ChatTokenizer:
    return ChatTokenizer(smollm2_tokenizer)


@pytest.fixture
def registry():
    registry = Registry()
    yield registry
    registry.release.set()


def check(kinds, trajectories, registry: Registry) -> None:
    assert [t.id for t in trajectories] == [f"e-{n}" for n in range(len(kinds))]
    for kind, trajectory in zip(kinds, trajectories, strict=True):
        stop, wrote = OUTCOMES[kind]
        assert (trajectory.stop_reason, sources(trajectory)) == (stop, wrote), kind
        assert trajectory.reward == (1.0 if stop is StopReason.COMPLETED else None), kind
    # A world that still hangs in reset or step is closed by another thread while it hangs.
    assert eventually(registry.all_closed_once), [(w.how, w.num_closes) for w in registry.made()]


@pytest.mark.parametrize("schedule", ["lockstep", "ready"])
def test_64_episodes_with_failures_of_every_kind_are_all_recorded(schedule, tokenizer, registry):
    """Catches one broken environment that hangs, ends or shortens the batch, and a world that is never closed."""
    kinds = ([*OUTCOMES] * 4)[:64]
    started = time.monotonic()
    trajectories = roll(kinds, registry, tokenizer, schedule=schedule)
    assert time.monotonic() - started < 15
    check(kinds, trajectories, registry)
    stats, num = RolloutStats.of(trajectories), Counter(kind.partition(":")[0] for kind in kinds)
    lost_for_good, once = kinds.count("lost_at_start:9"), kinds.count("lost_at_start:1")
    assert stats.num_episodes == 64
    assert stats.num_lost == 3 * lost_for_good + once + num["step_lost"] + num["lost_close_hangs"]
    assert stats.num_retried == 2 * lost_for_good + once
    assert stats.num_capacity_waits == 2 * num["capacity"] + num["make_capacity"]
    assert stats.num_deadlines == num["reset_hangs"] + num["step_hangs"] + num["lost_close_hangs"]
    assert stats.num_abandoned == stats.num_deadlines + num["close_hangs"]
    assert stats.num_world_errors == sum(OUTCOMES[kind][0] is StopReason.WORLD_ERROR for kind in kinds)
    assert stats.num_attempts == 64 + stats.num_retried + stats.num_capacity_waits


def test_scripts_meet_the_same_failures_as_models(registry):
    """Catches `collect` that hangs with a hung world, or stops at a bug of an environment."""
    kinds = [*OUTCOMES] * 2
    check(kinds, list(collect(scripted_jobs(kinds, registry), num_workers=8, limits=quick())), registry)


def test_a_bug_in_an_environment_is_named_where_an_answer_should_stand(registry):
    """Catches an episode that failed and nobody knows why: the exception's type and words, and where it was raised."""
    (trajectory,) = collect(scripted_jobs(["step_raises"], registry))
    assert trajectory.messages[-1].content == "step of the world raised IndexError: a bug in step"
    assert "failing_worlds.py" in trajectory.metadata["world_traceback"]


def test_a_wrong_configuration_and_a_bug_of_ours_raise(registry, tokenizer):
    """Catches a typo of the user, or a crash of the loop, that becomes 64 quiet world errors."""

    def refuse():
        raise ConfigError("no task 7")

    job = scripted_jobs(["fine"], registry)[0]
    with pytest.raises(ConfigError, match="no task 7"):
        list(collect([EpisodeJob(id="e", task_id="t", seed=0, make_world=refuse, make_policy=job.make_policy)]))

    def broken_policy():
        raise AttributeError("a bug of a policy")

    bad = [job, EpisodeJob(id="e", task_id="t", seed=0, make_world=job.make_world, make_policy=broken_policy)]
    with pytest.raises(AttributeError, match="a bug of a policy"):
        list(collect(bad))
    assert eventually(registry.all_closed_once)


@pytest.mark.parametrize("schedule", ["lockstep", "ready"])
def test_an_engine_that_fails_ends_the_rollout_and_closes_every_world(schedule, tokenizer, registry):
    """Catches threads that wait forever for a turn that nobody will decode, and worlds that outlive the run."""

    class Broken(StopEngine):
        def sample(self, requests, params):
            if len(self.batches) == 1:
                raise EngineError("out of memory")
            return super().sample(requests, params)

    before = threading.active_count()
    with pytest.raises(EngineError, match="out of memory"):
        roll(["fine"] * 16, registry, tokenizer, engine=Broken(), schedule=schedule)
    assert len(registry.made()) == 16
    assert registry.all_closed_once()
    assert eventually(lambda: threading.active_count() <= before)


def test_whoever_stops_reading_stops_the_episodes_and_their_worlds_are_closed(registry):
    """Catches a generator that goes on starting worlds after its reader has gone."""
    reader = collect(scripted_jobs(["slow"] * 50, registry), num_workers=4)
    next(reader)
    reader.close()
    assert len(registry.made()) < 12
    assert registry.all_closed_once()


def test_no_more_worlds_are_open_than_allowed_nor_more_at_work_than_workers(tokenizer, registry):
    """Catches 10,000 containers for 10,000 episodes, and a machine with two cores on which 64 sandboxes work."""
    params = {"schedule": "ready", "max_live_episodes": 6, "num_workers": 3, "limits": WorldLimits()}
    trajectories = roll(["slow"] * 30, registry, tokenizer, **params)
    assert {t.stop_reason for t in trajectories} == {StopReason.COMPLETED}
    assert len(registry.made()) == 30
    assert registry.most_open == 6
    assert registry.most_working == 3


def test_answers_wait_for_their_reader_in_a_bounded_queue(registry):
    """Catches a slow reader behind whom thousands of transcripts pile up in memory."""
    reader = collect(scripted_jobs(["fine"] * 100, registry), num_workers=2)
    next(reader)
    time.sleep(0.2)
    assert len(registry.made()) <= 1 + 4 * 2
    assert len(list(reader)) == 99


def test_episodes_go_on_while_others_wait_for_room(tokenizer):
    """Catches a lockstep that waits for episodes that wait for it to end: a server of 3 sessions, 8 episodes."""
    registry = Registry()

    class Full(FailingWorld):
        def reset(self, *args, **kwargs):
            with registry.lock:
                if sum(world.is_in for world in registry.worlds) >= 3:
                    raise WorldCapacityError("3 of 3 sessions are taken")
                self.is_in = True
            return super().reset(*args, **kwargs)

        is_in = False

        def close(self):
            self.is_in = False
            super().close()

    for schedule in ("lockstep", "ready"):
        params = RolloutParams(
            max_turns=5, max_tokens_per_turn=4, max_context_tokens=2048, schedule=schedule, num_workers=8
        )
        jobs = [
            RolloutJob(id=f"e-{n}", task_id="t", make_world=lambda n=n: Full(registry, "fine", n), key=(n,))
            for n in range(8)
        ]
        trajectories = rollout(jobs, StopEngine(), tokenizer, params)
        assert [t.stop_reason for t in trajectories] == [StopReason.COMPLETED] * 8
        assert RolloutStats.of(trajectories).num_capacity_waits >= 5
    assert registry.all_closed_once()


def test_no_room_within_the_time_for_it_is_a_world_error_with_its_attempts(registry):
    """Catches a run that waits for a full server for ever."""
    (trajectory,) = collect(
        scripted_jobs(["capacity:1000"], registry), limits=WorldLimits(capacity_wait_seconds=0.5, max_attempts=2)
    )
    assert trajectory.stop_reason is StopReason.WORLD_ERROR
    assert trajectory.messages[-1].content == "the server is full"
    assert trajectory.metadata["attempts"] == trajectory.metadata["num_capacity_waits"] + 1 > 2
    assert registry.all_closed_once()


def test_waits_are_drawn_from_the_episode_and_differ_between_episodes(registry, monkeypatch):
    """Catches 64 episodes that knock at a full server at the same moment, again and again."""
    waits: dict[str, list[float]] = {}
    real = threading.Event.wait

    def noted(event, timeout=None):
        if timeout is not None and threading.current_thread().name == "rollout-episode" and timeout < 5:
            waits.setdefault(threading.current_thread().native_id, []).append(timeout)
        return real(event, min(timeout, 0.01) if timeout else timeout)

    monkeypatch.setattr(threading.Event, "wait", noted)
    list(collect(scripted_jobs(["lost_at_start:3"] * 3, registry), num_workers=3, limits=WorldLimits(max_attempts=4)))
    assert all(0.5 * 0.1 * 2**k <= w <= 1.5 * 0.1 * 2**k for drawn in waits.values() for k, w in enumerate(drawn))
    assert len({tuple(drawn) for drawn in waits.values()}) == 3


def test_a_hung_world_that_is_made_too_late_is_closed_by_who_made_it(registry):
    """Catches a container that starts a minute after its episode was given up, and runs until the machine is full."""

    def make():
        registry.release.wait()
        return FailingWorld(registry, "fine")

    job = scripted_jobs(["fine"], registry)[0]
    late = EpisodeJob(id="late", task_id="t", seed=0, make_world=make, make_policy=job.make_policy)
    (trajectory,) = collect([late], limits=quick())
    assert trajectory.stop_reason is StopReason.TIMEOUT
    assert registry.made() == []
    registry.release.set()
    assert eventually(lambda: [w.num_closes for w in registry.made()] == [1])


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_world_that_hangs_keeps_no_process_from_ending(interrupted):
    """Catches a command that never returns its prompt, at its end or on Ctrl-C, because a thread waits for a world."""
    code = (
        "import os, signal, threading\n"
        "from failing_worlds import Registry, quick, scripted_jobs\n"
        "from envecho.rollout import WorldLimits, collect\n"
        "limits = quick()\n"
        f"if {interrupted}:\n"
        # A shell gives its background jobs a SIGINT that is ignored, and a child inherits that.
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "    limits = WorldLimits(grace_seconds=0.3)\n"
        "    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "print([t.stop_reason.value for t in collect(scripted_jobs(['step_hangs'] * 3, Registry()), limits=limits)])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60
    )
    if interrupted:
        assert done.returncode != 0
        assert "KeyboardInterrupt" in done.stderr
    else:
        assert (done.returncode, done.stdout) == (0, "['timeout', 'timeout', 'timeout']\n")


@pytest.mark.parametrize("kind", ["slow", "step_hangs"])
def test_an_episode_ends_when_its_time_is_over(kind, tokenizer, registry):
    """Catches a wall-clock deadline that is looked at between episodes only, or that a slow world escapes."""
    limits = WorldLimits(episode_seconds=0.1, grace_seconds=0.2)
    started = time.monotonic()
    (trajectory,) = roll([kind], registry, tokenizer, limits=limits)
    assert time.monotonic() - started < 5
    assert trajectory.stop_reason is StopReason.TIMEOUT
    assert sources(trajectory)[-1] is Source.TIMEOUT_NOTICE
    assert trajectory.metadata["num_deadlines"] == 1
    assert sources(trajectory).count(Source.STDOUT) <= (2 if kind == "slow" else 1)


def test_a_world_is_told_what_is_left_of_its_episode(registry):
    """Catches a command that gets a minute although its episode has a second left."""
    told = []

    class Told(FailingWorld):
        def step(self, action, timeout_s=None):
            told.append(timeout_s)
            return super().step(action, timeout_s)

    job = scripted_jobs(["fine"], registry)[0]
    job = EpisodeJob(
        id="e", task_id="t", seed=0, make_world=lambda: Told(registry, "fine"), make_policy=job.make_policy
    )
    run_episode(job, timeout_s=60, limits=WorldLimits(episode_seconds=5))
    run_episode(job, timeout_s=2, limits=WorldLimits(episode_seconds=5))
    run_episode(job)
    assert all(4 < seconds <= 5 for seconds in told[:NUM_STEPS])
    assert told[NUM_STEPS:] == [2] * NUM_STEPS + [None] * NUM_STEPS


def test_calls_of_one_world_come_from_one_thread(registry):
    """Catches worlds on SQLite or an event loop of their own that break when another thread calls them."""
    list(collect(scripted_jobs(["fine"] * 12, registry), num_workers=4))
    assert all(len(world.threads) == 1 for world in registry.made())


def test_a_journal_under_ready_keeps_each_episode_as_it_ends(tokenizer, registry, tmp_path):
    """Catches episodes that are rolled out again though they were over when the run was killed."""
    kinds = ["fine", "slow", "fine", "step_lost"]
    journal = Journal(tmp_path / "step")

    def run(kinds, registry):
        params = RolloutParams(max_turns=5, max_tokens_per_turn=4, max_context_tokens=2048, schedule="ready")
        jobs = [
            RolloutJob(
                id=f"e-{n}", task_id="t", make_world=lambda n=n, kind=kind: FailingWorld(registry, kind, n), key=(n,)
            )
            for n, kind in enumerate(kinds)
        ]
        return rollout(jobs, StopEngine(), tokenizer, params, journal=journal)

    first = run(kinds, registry)
    files = sorted((tmp_path / "step").glob("*.parquet"))
    assert len(files) == 4
    files[0].unlink()
    again = Registry()
    assert run(kinds, again) == first
    assert len(again.made()) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WorldLimits(episode_seconds=0), "episode_seconds is 0"),
        (lambda: WorldLimits(max_attempts=0), "max_attempts 0"),
        (lambda: RolloutParams(max_turns=1, max_tokens_per_turn=1, max_context_tokens=8, num_workers=0), "num_workers"),
        (
            lambda: RolloutParams(max_turns=1, max_tokens_per_turn=1, max_context_tokens=8, max_live_episodes=0),
            "max_live_episodes is 0",
        ),
    ],
)
def test_bounds_that_let_nothing_run_are_refused(make, message):
    """Catches a rollout that waits for ever because nothing may start."""
    with pytest.raises(ConfigError, match=message):
        make()
