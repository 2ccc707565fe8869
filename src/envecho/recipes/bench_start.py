"""`envecho bench start`: what a user waits for before anything happens, in fresh processes.

Each subject is one process; a round runs every subject once, so that what else the machine does meets all of them.
Times run from the moment the process is asked for to its end, or to the line in which it says that it is ready. Not
here: repetitions of phases within a process (`bench`).
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from envecho.engines.pretrained import resolve_model
from envecho.errors import EngineError
from envecho.recipes.bench import document
from envecho.recipes.progress import say

_COMMAND: Final = "import sys; from envecho.cli.main import main; main(sys.argv[1:])"
_SAY_READY: Final = "import time; print(time.process_time(), flush=True); time.sleep(60)"
_LIBRARIES: Final = "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel"
_MODEL: Final = """import sys
from envecho import ChatTokenizer, LocalEngine
from envecho.engines.pretrained import resolve_model

folder = resolve_model(sys.argv[1])
engine = LocalEngine(folder)
tokenizer = ChatTokenizer.from_pretrained(folder)
tokenizer.turn_format
"""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A program, and how many milliseconds its start may take; `says_ready`: it runs on after its first line."""

    program: str
    arguments: tuple[str, ...] = ()
    limit_milliseconds: float | None = None
    says_ready: bool = False


def starts(model: str) -> dict[str, Start]:
    """Return what is started, by its title in the table; the first is what nobody can go below."""
    return {
        "python": Start(program="pass"),
        "import envecho": Start(program="import envecho", limit_milliseconds=50),
        "envecho --help": Start(program=_COMMAND, arguments=("--help",), limit_milliseconds=300),
        "envecho train --help": Start(program=_COMMAND, arguments=("train", "--help"), limit_milliseconds=300),
        "envecho show --help": Start(program=_COMMAND, arguments=("show", "--help"), limit_milliseconds=300),
        "torch and transformers": Start(program=f"{_LIBRARIES}\n{_SAY_READY}", says_ready=True),
        "model and tokenizer ready": Start(
            program=f"{_MODEL}\n{_SAY_READY}", arguments=(model,), limit_milliseconds=3000, says_ready=True
        ),
    }


def bench_start(*, model: str, repetitions: int) -> dict[str, Any]:
    """Start everything `repetitions` times and return the document with medians and their spread.

    One round before is not counted: it leaves the model converted and every file in the page cache.

    Raises:
        EngineError: the model is not to be had, or a process fails.
    """
    resolve_model(model)
    subjects = starts(model)
    measured: dict[str, dict[str, list[float]]] = {title: {} for title in subjects}
    for number in range(repetitions + 1):
        for title, subject in subjects.items():
            found = time_start(title, subject)
            if number:
                for key, value in found.items():
                    measured[title].setdefault(key, []).append(value)
        say(f"round {number} of {repetitions}" if number else "everything once, uncounted")
    return document("start", {"model": model}, measured, repetitions, seed=0)


def time_start(title: str, subject: Start) -> dict[str, float]:
    """Return the milliseconds of one start: on the clock, of the processor, and what they may be.

    Raises:
        EngineError: the process ends before it is ready, or with a status other than 0.
    """
    command = [sys.executable, "-c", subject.program, *subject.arguments]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        if subject.says_ready:
            line = process.stdout.readline()
            wall = time.perf_counter() - start
            process.kill()
            if not line:
                raise _failed(title, process)
            processor = float(line)
        else:
            process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - start
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise _failed(title, process)
            processor = usage.ru_utime + usage.ru_stime
    limit = {} if subject.limit_milliseconds is None else {"limit_milliseconds": subject.limit_milliseconds}
    return {"wall_milliseconds": 1e3 * wall, "processor_milliseconds": 1e3 * processor, **limit}


def _failed(title: str, process: subprocess.Popen[str]) -> EngineError:
    assert process.stderr is not None
    last: Sequence[str] = process.stderr.read().strip().splitlines()[-1:] or [f"status {process.returncode}"]
    return EngineError(f"{title!r} did not start: {last[0]}")


def over_limit(results: dict[str, Any]) -> list[str]:
    """Return the titles whose best start took longer on the clock than its limit."""
    return [
        title
        for title, found in results.items()
        if "limit_milliseconds" in found and found["wall_milliseconds"]["min"] > found["limit_milliseconds"]["max"]
    ]
