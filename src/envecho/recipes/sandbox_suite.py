"""Attacks on the sandbox: each runs as an episode, and then every canary must be whole and the machine as before.

    python -m envecho.recipes.sandbox_suite [--json OUT] [--trajectories OUT.parquet]

The attacks are data (`sandbox_attacks.toml`, by class); they aim at the canaries (`sandbox_canaries`). After each
attack an oracle must solve the next episode on a fresh world. Not here: the sandbox (`envecho.worlds.sandbox`).
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import click

from envecho.recipes.sandbox_canaries import MOST_PEAK, Canaries, PeakMemory, measure
from envecho.rollout.episode import EpisodeJob, run_episode
from envecho.seam import TaskSuite
from envecho.trajectory import Source, StopReason, Trajectory
from envecho.trajectory.store import write_trajectories
from envecho.worlds.sandbox import Limits
from envecho.worlds.scripts import ScriptedPolicy

TASK_CLASSES: Final = (
    "host files",
    "writing outside",
    "staying behind",
    "killing",
    "links",
    "tracing",
    "the control channel",
    "the grade",
)
"""The classes that also run on a task in Harbor's format: where its folders and its grading differ."""

COMMAND_SECONDS: Final = 2.0
MOST_SECONDS: Final = 60.0
LAST_ACTIONS: Final = {"terminal": "answer: nothing", "tasks": "done"}
_SHOWN_CHARACTERS = 400


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One attack: its class, its name within the class, and the actions of its episode in order."""

    kind: str
    name: str
    actions: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class AttackResult:
    """What became of one attack: how its episode ended, what it reached, what it left behind."""

    world: str
    attack: Attack
    ended: str
    escapes: tuple[str, ...]
    harms: tuple[str, ...]
    seconds: float
    trajectory: Trajectory


def load_attacks() -> tuple[Attack, ...]:
    """Return every attack, class by class."""
    text = resources.files("envecho.recipes").joinpath("sandbox_attacks.toml").read_text(encoding="utf-8")
    classes: dict[str, dict[str, Any]] = {**tomllib.loads(text), "large input": _LARGE}
    return tuple(
        Attack(kind=kind, name=name, actions=(actions,) if isinstance(actions, str) else tuple(actions))
        for kind, attacks in classes.items()
        for name, actions in attacks.items()
    )


def run_attacks(attacks: Sequence[Attack], suites: Mapping[str, TaskSuite]) -> Iterator[AttackResult]:
    """Run every attack on each world whose suite is given (`terminal`, `tasks`) and yield what became of it."""
    with Canaries() as canaries:
        for world, suite in suites.items():
            for attack in attacks:
                if world == "terminal" or attack.kind in TASK_CLASSES:
                    yield _run(attack, world, suite, canaries)


def one_line(action: str) -> str:
    """Return the action as one line that means the same: the terminal world takes one line for an action."""
    if "\n" not in action:
        return action
    escaped = action.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"eval $'{escaped}'"


def how_it_ended(trajectory: Trajectory) -> str:
    """Say in a few words what the sandbox did to the attack; the strongest of what it did."""
    if trajectory.stop_reason is StopReason.WORLD_ERROR:
        return "world error"
    said = [segment for message in trajectory.messages[2:] for segment in message.segments]
    notices = "".join(segment.text for segment in said if segment.source is Source.HARNESS_NOTICE)
    sources = {segment.source for segment in said}
    ways = {
        "machine stopped": "the machine was stopped" in notices,
        "command killed": Source.TIMEOUT_NOTICE in sources,
        "output cut": Source.TRUNCATION_NOTICE in sources,
        "shell replaced": "the shell ended" in notices,
        "refused": Source.STDERR in sources or Source.STATUS in sources,
    }
    return next((way for way, holds in ways.items() if holds), "answered")


def _run(attack: Attack, world: str, suite: TaskSuite, canaries: Canaries) -> AttackResult:
    mark = f"mark{secrets.token_hex(6)}"
    actions = [_filled(action, canaries.names(mark)) for action in attack.actions]
    if world == "terminal":
        actions = [one_line(action) for action in actions]
    before, started = measure(), time.monotonic()
    job = EpisodeJob(
        id=f"{world}/{attack.kind}/{attack.name}",
        task_id=suite.task_id("train", 0),
        seed=0,
        make_world=lambda: suite.make_world("train", 0),
        make_policy=lambda: ScriptedPolicy.oracle((*actions, LAST_ACTIONS[world])),
        metadata={"class": attack.kind, "attack": attack.name},
    )
    with PeakMemory() as peak:
        trajectory = run_episode(job, timeout_s=COMMAND_SECONDS)
    seconds = time.monotonic() - started
    harms = list(canaries.harms(before, mark))
    if peak.most_bytes - before.shared_memory > MOST_PEAK:
        harms.append(f"took {(peak.most_bytes - before.shared_memory) >> 20} MiB of memory")
    if seconds > MOST_SECONDS:
        harms.append(f"took {seconds:.0f} s")
    if not _next_episode_is_clean(suite):
        harms.append("changed the next episode")
    return AttackResult(
        world=world,
        attack=attack,
        ended=how_it_ended(trajectory),
        escapes=tuple(canaries.escapes(trajectory)),
        harms=tuple(harms),
        seconds=seconds,
        trajectory=trajectory,
    )


def _filled(action: str, names: Mapping[str, str]) -> str:
    for name, value in names.items():
        action = action.replace(f"@{name}@", value)
    return action


def _next_episode_is_clean(suite: TaskSuite) -> bool:
    """Whether a fresh world has empty folders, and its oracle solves the task."""
    world = suite.make_world("train", 0)
    try:
        world.reset(seed=0)
        listing = world.step("ls -A /tmp /dev/shm /home/user | grep -v :").segments
        if any(segment.source is Source.STDOUT and segment.text.strip() for segment in listing):
            return False
        oracle, reward = suite.scripted_policy("train", 0, policy="oracle", seed=0), None
        while not (turn := oracle.act([])).finished:
            reward = world.step(turn.message.content).reward
        return reward == 1.0
    finally:
        world.close()


_LARGE: Final[dict[str, tuple[str, ...]]] = {
    "a large environment": (
        "export X=$(head -c 100000 /dev/zero | tr '\\0' x); for n in $(seq 200); do export X$n=$X; done; ls",
        "echo on",
    ),
    "a large command": (f"echo {'x' * 1_000_000} | wc -c", "echo on"),
    "many arguments": ("ls $(seq 1000000) | wc -l", "echo on"),
    "bytes that no command holds": ("echo a\x00b\x1b[2J 'open quote", "echo on"),
    "deep nesting": ("$(" * 3000, "[" * 3000, "echo on"),
}
"""Attacks that a text file cannot hold."""


# --- the command ----------------------------------------------------------------------------------------------------


def as_json(results: Sequence[AttackResult]) -> dict[str, Any]:
    """Return the file that the command writes: the machine, sums by class, and every attack with its transcript."""
    bubblewrap = subprocess.run(["bwrap", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "format": "envecho.attacks",
        "version": 1,
        "kernel": os.uname().release,
        "bubblewrap": bubblewrap,
        "limits": asdict(Limits()),
        "num_attacks": len(results),
        "num_escapes": sum(bool(result.escapes) for result in results),
        "num_harms": sum(bool(result.harms) for result in results),
        "classes": _by_class(results),
        "attacks": [
            {
                "world": result.world,
                "class": result.attack.kind,
                "attack": result.attack.name,
                "ended": result.ended,
                "escapes": result.escapes,
                "harms": result.harms,
                "seconds": round(result.seconds, 2),
                "transcript": [
                    {"role": message.role, "text": _printable(message.content)}
                    for message in result.trajectory.messages[2:]
                ],
            }
            for result in results
        ],
    }


def _by_class(results: Sequence[AttackResult]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for result in results:
        row = found.setdefault(result.attack.kind, {"attacks": 0, "escapes": 0, "harms": 0, "ended": Counter[str]()})
        row["attacks"] += 1
        row["escapes"] += bool(result.escapes)
        row["harms"] += bool(result.harms)
        row["ended"][result.ended] += 1
    return found


def _printable(text: str) -> str:
    shown = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"
    return shown.encode("utf-8", errors="replace").decode()


@click.command()
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write every attack and its transcript.")
@click.option("--trajectories", type=click.Path(path_type=Path), help="Write the episodes to a .parquet file.")
@click.option("--tasks", type=click.Path(path_type=Path), help="A folder of tasks; some classes run there as well.")
def main(json_file: Path | None, trajectories: Path | None, tasks: Path | None) -> None:
    """Run every attack on the terminal world, and some classes on the first task of a folder."""
    from envecho.worlds.options import SuiteOptions
    from envecho.worlds.suites import open_suite
    from envecho.worlds.tasks import open_tasks

    suites: dict[str, TaskSuite] = {"terminal": open_suite("terminal")}
    if tasks is not None:
        suites["tasks"] = open_tasks(tasks, SuiteOptions())
    results: list[AttackResult] = []
    for result in run_attacks(load_attacks(), suites):
        results.append(result)
        wrong = "; ".join((*result.escapes, *result.harms))
        click.echo(f"{len(results):4} {result.trajectory.id}: {result.ended}{f' ({wrong})' if wrong else ''}", err=True)
    click.echo(f"{'class':<24}{'attacks':>8}{'escapes':>8}{'harms':>7}  ended")
    for kind, row in _by_class(results).items():
        ended = ", ".join(f"{way} {count}" for way, count in row["ended"].most_common())
        click.echo(f"{kind:<24}{row['attacks']:>8}{row['escapes']:>8}{row['harms']:>7}  {ended}")
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(as_json(results), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if trajectories is not None:
        write_trajectories(trajectories, (result.trajectory for result in results))
    if any(result.escapes or result.harms for result in results):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
