"""Material of the benchmarks: episodes of an agent in a shell, made from a seed, in three formats that others write.

Names, paths and numbers are drawn anew for each episode, so that no text was encoded before. Not here: measuring.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from envecho.trajectory import Message, Segment, Source, Trajectory

FORMATS: Final[tuple[str, ...]] = ("mini-swe-agent", "atif", "messages")
_ROWS_PER_FILE: Final = 50
_SYSTEM: Final = "You are an agent that solves software issues. Answer with one bash command in a code block."
_STARTS: Final = (
    "con",
    "par",
    "str",
    "tra",
    "sel",
    "mod",
    "gen",
    "ver",
    "lo",
    "da",
    "fi",
    "pro",
    "ex",
    "in",
    "un",
    "re",
)
_MIDDLES: Final = ("a", "e", "i", "o", "u", "ta", "ni", "ro", "li", "ve", "qua", "mer", "sto", "cri")
_ENDS: Final = ("ser", "tor", "ment", "ble", "fig", "der", "cal", "tion", "set", "ded", "ster", "ing", "list", "ory")


class ShellEpisodes:
    """Draws tasks, commands and what a shell answers, as far as a tokenizer can tell."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def name(self) -> str:
        """An identifier that hardly occurred before."""
        pick = self._rng.choice
        stem = pick(_STARTS) + "".join(pick(_MIDDLES) for _ in range(self._rng.randrange(1, 4))) + pick(_ENDS)
        return f"{stem}_{pick(_STARTS)}{pick(_ENDS)}" if self._rng.random() < 0.4 else stem

    def path(self) -> str:
        """A source file."""
        return f"src/{self.name()}/{self.name()}.py"

    def task(self) -> str:
        """An issue of some sentences."""
        one, two, three = self.name(), self.name(), self.name()
        return (
            f"{one.capitalize()} returns the wrong {two} when {three} is {self._rng.randrange(1000)}.\n\n"
            f"Steps to reproduce: call `{one}.{two}({three}={self._rng.random():.3f})` twice; the second call should "
            f"give the same {two}, but it raises {three.title()}Error in {self.path()}. Please fix it and add a test."
        )

    def command(self) -> str:
        """A command."""
        kind = self._rng.randrange(4)
        if kind == 0:
            return f"grep -rn '{self.name()}' src/{self.name()}"
        if kind == 1:
            return f"sed -n '{self._rng.randrange(200)},{self._rng.randrange(200, 400)}p' {self.path()}"
        return f"ls -la src/{self.name()}" if kind == 2 else f"python -m pytest tests/test_{self.name()}.py -q"

    def output(self) -> str:
        """What the shell answers: a listing, hits, code or a failing test."""
        kind, lines = self._rng.randrange(4), range(self._rng.randrange(4, 24))
        number = self._rng.randrange
        if kind == 0:
            rows = [
                f"-rw-r--r-- 1 root root {number(90000):>6} Mar {number(28) + 1:>2} 10:{number(60):02} {self.name()}.py"
                for _ in lines
            ]
            return "\n".join([f"total {number(900)}", *rows]) + "\n"
        if kind == 1:
            return "".join(
                f"{self.path()}:{number(900)}:    {self.name()} = self.{self.name()}({number(99)})\n" for _ in lines
            )
        if kind == 2:
            body = [
                f"        self.{self.name()} = {self.name()}[{number(50)}]  # {self.name()} of {self.name()}"
                for _ in lines
            ]
            return f"    def {self.name()}(self, {self.name()}: int) -> str:\n" + "\n".join(body) + "\n"
        name, wrong = self.name(), number(999)
        return (
            f"F{'.' * number(40)}  [100%]\n=== FAILURES ===\n___ test_{name} ___\n\n    def test_{name}():\n"
            f">       assert {self.name()}({number(99)}) == {wrong}\nE       assert {number(999)} == {wrong}\n\n"
            f"{self.path()}:{number(500)}: AssertionError\n{number(9) + 1} failed, {number(90)} passed\n"
        )

    def turns(self) -> list[tuple[str, str, int]]:
        """Answers of an episode, each with the output of its command and the exit code."""
        return [
            (
                f"I look at how {self.name()} reaches {self.name()}.\n\n```bash\n{self.command()}\n```",
                self.output(),
                int(self._rng.random() < 0.2),
            )
            for _ in range(self._rng.randrange(4, 20))
        ]


def write_traces(folder: Path, *, num_bytes: int, seed: int) -> dict[str, int]:
    """Write traces of all formats, about `num_bytes` in all, and return the bytes per format."""
    episodes = ShellEpisodes(seed)
    written: dict[str, int] = dict.fromkeys(FORMATS, 0)
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while sum(written.values()) < num_bytes:
        name = min(written, key=lambda form: written[form])
        if name == "messages":
            text = "".join(json.dumps(_messages(episodes)) + "\n" for _ in range(_ROWS_PER_FILE))
            file = folder / f"rows-{number:06d}.jsonl"
        else:
            text = json.dumps(_mini(episodes) if name == "mini-swe-agent" else _atif(episodes), indent=1)
            file = folder / f"{name}-{number:06d}.json"
        file.write_text(text, encoding="utf-8")
        written[name] += len(text.encode())
        number += 1
    return written


def _mini(episodes: ShellEpisodes) -> dict[str, Any]:
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": episodes.task()}]
    for answer, output, code in episodes.turns():
        seen = f"<returncode>{code}</returncode>\n<output>\n{output}</output>"
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": seen}]
    return {"trajectory_format": "mini-swe-agent-1", "info": {"exit_status": "Submitted"}, "messages": messages}


def _atif(episodes: ShellEpisodes) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"step_id": 1, "source": "user", "message": episodes.task()}]
    for answer, output, _ in episodes.turns():
        call = {"tool_call_id": f"c{len(steps)}", "function_name": "bash", "arguments": {"command": episodes.command()}}
        results = [{"source_call_id": f"c{len(steps)}", "content": output}]
        steps.append(
            {
                "step_id": len(steps) + 1,
                "source": "agent",
                "message": answer,
                "tool_calls": [call],
                "observation": {"results": results},
            }
        )
    return {
        "schema_version": "ATIF-v1.5",
        "session_id": episodes.name(),
        "agent": {"name": "bench", "version": "1", "model_name": "none"},
        "steps": steps,
    }


def _messages(episodes: ShellEpisodes) -> dict[str, Any]:
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": _SYSTEM},
        {"role": "user", "content": episodes.task()},
    ]
    for number, (answer, output, _) in enumerate(episodes.turns()):
        function = {"name": "bash", "arguments": json.dumps({"command": episodes.command()})}
        call = {"id": f"c{number}", "type": "function", "function": function}
        messages += [
            {"role": "assistant", "content": answer, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": f"c{number}", "content": output},
        ]
    return {"instance_id": f"{episodes.name()}__{episodes.name()}-{len(messages)}", "messages": messages}


def small_trajectories(num: int, *, seed: int) -> Iterator[Trajectory]:
    """Yield small graded episodes of six messages and some hundred characters, eight rollouts of each task."""
    rng = random.Random(seed)
    pool = ShellEpisodes(seed)
    tasks = [pool.task() for _ in range(2000)]
    outputs = [pool.output()[:160] for _ in range(4000)]
    commands = [pool.command() for _ in range(2000)]
    pick, number = rng.choice, rng.randrange
    text = ""
    for place in range(num):
        task = place // 8
        if place % 8 == 0:
            text = (
                f"{pick(tasks)[:100]} (issue {task} of {pool.name()} at {number(10**9)}, {pool.name()} {pool.name()})"
            )
        reward = float(rng.random() < 0.3)
        yield Trajectory(
            id=f"e{place}",
            task_id=f"owner{task % 997}__repo{task % 997}-{task}",
            group_id=f"g{task}",
            reward=reward,
            messages=(
                Message(role="user", segments=(Segment(source=Source.TASK, text=text),)),
                _said(pick(commands)),
                _seen(pick(outputs), Source.STDOUT if number(10) else Source.STDERR, number(2)),
                _said(pick(commands)),
                _seen(pick(outputs), Source.STDOUT, number(2)),
                _said(f"answer: {number(10**6)}"),
            ),
            metadata={"import": {"format": FORMATS[place % 3], "file": f"{place}.json"}},
        )


def _said(text: str) -> Message:
    return Message(role="assistant", segments=(Segment(source=Source.POLICY, text=text),))


def _seen(text: str, source: Source, code: int) -> Message:
    status = Segment(source=Source.STATUS, text=f"[exit status {code}]")
    return Message(role="user", segments=(Segment(source=source, text=text), status))
