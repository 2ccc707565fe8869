"""Task families over a service box: what is asked, how it is verified, and commands that solve it.

Each family is a function from a box and a generator to a `TriageTask`. An answer task compares the policy's answer; a
state task runs checks in the live box, so that what counts is what the files say, not what the policy says.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from envecho.worlds.terminal import words
from envecho.worlds.terminal.boxes import Box

RunCommand = Callable[[str], str]


@dataclass(frozen=True, kw_only=True)
class TriageTask:
    """One task on one box.

    `expected` is the answer, compared after stripping white space and case; None for a state task. `checks` are
    (command, exact stdout) pairs that must hold in the live box at the end. `oracle` is a sequence of commands, and for
    answer tasks a final `answer:` line, that solves the task.
    """

    id: str
    family: str
    instruction: str
    box: Box
    oracle: tuple[str, ...]
    expected: str | None = None
    checks: tuple[tuple[str, str], ...] = ()

    def verify(self, answer: str | None, run: RunCommand) -> float:
        """Return 1.0 if the answer and every check hold, else 0.0; `run` executes in the live box."""
        if self.expected is not None and (answer is None or answer.strip().lower() != self.expected.lower()):
            return 0.0
        return float(all(run(command) == wanted for command, wanted in self.checks))


@dataclass(frozen=True, kw_only=True)
class _Draft:
    instruction: str
    commands: tuple[str, ...]
    expected: str | None = None
    checks: tuple[tuple[str, str], ...] = ()


def _count_level(box: Box, rng: random.Random) -> _Draft:
    log = box.document("log")
    level = rng.choice(words.LEVELS)
    return _Draft(
        instruction=f"How many lines of {log.path} have level {level}? Answer with the number.",
        commands=(f"cat {log.path}", f"grep -c {level} {log.path}"),
        expected=str(sum(row[1] == level for row in log.rows)),
    )


def _first_error(box: Box, rng: random.Random) -> _Draft:
    log = box.document("log")
    return _Draft(
        instruction=f"At what time (HH:MM) does the first ERROR appear in {log.path}?",
        commands=(f"grep ERROR {log.path}", f"grep ERROR {log.path} | head -n 1 | cut -d' ' -f1"),
        expected=next(row[0] for row in log.rows if row[1] == "ERROR"),
    )


def _slowest_request(box: Box, rng: random.Random) -> _Draft:
    access = box.document("access")
    slowest = max(access.rows, key=lambda row: int(row[2]))
    return _Draft(
        instruction=f"Which route in {access.path} took longest (last column, milliseconds)? Answer with the route.",
        commands=(f"cat {access.path}", f"sort -k3,3nr {access.path} | head -n 1"),
        expected=slowest[0],
    )


def _top_customer(box: Box, rng: random.Random) -> _Draft:
    orders = box.document("orders")
    totals: dict[str, int] = {}
    for customer, _, total in orders.rows:
        totals[customer] = totals.get(customer, 0) + int(total)
    best = max(totals.values())
    return _Draft(
        instruction=f"What is the largest sum of totals of one customer in {orders.path}? Answer with the number.",
        commands=(
            f"cat {orders.path}",
            f"awk -F, '{{s[$1]+=$3}} END{{for(c in s) print s[c]}}' {orders.path} | sort -rn | head -n 1",
        ),
        expected=str(best),
    )


def _owner_of(box: Box, rng: random.Random) -> _Draft:
    users, owners = box.document("users"), box.document("owners")
    key, team = rng.choice(owners.rows)
    name = dict(users.rows)[key]  # type: ignore[arg-type]  # rows of this table have two fields
    return _Draft(
        instruction=f"{users.path} and {owners.path} share their first column. Which team is {name} in?",
        commands=(f"join -t, {users.path} {owners.path}", f"join -t, {users.path} {owners.path} | grep {name}"),
        expected=team,
    )


def _read_setting(box: Box, rng: random.Random) -> _Draft:
    conf = box.document("conf")
    key, value = rng.choice(conf.rows)
    return _Draft(
        instruction=f"What is {key} set to in the .conf file below etc?",
        commands=("ls etc", f"grep {key}= {conf.path}"),
        expected=value,
    )


def _script_status(box: Box, rng: random.Random) -> _Draft:
    script = box.document("script")
    status = script.rows[-1][0].rsplit(" ", 1)[1]
    return _Draft(
        instruction=f"Run {script.path} with bash. With which exit status does it end?",
        commands=(f"bash {script.path}; echo $?",),
        expected=status,
    )


def _find_request(box: Box, rng: random.Random) -> _Draft:
    notes = box.document("notes")
    request = notes.rows[1][0].split()[1]
    return _Draft(
        instruction=f"Which file mentions {request}? Answer with its path, without ./",
        commands=("ls", f"grep -rl {request} *"),
        expected=notes.path,
    )


def _set_timeout(box: Box, rng: random.Random) -> _Draft:
    yaml = box.document("yaml")
    old = yaml.rows[-1][0]
    seconds = rng.randrange(100, 1000)
    fixed = "".join(f"{line}\n" for line in (*yaml.lines[:-1], f"  timeout: {seconds}"))
    return _Draft(
        instruction=f"Set timeout to {seconds} in {yaml.path} and change nothing else in it.",
        commands=(f"cat {yaml.path}", f"sed -i 's/^{old}$/  timeout: {seconds}/' {yaml.path}", f"cat {yaml.path}"),
        checks=((f"cat {yaml.path}", fixed),),
    )


def _extract_errors(box: Box, rng: random.Random) -> _Draft:
    log = box.document("log")
    target = f"{rng.choice(words.PEOPLE)}-errors.txt"
    errors = "".join(f"{line}\n" for line in log.lines if " ERROR " in line)
    return _Draft(
        instruction=f"Write the ERROR lines of {log.path}, in order, to {target} in the working folder.",
        commands=(f"grep ERROR {log.path} > {target}", f"cat {target}"),
        checks=((f"cat {target}", errors),),
    )


def _archive_logs(box: Box, rng: random.Random) -> _Draft:
    log = box.document("log")
    folder = f"archive-{rng.choice(words.TEAMS)}"
    name = log.path.rsplit("/", 1)[1]
    return _Draft(
        instruction=f"Move {log.path} into a new folder {folder} in the working folder.",
        commands=(f"mkdir {folder}", f"mv {log.path} {folder}/", f"ls {folder}"),
        checks=(
            (f"ls {folder}", f"{name}\n"),
            (f"cat {folder}/{name}", log.text),
            (f"test -e {log.path} || echo gone", "gone\n"),
        ),
    )


FAMILIES: dict[str, Callable[[Box, random.Random], _Draft]] = {
    "count_level": _count_level,
    "first_error": _first_error,
    "slowest_request": _slowest_request,
    "top_customer": _top_customer,
    "owner_of": _owner_of,
    "read_setting": _read_setting,
    "script_status": _script_status,
    "find_request": _find_request,
    "set_timeout": _set_timeout,
    "extract_errors": _extract_errors,
    "archive_logs": _archive_logs,
}
"""The task families by name; a new one is a function here."""


def make_task(box: Box, family: str, *, seed: int = 0) -> TriageTask:
    """Draw one task of this family on this box."""
    draft = FAMILIES[family](box, random.Random(f"envecho-task-{box.seed}-{family}-{seed}"))
    answer = () if draft.expected is None else (f"answer: {draft.expected}",)
    return TriageTask(
        id=f"terminal/{family}/box-{box.seed}/{seed}",
        family=family,
        instruction=draft.instruction,
        box=box,
        oracle=(*draft.commands, *(answer or ("answer: done",))),
        expected=draft.expected,
        checks=draft.checks,
    )
