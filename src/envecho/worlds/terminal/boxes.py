"""Service boxes for incident triage: seeded folders of logs, tables, configs, JSON and scripts.

A box is what one on-call engineer finds on one machine of one service. Everything in it is drawn from the seed, so any
two seeds differ in names, values, order and layout. Not here: what is asked of a box (`families`), and which commands
explore it (`operations`, `explorer`).
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass

from envecho.worlds.terminal import words


@dataclass(frozen=True, kw_only=True)
class Document:
    """One text file made of rows of fields.

    `delimiter` joins the fields of a row; None marks text without fields (YAML, JSON, a script), whose rows have one
    field each.
    """

    path: str
    kind: str
    delimiter: str | None
    rows: tuple[tuple[str, ...], ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The file's lines without their newlines."""
        return tuple((self.delimiter or "").join(row) for row in self.rows)

    @property
    def text(self) -> str:
        """The file's content."""
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True, kw_only=True)
class Box:
    """One generated machine: its documents by kind, and the files that a sandbox writes.

    `documents` holds exactly one document of each kind: log, access, orders, users, owners, services, yaml, conf, json,
    script, notes. `files` maps relative paths to text.
    """

    seed: int
    service: str
    documents: tuple[Document, ...]

    @property
    def files(self) -> dict[str, str]:
        """Relative path -> text of every file in the box."""
        return {document.path: document.text for document in self.documents}

    def document(self, kind: str) -> Document:
        """Return the document of this kind."""
        return next(document for document in self.documents if document.kind == kind)


def make_box(seed: int) -> Box:
    """Generate the box of this seed; the same seed gives the same box on every machine."""
    rng = random.Random(f"envecho-box-{seed}")
    service = rng.choice(words.SERVICES)
    makers = (_log, _access, _orders, _users, _owners, _services, _yaml, _conf, _state, _script, _notes)
    ids = _ids(rng, 5)
    return Box(seed=seed, service=service, documents=tuple(make(rng, service, ids) for make in makers))


def _ids(rng: random.Random, count: int) -> list[str]:
    return [str(number) for number in sorted(rng.sample(range(10, 100), count))]


def _minutes(rng: random.Random, count: int) -> list[str]:
    hour = rng.randrange(24)
    return [f"{hour:02d}:{minute:02d}" for minute in sorted(rng.sample(range(60), count))]


def _log(rng: random.Random, service: str, ids: list[str]) -> Document:
    levels = [rng.choice(words.LEVELS) for _ in range(6)]
    levels[rng.randrange(6)] = "ERROR"
    rows = tuple(
        (time, level, rng.choice(words.COMPONENTS)) for time, level in zip(_minutes(rng, 6), levels, strict=True)
    )
    folder = rng.choice(("logs", "log", "var/log", f"{service}/log"))
    return Document(path=f"{folder}/{rng.choice(words.LOG_NAMES)}.log", kind="log", delimiter=" ", rows=rows)


def _access(rng: random.Random, service: str, ids: list[str]) -> Document:
    milliseconds = rng.sample(range(10, 100), 6)
    rows = tuple(
        (f"/{route}", rng.choice(words.STATUSES), str(ms))
        for route, ms in zip(rng.sample(words.ROUTES, 6), milliseconds, strict=True)
    )
    return Document(path=f"{rng.choice(words.WEB_FOLDERS)}/access.txt", kind="access", delimiter=" ", rows=rows)


def _orders(rng: random.Random, service: str, ids: list[str]) -> Document:
    names = rng.sample(words.PEOPLE, 4)
    amounts = rng.sample(range(10, 100), 6)
    rows = tuple((rng.choice(names), rng.choice(words.ITEMS), str(amount)) for amount in amounts)
    return Document(path=f"data/{rng.choice(words.TABLES)}.csv", kind="orders", delimiter=",", rows=rows)


def _users(rng: random.Random, service: str, ids: list[str]) -> Document:
    rows = tuple((key, name) for key, name in zip(ids, rng.sample(words.PEOPLE, 5), strict=True))
    return Document(path=f"{rng.choice(words.JOIN_FOLDERS)}/names.csv", kind="users", delimiter=",", rows=rows)


def _owners(rng: random.Random, service: str, ids: list[str]) -> Document:
    kept = sorted(rng.sample(ids, 4))
    rows = tuple((key, rng.choice(words.TEAMS)) for key in kept)
    return Document(path=f"{rng.choice(words.JOIN_FOLDERS)}/teams.csv", kind="owners", delimiter=",", rows=rows)


def _services(rng: random.Random, service: str, ids: list[str]) -> Document:
    others = rng.sample([name for name in words.SERVICES if name != service], 5)
    names = rng.sample([service, *others], 6)
    rows = tuple((name, rng.choice(words.STATES), str(rng.randrange(10, 100))) for name in names)
    return Document(path=f"{rng.choice(words.WEB_FOLDERS)}/ports.txt", kind="services", delimiter=" ", rows=rows)


def _yaml(rng: random.Random, service: str, ids: list[str]) -> Document:
    keys = rng.sample(words.SETTINGS, 5)
    body = [(f"  {key}: {rng.choice(words.VALUES)}",) for key in keys]
    rows = ((f"{service}:",), *body, (f"  timeout: {rng.randrange(10, 100)}",))
    return Document(path=f"etc/{service}.yaml", kind="yaml", delimiter=None, rows=rows)


def _conf(rng: random.Random, service: str, ids: list[str]) -> Document:
    keys = rng.sample(words.SETTINGS, 5)
    rows = tuple((key, rng.choice(words.VALUES)) for key in keys)
    return Document(path=f"etc/{rng.choice(words.LOG_NAMES)}.conf", kind="conf", delimiter="=", rows=rows)


def _state(rng: random.Random, service: str, ids: list[str]) -> Document:
    nodes = {rng.choice(words.SETTINGS): rng.choice(words.STATES) for _ in range(3)}
    state = {"service": service, "version": f"{rng.randrange(1, 9)}.{rng.randrange(20)}", **nodes}
    rows = tuple((line,) for line in json.dumps(state, indent=1).splitlines())
    return Document(path="state.json", kind="json", delimiter=None, rows=rows)


def _script(rng: random.Random, service: str, ids: list[str]) -> Document:
    status = rng.randrange(2, 100)
    rows = (
        ("#!/bin/bash",),
        (f'echo "checking {service}"',),
        (f"level={rng.choice(words.VALUES)}",),
        (f'echo "level $level" && exit {status}',),
    )
    return Document(path=f"bin/{rng.choice(words.SCRIPTS)}.sh", kind="script", delimiter=None, rows=rows)


def _notes(rng: random.Random, service: str, ids: list[str]) -> Document:
    request = f"req-{rng.randrange(1000, 9999)}"
    rows = (
        (f"{service} page from {rng.choice(words.PEOPLE)}",),
        (f"see {request} in {rng.choice(words.COMPONENTS)}",),
        (f"escalate to {rng.choice(words.TEAMS)}",),
    )
    folder = rng.choice(("notes", "docs/runbooks", f"{service}/handover"))
    return Document(path=f"{folder}/{rng.choice(words.PEOPLE)}.txt", kind="notes", delimiter=None, rows=rows)
