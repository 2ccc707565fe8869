"""Worlds in sandboxes that a provider starts: real `envecho serve` processes, lent to episodes and lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from envecho.errors import ConfigError, WorldError, WorldLostError
from envecho.rollout import EpisodeJob, collect
from envecho.trajectory import StopReason
from envecho.worlds.options import HostOptions, SuiteOptions
from envecho.worlds.providers.ledger import Ledger
from envecho.worlds.providers.pool import HostPool
from envecho.worlds.providers.process import ProcessHost, holders_of
from envecho.worlds.providers.provider import HostSpec
from envecho.worlds.providers.suite import HostedSuite, open_hosted
from envecho.worlds.suites import open_suite


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Ledger:
    """A ledger of its own."""
    return Ledger(tmp_path_factory.mktemp("state") / "sandboxes")


@pytest.fixture(scope="module")
def hosted(ledger: Ledger) -> Iterator[HostedSuite]:
    """The terminal world, in processes that are started as episodes need them."""
    suite = open_hosted("terminal", "process", SuiteOptions(max_turns=6), ledger=ledger)
    assert isinstance(suite, HostedSuite)
    yield suite
    suite.close()
    assert ledger.entries() == []


def test_episodes_run_in_the_sandbox_as_in_process(hosted: HostedSuite, ledger: Ledger):
    """Catches tasks, answers or rewards that depend on where a world runs, and a process for each episode."""
    local = open_suite("terminal", max_turns=6)
    assert (hosted.name, hosted.splits) == (local.name, local.splits)

    def jobs(suite: object) -> list[EpisodeJob]:
        return [
            EpisodeJob(
                id=str(number),
                task_id=hosted.task_id("train", number),
                seed=number,
                make_world=lambda number=number: suite.make_world("train", number),  # type: ignore[attr-defined]
                make_policy=lambda number=number: hosted.scripted_policy("train", number, policy="oracle", seed=0),
            )
            for number in range(6)
        ]

    assert list(collect(jobs(hosted))) == list(collect(jobs(local)))
    assert len(ledger.entries()) == 1


def test_a_sandbox_that_dies_ends_its_episodes_and_the_next_gets_another(hosted: HostedSuite, ledger: Ledger):
    """Catches a pool that lends a dead sandbox for ever, and a loss that does not read as one."""
    world = hosted.make_world("train", 0)
    world.reset(seed=0)
    (entry,) = ledger.entries()
    (server,) = holders_of(entry.key)
    os.kill(server, signal.SIGKILL)
    with pytest.raises(WorldLostError):
        world.step("ls")
    world.close()
    assert ledger.entries() == []
    again = hosted.make_world("train", 0)
    assert again.reset(seed=0).segments
    assert [each.key for each in ledger.entries()] != [entry.key]
    again.close()


def test_a_killed_sandbox_is_recorded_with_its_partial_transcript(hosted: HostedSuite, ledger: Ledger):
    """Catches a lost sandbox that raises through the rollout instead of ending one episode."""

    def kill_all() -> None:
        for entry in ledger.entries():
            for server in holders_of(entry.key):
                os.kill(server, signal.SIGKILL)

    policy = hosted.scripted_policy("train", 1, policy="explore", seed=3)

    class KillingPolicy:
        turns = 0

        def act(self, messages):  # type: ignore[no-untyped-def]
            self.turns += 1
            if self.turns == 3:
                kill_all()
            return policy.act(messages)

    job = EpisodeJob(
        id="e", task_id="t", seed=0, make_world=lambda: hosted.make_world("train", 1), make_policy=KillingPolicy
    )
    (episode,) = collect([job])
    assert (episode.stop_reason, episode.reward) == (StopReason.WORLD_ERROR, None)
    assert [message.role for message in episode.messages] == ["system", *["user", "assistant"] * 3, "user"]


def test_families_reach_the_sandbox(ledger: Ledger):
    """Catches an episode of another task than the one it is named after: tasks of some families have other numbers."""
    options = SuiteOptions(families=("top_customer", "slowest_request"))
    suite = open_hosted("terminal", "process", options, ledger=Ledger(ledger.folder.parent / "of-families"))
    world = suite.make_world("train", 1)
    try:
        assert (
            world.reset(seed=1).metadata["task_id"] == suite.task_id("train", 1) == "terminal/slowest_request/box-1/0"
        )
    finally:
        world.close()
        suite.close()  # type: ignore[attr-defined]


def test_a_world_that_cannot_be_served_says_so(ledger: Ledger, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    """Catches a start that hangs, and a server that fails without its reason."""
    spec = HostSpec(world="no-such-world", sandbox="bubblewrap", max_turns=4, max_sessions=1)
    with pytest.raises(WorldError, match="`envecho serve no-such-world` ended with status 1"):
        ProcessHost(spec, ledger).start()
    assert capfd.readouterr().err.startswith("error: no world 'no-such-world'; known worlds: terminal")


class CountedHost:
    """A sandbox without anything inside, which counts."""

    name, key = "counted", "key"

    def __init__(self) -> None:
        self.started = self.stopped = 0

    def start(self) -> str:
        self.started += 1
        return "http://127.0.0.1:1"

    def stop(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize(("sessions", "is_reused", "num_hosts"), [(1, False, 12), (1, True, 4), (4, True, 1)])
def test_a_pool_starts_no_more_than_it_must(sessions: int, is_reused: bool, num_hosts: int):
    """Catches sandboxes that are shared although they must not be, or started for nothing, or never stopped."""
    made: list[CountedHost] = []

    def make() -> CountedHost:
        made.append(CountedHost())
        return made[-1]

    pool = HostPool(make, sessions=sessions, is_reused=is_reused)
    for _ in range(3):
        with ThreadPoolExecutor(4) as threads:
            taken = list(threads.map(lambda _: pool.take(), range(4)))
        assert max(running.num_users for running in taken) <= sessions
        for running in taken:
            pool.give_back(running, is_lost=False)
    assert len(made) == num_hosts
    assert all(host.started == 1 for host in made)
    pool.close()
    assert all(host.stopped == 1 for host in made)


def test_a_lost_sandbox_is_stopped_when_its_last_episode_left():
    """Catches a sandbox that is stopped under the episodes that still run in it, or lent once more."""
    pool = HostPool(CountedHost, sessions=2, is_reused=True)
    one, two = pool.take(), pool.take()
    assert one is two
    pool.give_back(one, is_lost=True)
    assert one.host.stopped == 0  # type: ignore[attr-defined]
    assert pool.take() is not one
    pool.give_back(two, is_lost=False)
    assert one.host.stopped == 1  # type: ignore[attr-defined]


def test_the_end_of_the_process_stops_what_a_thread_was_stopping(ledger: Ledger):
    """Catches a server that outlives a run: its suite went away in a daemon thread, which the process's end cut off."""
    code = (
        "import sys, threading\nfrom pathlib import Path\n"
        "from envecho.worlds.providers.ledger import Ledger\n"
        "from envecho.worlds.providers.pool import HostPool\n"
        "from envecho.worlds.providers.process import ProcessHost\n"
        "from envecho.worlds.providers.provider import HostSpec\n"
        "spec = HostSpec(world='depot', sandbox='bubblewrap', max_turns=4, max_sessions=2)\n"
        "pool = HostPool(lambda: ProcessHost(spec, Ledger(Path(sys.argv[1]))), sessions=2, is_reused=True)\n"
        "print(pool.take().host.key, flush=True)\n"
        "threading.Thread(target=pool.close, daemon=True).start()\n"
    )
    folder = ledger.folder.parent / "of-another"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True, check=True)
    assert holders_of(done.stdout.strip()) == []
    assert Ledger(folder).entries() == []


def test_a_closed_pool_starts_nothing():
    """Catches a sandbox that is started after the last moment at which anybody would stop it."""
    pool = HostPool(CountedHost, sessions=1, is_reused=False)
    running = pool.take()
    pool.close()
    pool.give_back(running, is_lost=False)
    assert running.host.stopped >= 1  # type: ignore[attr-defined]
    with pytest.raises(WorldError, match="was closed"):
        pool.take()


@pytest.mark.parametrize(
    ("provider", "host", "message"),
    [
        ("modale", HostOptions(), "no provider of sandboxes 'modale'.*Did you mean 'modal'"),
        ("process", HostOptions(image="x"), "runs from this installation"),
        ("process", HostOptions(allow=("model.example",)), "commands have no network"),
        ("modal", HostOptions(), "modal: name the image to run"),
        ("modal", HostOptions(image="x", allow=("https://model.example",)), "not a URL"),
        ("modal", HostOptions(image="x", allow=("*", "model.example")), "beside 1 more"),
        ("aca", HostOptions(image="disk:x", allow=("10.1.0.0/16",)), "aca: its rules are of host names"),
        ("docker", HostOptions(image="x"), "docker: nothing may be reached, which cannot be kept"),
        ("docker", HostOptions(image="x", allow=("model.example",)), "docker: only model.example may be reached"),
        ("hf", HostOptions(image="x"), "hf: nothing may be reached, which cannot be kept"),
    ],
)
def test_what_a_provider_cannot_keep_is_refused_before_anything_is_started(
    provider: str, host: HostOptions, message: str
):
    """Catches a sandbox with more network than was asked for, and options that are dropped without a word."""
    with pytest.raises(ConfigError, match=message):
        open_suite("terminal", sandbox=provider, host=host)
