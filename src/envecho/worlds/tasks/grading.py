"""Grading: the task's own verifier in a fresh shell, with our copy of its files, and the reward that it wrote.

As in Harbor 0.24 (`harbor/verifier/verifier.py`): `/tests/test.sh` runs in the task's folder, and the reward is
`/logs/verifier/reward.json` (a number, or an object of numbers), else `/logs/verifier/reward.txt`. A verifier that
wrote neither is an error there; here it is reward 0 with the reason, because a policy can bring it about. Not here:
when an episode is graded (`world`).
"""

from __future__ import annotations

import base64
import json
import math
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from envecho.worlds.sandbox_files import pack
from envecho.worlds.tasks.folder import HarborTask
from envecho.worlds.terminal.session import TerminalSession

LOG_FOLDER = "/logs/verifier"
_PREPARE_SECONDS = 30.0
_PREPARE = (
    "chmod -R u+rwx /tests /logs; find /tests /logs -mindepth 1 -delete; "
    "mkdir -p /logs/agent /logs/artifacts /logs/verifier && "
    "printf %s {archive} | base64 -d | tar -x -f - -C /tests && chmod +x /tests/test.sh"
)


@dataclass(frozen=True, kw_only=True)
class Grade:
    """A reward, what the verifier printed, and why there is no reward of its own (`problem`), where there is none."""

    reward: float
    output: str = ""
    problem: str | None = None


def grade(session: TerminalSession, task: HarborTask, folder: str) -> Grade:
    """Run the verifier of `task` in the live sandbox, after killing all that runs there.

    What the policy left in /tests and /logs is deleted first. HOME is /tests, and Python reads no user folder: start-up
    files of the policy do not run before the verifier.
    """
    if not session.start_fresh_shell():
        return Grade(reward=0.0, problem=f"the sandbox is gone: {session.stopped}")
    archive = base64.b64encode(pack(task.tests, prefix="")).decode()
    prepared = session.run(_PREPARE.format(archive=shlex.quote(archive)), _PREPARE_SECONDS)
    if prepared.exit_status != 0:
        return Grade(reward=0.0, output=prepared.stderr, problem="the verifier's files could not be written")
    variables = {"HOME": "/tests", "PYTHONNOUSERSITE": "1", **task.settings.verifier.env}
    environment = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    place = f"cd {shlex.quote(folder)} 2>/dev/null || cd /"
    command = f"{place}; env {environment} /tests/test.sh >{LOG_FOLDER}/test-stdout.txt 2>&1"
    ran = session.run(command, task.settings.verifier.timeout_sec)
    if session.stopped is not None or not session.start_fresh_shell():
        return Grade(reward=0.0, problem=f"the sandbox was stopped while grading: {session.stopped}")
    output = _read(session, "test-stdout.txt") or ""
    if ran.timed_out:
        seconds = task.settings.verifier.timeout_sec
        return Grade(reward=0.0, output=output, problem=f"the verifier took more than {seconds:g} s")
    return reward_of(lambda name: _read(session, name), output, status=ran.exit_status)


def reward_of(read: Callable[[str], str | None], output: str, *, status: int | None) -> Grade:
    """Return the grade that the reward files say; `read` returns a file of /logs/verifier, or None without it.

    `status` is the verifier's exit status, which says what went wrong where there is no reward.
    """
    for name, parse in {"reward.json": json.loads, "reward.txt": float}.items():
        text = read(name)
        if text is None:
            continue
        try:
            return Grade(reward=_number(parse(text)), output=output)
        except (ValueError, TypeError, RecursionError) as error:
            return Grade(reward=0.0, output=output, problem=f"{name}: {error}; found {text[:60]!r}")
    problem = f"the verifier wrote neither reward.json nor reward.txt; its exit status is {status}"
    return Grade(reward=0.0, output=output, problem=problem)


def _number(value: Any) -> float:
    if isinstance(value, dict):
        named: dict[str, Any] = value  # type: ignore[assignment]  # the keys of a JSON object are text
        if "reward" not in named and len(named) != 1:
            raise ValueError(f"expected one reward, or one named reward, found {', '.join(named) or 'none'}")
        value = named["reward"] if "reward" in named else next(iter(named.values()))
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("expected a finite number")
    return float(value)


def _read(session: TerminalSession, name: str) -> str | None:
    if session.stopped is not None:
        return None
    result = session.run(f"cat {LOG_FOLDER}/{name}")
    return result.stdout if result.exit_status == 0 else None
