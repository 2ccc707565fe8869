"""The explorer of tasks: what it calls derivable follows from what it was shown, and half of what it asks is."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from envecho.rollout.episode import EpisodeJob, run_episode
from envecho.trajectory import Source, Trajectory
from envecho.worlds.options import SuiteOptions
from envecho.worlds.sandbox_layout import rooted_layout
from envecho.worlds.tasks import HarborTaskSuite, open_tasks
from envecho.worlds.tasks.explorer import LIST_FILES, as_document
from envecho.worlds.terminal import TerminalSession

EXAMPLES = Path(__file__).parents[3] / "examples" / "tasks"


@pytest.fixture(scope="module")
def suite() -> HarborTaskSuite:
    return open_tasks(EXAMPLES, SuiteOptions())


def explore(suite: HarborTaskSuite, split: str, number: int, seed: int) -> Trajectory:
    job = EpisodeJob(
        id="e",
        task_id=suite.task_id(split, number),
        seed=seed,
        make_world=lambda: suite.make_world(split, number),
        make_policy=lambda: suite.scripted_policy(split, number, policy="explore", seed=seed),
    )
    return run_episode(job)


def turns(trajectory: Trajectory) -> list[tuple[str, str, dict[str, str]]]:
    """Return command, answer and labels of every turn."""
    messages = trajectory.messages[2:]
    return [
        (ask.content, answer.content, dict(answer.labels))
        for ask, answer in zip(messages[::2], messages[1::2], strict=True)
    ]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("split", "number"), [("train", n) for n in range(13)] + [("held_out", n) for n in range(5)])
def test_derivable_output_is_the_same_where_only_what_was_shown_exists(suite, split: str, number: int, seed: int):
    """Catches a label that calls an answer derivable which reads a file, or a part of one, that was never shown."""
    episode = turns(explore(suite, split, number, seed))
    files: dict[str, str] = {}
    for command, answer, labels in episode:
        if command == LIST_FILES:
            files |= {f"app/{path.removeprefix('./')}": "" for path in answer.splitlines()}
        elif labels["view"] == "first":
            assert command.startswith("cat ")
            files[f"app/{command.removeprefix('cat ')}"] = answer
        elif labels["view"] == "derivable":
            box = SimpleNamespace(seed=1, files=dict(files))
            layout = rooted_layout("/app", writable=("/app",), environment={})
            with TerminalSession(box, layout=layout) as bare:
                found = bare.run(command).segments
            assert "".join(segment.text for segment in found) == answer, command


def test_about_half_of_the_answers_are_derivable_and_no_command_comes_twice(suite: HarborTaskSuite):
    """Catches an explorer that repeats itself, or that asks for nothing but new files."""
    views: Counter[str] = Counter()
    operations: set[str] = set()
    for number in range(13):
        episode = turns(explore(suite, "train", number, 7))
        commands = [command for command, _, _ in episode]
        assert len(set(commands)) == len(commands)
        views.update(labels["view"] for _, _, labels in episode)
        operations |= {labels["operation"] for _, _, labels in episode if "operation" in labels}
    assert 0.45 <= views["derivable"] / views.total() <= 0.65, views
    assert views["first"] / views.total() >= 0.15
    assert operations == {"slice", "filter", "count", "sort", "field"}


def test_the_same_seed_explores_alike_and_another_one_otherwise(suite: HarborTaskSuite):
    """Catches a draw that depends on something else than the seed and the answers."""
    first, again, other = (turns(explore(suite, "train", 0, seed)) for seed in (3, 3, 4))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    "text",
    ["", "no newline", "a\tb\n", "é\n", "x\n" * 41, f"{'x' * 2001}\n", "one\r\ntwo\r\n"],
)
def test_text_that_a_command_might_show_otherwise_is_no_document(text: str):
    """Catches a derivable label on text that was cut, or whose lines are not plain."""
    assert as_document("a.txt", text) is None


def test_a_cut_or_failed_answer_teaches_nothing(suite: HarborTaskSuite):
    """Catches an explorer that takes an error message for the content of a file."""
    policy = suite.scripted_policy("train", 0, policy="explore", seed=0)
    assert policy.act([]).message.content == LIST_FILES
    failed = SimpleNamespace(segments=(SimpleNamespace(source=Source.STDERR, text="./a.txt\n"),))
    for _ in range(6):
        turn = policy.act([failed])
        assert turn.finished or "a.txt" not in turn.message.content
