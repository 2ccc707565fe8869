"""Which programs a build step may run here, which Debian packages this machine already has, and what needs a network.

Not here: reading shell text (`shell_lines`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

from envecho.worlds.tasks.shell_lines import simple_commands

SANDBOX_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BUILTINS = ": . [ [[ cd echo exit export false printf pwd read return set shift test true umask unset"
_PLAIN = """
awk base64 basename bash cat chmod cksum cmp comm cp csplit cut date dd diff dirname env expand expr find fold gawk git
grep gunzip gzip head install join ln ls mawk md5sum mkdir mktemp mv nl od paste patch perl printenv python3 realpath rm
rmdir sed seq sh sha1sum sha256sum shuf sleep sort split sqlite3 stat tac tail tar tee touch tr truncate tsort uniq
unlink wc xargs xz yes zcat
"""
_ROOT = "adduser addgroup chgrp chown groupadd passwd service setcap su sudo systemctl useradd usermod"
_NETWORK = """
apk apt apt-get cargo conda curl docker dpkg gem go nc npm npx pip pip3 pipx pnpm poetry ssh uv uvx wget yarn
"""
BUILTINS = frozenset(_BUILTINS.split())
PLAIN_PROGRAMS = frozenset(_PLAIN.split())
"""Programs that need neither network nor root for what build steps use them for."""
ROOT_PROGRAMS = frozenset(_ROOT.split())
NETWORK_PROGRAMS = frozenset(_NETWORK.split())
PACKAGE_PROGRAMS = {
    "bash": "bash",
    "bsdmainutils": "column",
    "bsdextrautils": "column",
    "coreutils": "ls",
    "diffutils": "diff",
    "file": "file",
    "findutils": "find",
    "gawk": "gawk",
    "git": "git",
    "grep": "grep",
    "gzip": "gzip",
    "jq": "jq",
    "mawk": "mawk",
    "patch": "patch",
    "perl": "perl",
    "procps": "ps",
    "python3": "python3",
    "python3-minimal": "python3",
    "sed": "sed",
    "sqlite3": "sqlite3",
    "tar": "tar",
    "tree": "tree",
    "unzip": "unzip",
    "util-linux": "setpriv",
    "xz-utils": "xz",
    "zip": "zip",
}
"""Debian packages whose main program tells that they are here."""

_COMMAND_START = r"(?:^|[;&|(]|\bthen\b|\bdo\b|\belse\b|\bsudo\b|\bif\b|!)\s*(?:[A-Za-z_]\w*=\S*\s+)*"
_NETWORK_COMMAND = re.compile(
    _COMMAND_START + r"(" + "|".join(map(re.escape, sorted(NETWORK_PROGRAMS | {"pytest"}))) + r")(?=\s|$|;)"
)
_MODULE_COMMAND = re.compile(r"\bpython3?\s+(?:-\w+\s+)*-m\s+(pip|pytest|venv|http\.server|uv)\b")


def is_here(program: str) -> bool:
    """Whether the sandbox has this program."""
    return shutil.which(program, path=SANDBOX_PATH) is not None


def step_reason(line: str) -> str | None:
    """Say why a RUN line cannot be carried out here, or None where it can."""
    try:
        commands = list(simple_commands(line))
    except ValueError as error:
        return f"{error}"
    reasons = (reason for words in commands if (reason := _command_reason(words)) is not None)
    return next(reasons, None)


def is_package_step(words: list[str]) -> bool:
    """Whether a command only fetches or cleans up Debian packages, which are then here already or refused."""
    cleans = words[:2] == ["rm", "-rf"] and all(word.startswith("/var/lib/apt/lists") for word in words[2:])
    return words[0] in ("apt-get", "apt") or cleans


def network_words(script: str) -> list[str]:
    """Return the programs that a script starts and that need a network, or that the sandbox does not have."""
    found: dict[str, None] = {}
    for line in script.splitlines():
        if line.lstrip().startswith("#"):
            continue
        for match in (*_NETWORK_COMMAND.finditer(line), *_MODULE_COMMAND.finditer(line)):
            name = match[1]
            if name == "pytest" and is_here(name):
                continue
            found[
                f"{name}, which this sandbox does not have" if name == "pytest" else f"{name}, which needs network"
            ] = None
    return list(found)


def _command_reason(words: list[str]) -> str | None:
    program = words[0].rpartition("/")[2]
    if is_package_step(words):
        missing = list(_missing_packages(words))
        return f"{program} {words[1]} {missing[0]} needs network" if missing else None
    if program in ROOT_PROGRAMS:
        return f"{program} needs root"
    if program in NETWORK_PROGRAMS or (program == "git" and words[1:2] in (["clone"], ["fetch"], ["pull"])):
        return f"{' '.join(words[:2])} needs network"
    if program in BUILTINS or words[0].startswith("./"):
        return None
    if program not in PLAIN_PROGRAMS:
        return f"{program} is not among the programs that are known to need no network"
    return None if is_here(program) else f"{program} is not on this machine"


def _missing_packages(words: list[str]) -> Iterator[str]:
    """Yield the packages of an `apt-get install` that are not known to be here; other verbs need nothing."""
    if words[0] == "rm" or "install" not in words:
        return
    for name in words[words.index("install") + 1 :]:
        package = name.partition("=")[0].partition(":")[0]
        if not name.startswith("-") and not is_here(PACKAGE_PROGRAMS.get(package, "")):
            yield package
