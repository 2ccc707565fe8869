"""What an observation answers: tool, program, and whether the same was answered before."""

from __future__ import annotations

import json
import time

import pytest
from pool_builders import answer, command, episode

from envecho.evaluation.facts_actions import answered_action
from envecho.evaluation.facts_messages import message_facts
from envecho.trajectory import Message, Segment, Source, ToolCall, Trajectory

PROGRAMS = {
    "ls -la": "ls",
    "cd /srv && LANG=C ls": "ls",
    "cd a; cd b\ngrep x y": "grep",
    "cd /tmp": "cd",
    "FOO=1 BAR='a b' sudo -u bob make -j4": "make",
    "A=$(ls) make": "make",
    "timeout 5 /usr/bin/python3 x.py": "python3",
    "env | grep x": "env",
    "bash -lc 'cd x && pytest -q'": "pytest",
    "bash run.sh": "bash",
    "# look\nset -e\n./run.sh a": "run.sh",
    "(cd a; make)": "make",
    "! grep x y": "grep",
    "[ -f x ] && echo y": "[",
    "for f in *; do cat $f; done": "for",
    "git log|head": "git",
    "I'm not a command": None,
    "$EDITOR x": None,
    "": None,
}


@pytest.mark.parametrize(("line", "expected"), PROGRAMS.items())
def test_the_program_of_a_command_line_is_its_first_word_that_is_one(line: str, expected: str | None):
    """Catches `cd`, `sudo` or an assignment in place of the program, and prose taken for one."""
    messages = episode("e", [(line, answer("x\n"))]).messages
    assert answered_action(messages, 3).command == expected


def called(calls: list[ToolCall], *answers: Message) -> list[Message]:
    return [Message(role="assistant", segments=(), tool_calls=tuple(calls)), *answers]


def result(text: str, *, call: str | None = None, tool: str | None = None) -> Message:
    segment = Segment(source=Source.TOOL_RESULT, text=text, tool=tool)
    return Message(role="tool", segments=(segment,), tool_call_id=call)


def call(name: str, *, id: str | None = None, **arguments: object) -> ToolCall:
    return ToolCall(name=name, arguments=json.dumps(arguments), id=id)


def test_parallel_results_belong_to_the_call_of_their_id():
    """Catches results that are dealt out by place although ids say otherwise: Claude Code's arrive in any order."""
    messages = called(
        [call("read_file", id="a", path="x"), call("bash", id="b", command="cd x && ls")],
        result("1", call="b"),
        result("2", call="a"),
    )
    found = [answered_action(messages, turn) for turn in (1, 2)]
    assert [(action.tool, action.command) for action in found] == [("bash", "ls"), ("read_file", "read_file")]


def test_without_ids_as_many_results_as_calls_belong_to_them_in_order_and_others_to_none():
    """Catches a guess: with one result for two calls nobody knows whose it is."""
    calls = [call("search", query="x"), call("open", path="y")]
    both = called(calls, result("1"), result("2"))
    assert [answered_action(both, turn).tool for turn in (1, 2)] == ["search", "open"]
    one = called(calls, result("1"))
    assert (answered_action(one, 1).tool, answered_action(one, 1).command) == (None, None)


def test_a_result_whose_call_is_not_there_has_its_own_tool_alone():
    """Catches the last call taken for the cause of every result."""
    messages = called([call("bash", id="a", command="ls")], result("1", call="gone", tool="grep"))
    assert (answered_action(messages, 1).tool, answered_action(messages, 1).command) == ("grep", None)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("I look.\n\n```bash\nls -la\n```", "ls"),
        ("I look.\n```\nls -F\n```", "ls"),
        ("Then\n```bash\nls\n```\nor\n```bash\npwd\n```", None),
        ("```python\nprint(1)\n```", None),
        ("<execute_bash>\ncat x\n</execute_bash>", "cat"),
        ('{"commands": [{"keystrokes": "printf \\"a\\"\\n", "duration": 1}]}', "printf"),
        ('{"name": "list_orders", "arguments": {}}', "list_orders"),
        ("answer: 3", None),
    ],
)
def test_the_command_of_a_text_is_its_one_fence_or_its_call(said: str, expected: str | None):
    """Catches the first word of a thought taken for a program, and one of two commands picked by chance."""
    messages = (command(said), result("x"))
    assert answered_action(messages, 1).command == expected


def test_prose_that_no_shell_answered_is_no_command():
    """Catches a conversation whose every first word becomes a slice."""
    messages = (
        command("Sure, here it is."),
        Message(role="user", segments=(Segment(source=Source.USER_REPLY, text="ok"),)),
    )
    assert answered_action(messages, 1).command is None


def test_a_turn_that_the_world_could_not_read_is_no_command():
    """Catches the first word of a rambling model as a slice of its own: nothing was run."""
    warning = Segment(source=Source.FORMAT_WARNING, text="[expected one line, nothing was run]")
    reply = Message(role="user", segments=(warning,), labels={"call": "unparsed"})
    assert answered_action((command("The task\nis easy."), reply), 1).command is None
    ran = Message(role="user", segments=(warning,), labels={"call": "invalid"})
    assert answered_action((command("lss -l"), ran), 1).command == "lss"


def test_nothing_before_an_observation_is_no_action():
    """Catches a guess where the episode begins with what the world says."""
    action = answered_action((answer("hello\n"),), 0)
    assert (action.text, action.tool, action.command) == (None, None, None)


def test_a_view_is_repeated_where_the_same_action_got_the_same_answer_before():
    """Catches an action alone, or an answer alone, taken for a repetition; the harness's own words do not count."""
    trajectory = episode(
        "e",
        [
            ("ls", answer("a\n", status="[3 left]")),
            ("ls", answer("a\n", status="[2 left]")),
            ("ls", answer("a\nb\n")),
            ("echo a", answer("a\n")),
        ],
    )
    assert [facts.repeated for facts in message_facts(trajectory).values()] == [False, True, False, False]


def test_observations_are_counted_and_not_messages():
    """Catches a turn that counts the task and the actions, or parallel results as one."""
    turns = [(f"echo {number}", answer(f"{number}\n")) for number in range(18)]
    found = [facts.turn for facts in message_facts(episode("e", turns)).values()]
    assert found == ["1", "2", *["3-4"] * 2, *["5-8"] * 4, *["9-16"] * 8, *["17+"] * 2]


@pytest.mark.parametrize(
    ("segments", "expected"),
    [
        ([(Source.STATUS, "<returncode>0</returncode>\n"), (Source.STDOUT, "x")], "0"),
        ([(Source.STATUS, '{\n  "returncode": 2,\n  "output": "'), (Source.STDOUT, "x")], "nonzero"),
        ([(Source.TOOL_RESULT, "x"), (Source.STATUS, "\n[The command completed with exit code 1.]")], "nonzero"),
        ([(Source.STATUS, "Command 'ls' executed successfully. Output: "), (Source.STDOUT, "x")], "0"),
        ([(Source.STDOUT, "x"), (Source.STATUS, "\n(exit_code=1)")], "nonzero"),
        ([(Source.STATUS, "Exit code: 0\nWall time: 1 s\nOutput:\n"), (Source.TOOL_RESULT, "x")], "0"),
        ([(Source.STDOUT, "x"), (Source.TIMEOUT_NOTICE, "[timed out after 5 s; the command was killed]")], "timeout"),
        ([(Source.STDOUT, "x"), (Source.STATUS, "[14 moves left]")], None),
        ([(Source.TOOL_RESULT, "exit code 1")], None),
    ],
)
def test_an_exit_status_is_read_where_the_harness_states_it(segments: list[tuple[Source, str]], expected: str | None):
    """Catches a harness whose phrase is not read, and a number of the output taken for a status."""
    reply = Message(role="user", segments=tuple(Segment(source=source, text=text) for source, text in segments))
    assert message_facts(episode("e", [("x", reply)]))[3].exit_status == expected


def test_silence_is_success_only_where_the_harness_speaks_of_failures():
    """Catches a 0 that nobody stated: in an episode without any status nothing is known."""
    quiet = episode("q", [("ls", answer("a\n")), ("pwd", answer("/\n"))])
    assert {facts.exit_status for facts in message_facts(quiet).values()} == {None}
    failures = [("cat b", answer(stderr="no\n", status="[exit status 1]"))] * 3
    failed = episode("f", [("ls", answer("a\n")), *failures])
    assert [facts.exit_status for facts in message_facts(failed).values()] == ["0", *["nonzero"] * 3]
    edited = Message(role="user", segments=(Segment(source=Source.TOOL_RESULT, text="file saved"),))
    other = episode("s", [("save", edited), *failures])
    assert next(iter(message_facts(other).values())).exit_status is None
    once = episode("o", [("ls", answer("a\n")), *failures, ("pwd", answer("/\n", status="[exit status 0]"))])
    assert next(iter(message_facts(once).values())).exit_status is None


def test_the_terminal_world_says_nothing_of_success():
    """Catches a change of the world's style, or of its label, that would leave its successes unknown."""
    from envecho.worlds.sandbox_result import ObservationStyle

    assert ObservationStyle().status == "nonzero"
    reply = answer("a\n", labels={"call": "valid", "view": "first"})
    trajectory = episode("t", [("ls", reply)]).model_copy(update={"metadata": {"world": "terminal"}})
    assert message_facts(trajectory)[3].exit_status == "0"


@pytest.mark.parametrize(("reward", "expected"), [(1.0, "solved"), (0.25, "partial"), (0.0, "failed"), (None, None)])
def test_the_outcome_follows_from_the_reward(reward: float | None, expected: str | None):
    """Catches an ungraded episode counted as failed."""
    trajectory: Trajectory = episode("e", [("ls", answer("a\n"))]).model_copy(update={"reward": reward})
    assert message_facts(trajectory)[3].outcome == expected


@pytest.mark.parametrize("unit", ["```\n", "<execute_bash>", '"keystrokes": "', "A=1 ", "cd a && ", "A='", "{", "("])
def test_an_action_of_a_megabyte_is_read_in_time(unit: str):
    """Catches a pattern that goes back over a hostile action, whatever it makes of it."""
    messages = episode("e", [(unit * (1_000_000 // len(unit)), answer("x\n"))]).messages
    start = time.process_time()
    answered_action(messages, 3)
    assert time.process_time() - start < 10
