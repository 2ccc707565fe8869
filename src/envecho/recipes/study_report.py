"""`study.json`, `study.md` and the pictures of a study, made from `runs.jsonl` and the study's TOML alone.

The same records give the same bytes. Not here: the figures (`study_analysis`), and any conclusion.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envecho.recipes.study_analysis import analyse
from envecho.recipes.study_config import StudyConfig
from envecho.recipes.study_figures import study_pictures
from envecho.recipes.study_records import gather_records, write_lines

FORMAT, VERSION = "envecho.study", 1
_NONE = "–"


def report_study(study: StudyConfig, out: Path, *, command: str) -> dict[str, Any]:
    """Bring `runs.jsonl` up to date, write the study's files into `out`, and return what `study.json` holds.

    Args:
        study: what was stated.
        out: the study's folder, or one that holds its `runs.jsonl`.
        command: what the reader types to run the study again; it is written down.

    Raises:
        ConfigError: a run was made with other values than the study states.
        DataError: no run is finished, or a record cannot be read.
    """
    records = gather_records(study, out)
    document: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "command": command,
        "config": study.model_dump(mode="json"),
        "intervals": "95 %, seeds and tasks drawn with replacement; differences paired by seed and task",
        "arms": analyse(study, records),
    }
    text = json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False)
    write_lines(out / "study.json", text.splitlines())
    write_lines(out / "study.md", study_table(document))
    for name, content in study_pictures(document["arms"]).items():
        (out / name).write_bytes(content)
    return document


def study_table(document: dict[str, Any]) -> Sequence[str]:
    """Return the lines of the Markdown tables of a `study.json`."""
    arms: dict[str, Any] = document["arms"]
    compared = document["config"]["study"]["compare_to"]
    lines = [
        f"Last weights, 95 % intervals over seeds and tasks; compared to `{compared}`."
        " Training tasks: the run's own rollouts since the look before, intervals over seeds.",
        "",
        "| arm | seeds | held-out tasks solved | training tasks solved | held-out env CE, nats/token | env CE change |",
        "|---|---|---|---|---|---|",
    ]
    for arm in arms.values():
        if not arm["seeds"]:
            lines.append(f"| {arm['label']} | 0 | {' | '.join([_NONE] * 4)} |")
            continue
        cells = [
            str(len(arm["seeds"])),
            _cell(arm["final"]["solve_rate"], scale=100, digits=1, unit=" %"),
            _cell(arm["final"]["train_solve_rate"], scale=100, digits=1, unit=" %"),
            _cell(arm["final"]["env_ce"], digits=3),
            _cell(arm["env_ce_change_percent"], digits=0, unit=" %", signed=True),
        ]
        lines.append(f"| {arm['label']} | {' | '.join(cells)} |")
    lines += [
        "",
        f"| arm | steps to `{compared}`'s best, held-out | steps to its best, training | alarms | minutes a run |",
        "|---|---|---|---|---|",
    ]
    for arm in (arm for arm in arms.values() if arm["seeds"]):
        alarms = ", ".join(f"{name} {count}" for name, count in arm["alarms"].items()) or "none"
        reach = " | ".join(_reach_cell(arm[key]) for key in ("steps_to_reach", "train_steps_to_reach"))
        lines.append(f"| {arm['label']} | {reach} | {alarms} | {arm['mean_wall_seconds'] / 60:.1f} |")
    lines += [
        "",
        f"| arm minus `{compared}` | held-out solved, points | mean over the run | training solved | env CE, nats |",
        "|---|---|---|---|---|",
    ]
    for arm in arms.values():
        difference = arm.get("difference")
        if difference:
            cells = [
                _cell(difference["solve_rate"], scale=100, digits=1, signed=True),
                _cell(difference["solve_rate_area"], scale=100, digits=1, signed=True),
                _cell(difference["train_solve_rate"], scale=100, digits=1, signed=True),
                _cell(difference["env_ce"], digits=3, signed=True),
            ]
            lines.append(f"| {arm['label']} | {' | '.join(cells)} |")
    if any(len(arm["seeds"]) == 1 for arm in arms.values()):
        lines += ["", "Arms with one seed have no interval: nothing is known of how another seed would do."]
    return lines


def _cell(
    stat: dict[str, Any] | None, *, scale: float = 1, digits: int = 2, unit: str = "", signed: bool = False
) -> str:
    if stat is None:
        return _NONE

    def write(value: float) -> str:
        return f"{scale * value:{'+' if signed else ''}.{digits}f}".replace("-", "−")

    if stat["low"] is None:
        why = "one seed" if stat["num_seeds"] < 2 else "one task"
        return f"{write(stat['value'])}{unit} ({why}, no interval)"
    return f"{write(stat['value'])}{unit} ({write(stat['low'])} to {write(stat['high'])})"


def _reach_cell(stat: dict[str, Any] | None) -> str:
    if stat is None:
        return _NONE
    words = {name: "never" if stat[name] is None else str(stat[name]) for name in ("value", "low", "high")}
    if stat["never_fraction"] is None:
        return f"{words['value']} (no interval)"
    return f"{words['value']} ({words['low']} to {words['high']})"
