"""What an episode proves about its files, against a real bash and against episodes in which something changes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_record import read_planted
from pool_builders import answer, episode

from envecho.evaluation.probe_exit import exit_questions
from envecho.evaluation.probe_files import existence_questions, line_questions, pool_habit
from envecho.evaluation.probe_record import FileRecord, file_record
from envecho.trajectory import Message, Segment, Source

NONE = "cat: gone.log: No such file or directory\n"


def _record(*turns: tuple[str, Message]) -> FileRecord:
    trajectory = episode("e", turns)
    return file_record(trajectory, pool_habit([trajectory]))


def _paths(record: FileRecord) -> dict[str, tuple[bool, int, int]]:
    return {proof.path: (proof.exists, proof.turn, proof.until) for proof in record.proofs}


@pytest.mark.parametrize("seed", range(4))
def test_what_the_record_proves_is_what_a_real_bash_answers(seed: int) -> None:
    """Catches a wrong truth: every question's command was run on the same machine, and its answer is compared."""
    recorded = read_planted()
    answers = {
        (trajectory.task_id, trajectory.messages[turn - 1].content): trajectory.messages[turn].content
        for trajectory in recorded["survey"]
        for turn in range(3, len(trajectory.messages), 2)
    }
    existence, _ = existence_questions(recorded["pool"], seed=seed)
    lines, _ = line_questions(recorded["pool"])
    for question in existence:
        said = answers[question.trajectory.task_id, question.command].partition("\n[exit status")[0]
        assert said in (question.yes if question.truth else question.no), question.command
    for question in lines:
        said = answers[question.trajectory.task_id, question.command]
        assert said == f"{question.truth}\n[exit status 0]"
    assert {question.truth for question in existence} == {True, False}
    assert len(lines) >= 4


def test_a_proof_ends_where_a_command_may_have_changed_the_file() -> None:
    """Catches a question about a file that was removed, moved or made in between, or is named from another folder."""
    shown = ("cat a.log", answer("x\n"))
    for change in ("rm a.log", "mv a.log b.log", "cd etc", "bash run.sh", "cat a.log > a.log", "answer: 1"):
        record = _record(shown, ("ls", answer("a.log\n")), (change, answer()), ("wc -l c.log", answer("2 c.log\n")))
        assert _paths(record) == {"a.log": (True, 3, 5), "c.log": (True, 9, 9)}, change
    record = _record(shown, ("grep x a.log", answer("x\n")), ("cat gone.log", answer(stderr=NONE)))
    assert _paths(record) == {"a.log": (True, 3, 7), "gone.log": (False, 7, 7)}


def test_paths_about_which_two_answers_disagree_prove_nothing() -> None:
    """Catches a file that something unseen removed, asked about as if it still were there."""
    record = _record(("cat gone.log", answer("x\n")), ("cat ./gone.log", answer(stderr=NONE.replace("gone", "./gone"))))
    assert _paths(record) == {}


@pytest.mark.parametrize(
    ("command", "stdout", "proved"),
    [
        ("head -n 3 a.log", "x\n", {"a.log"}),
        ("head -n 3", "x\n", set()),
        ("tail -5 a.log", "x\n", set()),
        ("sort -k 2 a.log", "x\n", {"a.log"}),
        ("cut -d, -f2 a.csv", "x\n", {"a.csv"}),
        ("cat a.log b.log", "x\n", {"a.log", "b.log"}),
        ("cat *.log", "x\n", set()),
        ("cat a.log | wc -l", "3\n", set()),
        ("grep x a.log", "", set()),
        ("cat a.log", "cat: a.log: Permission denied\n", set()),
        ("ls", "a.log\netc\n", {"a.log", "etc"}),
        ("ls etc", "x.conf\n", {"etc/x.conf"}),
        ("ls etc/", "x.conf\n", {"etc/x.conf"}),
        ("ls a.log", "a.log\n", set()),
        ("ls -la", "total 4\n-rw-r--r-- 1 root root 2 Jan 1 a.log\n", set()),
        ("ls", "a.log  b.log\n", set()),
        ("find . -type f", "./a.log\n./b c.log\n", {"./a.log"}),
        ("find . -newer x", "./a.log\n", set()),
        ("cat gone.log", "cat: gone.log: No such file or directory\n", {"gone.log"}),
        ("cat log.txt", "cat: other.log: No such file or directory\n", set()),
    ],
)
def test_only_an_answer_that_names_or_reads_a_path_proves_it(command: str, stdout: str, proved: set[str]) -> None:
    """Catches proofs from a count, a column, an option's value, or a text that only looks like a path."""
    assert set(_paths(_record((command, answer(stdout))))) == proved


def test_a_file_is_shown_whole_only_where_the_output_is_whole_and_ends() -> None:
    """Catches line counts of outputs that were cut, that failed, or whose last line may go on."""
    cut = Segment(source=Source.TRUNCATION_NOTICE, text="[cut]\n")
    long = Message(role="user", segments=(Segment(source=Source.STDOUT, text="1\n"), cut))
    record = _record(
        ("cat a.log", answer("1\n2\n\n")),
        ("cat b.log", long),
        ("cat c.log", answer("1\n2")),
        ("cat d.log", answer("1\n", status="[exit status 1]")),
        ("cat e.log f.log", answer("1\n")),
        ("head -n 2 g.log", answer("1\n")),
        ("cat -n h.log", answer("1\n")),
    )
    assert [(shown.path, shown.num_lines) for shown in record.shown] == [("a.log", 3)]
    assert record.num_unended == 1


def test_a_path_is_asked_once_however_often_it_is_listed() -> None:
    """Catches one listing that is repeated and counts as many questions, and names that no listing leaves out."""
    turns = [("ls", answer("a.log\netc\n")), ("ls etc", answer("b.conf\n")), ("touch c", answer())]
    pool = [episode("e", [*turns, *turns[:2], ("cat gone.log", answer(stderr=NONE))])]
    for seed in range(3):
        questions, _ = existence_questions(pool, seed=seed)
        asked = {question.command.removeprefix("ls -d "): question.truth for question in questions}
        assert len(asked) == len(questions)
        assert {path: truth for path, truth in asked.items() if truth} == dict.fromkeys(
            ("a.log", "etc", "etc/b.conf"), True
        )
        assert set(asked) - {"a.log", "etc", "etc/b.conf"} <= {"b.conf", "etc/a.log", "etc/etc", "gone.log"}
        assert asked["gone.log"] is False
        assert len(asked) >= 5


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(alphabet="ls cat|;>'\"\\`$()&\n-a./", max_size=12), st.text(alphabet="cat: ls'\n.", max_size=30)
        ),
        min_size=1,
        max_size=4,
    )
)
def test_no_command_and_no_output_is_too_odd_to_be_read(turns: list[tuple[str, str]]) -> None:
    """Catches a crash on what policies and programs really write: open quotes, lone operators, errors in the middle."""
    pool = [episode("e", [(command, answer(output, status="[exit status 1]")) for command, output in turns])]
    existence_questions(pool, seed=0)
    line_questions(pool)
    exit_questions(pool)
