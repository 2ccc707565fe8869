"""The persistent bash: what survives, what is typed as what, and what happens when a command fights the channel."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from envecho.errors import WorldError
from envecho.trajectory import Source
from envecho.worlds.sandbox import Limits
from envecho.worlds.sandbox_result import STATE_LOST_NOTICE, CommandResult, ObservationStyle
from envecho.worlds.terminal import TerminalSession


@dataclass(frozen=True, kw_only=True)
class SmallBox:
    """A box with one log, one script and one nested file."""

    seed: int = 11
    files: dict[str, str] = field(
        default_factory=lambda: {
            "app.log": "one\ntwo\nthree\n",
            "bin/run.sh": "#!/bin/bash\necho ran $1\n",
            "a/b/c.txt": "deep\n",
        }
    )


@pytest.fixture
def session() -> Iterator[TerminalSession]:
    with TerminalSession(SmallBox(), limits=Limits(command_seconds=20)) as running:
        yield running


def sources(result: CommandResult) -> list[Source]:
    return [segment.source for segment in result.segments]


def assert_lives(session: TerminalSession) -> None:
    """The session answers the next command exactly."""
    result = session.run("printf 'still %s' here; false")
    assert (result.stdout, result.stderr, result.exit_status) == ("still here", "", 1)


# --- an ordinary session --------------------------------------------------------------------------------------------


def test_folder_variables_functions_aliases_and_status_survive_from_command_to_command(session: TerminalSession):
    """Catches a session that starts a shell per command."""
    session.run("cd a; export V=1; w=2; f() { echo \"f$1\"; }; alias greet='echo hello'; shopt -s nullglob")
    assert session.run("pwd; echo $V $w; f 3; greet; shopt -q nullglob && echo on").stdout == (
        "/srv/box/a\n1 2\nf3\nhello\non\n"
    )
    session.run("(exit 7)")
    assert session.run("echo $?").stdout == "7\n"
    session.run("cd ..")
    assert session.run("cd -").stdout == "/srv/box/a\n"


def test_the_box_lies_in_the_folder_with_pinned_times_modes_and_owner(session: TerminalSession):
    """Catches host times or owners in `ls -l`, which no model could predict."""
    assert session.run("ls -la app.log bin a/b").stdout == (
        "-rw-r--r-- 1 user user 14 Jan  1  2025 app.log\n\na/b:\ntotal 4\n"
        "drwxr-xr-x 2 user user 60 Jan  1  2025 .\ndrwxr-xr-x 3 user user 60 Jan  1  2025 ..\n"
        "-rw-r--r-- 1 user user  5 Jan  1  2025 c.txt\n\nbin:\ntotal 4\n"
        "drwxr-xr-x 2 user user  60 Jan  1  2025 .\ndrwxr-xr-x 4 user user 100 Jan  1  2025 ..\n"
        "-rwxr-xr-x 1 user user  24 Jan  1  2025 run.sh\n"
    )
    assert session.run("./bin/run.sh x").stdout == "ran x\n"


def test_two_sessions_of_one_box_answer_alike_and_random_follows_the_seed():
    """Catches anything of the host, of time or of chance in the environment."""
    command = "env | sort; hostname; id; echo $RANDOM $RANDOM $$ $0 $-; ls -laR; cat /etc/passwd; date +%Z; ulimit -a"
    answers: list[str] = []
    for seed in (5, 5, 6):
        with TerminalSession(SmallBox(seed=seed)) as session:
            answers.append(session.run(command).stdout)
    assert answers[0] == answers[1] != answers[2]
    assert [line for line in answers[0].splitlines() if "=" in line and not line.startswith(("uid", "_"))] == [
        "HOME=/home/user",
        "LANG=C.UTF-8",
        "LOGNAME=user",
        "PAGER=cat",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "PWD=/srv/box",
        "SHELL=/bin/bash",
        "SHLVL=1",
        "TERM=dumb",
        "TZ=UTC",
        "USER=user",
    ]


def test_segments_are_stdout_then_stderr_then_status(session: TerminalSession):
    """Catches an interleaving that depends on scheduling, and output of one stream typed as the other."""
    result = session.run("echo e1 >&2; echo o1; echo e2 >&2; printf o2; exit_with() { return 4; }; exit_with")
    assert [(s.source, s.text) for s in result.segments] == [
        (Source.STDOUT, "o1\no2"),
        (Source.STDERR, "e1\ne2\n"),
        (Source.STATUS, "[exit status 4]"),
    ]


def test_harness_text_starts_on_its_own_line_and_brings_the_newline_itself(session: TerminalSession):
    """Catches a newline of the harness that is typed as output of the world, and one that is missing."""
    result = session.run("printf abc; false")
    assert [(s.source, s.text) for s in result.segments] == [
        (Source.STDOUT, "abc"),
        (Source.STATUS, "\n[exit status 1]"),
    ]
    assert session.run("true").segments == ()


def test_the_style_can_echo_the_command_and_state_every_status():
    """Catches an echo that is typed as the world's output."""
    style = ObservationStyle(command_echo=True, status="always")
    with TerminalSession(SmallBox(), style=style) as session:
        assert [(s.source, s.text) for s in session.run("head -n 1 app.log").segments] == [
            (Source.COMMAND_ECHO, "$ head -n 1 app.log\n"),
            (Source.STDOUT, "one\n"),
            (Source.STATUS, "[exit status 0]"),
        ]


def test_errors_count_lines_from_the_start_of_the_command(session: TerminalSession):
    """Catches error messages that count lines of the control script and so depend on the history."""
    for _ in range(2):
        assert session.run("nosuch").stderr == "bash: line 1: nosuch: command not found\n"
        assert session.run("true\ncd /nosuch").stderr == "bash: line 2: cd: /nosuch: No such file or directory\n"
        assert session.run('echo "open').stderr == (
            "bash: eval: line 1: unexpected EOF while looking for matching `\"'\n"
        )


def test_output_is_exact_bytes_and_what_is_not_utf8_is_replaced_and_counted(session: TerminalSession):
    """Catches newline translation, lost trailing newlines, and silent replacement."""
    assert session.run(r"printf 'a\r\n\n\tb\n\n\n'").stdout == "a\r\n\n\tb\n\n\n"
    result = session.run(r"printf 'x\xff\xfey \xef\xbf\xbd \xe6\xbc\xa2\n'")
    assert result.stdout == "x\ufffd\ufffdy \ufffd 漢\n"
    assert result.num_replaced == 2


def test_commands_read_nothing(session: TerminalSession):
    """Catches a command that waits for input, or eats the script that follows it."""
    assert session.run('cat; read x; echo "[$x]"; wc -c').stdout == "[]\n0\n"
    assert_lives(session)


def test_output_to_dev_stdout_and_dev_stderr_arrives(session: TerminalSession):
    """Catches pipes whose owner is not the sandbox's user: opening them by path, as `tee /dev/stderr` does, fails."""
    result = session.run("echo o > /dev/stdout; echo e | tee /dev/stderr >/dev/null")
    assert (result.stdout, result.stderr) == ("o\n", "e\n")


def test_multi_line_commands_and_heredocs_run(session: TerminalSession):
    """Catches quoting that breaks on newlines or quotes, and a heredoc that swallows the control line."""
    assert session.run('for i in 1 2\ndo\n  echo "it\'s $i"\ndone\n# comment').stdout == "it's 1\nit's 2\n"
    assert session.run("cat <<'END'\n$HOME 'x' \\\nEND\necho after").stdout == "$HOME 'x' \\\nafter\n"
    session.run("cat <<END\nnever ended")
    assert_lives(session)


def test_a_long_command_and_long_output_pass_through_the_pipes(session: TerminalSession):
    """Catches a deadlock when both a command and its output exceed a pipe's buffer."""
    text = "y" * 100_000
    result = session.run(f"printf %s '{text}' | wc -c; printf %s '{text}'; printf %s '{text}' >&2")
    assert result.stdout.startswith("100000\nyyy")
    assert result.truncated
    assert_lives(session)


def test_jobs_are_the_commands_own(session: TerminalSession):
    """Catches control lines in the job table, and a table whose jobs cannot be killed."""
    session.run("ls; ls | wc -l")
    assert session.run("jobs; sleep 300 & jobs").stdout == "[1]+  Running                 sleep 300 &\n"
    result = session.run("kill %1; wait %1; echo $?; jobs")
    assert result.stdout == "143\n"


# --- truncation, timeouts -------------------------------------------------------------------------------------------


def test_a_long_output_keeps_head_and_tail_around_a_notice_that_states_the_limit():
    """Catches an unmarked cut, which teaches early stops, and a cut inside a character."""
    with TerminalSession(SmallBox(), limits=Limits(output_bytes=100)) as session:
        result = session.run("seq 1 1000; printf 漢%.0s {1..100} >&2; false")
    assert sources(result) == [
        *(Source.STDOUT, Source.TRUNCATION_NOTICE, Source.STDOUT),
        *(Source.STDERR, Source.TRUNCATION_NOTICE, Source.STDERR, Source.STATUS),
    ]
    assert result.truncated
    assert result.stdout.startswith("1\n2\n3\n")
    assert result.stdout.endswith("\n999\n1000\n")
    assert len(result.stdout) == 100
    assert result.segments[1].text == "\n[3793 bytes left out: at most 100 bytes of stdout are shown]\n"
    assert set(result.stderr) == {"漢"}
    assert result.num_replaced == 0


def test_a_timeout_kills_the_command_keeps_the_transcript_and_the_shell(session: TerminalSession):
    """Catches a timeout that throws the output or the state away."""
    session.run("cd a; x=5; sleep 300 & earlier=$!")
    result = session.run("echo before; echo warned >&2; sleep 301", timeout_s=0.3)
    assert result.timed_out
    assert result.exit_status is None
    assert [(s.source, s.text) for s in result.segments] == [
        (Source.STDOUT, "before\n"),
        (Source.STDERR, "warned\n"),
        (Source.TIMEOUT_NOTICE, "[timed out after 0.3 s; the command was killed]"),
    ]
    assert not result.shell_restarted
    assert result.seconds < 15
    assert session.run("pwd; echo $x; pgrep -x sleep -a; kill -0 $earlier && echo alive").stdout == (
        "/srv/box/a\n5\n" + session.run("echo $earlier").stdout.strip() + " sleep 300\nalive\n"
    )


def test_what_the_shell_says_of_a_killed_report_never_reaches_the_next_command():
    """Catches a sweep that kills the subshell of a report: bash names it, with our control line, one command later."""
    seen: list[list[tuple[Source, str]]] = []

    def time_out_again_and_again() -> None:
        with TerminalSession(SmallBox()) as session:
            for _ in range(8):
                session.run("echo before; sleep 30", timeout_s=0.05)
                seen.append([(s.source, s.text) for s in session.run("echo after").segments])

    threads = [threading.Thread(target=time_out_again_and_again) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [[(Source.STDOUT, "after\n")]] * 64


@pytest.mark.parametrize(
    "command",
    [
        "while :; do :; done",
        "while true; do sleep 0.05; done",
        "trap '' TERM INT HUP; sleep 300",
        "sleep 300 | sleep 300 | cat",
        "setsid -w sleep 300",
        "nohup bash -c 'trap \"\" TERM; while :; do sleep 0.1; done'",
        "wait & wait; cat /dev/zero >/dev/null",
    ],
)
def test_what_does_not_end_by_itself_is_ended_and_the_session_goes_on(session: TerminalSession, command: str):
    """Catches a hang, and state that is lost without a word."""
    session.run("cd a; kept=1")
    result = session.run(command, timeout_s=0.3)
    assert result.timed_out
    assert result.seconds < 15
    after = session.run("pwd; echo $kept; pgrep -c 'sleep|cat'").stdout
    assert after == ("/srv/box/a\n\n0\n" if result.shell_restarted else "/srv/box/a\n1\n0\n")
    assert (STATE_LOST_NOTICE in result.segments[-1].text) == result.shell_restarted
    assert_lives(session)


def test_output_of_background_jobs_arrives_with_a_later_command(session: TerminalSession):
    """Catches output that is lost between commands."""
    session.run("(sleep 0.2; echo late) &")
    time.sleep(0.5)
    assert session.run("echo now").stdout == "late\nnow\n"


def test_text_that_no_command_can_hold_is_left_out_with_a_warning(session: TerminalSession):
    """Catches a NUL that cuts a command in silence and a lone surrogate that raises."""
    result = session.run("echo a\0b")
    assert result.stdout == "ab\n"
    assert result.segments[-1].source is Source.FORMAT_WARNING
    assert session.run("echo \ud800").segments[-1].source is Source.FORMAT_WARNING
    assert_lives(session)


# --- the life of a session ------------------------------------------------------------------------------------------


def test_a_session_outlives_the_thread_that_made_it():
    """Catches `--die-with-parent`, which follows the thread that started the child and not the process."""
    made: list[TerminalSession] = []
    thread = threading.Thread(target=lambda: made.append(TerminalSession(SmallBox())))
    thread.start()
    thread.join()
    time.sleep(0.1)
    with made[0] as session:
        assert_lives(session)


def test_close_ends_every_process_and_may_be_called_twice():
    """Catches daemons and descriptors that outlive the episode."""
    before = set(os.listdir("/proc/self/fd"))
    session = TerminalSession(SmallBox())
    session.run("setsid sleep 7654 & disown; (setsid nohup sleep 7655 >/dev/null 2>&1 &)")
    session.close()
    session.close()
    assert not [pid for pid in os.listdir("/proc") if pid.isdigit() and b"\x00765" in _command_line(pid)]
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(WorldError, match="closed"):
        session.run("true")


def test_sessions_run_side_by_side_without_seeing_each_other():
    """Catches shared folders, shared processes and mixed pipes."""
    sessions = [TerminalSession(SmallBox(seed=seed)) for seed in range(4)]
    answers: dict[int, str] = {}

    def work(number: int) -> None:
        for step in range(5):
            sessions[number].run(f"echo {number}-{step} >> mine; sleep 0.01")
        answers[number] = sessions[number].run("cat mine; ps -e | wc -l").stdout

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    assert len({answer.splitlines()[-1] for answer in answers.values()}) == 1
    assert all(answers[n].splitlines()[:5] == [f"{n}-{step}" for step in range(5)] for n in range(4))


@pytest.mark.parametrize("path", ["/etc/x", "../x", "a/../../x", "", "."])
def test_a_box_path_that_leads_out_of_the_box_is_refused(path: str):
    """Catches a box that writes elsewhere."""
    with pytest.raises(ValueError, match="relative path inside the box"):
        TerminalSession(SmallBox(files={path: "x"}))


def _command_line(pid: str) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as stream:
            return stream.read()
    except OSError:
        return b""
