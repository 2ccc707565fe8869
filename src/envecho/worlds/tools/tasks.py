"""Concrete tasks: a template drawn on a database. Not here: which of them are in which split (`suite`)."""

from __future__ import annotations

import random
from contextlib import closing
from dataclasses import dataclass

from envecho.errors import WorldError
from envecho.worlds.tools.database import open_database
from envecho.worlds.tools.domain import Domain, Draft, Template
from envecho.worlds.tools.rows import SqlRows

_MOST_REDRAWS = 100


@dataclass(frozen=True, kw_only=True)
class ToolTask:
    """One task: what is asked of which database."""

    id: str
    domain: Domain
    database: str
    draft: Draft

    @property
    def oracle(self) -> tuple[str, ...]:
        """The turns that solve the task."""
        answer = self.draft.answer if self.draft.answer is not None else "done"
        return (*map(str, self.draft.calls), f"answer: {answer}")


def make_task(domain: Domain, template: Template, seed: int) -> ToolTask:
    """Draw a task of this kind; a database that has nothing of the kind is drawn again.

    Raises:
        WorldError: no database of this seed has anything of the kind.
    """
    for attempt in range(_MOST_REDRAWS):
        database = f"{seed}.{attempt}" if attempt else str(seed)
        with closing(open_database(domain, database)) as connection:
            rng = random.Random(f"envecho-tools-task-{domain.name}-{template.name}-{database}")
            draft = template.draw(rng, SqlRows(connection))
        if draft is not None:
            id_ = f"tools/{domain.name}/{template.name}/{database}"
            return ToolTask(id=id_, domain=domain, database=database, draft=draft)
    raise WorldError(f"{domain.name}: {_MOST_REDRAWS} databases of seed {seed} have nothing for {template.name!r}")
