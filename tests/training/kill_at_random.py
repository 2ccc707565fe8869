"""Kill a training run with SIGKILL ten times at random, resume it each time, and compare it with one left alone.

    python tests/training/kill_at_random.py FOLDER [MODEL]        MODEL: keys of the table [model], as JSON

Each life of the run is a forked child, so that the libraries are loaded once. Prints one JSON object: how many kills
hit a living run, the steps that they left, and whether weights, optimiser and metrics are the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from tiny_run import tiny_config

from envecho.training.loop import train

NUM_KILLS = 10
MAX_EVENTS = 4
"""A life reports its start, steps, looks and checkpoints, and dies after at most this many: ten lives cannot finish."""

MODEL: dict[str, object] = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
RUN = {"steps": 24, "checkpoint_every": 1, "validate_every": 4}


def live(folder: Path, out: Path, *, resume: bool) -> tuple[int, int]:
    """Start a life of the run in a child process; return its id and a pipe that gets a byte with each event."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)
            train(
                tiny_config(folder, model=MODEL, run=RUN),
                out,
                resume=resume,
                on_event=lambda event: os.write(writing, b"."),
            )
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    return child, reading


def run_to_the_end(folder: Path, out: Path, *, resume: bool) -> float:
    """Live a whole life and return its seconds per event."""
    started = time.monotonic()
    child, pipe = live(folder, out, resume=resume)
    num_events = 0
    while os.read(pipe, 1):
        num_events += 1
    os.close(pipe)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0:
        raise SystemExit(f"the run in {out} failed")
    return (time.monotonic() - started) / num_events


def kill_at_random(folder: Path, out: Path, draw: random.Random, seconds_per_event: float) -> bool:
    """Live until a random event and a random moment after it; return whether the kill hit."""
    child, pipe = live(folder, out, resume=True)
    for _ in range(draw.randint(0, MAX_EVENTS)):
        os.read(pipe, 1)
    time.sleep(draw.uniform(0, 2 * seconds_per_event))
    os.kill(child, signal.SIGKILL)
    os.close(pipe)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def last_step(out: Path) -> int:
    """The last resumable step that is on the disk."""
    return max((int(path.name[5:]) for path in out.glob("checkpoints/step-*")), default=0)


def digest(out: Path) -> dict[str, str]:
    """What a finished run left, without its times: a hash of each file of the last checkpoint, and the metrics."""
    last = out / "checkpoints" / f"step-{RUN['steps']:06d}"
    files = [path for path in sorted(last.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(last)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    state = json.loads((last / "training_state.json").read_text())
    found["training_state.json"] = json.dumps({k: v for k, v in state.items() if k != "wall_seconds"})
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    times = ("seconds", "tokens_per_second")
    found["metrics"] = json.dumps([{k: v for k, v in row.items() if k not in times} for row in rows])
    found["kept"] = " ".join(sorted(path.name for path in (out / "checkpoints").iterdir()))
    return found


def main(folder: Path) -> dict[str, object]:
    """Run both and compare."""
    # A thread pool does not survive a fork; with one thread there is none.
    torch.set_num_threads(1)
    tiny_config(folder)
    seconds_per_event = run_to_the_end(folder, folder / "alone", resume=False)
    draw, killed = random.Random(0), folder / "killed"
    kills, steps = 0, []
    for _ in range(NUM_KILLS):
        kills += kill_at_random(folder, killed, draw, seconds_per_event)
        steps.append(last_step(killed))
    run_to_the_end(folder, killed, resume=True)
    return {"kills": kills, "steps_left": steps, "same_bits": digest(folder / "alone") == digest(killed)}


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
