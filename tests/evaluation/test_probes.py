"""Probes as a whole: which questions are asked of which pool, and that every model gets the same."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planted_record import read_planted
from pool_builders import RulePredictor, answer, episode, small_pool

from envecho.errors import ConfigError
from envecho.evaluation.probe_asking import deal
from envecho.evaluation.probe_commands import parse_command
from envecho.evaluation.probe_exit import exit_questions, failure_openings
from envecho.evaluation.probe_files import existence_questions, line_questions
from envecho.evaluation.probe_status import status_habit, status_phrase
from envecho.evaluation.probes import draw_choices, run_probes
from envecho.seam import ScoreRequest, Scores
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Message, Segment, Source, ToolCall, Trajectory


def _says(*segments: tuple[Source, str]) -> Message:
    return Message(role="user", segments=tuple(Segment(source=source, text=text) for source, text in segments))


def _mini(status: int, output: str, *before: tuple[Source, str]) -> Message:
    """An observation of mini-swe-agent."""
    return _says(
        *before,
        (Source.STATUS, f"<returncode>{status}</returncode>\n"),
        (Source.WRAPPER, "<output>\n"),
        (Source.STDOUT, output),
        (Source.WRAPPER, "</output>"),
    )


PHRASES = {
    "[exit status 127]": (127, "[exit status 0]"),
    "\n[The command completed with exit code 1.]\n": (1, "\n[The command completed with exit code 0.]\n"),
    "<returncode>0</returncode>\n": (0, "<returncode>0</"),
    '", "metadata": {"exit_code": 2, "duration_seconds": 0.1}}': (2, '", "metadata": {"exit_code": 0,'),
    "Exit code: -1\nWall time: 3 seconds\nOutput:\n": (-1, "Exit code: 0\n"),
    "(exit_code=1)": (1, "(exit_code=0)"),
    "Command 'x' failed. Output: ": (1, "Command 'x' executed successfully."),
    "[3 moves left]": None,
    "[Current working directory: /exit/1]": None,
}


@pytest.mark.parametrize("text", PHRASES)
def test_the_status_is_read_in_every_harness_and_can_be_said_otherwise(text: str) -> None:
    """Catches a status that is taken from another number, and a phrase whose end shows that the number goes on."""
    phrase = status_phrase(_says((Source.STDOUT, "exit status 9\n"), (Source.STATUS, text)))
    known = PHRASES[text]
    assert (phrase is None) == (known is None)
    if phrase is not None and known is not None:
        assert (phrase.status, phrase.saying(0)) == known


def test_silence_is_success_only_where_a_harness_states_failures_and_nothing_else() -> None:
    """Catches commands of unknown outcome that count as successes, because some other one failed."""
    ok, bad, good = answer("x\n"), answer("", status="[exit status 1]"), answer("x\n", status="[exit status 0]")
    assert status_habit([ok, bad, bad, bad]).status(ok) == 0
    assert status_habit([ok, bad, bad]).status(ok) is None
    assert status_habit([ok, good, bad, bad, bad]).status(ok) is None
    assert status_habit([ok]).status(ok) is None
    first = [_mini(1, "cat: b: no\n")] * 3
    assert status_habit(first).status(ok) is None


def test_a_status_before_the_output_is_asked_by_its_own_phrase() -> None:
    """Catches a question that shows the answer: an exception before the phrase, or the output behind it."""
    timeout = (Source.TIMEOUT_NOTICE, "<exception>timed out</exception>\n")
    pool = [
        episode(
            "e", [("ls", _mini(0, "a\n")), ("cat b", _mini(2, "cat: b: no\n")), ("sleep 9", _mini(-1, "", timeout))]
        )
    ]
    questions, counts = exit_questions(pool)
    assert [(q.command, q.truth) for q in questions] == [("ls", False), ("cat b", True)]
    assert {(q.yes, q.no) for q in questions} == {(("<returncode>-1</", "<returncode>2</"), ("<returncode>0</",))}
    assert all(q.reply.content == "" for q in questions)
    assert counts == {"num_interrupted": 1}


def test_a_status_behind_the_output_is_asked_by_how_the_answer_opens() -> None:
    """Catches a truth that contradicts its own question: failures that open like successes, and the other way."""
    pool = [
        episode(
            "e",
            [
                ("cat a.log", answer("x\n", status="[exit status 0]")),
                ("cat b.log", answer(stderr="cat: b.log: No such file or directory\n", status="[exit status 1]")),
                ("grep -q y a.log", answer(status="[exit status 1]")),
                ("make", answer("cc a.c\n", stderr="make: *** failed\n", status="[exit status 2]")),
                ("cat b.log; true", answer(stderr="cat: b.log: No such file\n", status="[exit status 0]")),
                ("cat 'b.log", answer(stderr="bash: line 1: unexpected EOF\n", status="[exit status 2]")),
                ("vim", answer("x\n")),
            ],
        )
    ]
    questions, counts = exit_questions(pool)
    assert [(q.command, q.truth) for q in questions] == [
        ("cat a.log", False),
        ("cat b.log", True),
        ("grep -q y a.log", True),
    ]
    assert counts == {
        "num_failed_otherwise": 1,
        "num_succeeded_otherwise": 1,
        "num_unread_commands": 1,
        "num_without_status": 1,
    }
    assert set(questions[0].yes) == {"cat:", "bash:", "[exit status 1]", "[exit status 2]"}


def test_a_pool_without_failures_is_not_asked_whether_commands_fail() -> None:
    """Catches an accuracy of 1 for always saying the only answer there is."""
    questions, counts = exit_questions([episode("e", [("ls", answer("a\n", status="[exit status 0]"))])])
    assert not questions
    assert counts == {"num_without_failures": 1}


def test_no_opening_of_a_failure_is_the_beginning_of_another() -> None:
    """Catches a probability that is counted twice where openings overlap."""
    habit = status_habit([answer(status="[exit status 1]"), answer(status="[exit status 12]")])
    parsed = parse_command("bash x.sh | /bin/sh -c ls && sh: y")
    assert parsed is not None
    openings = failure_openings(parsed, habit, ("bash:", "-bash:", "usage:"))
    assert not [(a, b) for a in openings for b in openings if a != b and b.startswith(a)]


def test_existence_is_not_asked_where_the_status_comes_first() -> None:
    """Catches two answers that are compared behind the status of the true one."""
    pool = [episode("e", [("cat a.log", _mini(0, "x\n")), ("cat b", _mini(1, "cat: b: No such file or directory\n"))])]
    questions, counts = existence_questions(pool, seed=0)
    assert not questions
    assert counts == {"num_status_first": 2}
    (lines,), _ = line_questions(pool)
    assert lines.reply.content == "<returncode>0</returncode>\n<output>\n"
    assert lines.truth == "1 a.log"


def test_a_command_that_the_history_answers_already_is_not_asked() -> None:
    """Catches a question that copying the last answer solves."""
    pool = [episode("e", [("wc -l a.log", answer("1 a.log\n")), ("cat a.log", answer("x\n"))])]
    questions, counts = line_questions(pool)
    assert not questions
    assert counts == {"num_already_answered": 1}


def test_tool_calls_are_asked_as_tool_calls() -> None:
    """Catches a probe that is said as text to a harness that reads calls."""
    call = ToolCall(name="bash", arguments='{"command": "cat a.log"}', id="c1")
    result = Message(
        role="tool", tool_call_id="c1", segments=(Segment(source=Source.TOOL_RESULT, text="x\n", tool="bash"),)
    )
    messages = (
        _says((Source.TASK, "Look.")),
        Message(role="assistant", segments=(), tool_calls=(call,)),
        result,
    )
    ((question,), _) = line_questions([Trajectory(id="e", task_id="t", messages=messages)])
    assert question.history[-1].tool_calls[0].arguments == '{"command": "wc -l a.log"}'
    assert (question.reply.role, question.reply.tool_call_id, question.source) == ("tool", "c1", Source.TOOL_RESULT)


@pytest.mark.parametrize("name", ["tokenizer", "qwen3"])
def test_answers_are_cut_from_one_rendering_as_from_their_own(name: str, request: pytest.FixtureRequest) -> None:
    """Catches an answer whose first token would have swallowed the template's newline."""
    chat = request.getfixturevalue(name) if name == "tokenizer" else None
    chat = chat or ChatTokenizer(request.getfixturevalue("qwen3_tokenizer"))
    pool = read_planted()["pool"][:1]
    questions = [*exit_questions(pool)[0][1:3], *existence_questions(pool, seed=0)[0][:1]]
    for question in questions:
        texts = (*question.yes, *question.no, "\n", "\n\nx", "  x")
        for text, found in zip(texts, question.place_all(texts, chat), strict=True):
            own = question.place(text, chat)
            assert (found is None) == (own is None)
            if found is not None and own is not None:
                assert found.token_ids.tolist() == own.token_ids.tolist()
                assert found.prompt.tolist() == own.prompt.tolist()


class _Recorder(RulePredictor):
    """Remembers what it was asked, and draws its answers by chance."""

    def __init__(self, vocab_size: int, seed: int, **options: Any) -> None:
        super().__init__(vocab_size, **options)
        self._rng = np.random.default_rng(seed)
        self.asked: list[bytes] = []

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        self.asked += [request.token_ids.tobytes() for request in requests]
        return [
            Scores(logprobs=self._rng.normal(-3, 1, len(r.token_ids)).astype(np.float32), top1=r.read) for r in requests
        ]

    def sample(self, prompts: Any, params: Any) -> Any:
        self.asked += [prompt.tobytes() for prompt in prompts]
        return super().sample(prompts, params)


def test_two_models_get_the_same_questions_in_whatever_order_the_pool_is(tokenizer: ChatTokenizer) -> None:
    """Catches questions that are drawn by place, by hash of the process, or by what the model said before."""
    pool = read_planted()["pool"]
    one, other = _Recorder(len(tokenizer.hf), 1), _Recorder(len(tokenizer.hf), 2)
    run_probes(one, pool, tokenizer, seed=3, max_questions=6)
    run_probes(other, list(reversed(pool)), tokenizer, seed=3, max_questions=6)
    assert one.asked == other.asked
    again = _Recorder(len(tokenizer.hf), 1)
    run_probes(again, pool, tokenizer, seed=4, max_questions=6)
    assert again.asked != one.asked


def test_the_draw_is_the_same_in_every_process() -> None:
    """Catches an order that hangs on a hash that differs from run to run, or one that is the same for every seed."""
    groups = {"b": [(name, name) for name in "rstu"], "a": [(name, name) for name in "xyz"]}
    backwards = {key: list(reversed(of)) for key, of in reversed(groups.items())}
    drawn = deal(groups, 5, seed=0)
    assert drawn == deal(backwards, 5, seed=0) == ["z", "t", "x", "r", "y"]
    assert deal(groups, 5, seed=1) != drawn


def test_both_answers_are_drawn_in_turn() -> None:
    """Catches a probe that asks of the common answer alone where the pool has few of the other."""
    questions, _ = exit_questions(read_planted()["pool"])
    drawn = draw_choices(questions, 8, seed=0)
    assert [question.truth for question in drawn].count(True) == 4


def test_what_the_context_has_no_room_for_is_counted(tokenizer: ChatTokenizer) -> None:
    """Catches a question that is asked without the part of the history that proves it."""
    pool = read_planted()["pool"]
    short = _Recorder(len(tokenizer.hf), 1, max_context_tokens=120)
    found = run_probes(short, pool, tokenizer, seed=0, max_questions=12)
    for probe in ("exit_status", "file_exists", "free_running"):
        result = found[probe]
        assert result.num_questions + result.counts["num_beyond_context"] == 12, probe
        assert result.counts["num_not_drawn"] > 0, probe
        assert result.counts["num_beyond_context"] > 0, probe
    assert max(len(asked) for asked in short.asked) <= 120 * 4


def test_a_pool_without_questions_has_counts_and_no_figures(tokenizer: ChatTokenizer, tiny_engine: Any) -> None:
    """Catches a figure of 0 where nothing was asked, and a crash on a pool of another kind of world."""
    walk = episode("e", [("go north", _says((Source.STDOUT, "A room. " * 40)))])
    found = run_probes(tiny_engine, [walk], tokenizer, seed=0, max_questions=4)
    assert {probe: (r.measures, r.num_questions) for probe, r in found.items()} == dict.fromkeys(found, ({}, 0))
    assert {probe: result.counts for probe, result in found.items()} == {
        "exit_status": {"num_without_failures": 1},
        "file_exists": {},
        "line_count": {},
        "free_running": {"num_long": 1},
    }
    with pytest.raises(ConfigError, match="max_questions is 0"):
        run_probes(tiny_engine, [walk], tokenizer, seed=0, max_questions=0)


def test_a_real_engine_answers_every_probe(tokenizer: ChatTokenizer, tiny_engine: Any) -> None:
    """Catches a verb or an argument that no real engine has."""
    found = run_probes(tiny_engine, small_pool(), tokenizer, seed=0, max_questions=3)
    assert {probe: result.num_questions for probe, result in found.items()} == {
        "exit_status": 3,
        "file_exists": 3,
        "line_count": 3,
        "free_running": 3,
    }
    assert set(found["exit_status"].measures) == {"accuracy", "balanced_accuracy", "auc", "majority"}
    assert set(found["line_count"].measures) == {"accuracy", "majority", "exact_match", "edit_similarity"}


def test_the_example_of_the_docs_prints_what_the_docs_say(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an example whose questions have changed."""
    text = (Path(__file__).parents[2] / "docs" / "probes.md").read_text(encoding="utf-8")
    code, shown = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == shown
