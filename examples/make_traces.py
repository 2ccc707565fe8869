"""Write the sample traces of `examples/traces`: twelve short sessions as three harnesses would have stored them.

    python examples/make_traces.py examples/traces

The tasks, thoughts and commands are made up; every answer is what a real bash printed to its command. The shapes of
the files are those of mini-swe-agent (`*.traj.json`), Claude Code and Codex (`*.jsonl`). One session prints a password
of nobody, so that there is a secret to take out. Not here: importing them (`envecho import`).
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sessions import SESSIONS, Session

_ENVIRONMENT = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": "/nonexistent"}


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One command of a session with the thought before it, and what bash said."""

    thought: str
    command: str
    stdout: str
    stderr: str
    status: int


def play(session: Session) -> list[Answered]:
    """Type the commands into a real bash, in a folder that holds the session's files."""
    answered: list[Answered] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, text in session.files.items():
            path = Path(folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        environment = _ENVIRONMENT | {"GIT_CEILING_DIRECTORIES": str(Path(folder).parent)}
        for thought, command in session.turns:
            done = subprocess.run(
                ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=10
            )
            answered.append(
                Answered(
                    thought=thought, command=command, stdout=done.stdout, stderr=done.stderr, status=done.returncode
                )
            )
    return answered


def mini_swe_agent(session: Session, turns: list[Answered]) -> dict[str, Any]:
    """Return the session as mini-swe-agent's `.traj.json`, format 1."""
    messages: list[dict[str, str]] = [
        {"role": "system", "content": "You solve tasks in a shell. Answer with a THOUGHT and ONE bash block."},
        {"role": "user", "content": session.task},
    ]
    for turn in turns:
        block = f"THOUGHT: {turn.thought}\n\n```bash\n{turn.command}\n```"
        output = f"<returncode>{turn.status}</returncode>\n<output>\n{turn.stdout}{turn.stderr}</output>"
        messages += [{"role": "assistant", "content": block}, {"role": "user", "content": output}]
    last = f"THOUGHT: {session.answer}\n\n```bash\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n```"
    return {
        "info": {"exit_status": "Submitted", "submission": session.answer},
        "messages": [*messages, {"role": "assistant", "content": last}, {"role": "user", "content": session.answer}],
        "instance_id": session.name,
        "trajectory_format": "mini-swe-agent-1",
    }


def claude_code(session: Session, turns: list[Answered]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the session as Claude Code stores them."""
    parent: str | None = None
    place = 0

    def line(kind: str, content: Any, **keys: Any) -> dict[str, Any]:
        nonlocal parent, place
        identity = _uuid(f"{session.name}/{place}")
        found = {
            "parentUuid": parent,
            "isSidechain": False,
            "sessionId": _uuid(session.name),
            "version": "2.0.14",
            "type": kind,
            "message": {"role": kind, "content": content, **keys.pop("message", {})},
            "uuid": identity,
            "timestamp": f"2025-10-09T08:{place // 60:02d}:{place % 60:02d}.000Z",
            **keys,
        }
        parent, place = identity, place + 1
        return found

    def said(blocks: list[dict[str, Any]], number: int) -> dict[str, Any]:
        facts = {"id": f"msg_{_uuid(f'{session.name}/m{number}')[:8]}", "type": "message", "model": "sample"}
        return line("assistant", blocks, message=facts)

    yield line("user", session.task)
    for number, turn in enumerate(turns):
        call = f"toolu_{_uuid(f'{session.name}/c{number}')[:8]}"
        yield said([{"type": "text", "text": turn.thought}], number)
        yield said([{"type": "tool_use", "id": call, "name": "Bash", "input": {"command": turn.command}}], number)
        failed = turn.status != 0
        text = (f"Exit code {turn.status}\n" if failed else "") + (turn.stdout + turn.stderr).rstrip("\n")
        result = {"tool_use_id": call, "type": "tool_result", "content": text, "is_error": failed}
        streams = {"stdout": turn.stdout.rstrip("\n"), "stderr": turn.stderr.rstrip("\n"), "interrupted": False}
        yield line("user", [result], toolUseResult=f"Error: {text}" if failed else streams)
    yield said([{"type": "text", "text": session.answer}], len(turns))


def codex(session: Session, turns: list[Answered]) -> Iterator[dict[str, Any]]:
    """Yield the lines of the session as a rollout file of Codex."""
    place = 0

    def line(kind: str, payload: Mapping[str, Any]) -> dict[str, Any]:
        nonlocal place
        place += 1
        return {"timestamp": f"2025-10-09T08:{place // 60:02d}:{place % 60:02d}.000Z", "type": kind, "payload": payload}

    def message(role: str, text: str) -> dict[str, Any]:
        kind = "output_text" if role == "assistant" else "input_text"
        return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}

    yield line("session_meta", {"id": _uuid(session.name), "originator": "codex_cli_rs", "cli_version": "0.46.0"})
    yield line("response_item", message("user", session.task))
    for number, turn in enumerate(turns):
        call = f"call_{_uuid(f'{session.name}/{number}')[:8]}"
        yield line("response_item", message("assistant", turn.thought))
        arguments = json.dumps({"command": ["bash", "-lc", turn.command]})
        yield line("response_item", {"type": "function_call", "name": "shell", "arguments": arguments, "call_id": call})
        output = {
            "output": turn.stdout + turn.stderr,
            "metadata": {"exit_code": turn.status, "duration_seconds": 0.1},
        }
        yield line("response_item", {"type": "function_call_output", "call_id": call, "output": json.dumps(output)})
    yield line("response_item", message("assistant", session.answer))


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"envecho-sample/{name}"))


def main(out: Path) -> None:
    """Write every session into its harness's folder."""
    for session in SESSIONS:
        turns = play(session)
        folder = out / session.harness
        folder.mkdir(parents=True, exist_ok=True)
        if session.harness == "mini-swe-agent":
            text = json.dumps(mini_swe_agent(session, turns), indent=1) + "\n"
            (folder / f"{session.name}.traj.json").write_text(text)
            continue
        write = claude_code if session.harness == "claude-code" else codex
        lines = "".join(json.dumps(line) + "\n" for line in write(session, turns))
        (folder / f"{session.name}.jsonl").write_text(lines)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
