"""Commands that fight the control channel: no hang, no wrong status, no lost state that nobody is told of."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from envecho.trajectory import Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.terminal import TerminalSession


@pytest.fixture
def session() -> Iterator[TerminalSession]:
    with TerminalSession(
        SimpleNamespace(seed=11, files={"app.log": "one\n"}), limits=Limits(command_seconds=20)
    ) as running:
        yield running


def assert_lives(session: TerminalSession) -> None:
    """The session answers the next command exactly."""
    result = session.run("printf 'still %s' here; false")
    assert (result.stdout, result.stderr, result.exit_status) == ("still here", "", 1)


SHELL_SURVIVES = {
    "unbalanced quotes": "echo 'a \"b `c ((",
    "stray done": "done; }; fi",
    "break, continue and return": "break; continue; return 3",
    "background job": "sleep 300 &",
    "background output": "(while :; do echo noise; sleep 0.2; done) >/dev/null &",
    "ERR trap": "trap 'echo err' ERR",
    "EXIT trap": "trap 'echo bye' EXIT",
    "redefined eval, printf, exit, set, read": 'for f in eval printf exit set read trap; do eval "$f() { :; }"; done; '
    "unset -f printf",
    "alias of eval and for": "alias eval='echo no' printf='echo no' builtin='echo no'",
    "no nonce in the environment": "export LC_ALL=C IFS=0123456789abcdef; unset IFS LC_ALL",
    "changed IFS": "IFS=0123456789abcdef",
    "posix mode": "set -o posix",
    "noglob and nounset": "set -f -u",
    "globbing options": "shopt -s failglob nullglob extglob",
    "stdin moved": "exec </etc/passwd",
    "readonly names": "readonly s=1 __=2 status=3 LANG=C 2>/dev/null; unset LINENO",
    "expansion error": "echo $((1/0))",
    "unset variable error in a subshell": "(set -u; echo $nosuch)",
    "sandbox paths removed": "rm -rf /run /tmp /srv/box/* ~ 2>/dev/null",
    "folder removed": "mkdir gone; cd gone; rmdir ../gone; cd /srv/box",
    "SIGINT and SIGTERM ignored": "trap '' INT TERM; kill -TERM $$",
    "kill the keeper": "kill -9 1; kill -STOP 1; kill -HUP 1",
    "lines that look like reports": "printf '%016d done 0 2 /\\0' 0; printf '0 ended 1 1 \\0'",
    "writing to the report pipe": "head -c 20000 /dev/urandom >/proc/1/fd/4; printf 'aaaaaaaaaaaaaaaa done 9 2 /\\0' "
    ">/proc/1/fd/4",
    "writing to the script pipe": "echo 'echo injected >/dev/null' >/proc/$$/fd/254 2>/dev/null",
    "history expansion": "echo hi!x '!!'",
    "hash and PATH": "PATH=/nonexistent; hash -r; PATH=/usr/bin:/bin",
    "job control": "set -m; sleep 300 & fg >/dev/null 2>&1 </dev/null & disown -a; set +m",
}


@pytest.mark.parametrize("name", SHELL_SURVIVES)
def test_a_command_that_meddles_leaves_the_shell_as_it_was(session: TerminalSession, name: str):
    """Catches a control line that the command can derail: wrong status, lost state, stray output."""
    session.run("kept=1")
    result = session.run(SHELL_SURVIVES[name], timeout_s=10)
    assert not result.timed_out
    assert not result.shell_restarted
    printed = session.run("trap - ERR DEBUG; /usr/bin/printf '%s' \"$kept\"")
    assert (printed.stdout, printed.exit_status) == ("1", 0)
    session.run("unset -f exit printf eval; unalias -a")
    assert_lives(session)


SHELL_ENDS = {
    "unclosed $( that damages bash 5.2's memory": ("echo $(", None),
    "exit": ("exit 3", 3),
    "exit in a function after output": ("f() { echo out; exit 4; }; f", 4),
    "exec of a program": ("exec ls -d /srv/box", 0),
    "exec of nothing": ("exec /nosuch/program", None),
    "set -e and a failure": ("set -e; false; echo not reached", 1),
    "kill of itself": ("kill -9 $$", 137),
    "kill of everything": ("kill -9 -1", None),
    "script descriptor closed": ('for fd in {3..9} {10..255}; do eval "exec $fd<&-"; done 2>/dev/null', None),
    "set -n": ("set -n", None),
    "alias of a reserved word": ("alias for='echo no'", None),
    "redefined builtin": ("builtin() { :; }", None),
    "disabled builtins": ("enable -n eval printf exit set", None),
    "script read away": ("cat /proc/$$/fd/254 >/dev/null & cat /proc/1/fd/3 >/dev/null & sleep 0.2", None),
}


@pytest.mark.parametrize("name", SHELL_ENDS)
def test_a_command_that_ends_the_shell_gets_a_new_one_and_it_is_said(session: TerminalSession, name: str):
    """Catches a hang until the timeout, a wrong status, a lost transcript, and lost state that nobody is told of."""
    command, status = SHELL_ENDS[name]
    session.run("kept=1; touch made")
    results = [session.run(command, timeout_s=8), session.run("echo next"), session.run("echo $kept; ls made")]
    assert not any(result.timed_out for result in results)
    if status is not None:
        assert results[0].exit_status == status
        assert results[0].shell_restarted
    if any(result.shell_restarted for result in results):
        restarted = next(result for result in results if result.shell_restarted)
        assert restarted.segments[-1].source is Source.HARNESS_NOTICE
        assert results[2].stdout.endswith("made\n") or results[2].shell_restarted
    assert session.run("ls made").stdout == "made\n"
    assert_lives(session)


def test_output_before_the_end_of_the_shell_is_kept(session: TerminalSession):
    """Catches a transcript that is dropped with the shell."""
    assert session.run("echo out; echo err >&2; exit 5").stdout == "out\n"


def test_set_x_and_a_debug_trap_show_only_themselves(session: TerminalSession):
    """Catches control lines in the trace, and a trap that runs after the report and pollutes the next answer."""
    session.run("set -x")
    assert "nonce" not in session.run("echo one").stderr
    assert "printf" not in session.run("echo one").stderr
    session.run("set +x; trap 'echo trapped' DEBUG")
    assert session.run("echo two").stdout.replace("trapped\n", "") == "two\n"
    session.run("trap - DEBUG")
    assert session.run("echo three").stdout == "three\n"
