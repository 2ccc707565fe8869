"""The text that drives a persistent bash: the keeper's script, and what starts a shell, runs one command and reports.

Theory of operation. Inside the sandbox the keeper is process 1. It unpacks the box, sets the limits, and whenever the
host says so starts a shell; when the shell ends it says so. The shell is a bash whose script is a pipe: the host writes
one line that evaluates the command and one line that reports. Commands have /dev/null as their input and inherit no
control channel: the shell reads its script through a descriptor that it closes in every child, and a report opens the
keeper's pipe by path. Every report repeats a nonce that is new for each command, so no output can be taken for one.

    host --script--> shell      host --go--> keeper      shell, keeper --report--> host

When the whole script was read and no report came, the control line was defeated (`set -n`, a redefined `builtin`): the
host then starts a new shell and says that the old one's state was lost. Not here: pipes and processes (`sandbox`).
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

KEEPER_SCRIPT = r"""exec 3<&"$1" 4>&"$2" 5<&"$3" 6>&2 2>/dev/null
eval "exec $1<&- $2>&- $3<&-"
IFS= read -r -u 5 secret
echo 1000 >/proc/self/oom_score_adj
ulimit -c 0; ulimit -v "$5"; ulimit -f "$6"; ulimit -t "$7"; ulimit -n "$8"; ulimit -u "$9"
if ! tar -x -f - -C "$4"; then printf '%s unpack 1 0 \0' "$secret" >&4; exit 1; fi
exec </dev/null
while IFS= read -r -u 5 _; do
  bash --norc --noprofile bash 2>&6 3<&- 4>&- 5<&- 6>&-
  printf '%s ended %d 0 \0' "$secret" "$?" >&4
done
"""
"""Arguments: script, report and go descriptors, the folder to unpack into, KiB of memory and of one file, CPU seconds,
open files, processes.

The shell's script is a link named `bash`, so that errors begin with `bash: line 1:` as those of `bash -c` do. It is not
interactive: without a terminal that gives a job table which lists the control lines and cannot kill jobs.
"""


@dataclass(frozen=True, kw_only=True)
class Report:
    """One message of the control channel: `kind` is done, ended or unpack; `status` is an exit status.

    `shell_pid` and `folder` are the shell's process id and working folder after a command.
    """

    nonce: str
    kind: str
    status: int
    shell_pid: int
    folder: str


def start_lines(*, folder: str, box_folder: str, seed: int, report_path: str, nonce: str) -> str:
    """Return what a new shell reads first: aliases on, the box as working folder (or another one in it), a seed."""
    return (
        f"shopt -s expand_aliases execfail; SHLVL=1; cd {shlex.quote(box_folder)}\n"
        + (f"cd {shlex.quote(folder)} 2>/dev/null\n" if folder != box_folder else "")
        + f"unset OLDPWD; RANDOM={seed & 0x7FFF}; :\n"
        + report_line(report_path=report_path, nonce=nonce)
    )


def command_lines(command: str, *, report_path: str, nonce: str) -> str:
    r"""Return the script of one command.

    `${-:LINENO=1:0}` is empty; it resets the line counter that error messages show, and leaves `$?` as the last command
    left it. A backslash keeps aliases away.
    """
    quoted = "'" + command.replace("'", "'\\''") + "'"
    return f'\\builtin eval "${{-:LINENO=1:0}}"{quoted}\n' + report_line(report_path=report_path, nonce=nonce)


def parse_reports(data: bytes) -> tuple[list[Report], bytes]:
    """Split what the control channel delivered into reports and the unfinished rest; others' noise is dropped."""
    *parts, rest = data.split(b"\0")
    matches = (_REPORT.search(part) for part in parts)
    reports = [
        Report(
            nonce=match[1].decode(),
            kind=match[2].decode(),
            status=int(match[3]),
            shell_pid=int(match[4]),
            folder=match[5].decode(errors="surrogateescape"),
        )
        for match in matches
        if match is not None
    ]
    return reports, rest


def report_line(*, report_path: str, nonce: str) -> str:
    """Return the line that reports, from a subshell that ends with the command's own status.

    As the left side of `&&` it trips neither `set -e` nor an ERR trap, and `$?` reaches the next command; a loop over
    nothing is the one right side that runs no DEBUG trap. The empty line after it is read only when the report is out.
    """
    report = f'\\builtin printf \'%s done %d %d %s\\0\' {nonce} "$1" "$$" "$PWD" >{report_path}'
    return f'( \\builtin set -- "$?"; {report}; \\builtin exit "$1" ) 2>/dev/null && for __ in; do :; done\n\n'


_REPORT = re.compile(rb"([0-9a-f]{16}) (done|ended|unpack) (\d{1,3}) (\d+) ([^\0]*)\Z", re.DOTALL)
