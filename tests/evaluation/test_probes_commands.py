"""Which command a turn says, in the forms of several harnesses, and what a command surely leaves alone."""

from __future__ import annotations

import json

import pytest

from envecho.evaluation.probe_commands import parse_command, shell_turn
from envecho.trajectory import Message, Segment, Source, ToolCall


def _said(text: str, *calls: ToolCall) -> Message:
    segments = (Segment(source=Source.POLICY, text=text),) if text else ()
    return Message(role="assistant", segments=segments, tool_calls=calls, reasoning="About cat.")


def _called(name: str, arguments: object) -> Message:
    return _said("Let me see.", ToolCall(name=name, arguments=json.dumps(arguments), id="c1"))


FORMS = {
    "bare": _said("cat a.log"),
    "fence": _said("THOUGHT: what is in a.log?\n\n```bash\ncat a.log\n```"),
    "codeact": _said("Let me look.\n<execute_bash>\ncat a.log\n</execute_bash>"),
    "xml": _said("<function=execute_bash>\n<parameter=command>cat a.log</parameter>\n</function>"),
    "call": _called("Bash", {"command": "cat a.log", "timeout": 3}),
    "list": _called("shell", {"command": ["bash", "-lc", "cat a.log"]}),
    "cmd": _called("exec_command", {"cmd": "cat a.log"}),
}


@pytest.mark.parametrize("form", FORMS)
def test_another_command_is_said_in_the_form_of_the_first(form: str) -> None:
    """Catches a probe that a harness would not have understood, or that still talks about the true command."""
    turn = shell_turn(FORMS[form])
    assert turn is not None
    assert turn.command == "cat a.log"
    other = turn.saying("wc -l 'b c.log'")
    again = shell_turn(other)
    assert again is not None
    assert again.command == "wc -l 'b c.log'"
    assert again.saying("cat a.log").tool_calls == FORMS[form].tool_calls
    assert other.reasoning is None
    assert "look" not in other.content
    assert "THOUGHT" not in other.content


@pytest.mark.parametrize(
    "message",
    [
        _said("answer: 3"),
        _said("First line.\nSecond line."),
        _said("```bash\nls\n```\nand then\n```bash\npwd\n```"),
        _called("str_replace_editor", {"command": "create", "path": "a.py"}),
        _called("bash", {"command": 3}),
        _said("", *(ToolCall(name="bash", arguments='{"command": "ls"}') for _ in range(2))),
        Message(role="user", segments=(Segment(source=Source.STDOUT, text="cat a.log"),)),
    ],
)
def test_what_is_no_single_command_is_none(message: Message) -> None:
    """Catches an editor's `create`, an answer, or one of two commands that is asked about as if it ran alone."""
    assert shell_turn(message) is None


@pytest.mark.parametrize(
    ("text", "simple", "read_only"),
    [
        ("cat a.log", True, True),
        ("grep -c ERROR 'a b.log'", True, True),
        ("cat a.log | sort | uniq -c", False, True),
        ("ls missing 2>/dev/null; echo $?", False, True),
        ("cat a.log 2>&1 | tail -n 3", False, True),
        ("ls *.log", False, True),
        ("cat $HOME/a.log", False, True),
        ("sed -n '3,5p' a.log", True, True),
        ("awk -F, '{print $2}' a.csv", False, True),
        ("cat a.log > b.log", False, False),
        ("cat a.log >> b.log", False, False),
        ("sed -i s/a/b/ a.log", True, False),
        ("sed -n '/x/w out' a.log", True, False),
        ("sort -o a.log a.log", True, False),
        ("sort -uo a.log a.log", True, False),
        ("uniq a.log b.log", True, False),
        ("find . -name a -delete", True, False),
        ("find . -exec rm {} +", False, False),
        ("awk '{print > \"x\"}' a.csv", False, False),
        ("cat a.log | tee b.log", False, False),
        ("cat $(rm a.log)", False, False),
        ("cat `rm a.log`", False, False),
        ("cd etc", True, False),
        ("cd etc && ls", False, False),
        ("rm a.log", True, False),
        ("bash run.sh", True, False),
        ("(cat a.log)", False, False),
        ("ls && touch b", False, False),
    ],
)
def test_a_command_reads_only_where_that_is_sure(text: str, simple: bool, read_only: bool) -> None:
    """Catches a proof about a file that is kept beyond a command which may have changed it."""
    parsed = parse_command(text)
    assert parsed is not None
    assert (parsed.simple, parsed.read_only) == (simple, read_only)


@pytest.mark.parametrize("text", ["", "cat 'a.log", "cat <<EOF\nx\nEOF", "ls\nrm a.log"])
def test_what_is_not_one_readable_line_is_not_read(text: str) -> None:
    """Catches the first line of a script that is taken for all of it."""
    assert parse_command(text) is None
