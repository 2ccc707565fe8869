"""The files of the Agent World Model: environments, tasks, databases and verifiers of scenarios.

    gen_envs.jsonl                  {"scenario", "full_code", "db_path"?}
    gen_tasks.jsonl                 {"scenario", "tasks": [TEXT]}
    gen_db.jsonl                    {"scenario", "db_schema": {"tables": [{"ddl", "indexes"?}]}}
    gen_sample.jsonl                {"scenario", "sample_data": {"tables": [{"insert_statements": [SQL]}]}}
    gen_verifier.pure_code.jsonl    {"scenario", "task_idx", "verification": {"code": PYTHON}}

The names are those that `awm gen` writes (github.com/Snowflake-Labs/agent-world-model, read at 0.1.0). The file of
environments may have any name; the others lie beside it, and a line of it may hold their keys itself. Not here: running
any of it (`process`, `world`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from envecho.errors import DataError

TASKS, SCHEMAS, SAMPLES = "gen_tasks.jsonl", "gen_db.jsonl", "gen_sample.jsonl"
VERIFIERS = ("gen_verifier.pure_code.jsonl", "gen_verifier.jsonl")
"""Verifiers that decide alone come first; those of the second file return facts for a judge, and grade nothing."""


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One scenario. The database is the file `database`, or is made of `schema` and `sample` where that is None.

    `verifiers` are Python texts by the number of the task.
    """

    name: str
    code: str
    tasks: tuple[str, ...]
    verifiers: Mapping[int, str]
    database: Path | None = None
    schema: Mapping[str, Any] | None = None
    sample: Mapping[str, Any] | None = None


def read_scenarios(file: Path) -> list[Scenario]:
    """Return the scenarios of a file, sorted by name.

    Raises:
        DataError: a line is no scenario, two have one name, or one has no code, no tasks or no database.
    """
    tasks, schemas, samples = (_by_name(file.with_name(name)) for name in (TASKS, SCHEMAS, SAMPLES))
    verifiers = _verifiers(file)
    found: dict[str, Scenario] = {}
    for number, line in _lines(file):
        name = _name(line, file, number)
        if name in found:
            raise DataError(f"the scenario {name!r} stands here twice", file=file, line=number)
        merged = {**samples.get(name, {}), **schemas.get(name, {}), **tasks.get(name, {}), **line}
        found[name] = _scenario(name, merged, verifiers.get(name, {}), file=file, number=number)
    if not found:
        raise DataError("expected at least one scenario, found none", file=file)
    return [found[name] for name in sorted(found)]


def _scenario(name: str, line: Mapping[str, Any], verifiers: Mapping[int, str], *, file: Path, number: int) -> Scenario:
    code, tasks = line.get("full_code"), line.get("tasks")
    if not isinstance(code, str) or not code.strip():
        raise DataError(f"scenario {name!r}: expected Python in full_code, found {code!r:.40}", file=file, line=number)
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, str) for task in cast("list[Any]", tasks)):
        raise DataError(f"scenario {name!r} has no tasks: expected {TASKS} beside it", file=file, line=number)
    database = _database(line.get("db_path"), file)
    schema = line.get("db_schema")
    if database is None and not isinstance(schema, Mapping):
        raise DataError(
            f"scenario {name!r} has no database: db_path {line.get('db_path')!r} is no file here, and there is no "
            f"{SCHEMAS} with its schema",
            file=file,
            line=number,
        )
    return Scenario(
        name=name,
        code=code,
        tasks=tuple(cast("list[str]", tasks)),
        verifiers=verifiers,
        database=database,
        schema=cast("Mapping[str, Any] | None", schema),
        sample=cast("Mapping[str, Any]", line.get("sample_data") or {}),
    )


def _database(path: Any, file: Path) -> Path | None:
    """Return the database's file: the path as it is said, or from the folder of the environments' file."""
    if not isinstance(path, str) or not path:
        return None
    return next((found for found in (file.parent / path, Path(path)) if found.is_file()), None)


def _verifiers(file: Path) -> dict[str, dict[int, str]]:
    found: dict[str, dict[int, str]] = {}
    for name in VERIFIERS:
        beside = file.with_name(name)
        if not beside.is_file():
            continue
        for number, line in _lines(beside):
            place, verification = line.get("task_idx"), line.get("verification")
            code = cast("Mapping[str, Any]", verification).get("code") if isinstance(verification, Mapping) else None
            if not isinstance(place, int):
                raise DataError(f"expected a number in task_idx, found {place!r:.40}", file=beside, line=number)
            if isinstance(code, str) and code.strip():
                found.setdefault(_name(line, beside, number), {}).setdefault(place, code)
    return found


def _by_name(file: Path) -> dict[str, dict[str, Any]]:
    if not file.is_file():
        return {}
    return {_name(line, file, number): line for number, line in _lines(file)}


def _name(line: Mapping[str, Any], file: Path, number: int) -> str:
    """Return the scenario's name as AWM compares names: lower case, everything else underscores."""
    name = line.get("scenario")
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") if isinstance(name, str) else ""
    if not plain:
        raise DataError(f"expected a name in scenario, found {name!r:.40}", file=file, line=number)
    return plain


def _lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the file: {error}", file=file) from None
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found: Any = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"expected a JSON object: {error}", file=file, line=number) from None
        if not isinstance(found, dict):
            raise DataError(f"expected a JSON object, found {type(found).__name__}", file=file, line=number)
        yield number, cast("dict[str, Any]", found)
