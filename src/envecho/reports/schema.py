"""`summary.json` and `metrics.jsonl` as a report reads them.

The reader of the summary rejects unknown formats, versions and keys and says which. Rows of `metrics.jsonl` are a log
that grows: keys that no picture needs are passed over. Not here: `evaluation.json` (`envecho.evaluation.results`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from envecho.errors import DataError
from envecho.evaluation.results import Predictor

PREDICTORS: Final[tuple[Predictor, ...]] = ("base", "trained", "ngram", "ppm")
COPIERS: Final[tuple[Predictor, ...]] = ("ngram", "ppm")
"""The baselines that copy: they adapt to the episode's own context and know nothing of the command's meaning."""


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SummaryMeasure(_File):
    """The headline figures of one predictor on one pool."""

    ce_per_token: float | None
    ce_per_byte: float | None
    ce_first_view: float | None
    ce_derivable: float | None
    top1_accuracy: float | None
    action_swap_gap: float | None
    num_tokens: int


class Phase(_File):
    """What one phase of a run cost; the order in the file is the order in which they ran."""

    name: str
    seconds: float
    peak_memory_bytes: int | None = None


class Summary(_File):
    """`summary.json`; `command` and `phases` are there where the job that wrote it knew them."""

    format: Literal["envecho.summary"]
    version: Literal[1]
    model: str
    seed: int
    steps: int
    wall_seconds: float
    peak_memory_bytes: int | None
    tokens: dict[str, int]
    pools: dict[str, dict[Predictor, SummaryMeasure]]
    command: str | None = None
    phases: tuple[Phase, ...] = ()


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class TrainRow(_Row):
    """One optimiser step: `env_ce` is the mean over the selected tokens, nats per token at T = 1."""

    kind: Literal["train"]
    step: int
    env_ce: float | None = None
    num_env_tokens: int = 0
    tokens_per_second: float | None = None
    seconds: float | None = None
    solve_rate: float | None = None
    warning_ce: float | None = None
    action_entropy: float | None = None
    distinct_command_fraction: float | None = None
    distinct_output_fraction: float | None = None
    invalid_call_fraction: float | None = None
    unparsed_call_fraction: float | None = None
    zero_variance_fraction: float | None = None
    without_observation_fraction: float | None = None
    mean_turns: float | None = None
    clip_fraction: float | None = None
    sampler_mismatch: float | None = None
    policy_grad_norm: float | None = None
    env_grad_norm: float | None = None
    grad_cosine: float | None = None
    effective_lambda: float | None = None


class ValidationRow(_Row):
    """One look at the validation pool, nats per token at T = 1."""

    kind: Literal["validation"]
    step: int
    env_ce: float | None = None
    env_ce_derivable: float | None = None


class EvaluationRow(_Row):
    """One look of an on-policy run at held-out tasks, and at its held-out pool."""

    kind: Literal["evaluation"]
    step: int
    split: str
    num_episodes: int = 0
    solve_rate: float | None = None
    env_ce: float | None = None


class AlarmRow(_Row):
    """An alarm that began with this step, and why."""

    kind: Literal["alarm"]
    step: int
    name: str
    reason: str


class Metrics(BaseModel):
    """`metrics.jsonl`, in order; `num_skipped` counts lines of other kinds and a last line that was cut."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    train: tuple[TrainRow, ...] = ()
    validation: tuple[ValidationRow, ...] = ()
    evaluation: tuple[EvaluationRow, ...] = ()
    alarms: tuple[AlarmRow, ...] = ()
    num_skipped: int = Field(default=0, ge=0)


_ROWS: Final[dict[str, type[_Row]]] = {
    "train": TrainRow,
    "validation": ValidationRow,
    "evaluation": EvaluationRow,
    "alarm": AlarmRow,
}


def read_summary(path: Path) -> Summary:
    """Read `summary.json`.

    Raises:
        DataError: the file is no JSON, has another format or version, or a key or value that version 1 does not know.
    """
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"expected JSON of format envecho.summary, found none: {error}", file=path) from error
    found = (data.get("format"), data.get("version")) if isinstance(data, dict) else (type(data).__name__, None)
    if found != ("envecho.summary", 1):
        raise DataError(
            f"expected format 'envecho.summary' version 1, found {found[0]!r} version {found[1]!r}; "
            "read it with the envecho release that wrote it",
            file=path,
        )
    try:
        return Summary.model_validate(data)
    except ValidationError as error:
        raise DataError(_explain(error), file=path) from error


def _explain(error: ValidationError) -> str:
    found = [f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors()]
    more = f" (and {len(found) - 3} more)" if len(found) > 3 else ""
    return f"this is not envecho.summary version 1: {'; '.join(found[:3])}{more}"


def read_metrics(path: Path) -> Metrics:
    """Read `metrics.jsonl`; a last line that a killed run left half written is counted, not an error.

    Raises:
        DataError: another line is no JSON object, or a train or validation row lacks its step.
    """
    found: dict[str, list[Any]] = {kind: [] for kind in _ROWS}
    skipped = 0
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
            if row["kind"] in _ROWS:
                found[row["kind"]].append(_ROWS[row["kind"]].model_validate(row))
            else:
                skipped += 1
        except (ValueError, TypeError, KeyError) as error:
            if number < len(lines):
                raise DataError(f"expected a metrics row with a kind, found {error}", file=path, line=number) from error
            skipped += 1
    return Metrics(
        train=tuple(found["train"]),
        validation=tuple(found["validation"]),
        evaluation=tuple(found["evaluation"]),
        alarms=tuple(found["alarm"]),
        num_skipped=skipped,
    )
