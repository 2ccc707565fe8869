"""Many episodes at once on one server, one of whose sandboxes is killed and one of whose clients is cut."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from relay import Relay
from world_server import WorldServer, wait_until

from envecho.rollout import EpisodeJob, collect
from envecho.seam import Policy, PolicyTurn
from envecho.trajectory import Message, Source, StopReason, Trajectory
from envecho.worlds.openenv.suite import open_openenv
from envecho.worlds.options import SuiteOptions
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.suites import open_suite

NUM_EPISODES = 32
KILLED, CUT = 7, 19
MARK = "4711.25"


class MeetingPolicy:
    """Says three commands, waits until all episodes have come so far, does `then`, and plays the task's oracle."""

    def __init__(self, oracle: Policy, meeting: threading.Barrier, then: Callable[[], None], mark: str) -> None:
        start = ScriptedPolicy.oracle([f"sleep {mark} &", "echo one", "echo two >&2"])
        self._scripts, self._meeting, self._then = [start, oracle], meeting, then

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        turn = self._scripts[0].act(messages)
        if turn.finished and len(self._scripts) > 1:
            self._meeting.wait(60)
            self._then()
            self._scripts.pop(0)
            return self.act(messages)
        return turn


def kill_sandbox(server: int) -> None:
    """Kill the outermost process of the sandbox in which `sleep MARK` runs, and wait until all of it is dead."""
    (sleeper,) = [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and _command(folder) == ["sleep", MARK]
    ]
    outermost = sleeper
    while (parent := _parent(outermost)) != server:
        outermost = parent
    os.kill(outermost, signal.SIGKILL)
    assert wait_until(lambda: not _command(Path(f"/proc/{sleeper}")))


def _command(folder: Path) -> list[str]:
    try:
        return (folder / "cmdline").read_text().split("\0")[:-1]
    except OSError:
        return []


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[1])


@pytest.fixture(scope="module")
def episodes(terminal_server: WorldServer) -> list[Trajectory]:
    """The records of all episodes: the oracle of tasks 0 to 31, with one sandbox killed and one client cut."""
    relay = Relay(terminal_server.url)
    urls = {CUT: relay.url}
    deeds: dict[int, Callable[[], None]] = {
        KILLED: lambda: kill_sandbox(terminal_server.process.pid),
        CUT: relay.cut,
    }
    suite, meeting = open_suite("terminal"), threading.Barrier(NUM_EPISODES)

    def job(number: int) -> EpisodeJob:
        served = open_openenv(urls.get(number, terminal_server.url), SuiteOptions())
        return EpisodeJob(
            id=str(number),
            task_id=suite.task_id("train", number),
            seed=number,
            make_world=lambda: served.make_world("train", number),
            make_policy=lambda: MeetingPolicy(
                suite.scripted_policy("train", number, policy="oracle", seed=0),
                meeting,
                deeds.get(number, lambda: None),
                MARK if number == KILLED else "300",
            ),
        )

    return list(collect([job(number) for number in range(NUM_EPISODES)], num_workers=NUM_EPISODES))


def _start_of(trajectory: Trajectory) -> list[str]:
    """What the world answered to the first three commands."""
    answers = [message for message in trajectory.messages if message.role == "user"]
    return [answer.content for answer in answers[1:4]]


def test_all_other_episodes_are_solved(episodes: list[Trajectory]):
    """Catches an episode that pays for another's accident, by a shared session, a lost answer or a full server."""
    others = [episode for episode in episodes if int(episode.id) not in (KILLED, CUT)]
    assert len(others) == NUM_EPISODES - 2
    failed = [episode for episode in others if (episode.stop_reason, episode.reward) != (StopReason.COMPLETED, 1.0)]
    told = ["\n".join(f"{m.role}: {m.content}" for m in (*episode.messages,)) for episode in failed]
    assert not failed, "\n\n".join(told)


def test_every_transcript_holds_what_came_before(episodes: list[Trajectory]):
    """Catches a partial transcript that is thrown away with the episode."""
    assert {tuple(_start_of(episode)) for episode in episodes} == {("", "one\n", "two\n")}
    suite = open_suite("terminal")
    for episode in episodes:
        assert episode.messages[1].content == suite.task("train", int(episode.id)).instruction  # type: ignore[attr-defined]


def test_the_killed_sandbox_is_recorded_as_such(episodes: list[Trajectory]):
    """Catches a machine that died and passes for one that answered nothing."""
    killed = episodes[KILLED]
    assert killed.reward == 0.0
    assert killed.messages[-1].segments[-1].source is Source.HARNESS_NOTICE
    assert "the machine was stopped" in killed.messages[-1].content


def test_the_cut_client_is_recorded_as_lost(episodes: list[Trajectory]):
    """Catches a broken connection that hangs, raises through the rollout, or counts as a reward of nought."""
    cut = episodes[CUT]
    assert (cut.stop_reason, cut.reward) == (StopReason.WORLD_ERROR, None)
    assert [segment.source for segment in cut.messages[-1].segments] == [Source.HARNESS_ERROR]


def test_no_sandbox_is_left(episodes: list[Trajectory], terminal_server: WorldServer):
    """Catches the sandbox of the cut client, of the killed one's background job, or of any episode that is over."""
    assert len(episodes) == NUM_EPISODES
    assert wait_until(lambda: not terminal_server.descendants())
