"""Type what the documentation tells a newcomer to type, in a clean environment, and stop where it does not work.

    python tests/newcomer/walk.py docs/getting-started.md

Reads the ```sh fences of a page in order and types them into one bash, in a copy of this clone's files: nothing else
is installed, HOME and the cache are empty folders, and no variable of the caller's Python is left. Each command is
printed with its time; the first that fails ends the walk with what it printed, and exit status 1. Variables that
configure pip stay, so that a machine may choose its own index.

Not here: what the commands should say; their own tests know that. Nobody runs it with pytest, as it takes minutes.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_KEPT = ("LANG", "TERM", "TMPDIR", "SSL_CERT_FILE", "OMP_NUM_THREADS")
_KEPT_PREFIXES = ("PIP_", "HTTP", "http", "NO_PROXY", "no_proxy")
_MARK = "@@ walk"


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of a page, a here-document included, and the line on which it begins."""

    line: int
    text: str


def commands_of(text: str) -> list[Command]:
    """Return the commands of all ```sh fences, in order.

    A line that ends in a backslash goes on, and one with `<<'WORD'` goes on to the line WORD. Comments are no command.
    """
    found: list[Command] = []
    lines = iter(enumerate(text.splitlines(), start=1))
    for _, line in lines:
        if line.strip() == "```sh":
            found += _fence(lines)
    return found


def _fence(lines: Iterator[tuple[int, str]]) -> Iterator[Command]:
    for number, line in lines:
        if line.strip() == "```":
            return
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        whole = [line]
        while whole[-1].endswith("\\"):
            whole.append(next(lines)[1])
        if "<<'" in line:
            end = line.split("<<'", 1)[1].split("'", 1)[0]
            while whole[-1] != end:
                whole.append(next(lines)[1])
        yield Command(line=number, text="\n".join(whole))


def copy_clone(folder: Path) -> None:
    """Copy the files that git knows of, as they lie here now."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if not (ROOT / name).is_file():
            continue
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)


def environment_of(home: Path, python: Path) -> dict[str, str]:
    """Return the variables of a newcomer's shell: a home and a cache of their own, and `python3` is `python`."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}
    shims = home / "bin"
    shims.mkdir(parents=True)
    script = shims / "python3"  # a script, not a link: an environment made by a link looks for its library beside it
    script.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
    script.chmod(0o755)
    return kept | {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "PATH": f"{shims}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HF_HUB_OFFLINE": "1",
        "COLUMNS": "120",
    }


def walk(commands: list[Command], folder: Path, environment: dict[str, str], *, show: bool) -> bool:
    """Type the commands into one bash, one after the other; whether all of them ended with exit status 0."""
    shell = subprocess.Popen(
        ["bash", "--noprofile", "--norc"],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        bufsize=1,
    )
    with shell as bash:
        return all(_type(bash, command, show=show) for command in commands)


def _type(bash: subprocess.Popen[str], command: Command, *, show: bool) -> bool:
    """Type one command, whose standard input is empty; print what it took, and what it said where it failed."""
    assert bash.stdin is not None
    assert bash.stdout is not None
    first = command.text.splitlines()[0]
    print(f"line {command.line:4}  {first}", flush=True)
    started = time.monotonic()
    own_input = "" if "<<'" in first else "</dev/null"
    bash.stdin.write(f"{{ {command.text}\n}} {own_input}\necho '{_MARK}' $?\n")
    bash.stdin.flush()
    said: list[str] = []
    for line in bash.stdout:
        if line.startswith(_MARK):
            status = int(line.split()[-1])
            break
        said.append(line)
    else:
        status = bash.wait()
    seconds = time.monotonic() - started
    print(f"           {seconds:6.1f} s" + ("" if status == 0 else f", exit status {status}"), flush=True)
    if status or show:
        print(f"\n$ {command.text}\n{''.join(said)}", flush=True)
    return status == 0


def main() -> int:
    """Walk the page that is named; `--keep` leaves the folder behind, `--show` prints what every command says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("page", type=Path)
    parser.add_argument("--keep", action="store_true", help="leave the folder of the walk behind")
    parser.add_argument("--show", action="store_true", help="print what every command says")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the newcomer's python3")
    options = parser.parse_args()
    commands = commands_of(options.page.read_text(encoding="utf-8"))
    folder = Path(tempfile.mkdtemp(prefix="envecho-newcomer-"))
    try:
        (folder / "clone").mkdir()
        copy_clone(folder / "clone")
        environment = environment_of(folder / "home", options.python.resolve())
        started = time.monotonic()
        passed = walk(commands, folder / "clone", environment, show=options.show)
        state = f"{len(commands)} commands" if passed else "stopped at a command that failed"
        print(f"{options.page}: {state}, {time.monotonic() - started:.0f} s", flush=True)
        return 0 if passed else 1
    finally:
        if options.keep:
            print(f"kept: {folder}", flush=True)
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
