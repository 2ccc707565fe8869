"""`envecho record` as a job: run any command behind OpenEnv's capture proxy, write what its model calls were.

    command --> proxy on loopback --> upstream          ids, log-probs and messages of every call
       |             |
    exit status      +--> trajectories: searched for secrets, every character with a source --> one Parquet file

However the command ends, what was captured is written. Not here: the proxy (`record_proxy`), the command's environment
and signals (`record_command`), calls as trajectories (`record_export`).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from envecho.errors import ConfigError, DataError
from envecho.formats.assemble import ImportOptions
from envecho.formats.importing import ImportReport
from envecho.recipes.record_command import (
    Ended,
    agent_environment,
    run_command,
    safe_argv,
    signals_to,
    without_secret,
)
from envecho.recipes.record_export import CapturedCall, Episode, Recorded, trajectories_of
from envecho.recipes.record_proxy import Level, Measured, Proxy, Upstream, capture_proxy, measure
from envecho.trajectory import StopReason, Trajectory
from envecho.trajectory.store import TrajectoryWriter

TIMEOUT_STATUS = 124
"""The exit status of a command that was ended by `timeout_s`, as that of timeout(1)."""


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """How to record; `out` is a Parquet file, `options` as of an import.

    `max_calls` and `temperature` as of `capture_proxy`. `reward_file` is a file with one number that the command
    writes. Calls that were not the agent's work go into a file beside `out`, named `..-aside.parquet`.
    """

    out: Path
    upstream: Upstream
    level: Level = "auto"
    options: ImportOptions = field(default_factory=ImportOptions)
    task_id: str | None = None
    group_id: str | None = None
    reward_file: Path | None = None
    max_calls: int = 0
    temperature: float | None = None
    timeout_s: float | None = None
    overwrite: bool = False

    @property
    def aside(self) -> Path:
        """The file of the calls that were not the agent's work."""
        return self.out.with_name(f"{self.out.stem}-aside.parquet")


@dataclass(kw_only=True)
class RecordReport:
    """What a recording found; `status` is what the whole command line exits with."""

    status: int
    ended: Ended
    level: str
    num_calls: int = 0
    num_failed_calls: int = 0
    num_sampled_tokens: int = 0
    num_trajectories: int = 0
    num_aside: int = 0
    reward: float | None = None
    notes: list[str] = field(default_factory=list[str])
    found: ImportReport = field(default_factory=ImportReport)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        plain = {name: value for name, value in vars(self).items() if name not in ("found", "ended")}
        return plain | {"command": asdict(self.ended), "found": self.found.as_json()}


def record(config: RecordConfig, argv: Sequence[str], say: Callable[[str], None]) -> RecordReport:
    """Run a command, and write the trajectories of its model calls; `say` gets lines of progress.

    Raises:
        ConfigError: a file is in the way, the command cannot be started, or an option does not fit the upstream.
        EngineError: the upstream does not answer.
        DataError: what was captured cannot be read.
    """
    _check_places(config)
    measured = measure(config.upstream, config.level)
    if config.temperature is not None and measured.level != "tokens":
        raise ConfigError(
            f"--temperature pins what a token-exact recording samples from, and {_shown(config.upstream)} was measured "
            f"at the level {measured.level!r}; drop it, or pass --level tokens"
        )
    for finding in measured.findings:
        say(f"upstream: {finding}")
    began = time.time()
    with contextlib.ExitStack() as stack:
        with capture_proxy(
            config.upstream, measured, max_calls=config.max_calls, temperature=config.temperature
        ) as proxy:
            environment, removed = agent_environment(
                os.environ, url=proxy.url, key=proxy.key, upstream_key=config.upstream.api_key
            )
            say(f"recording model calls to {_shown(config.upstream)} at the level {measured.level!r}")
            if removed:
                say(f"taken out of the command's environment: {', '.join(removed)}")
            # From here on an impatient Ctrl-C must not cost what was captured.
            stack.enter_context(signals_to(lambda number, frame: None))
            ended = run_command(argv, environment, timeout_s=config.timeout_s)
        try:
            return _written(config, argv, proxy, measured, ended, began)
        except Exception as error:
            kept = _rescued(config.out, proxy)
            raise DataError(
                f"the {len(list(proxy.raw_calls()))} calls could not be written as trajectories: {error}; they are in "
                f"{kept}, with the secrets that they hold, and `envecho import` reads them"
            ) from error


def _rescued(out: Path, proxy: Proxy) -> Path:
    """Keep the calls as they are, where a folder takes them."""
    text = "".join(json.dumps(call) + "\n" for call in proxy.raw_calls())
    for folder in (out.absolute().parent, Path(tempfile.gettempdir())):
        path = folder / f"{out.stem}-{uuid.uuid4().hex[:8]}.calls.jsonl"
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            return path
    raise DataError(f"{out}: no folder takes the captured calls")


def _check_places(config: RecordConfig) -> None:
    if config.out.suffix != ".parquet":
        raise ConfigError(f"{config.out}: expected a file that ends in .parquet")
    for path in (config.out, config.aside):
        if path.exists() and not config.overwrite:
            raise ConfigError(f"{path} exists; pass --overwrite to replace it, or another --out")
    # Before the command runs: behind it an agent's hours are at stake.
    folder = config.out.absolute().parent
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to; choose another --out")


def _written(
    config: RecordConfig, argv: Sequence[str], proxy: Proxy, measured: Measured, ended: Ended, began: float
) -> RecordReport:
    """Write what was captured and say what it is."""
    calls = proxy.calls()
    report = RecordReport(status=ended.status, ended=ended, level=measured.level, num_calls=len(calls))
    report.num_failed_calls = proxy.session.model_calls - len(calls)
    if ended.how == "timeout":
        report.status = TIMEOUT_STATUS
    key = config.upstream.api_key
    _note_requests(proxy, key, report)
    if not calls:
        report.status = report.status or 1
        return report
    if config.reward_file is not None:
        report.reward = _reward(config.reward_file, began, report)
    facts: dict[str, Any] = {
        "command": safe_argv(argv, proxy.key, key),
        "exit_status": ended.status,
        "how_it_ended": ended.how,
        "seconds": round(ended.seconds, 3),
        "num_calls": len(calls),
        "num_failed_calls": report.num_failed_calls,
        "num_calls_over_budget": proxy.session.budget_stop_count,
        "upstream": _shown(config.upstream),
        "model": measured.model,
        "level": measured.level,
        "pinned_temperature": config.temperature,
        "sampling_overridden": proxy.session.metadata.get("sampling_overridden"),
    }
    episode = Episode(
        name=f"recorded-{uuid.uuid4().hex[:12]}",
        task_id=config.task_id,
        group_id=config.group_id,
        reward=report.reward,
        stop_reason=_stop_reason(proxy, ended),
        facts={name: value for name, value in facts.items() if value is not None},
        final=proxy.final_turns(calls),
    )
    options = replace(config.options, text_only=config.options.text_only or measured.level != "tokens")
    recorded = trajectories_of(calls, episode, options, exact=not options.text_only)
    _store(config, recorded, report)
    _note_ids(calls, recorded, measured, report)
    return report


def _store(config: RecordConfig, recorded: Recorded, report: RecordReport) -> None:
    report.num_trajectories, report.num_aside = len(recorded.agent), len(recorded.aside)
    for path, trajectories in ((config.out, recorded.agent), (config.aside, recorded.aside)):
        if not trajectories:
            path.unlink(missing_ok=True)  # of an earlier recording, which `overwrite` allows
            continue
        with TrajectoryWriter(path, overwrite=config.overwrite) as writer:
            for trajectory in trajectories:
                writer.write(trajectory)
    for trajectory in recorded.agent:
        report.found.add(trajectory)


def _stop_reason(proxy: Proxy, ended: Ended) -> StopReason:
    """Why the episode ended, as far as the wire and the exit status tell."""
    if ended.how == "timeout":
        return StopReason.TIMEOUT
    if any("context_budget_exhausted" in finding for finding in proxy.session.findings):
        return StopReason.MAX_TOKENS
    if proxy.session.budget_stop_count:
        return StopReason.MAX_TURNS
    return StopReason.COMPLETED if ended.how == "ended" and ended.status == 0 else StopReason.UNKNOWN


def _reward(path: Path, began: float, report: RecordReport) -> float | None:
    """The number in a file that the command wrote; None, a note and a failure where there is none."""
    try:
        if path.stat().st_mtime < began - 1:  # file systems round times
            raise DataError("is older than the command, so it is not of this episode")
        value = float(path.read_text())
        if not math.isfinite(value):
            raise DataError(f"expected a number, found {value}")
    except (OSError, ValueError, DataError) as error:
        report.notes.append(f"no reward: {path}: {getattr(error, 'strerror', None) or error}")
        report.status = report.status or 1
        return None
    return value


def _note_requests(proxy: Proxy, key: str | None, report: RecordReport) -> None:
    watcher = proxy.watcher
    failures = [(without_secret(words, key), number) for words, number in watcher.failures.most_common(5)]
    report.notes += [f"{number} calls failed: {words}" for words, number in failures]
    report.notes += [f"{number} requests to {path} were refused" for path, number in watcher.refused.most_common(5)]
    if watcher.unknown_keys:
        report.notes.append(f"{watcher.unknown_keys} requests came with another key than the one in OPENAI_API_KEY")
    if proxy.session.budget_stop_count:
        report.notes.append(f"{proxy.session.budget_stop_count} calls beyond the limit were answered with a stop")
    report.notes += [finding for finding in proxy.session.findings if "sampling_neutralised" in finding]


def _note_ids(calls: Sequence[CapturedCall], recorded: Recorded, measured: Measured, report: RecordReport) -> None:
    if measured.level != "tokens":
        report.notes.append(
            f"the upstream returns no token ids that can be trained on (level {measured.level!r}): the trajectories "
            "are text, good for the environment term and not for the policy's"
        )
        return
    report.num_sampled_tokens = sum(len(call.completion_ids) for call in calls)
    without = sum(not call.has_ids for call in calls)
    if without:
        report.notes.append(f"{without} of {len(calls)} calls came without token ids, so their trajectories are text")
    if any("num_calls_by_temperature" in _facts(trajectory) for trajectory in recorded.agent):
        report.notes.append(
            "the calls were sampled at several temperatures, so the file states none and the policy term will refuse "
            "it; --temperature pins one"
        )
    elif any(m.sampled and m.sampled.temperature is None for t in recorded.agent for m in t.messages):
        report.notes.append(
            "the agent named no sampling temperature, so the policy term will refuse the file; --temperature pins one"
        )
    breaks = sum(len(_facts(trajectory).get("breaks", ())) for trajectory in recorded.agent)
    if breaks:
        report.notes.append(
            f"{breaks} prompts do not continue the ids of an earlier call (another conversation, a rewritten history, "
            "or a template that writes answers otherwise than they were sampled): each begins a branch"
        )
    report.notes += [
        f"{number} of the calls have no log-probs that fit their ids"
        for trajectory in recorded.agent
        if (number := _facts(trajectory).get("num_calls_without_logprobs"))
    ]


def _facts(trajectory: Trajectory) -> dict[str, Any]:
    return trajectory.metadata["import"]


def _shown(upstream: Upstream) -> str:
    """The address without a name and password in it, and without a query."""
    parts = urlsplit(upstream.url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
