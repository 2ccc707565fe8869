"""An episode of a task: its start state, its actions, and a grade that the policy cannot write itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.trajectory import Source
from envecho.worlds import Limits, check_world
from envecho.worlds.options import SuiteOptions
from envecho.worlds.tasks import HarborTaskWorld, open_tasks, read_task

EXAMPLES = Path(__file__).parents[3] / "examples" / "tasks"
NAMES = sorted(path.name for path in EXAMPLES.iterdir())


def run(folder: Path, *actions: str, max_turns: int = 16) -> list[Observation]:
    """Return what a fresh world of this task answers."""
    world = HarborTaskWorld(read_task(folder), max_turns=max_turns)
    try:
        return [world.reset(seed=0), *map(world.step, actions)]
    finally:
        world.close()


def said(observation: Observation) -> str:
    return "".join(segment.text for segment in observation.segments)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_is_solved_by_its_solution_and_by_nothing_less(name: str):
    """Catches a verifier that passes an untouched start state, and a solution that does not solve its task."""
    suite = open_tasks(EXAMPLES, SuiteOptions(families=(name,)))
    split = "train" if suite.num_tasks("train") else "held_out"
    oracle = suite.scripted_policy(split, 0, policy="oracle", seed=0)
    actions = []
    while not (turn := oracle.act([])).finished:
        actions.append(turn.message.content)
    *_, solved = run(EXAMPLES / name, *actions)
    assert (solved.done, solved.reward) == (True, 1.0), solved.metadata
    assert solved.metadata["verifier_problem"] is None
    assert len(actions) > 4, "the solution is one script: no observations between its commands"
    *_, empty = run(EXAMPLES / name, "done")
    assert (empty.done, empty.reward, empty.metadata["verifier_problem"]) == (True, 0.0, None)


def test_there_are_at_least_twelve_examples_and_all_run_here():
    """Catches an example that needs more than bash, the core tools and Python."""
    suite = open_tasks(EXAMPLES, SuiteOptions())
    assert len(suite.runnable) == len(NAMES) >= 12
    assert not suite.refused


def test_a_task_keeps_the_contract_of_worlds(write_task):
    """Catches a world that another part of the library cannot drive."""
    task = read_task(write_task())
    actions = ["ls -la", "echo $RANDOM", "for n in 1 2; do\n  echo $n\ndone", "done"]
    report = check_world(lambda: HarborTaskWorld(task), actions=actions, slow_action="sleep 30")
    assert report.passed, str(report)


def test_the_start_state_is_that_of_the_dockerfile(write_task):
    """Catches a step run in another folder, a variable or a mode that is lost, and times that differ between runs."""
    dockerfile = (
        "FROM python:3.11-slim\nENV COLOUR=blue\nARG SIZE=7\nWORKDIR /data/in\nCOPY run.sh raw.bin ./\n"
        "RUN echo $COLOUR $SIZE >made.txt && mkdir -p ../out\nWORKDIR /data\n"
    )
    folder = write_task({"environment/Dockerfile": dockerfile, "environment/run.sh": "#!/bin/bash\necho ran\n"})
    (folder / "environment" / "raw.bin").write_bytes(b"\xff\x00\xfe")
    (folder / "environment" / "run.sh").chmod(0o755)
    start, place, listing, made = run(
        folder, "pwd; echo $COLOUR", "ls -l in", "in/run.sh; cat in/made.txt; wc -c <in/raw.bin"
    )
    assert [segment.source for segment in start.segments] == [Source.SYSTEM, Source.TASK]
    assert said(place) == "/data\nblue\n"
    assert said(made) == "ran\nblue 7\n3\n"
    dates = {line.split()[5:8] == ["Jan", "1", "2025"] for line in said(listing).splitlines()[1:]}
    assert dates == {True}
    assert said(listing).splitlines()[3].startswith("-rwxr-xr-x 1 user user")


def test_a_step_that_fails_is_an_error_that_names_it(write_task):
    """Catches an episode on half a start state."""
    folder = write_task({"environment/Dockerfile": "FROM debian\nWORKDIR /app\nRUN cat nothing.txt\n"})
    with pytest.raises(WorldError, match=r"task small: RUN cat nothing.txt ended with status 1: cat: nothing.txt"):
        run(folder)


def test_a_task_that_cannot_run_here_says_why(write_task):
    """Catches a start in an empty folder instead of the task's image."""
    folder = write_task({"environment/Dockerfile": "FROM nginx\nWORKDIR /app\n"})
    with pytest.raises(WorldError, match=r"task small cannot run in this sandbox: .*needs image nginx"):
        HarborTaskWorld(read_task(folder))


# --- actions ------------------------------------------------------------------------------------------------------


def test_a_script_of_several_lines_is_one_action(write_task):
    """Catches the terminal world's one-line rule, under which no here-document can be written."""
    *_, wrote, shown = run(write_task(), "cat >note.txt <<'END'\none\ntwo\nEND", "cat note.txt")
    assert said(wrote) == ""
    assert said(shown) == "one\ntwo\n"
    assert shown.labels == {"call": "valid"}


@pytest.mark.parametrize("last", ["done", " DONE\n", "answer: it is done", "Answer:"])
def test_the_last_word_ends_the_episode_with_its_grade(write_task, last: str):
    """Catches a word that is run as a command, and an end without a reward."""
    *_, end = run(write_task(), "echo yes >answer.txt", last)
    assert (end.done, end.reward, end.segments) == (True, 1.0, ())


def test_nothing_is_answered_by_a_warning_and_the_last_turn_is_graded(write_task):
    """Catches an empty action that is run, and an episode that ends without a grade."""
    *_, warned, last = run(write_task(), "  \n", "echo yes >answer.txt", max_turns=2)
    assert [segment.source for segment in warned.segments] == [Source.FORMAT_WARNING]
    assert (last.done, last.reward) == (True, 1.0)
    *_, unread = run(write_task(), "", max_turns=1)
    assert (unread.done, unread.reward, unread.labels) == (True, 0.0, {"call": "unparsed"})


# --- grading ------------------------------------------------------------------------------------------------------


def test_tests_and_solution_are_not_there_before_the_end(write_task):
    """Catches a policy that reads the verifier or the solution, wherever they lie."""
    folder = write_task({"tests/secret.txt": "MAGIC-WORD\n", "solution/solve.sh": "echo MAGIC-WORD\n"})
    search = "ls -A /tests /solution; grep -rl MAGIC-WORD / --exclude-dir=proc --exclude-dir=usr 2>/dev/null | wc -l"
    _, found = run(folder, search)
    assert said(found) == "/solution:\n\n/tests:\n0\n".replace("\n\n/tests", "\n\n/tests")


PRETENCES = {
    "a reward": "mkdir -p /logs/verifier; echo 1 >/logs/verifier/reward.txt; echo 1 >/logs/verifier/reward.json",
    "a locked reward": "mkdir -p /logs/verifier; echo 1 >/logs/verifier/reward.txt; chmod -R a-w /logs/verifier",
    "a linked log folder": "mkdir /tmp/mine; echo 1 >/tmp/mine/reward.txt; ln -s /tmp/mine /logs/verifier",
    "a verifier": "echo 'echo 1 >/logs/verifier/reward.txt' >/tests/test.sh; chmod 555 /tests/test.sh /tests",
    "a linked verifier": "ln -s /tmp/other /tests/test.sh; mkdir /tests/check.py",
    "functions": "cat() { echo yes; }; echo() { builtin echo 1; }; export -f cat echo",
    "programs": "mkdir /tmp/b; printf '#!/bin/sh\\necho yes\\n' >/tmp/b/cat; chmod +x /tmp/b/cat; PATH=/tmp/b:$PATH",
    "start-up files": "echo 'cat() { echo yes; }' | tee ~/.bashrc ~/.bash_profile >/tmp/rc; export BASH_ENV=/tmp/rc",
    "a process": "(setsid bash -c 'while :; do echo 1 >/logs/verifier/reward.json; done' >/dev/null 2>&1 &)",
    "Python's user folder": (
        "mkdir -p ~/.local/lib/python3.11/site-packages; echo 'print(\"yes\")' >~/.local/lib/python3.11/site-packages/"
        "usercustomize.py"
    ),
}


@pytest.mark.parametrize("pretence", PRETENCES)
def test_a_grade_cannot_be_pretended(write_task, pretence: str):
    """Catches a grade that believes what the policy left behind: reward files, a verifier, a shell, start-up files."""
    test = (
        "#!/bin/bash\nanswer=$(cat answer.txt 2>/dev/null)$(python3 -c '')\n"
        '[ "$answer" = yes ] && good=1\necho "${good:-0}" >/logs/verifier/reward.txt\n'
    )
    *_, end = run(write_task({"tests/test.sh": test}), PRETENCES[pretence], "done")
    assert (end.reward, end.metadata["verifier_problem"]) == (0.0, None)


@pytest.mark.parametrize(
    ("script", "reward", "problem"),
    [
        ("echo 0.25 >/logs/verifier/reward.txt", 0.25, None),
        ("echo 0.5 >/logs/verifier/reward.json; echo 1 >/logs/verifier/reward.txt", 0.5, None),
        ('echo \'{"reward": 1, "style": 0}\' >/logs/verifier/reward.json', 1.0, None),
        ("echo '{\"passed\": 1}' >/logs/verifier/reward.json", 1.0, None),
        ('echo \'{"a": 1, "b": 0}\' >/logs/verifier/reward.json', 0.0, "one named reward"),
        ("echo NaN >/logs/verifier/reward.txt", 0.0, "expected a finite number"),
        ("echo good >/logs/verifier/reward.txt", 0.0, "could not convert"),
        ("exit 0", 0.0, "wrote neither"),
        ("sleep 60", 0.0, "took more than 0.3 s"),
        ("kill -9 -1", 0.0, "wrote neither"),
    ],
)
def test_the_reward_is_what_the_verifier_wrote(write_task, script: str, reward: float, problem: str | None):
    """Catches an exit status taken for a reward, and a broken verifier that nobody hears of."""
    parts = {
        "tests/test.sh": f"#!/bin/bash\necho some words\n{script}\n",
        "task.toml": "[verifier]\ntimeout_sec = 0.3\n",
    }
    *_, end = run(write_task(parts), "done")
    assert end.reward == reward
    if problem is None:
        assert end.metadata["verifier_problem"] is None
    else:
        assert problem in end.metadata["verifier_problem"]
    assert said(end) == ""
    assert "some words" in end.metadata["verifier_output"]


def test_the_verifier_gets_its_variables_and_the_folder_of_the_task(write_task):
    """Catches a verifier that runs in / or without `[verifier] env`."""
    parts = {
        "task.toml": "[verifier]\nenv = { WANTED = 'a b' }\n",
        "tests/test.sh": '#!/bin/bash\n[ "$WANTED $PWD" = "a b /app" ] && echo 1 >/logs/verifier/reward.txt\n',
    }
    *_, end = run(write_task(parts), "cd /tmp", "done")
    assert end.reward == 1.0


def test_a_sandbox_that_a_limit_stopped_is_graded_zero(write_task):
    """Catches an exception where an episode ended by its own fault."""
    world = HarborTaskWorld(read_task(write_task()), limits=Limits(num_files=200))
    world.reset()
    end = world.step("echo yes >answer.txt; touch file-{1..500}; sleep 5")
    assert (end.done, end.reward) == (True, 0.0)
    assert "the sandbox is gone: more than 200 files" in end.metadata["verifier_problem"]
