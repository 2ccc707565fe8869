"""`runs.jsonl`: what a study keeps of each finished arm and seed, small enough to commit, enough to redo every figure.

One line per arm and seed: its configuration with `{start}` and `{out}` unexpanded, its cost, its alarms, and per
evaluation step how often each task was solved and what each task's observations cost. Not here: figures
(`study_analysis`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from envecho.errors import ConfigError, DataError
from envecho.recipes.study_config import Arm, StudyConfig
from envecho.training.config import RunConfig, differing_keys

FILE = "runs.jsonl"
_STATED = "stated.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Look(_Record):
    """One evaluation, by task: `solved` is (episodes with reward 1, graded episodes), `env_nll` (nats, tokens).

    `trained` is (rollouts with reward 1, graded rollouts) of the steps since the look before, on the tasks that are
    trained on; at a phase's first look those of its first step, which the weights of the look made.
    """

    step: int
    solved: dict[str, tuple[int, int]]
    num_ungraded: int
    env_nll: dict[str, tuple[float, int]]
    trained: tuple[int, int] | None = None


class RunRecord(_Record):
    """One finished arm and seed. `steps` counts all phases; `tokens` by role; `alarms` are (step, name)."""

    format: Literal["envecho.study-run"] = "envecho.study-run"
    version: Literal[1] = 1
    arm: str
    seed: int
    steps: int
    wall_seconds: float
    tokens: dict[str, int]
    alarms: tuple[tuple[int, str], ...]
    looks: tuple[Look, ...]
    configs: tuple[dict[str, Any], ...]


def phase_folder(out: Path, arm: str, seed: int, phase: int) -> Path:
    """Return the run folder of a phase."""
    return out / arm / f"seed-{seed}" / f"phase-{phase}"


def phase_is_finished(folder: Path) -> bool:
    """Whether the run in the folder has written its summary whole."""
    try:
        return "wall_seconds" in json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False


def stated_configs(study: StudyConfig, arm: Arm, seed: int) -> tuple[dict[str, Any], ...]:
    """Return the arm's run configurations as the study states them, free of any machine's paths."""
    return tuple(map(_as_stated, study.run_configs(arm, seed)))


def write_stated(folder: Path, config: RunConfig) -> None:
    """Keep in a run folder what the study stated for it, with `{start}` and `{out}` as they are; a copy there stays."""
    if not (folder / _STATED).exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_lines(folder / _STATED, [json.dumps(_as_stated(config))])


def _as_stated(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude_none=True)


def record_of_run(study: StudyConfig, arm: Arm, seed: int, out: Path) -> RunRecord | None:
    """Read the run folders of an arm and seed; None while a phase is unfinished.

    Raises:
        DataError: an evaluation has a row but no file, or no environment CE.
    """
    steps, wall_seconds = 0, 0.0
    tokens: dict[str, int] = {}
    alarms: list[tuple[int, str]] = []
    looks: dict[int, Look] = {}
    configs: list[dict[str, Any]] = []
    for number, phase in enumerate(study.phases(arm)):
        folder = phase_folder(out, arm.name, seed, number)
        if not phase_is_finished(folder):
            return None
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        wall_seconds += summary["wall_seconds"]
        configs.append(json.loads((folder / _STATED).read_text(encoding="utf-8")))
        for role, count in summary["tokens"].items():
            tokens[role] = tokens.get(role, 0) + count
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        alarms += [(steps + row["step"], row["name"]) for row in rows if row["kind"] == "alarm"]
        last = -1
        for step in (row["step"] for row in rows if row["kind"] == "evaluation"):
            # A phase's look before its first step is of the weights that the phase before ended with.
            trained = _own_rollouts(rows, after=max(last, 0), until=max(step, 1))
            looks.setdefault(steps + step, _read_look(folder, step, offset=steps, trained=trained))
            last = step
        steps += phase.steps
    return RunRecord(
        arm=arm.name,
        seed=seed,
        steps=steps,
        wall_seconds=round(wall_seconds, 1),
        tokens=tokens,
        alarms=tuple(alarms),
        looks=tuple(looks[step] for step in sorted(looks)),
        configs=tuple(configs),
    )


def _own_rollouts(rows: Sequence[dict[str, Any]], *, after: int, until: int) -> tuple[int, int] | None:
    """Rollouts of these steps with reward 1, and graded ones; None where there are none."""
    wanted = [row for row in rows if row["kind"] == "train" and after < row["step"] <= until]
    graded = [(row["solve_rate"], row["num_rollouts_graded"]) for row in wanted if row.get("num_rollouts_graded")]
    return (sum(round(share * num) for share, num in graded), sum(num for _, num in graded)) if graded else None


def _read_look(folder: Path, step: int, *, offset: int, trained: tuple[int, int] | None) -> Look:
    path = folder / "evaluations" / f"step-{step:06d}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"expected the evaluation of step {step}, found none: {error}", file=path) from error
    env: dict[str, tuple[float, int]] = {}
    for entry in document["env_ce_by_trajectory"]:
        nats, count = env.get(entry["task_id"], (0.0, 0))
        env[entry["task_id"]] = (nats + entry["nll_sum"], count + entry["num_tokens"])
    if not any(count for _, count in env.values()):
        raise DataError("expected environment tokens in the held-out pool of every arm, found none", file=path)
    graded = {t["task_id"]: [r for r in t["rewards"] if r is not None] for t in document["tasks"]}
    return Look(
        step=offset + step,
        solved={task: (sum(reward >= 1 for reward in rewards), len(rewards)) for task, rewards in graded.items()},
        num_ungraded=sum(reward is None for task in document["tasks"] for reward in task["rewards"]),
        env_nll={task: (round(nats, 4), count) for task, (nats, count) in sorted(env.items())},
        trained=trained,
    )


def read_records(path: Path) -> list[RunRecord]:
    """Read `runs.jsonl`; an absent file has no lines.

    Raises:
        DataError: a line is no record of this version.
    """
    if not path.is_file():
        return []
    records: list[RunRecord] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            records.append(RunRecord.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"this is no envecho.study-run version 1: {where}: {first['msg']}", file=path, line=number
            ) from None
    return records


def gather_records(study: StudyConfig, out: Path) -> list[RunRecord]:
    """Bring `runs.jsonl` up to date from the run folders that are there, and return its lines of this study, in order.

    Runs whose folders are gone are kept as they stand in the file. Lines of arms and seeds that the study does not
    state any more stay in the file and are not returned.

    Raises:
        ConfigError: a run was made with another configuration than the study states now.
    """
    path = out / FILE
    before = read_records(path)
    kept = {(record.arm, record.seed): record for record in before}
    stated = [(arm, seed) for arm in study.arms for seed in study.study.seeds]
    found: list[RunRecord] = []
    for arm, seed in stated:
        record = record_of_run(study, arm, seed, out) or kept.get((arm.name, seed))
        if record is not None:
            _require_same(record, stated_configs(study, arm, seed), path)
            found.append(record)
    names = {(arm.name, seed) for arm, seed in stated}
    others = [record for record in before if (record.arm, record.seed) not in names]
    if found + others != before:
        write_lines(path, (record.model_dump_json() for record in found + others))
    return found


def _require_same(record: RunRecord, configs: Sequence[dict[str, Any]], path: Path) -> None:
    where = f"{path}: arm {record.arm}, seed {record.seed}"
    if len(record.configs) != len(configs):
        raise ConfigError(f"{where} has {len(record.configs)} phases, the study states {len(configs)}")
    for number, (stored, stated) in enumerate(zip(record.configs, configs, strict=True)):
        differing = differing_keys(RunConfig.from_document(stored), RunConfig.from_document(stated))
        if differing:
            raise ConfigError(
                f"{where}, phase {number} was run with other values of {', '.join(differing)};"
                " restore them, rename the arm, or use another --out"
            )


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file, which appears under its name only when it is whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
