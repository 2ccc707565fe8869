"""Runs a command for a recording: the environment that leads an agent to the proxy, its signals, its end.

The command keeps this process's standard streams. Keys of model services are taken out of its environment, so that no
call goes past the recorder and no real key reaches an agent. Not here: the proxy (`record_proxy`).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from envecho.errors import ConfigError
from envecho.formats.redaction import MIN_REPEATED
from envecho.trajectory.redacted import redaction_mark

GRACE_SECONDS: Final = 5.0
"""How long a command that is told to end may take before it is killed."""

OPENAI_URLS: Final = ("OPENAI_BASE_URL", "OPENAI_API_BASE")
OTHER_URLS: Final = ("ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE", "GOOGLE_GEMINI_BASE_URL", "GEMINI_API_BASE")
KEYS: Final = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY")
_LEADS_ELSEWHERE: Final = re.compile(
    r"(AZURE|AZURE_OPENAI|OPENROUTER|TOGETHER|TOGETHERAI|FIREWORKS|FIREWORKS_AI|GROQ|MISTRAL|DEEPSEEK|XAI|COHERE|CO"
    r"|PERPLEXITY|CEREBRAS|MOONSHOT|DASHSCOPE|QWEN|ZAI|GLM|GOOGLE|HYPERBOLIC|NOVITA|REPLICATE|LITELLM|NVIDIA_NIM)_"
    r"(API_KEY|API_TOKEN|API_BASE|BASE_URL|ENDPOINT)"
    r"|ANTHROPIC_AUTH_TOKEN|CLAUDE_CODE_OAUTH_TOKEN|CLAUDE_CODE_USE_(BEDROCK|VERTEX|FOUNDRY)"
    r"|GOOGLE_GENAI_USE_(VERTEXAI|GCA)|AWS_BEARER_TOKEN_BEDROCK|OPENAI_(ORG_ID|ORGANIZATION|PROJECT|PROJECT_ID)"
)
_SECRET_FLAG: Final = re.compile(r"-{1,2}[\w-]*(key|token(?!s)|secret|passw(or)?d|credential)[\w-]*", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended; `status` as a shell says it: 128 + N for one that signal N killed."""

    status: int
    seconds: float
    how: Literal["ended", "timeout", "interrupted"]


def agent_environment(
    environment: Mapping[str, str], *, url: str, key: str, upstream_key: str | None
) -> tuple[dict[str, str], list[str]]:
    """Return the command's environment, and the names of the variables that were taken out of it.

    Args:
        environment: where the command would run otherwise.
        url: of the proxy, without a path.
        key: what the proxy knows the command by.
        upstream_key: no variable that holds it is kept.
    """
    ours = dict.fromkeys(OPENAI_URLS, f"{url}/v1") | dict.fromkeys(OTHER_URLS, url) | dict.fromkeys(KEYS, key)
    removed = [
        name
        for name, value in environment.items()
        if name not in ours and (_LEADS_ELSEWHERE.fullmatch(name) or without_secret(value, upstream_key) != value)
    ]
    kept = {name: value for name, value in environment.items() if name not in removed}
    direct = [kept[name] for name in ("NO_PROXY", "no_proxy") if kept.get(name)][:1]
    no_proxy = ",".join([*direct, "127.0.0.1", "localhost"])
    return {**kept, **ours, "NO_PROXY": no_proxy, "no_proxy": no_proxy}, sorted(removed)


def safe_argv(argv: Sequence[str], *secrets: str | None) -> list[str]:
    """Return a command line without the values of options that name a key, and without these secrets."""
    found: list[str] = []
    hides_next = False
    for argument in argv:
        name, equals, _ = argument.partition("=")
        if hides_next and not argument.startswith("-"):
            argument = redaction_mark("argument")
        elif equals and _SECRET_FLAG.fullmatch(name):
            argument = f"{name}={redaction_mark('argument')}"
        hides_next = not equals and _SECRET_FLAG.fullmatch(argument) is not None
        for secret in secrets:
            argument = without_secret(argument, secret)
        found.append(argument)
    return found


def without_secret(text: str, secret: str | None) -> str:
    """Return a text without a key; one as short as `EMPTY` is a word of other texts too, and hides that text alone."""
    if not secret or (len(secret) < MIN_REPEATED and text != secret):
        return text
    return text.replace(secret, redaction_mark("key"))


def run_command(argv: Sequence[str], environment: Mapping[str, str], *, timeout_s: float | None) -> Ended:
    """Run a command to its end and say how it ended.

    SIGTERM and SIGHUP are handed on to it, so that what it did is recorded; so is SIGINT, unless the terminal hands it
    on already. The third signal kills it, and so does the timeout after a while.

    Raises:
        ConfigError: it cannot be started.
    """
    # In the foreground of a terminal a command has to stay in this process group to read from it, and the terminal
    # signals the whole group. Anywhere else it gets a group of its own, which signals reach as a whole.
    own_group = not _in_foreground()
    started = time.monotonic()
    running: list[subprocess.Popen[bytes]] = []
    signals: list[int] = []

    def tell(number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            if own_group:
                os.killpg(running[0].pid, number)
            else:
                running[0].send_signal(number)

    def heard(number: int, _frame: object) -> None:
        signals.append(number)
        if running and (own_group or number != signal.SIGINT or len(signals) > 2):
            tell(number if len(signals) < 3 else signal.SIGKILL)

    with signals_to(heard):
        try:
            process = subprocess.Popen(argv, env=dict(environment), process_group=0 if own_group else None)
        except OSError as error:
            raise ConfigError(f"the command {argv[0]!r} cannot be started: {error.strerror or error}") from None
        running.append(process)
        if signals:
            tell(signals[0])
        timed_out = _wait(process, tell, timeout_s)
    status = process.returncode if process.returncode >= 0 else 128 - process.returncode
    how = "timeout" if timed_out else "interrupted" if signals else "ended"
    return Ended(status=status, seconds=time.monotonic() - started, how=how)


def _wait(process: subprocess.Popen[bytes], tell: Callable[[int], None], timeout_s: float | None) -> bool:
    """Wait for the end; say whether it had to be brought about."""
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        family = descendants(process.pid)
        tell(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        tell(signal.SIGKILL)
        for pid in family:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def descendants(pid: int) -> list[int]:
    """Return the processes below one, as far as /proc tells; nothing where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = list(children.get(pid, ()))
    for child in found:  # grows while it is read
        found += children.get(child, ())
    return found


def _in_foreground() -> bool:
    """Whether a terminal sends its signals to this process group."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextlib.contextmanager
def signals_to(handler: Callable[[int, Any], None]) -> Generator[None]:
    """Let the handler hear the signals that end a program; in another thread than the main one nobody can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old if old is not None else signal.SIG_DFL)
