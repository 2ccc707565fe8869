"""What an answer says, read from text alone, beside what real worlds say of the same answers."""

from __future__ import annotations

import pytest

from envecho.recipes.simulate_answers import read_truth, split_answer
from envecho.recipes.simulate_episodes import answer_places
from envecho.rollout import EpisodeJob, collect, run_episode
from envecho.trajectory import Message, Segment, Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.scripts import ScriptedPolicy
from envecho.worlds.suites import open_suite
from envecho.worlds.terminal import TerminalWorld
from envecho.worlds.terminal.families import TriageTask
from envecho.worlds.terminal.tasks import split_box


@pytest.mark.parametrize(
    ("text", "output", "harness", "failed"),
    [
        ("a\nb\n", "a\nb\n", "", False),
        ("", "", "", False),
        ("[exit status 1]", "", "[exit status 1]", True),
        ("a\n[exit status 0]", "a\n", "[exit status 0]", False),
        ("no\n[exit status 2]", "no\n", "[exit status 2]", True),
        ("a [exit status 2]", "a [exit status 2]", "", False),
        ("[exit status 2]\nmore\n", "[exit status 2]\nmore\n", "", False),
        ("x\n[timed out after 3 s; the command was killed]", "x\n",
         "[timed out after 3 s; the command was killed]", True),
        ("a\n[9 bytes left out: at most 2 bytes of stdout are shown]\nz\n", "a\nz\n", "", False),
        ("[exit status 1]\n[the shell ended; a new one was started]", "",
         "[exit status 1]\n[the shell ended; a new one was started]", True),
        ('{"error":{"status":404,"message":"order 9 not found"}}',
         '{"error":{"status":404,"message":"order 9 not found"}}', "", True),
        ('{"errors":0}', '{"errors":0}', "", False),
        ('[expected one call {"name": ...}, found no JSON object; nothing was run]', "",
         '[expected one call {"name": ...}, found no JSON object; nothing was run]', True),
    ],
)  # fmt: skip
def test_a_text_is_split_where_the_harness_begins(text: str, output: str, harness: str, failed: bool):
    """Catches a status that counts as output, output in brackets that counts as a status, and a failure unseen."""
    split = split_answer(text)
    assert (split.output, split.harness, split.failed) == (output, harness, failed)


def test_every_answer_of_a_real_shell_is_read_from_text_as_its_segments_say():
    """Catches a phrase of the terminal world that the split does not know, so that its answers are never judged."""
    commands = (
        "ls", "cat nothere", "cd /tmp", "false", "printf abc", "printf abc; false", "echo '[exit status 4]'; echo x",
        "seq 400", "sleep 9", "exit 3", "echo $'a\\0b'", "grep -c x nothere", "kill -9 $$", "echo one; echo two >&2",
    )  # fmt: skip
    task = TriageTask(id="t", family="explore", instruction="Go.", box=split_box("train", 0), oracle=())
    limits = Limits(output_bytes=600)
    job = EpisodeJob(
        id="shell",
        task_id="t",
        seed=0,
        make_world=lambda: TerminalWorld(lambda _: task, limits=limits, max_turns=len(commands) + 2),
        make_policy=lambda: ScriptedPolicy([(command, {}) for command in (*commands, "two\nlines")]),
        metadata={"world": "terminal"},
    )
    trajectory = run_episode(job, max_turns=len(commands) + 1, timeout_s=1.0)
    places = answer_places(trajectory)
    assert [place.command for place in places] == [*commands, "two\nlines"]
    assert [place.command for place in places if not place.truth.phrases_known] == []
    failed = {place.command for place in places if place.truth.failed}
    assert failed == {
        "cat nothere", "false", "printf abc; false", "sleep 9", "exit 3", "grep -c x nothere", "kill -9 $$",
        "two\nlines",
    }  # fmt: skip


def test_every_answer_of_the_tool_world_is_read_from_text_as_its_segments_say():
    """Catches an error of a tool that looks like a result."""
    suite = open_suite("tools")
    jobs = [
        EpisodeJob(
            id=f"{number}",
            task_id=suite.task_id("train", number),
            seed=number,
            make_world=lambda number=number: suite.make_world("train", number),
            make_policy=lambda number=number: suite.scripted_policy("train", number, policy="explore", seed=1),
        )
        for number in range(8)
    ]
    errors = 0
    for trajectory in collect(jobs):
        for place in answer_places(trajectory):
            stated = any(s.source is Source.TOOL_ERROR for s in trajectory.messages[place.turn].segments)
            assert place.truth.phrases_known
            assert place.truth.failed == stated
            errors += stated
    assert errors


def test_phrases_of_another_harness_are_not_judged():
    """Catches exit codes of an imported trace that count as output of its world, or as a success."""
    other = Message(
        role="user",
        segments=(
            Segment(source=Source.STDOUT, text="no such file\n"),
            Segment(source=Source.STATUS, text="<returncode>1</returncode>"),
        ),
    )
    truth = read_truth(other, shows_failures=True)
    assert (truth.phrases_known, truth.failed) == (False, None)
    assert truth.output == other.content


def test_a_harness_that_never_speaks_of_failures_is_not_taken_for_one_that_never_fails():
    """Catches an import in which everything counts as a success because nothing states a status."""
    silent = Message(role="user", segments=(Segment(source=Source.STDOUT, text="cat: x: No such file\n"),))
    assert read_truth(silent, shows_failures=False).failed is None
    assert read_truth(silent, shows_failures=True).failed is False
    tool = Message(role="tool", segments=(Segment(source=Source.TOOL_RESULT, text="{}"),))
    assert read_truth(tool, shows_failures=False).failed is False
    stated = Message(role="user", segments=(Segment(source=Source.STATUS, text="[exit status 1]"),))
    assert read_truth(stated, shows_failures=False).failed is True
