"""The explorer: draws an episode of calls over a database, and states what each answer is.

It looks at something, and then, about as often as not, asks for what it can already tell: a record that a list showed,
a filter, order or slice of a list shown whole, what its own change did, an error that must come. The labels are those
of the terminal's explorer: `view` is "derivable" where the answer is a function of text already shown and of the call
(`ledger` computes it), "first" for content that nothing announced, "other" for errors that nothing announced;
`operation` names what a derivable call does. No call is drawn twice unless a table that
it shows was changed in between.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.api import LARGEST_PAGE, Answer, Parameter, Tool
from envecho.worlds.tools.database import call_database, open_database
from envecho.worlds.tools.domain import Domain
from envecho.worlds.tools.ledger import Ledger
from envecho.worlds.tools.rows import SqlRows

OPERATIONS = {"lookup": 3, "filter": 4, "sort": 4, "slice": 3, "change": 8, "error": 1}
"""What a derivable call does, and how often it is taken where there is a choice."""

DERIVABLE_SHARE = 0.6
_CANDIDATES = 24
_KNOWN_ROW, _EXISTING_ROW = 0.75, 0.95
_OPTIONAL_SHARE = 0.25
_WRONG_SHARE = 0.04
_VARIATION_SHARE = 0.4
_WHOLE_LIST_SHARE = 0.6
_PAGING = ("limit", "offset")
_FIRST_WEIGHTS = {"list": 6, "record": 2, "write": 2}


@dataclass(frozen=True, kw_only=True)
class PlannedCall:
    """One call and the labels of the observation that will answer it."""

    call: CallText
    labels: Mapping[str, str] = field(default_factory=dict)


def plan_calls(domain: Domain, database: str, *, seed: int, num_calls: int) -> tuple[PlannedCall, ...]:
    """Draw the calls of one episode on a database."""
    draw = _Drawing(domain, database, random.Random(f"envecho-tools-explore-{domain.name}-{database}-{seed}"))
    with closing(draw.rows.connection):
        return tuple(draw.next_call() for _ in range(num_calls))


class _Drawing:
    """An episode while it is drawn: the database, what was shown of it, and the calls since the last change."""

    def __init__(self, domain: Domain, database: str, rng: random.Random) -> None:
        self._domain, self._rng = domain, rng
        self.rows = SqlRows(open_database(domain, database))
        self._ledger = Ledger(domain)
        self._drawn: dict[str, CallText] = {}
        self._lists: list[CallText] = []

    def next_call(self) -> PlannedCall:
        """Draw a call, make it, and label its answer."""
        call, foretold = self._choose()
        tool = self._domain.tools[call.name]
        labels = {"view": "first"}
        if foretold is not None:
            labels = {"view": "derivable", "operation": self._operation(call, foretold)}
        answer = call_database(self._domain, self.rows.connection, call)
        self._ledger.observe(call, answer)
        if not answer.is_error:
            self._drawn = {text: past for text, past in self._drawn.items() if not self._reads(past, tool.writes)}
        self._drawn[str(call)] = call
        if tool.where is not None and not answer.is_error:
            self._lists.append(call)
        if foretold is None and answer.is_error:
            labels = {"view": "other"}
        return PlannedCall(call=call, labels=labels)

    def _operation(self, call: CallText, answer: Answer) -> str:
        """Name what a derivable call does; a list that was shown under the same filters is sliced anew."""
        tool = self._domain.tools[call.name]
        if answer.is_error:
            return "error"
        if tool.where is None:
            return "change" if tool.writes else "lookup"
        if "sort" in call.arguments:
            return "sort"
        wanted = tool.where(call.arguments)
        again = any(past.name == call.name and tool.where(past.arguments) == wanted for past in self._lists)
        return "slice" if again else "filter"

    def _reads(self, call: CallText, tables: tuple[str, ...]) -> bool:
        """Say whether a call may be answered otherwise after a change of these tables."""
        tool = self._domain.tools[call.name]
        inside = {table for table, _ in (tool.inside or {}).values()}
        return bool({tool.shows, *inside, *tool.writes} & set(tables))

    def _choose(self) -> tuple[CallText, Answer | None]:
        known: dict[str, list[tuple[CallText, Answer]]] = {}
        new: list[CallText] = []
        for call in self._candidates():
            foretold = self._ledger.predict(call)
            if foretold is None:
                new.append(call)
            else:
                known.setdefault(self._operation(call, foretold), []).append((call, foretold))
        if set(known) - {"error"} and (not new or self._rng.random() < DERIVABLE_SHARE):
            operation = self._rng.choices(list(known), [OPERATIONS[name] for name in known])[0]
            return self._rng.choice(known[operation])
        if not new:
            return self._rng.choice(known["error"])
        weights = [_FIRST_WEIGHTS[_kind(self._domain.tools[call.name])] for call in new]
        return self._rng.choices(new, weights)[0], None

    def _candidates(self) -> list[CallText]:
        found: dict[str, CallText] = {}
        while len(found) < _CANDIDATES:
            if self._lists and self._rng.random() < _VARIATION_SHARE:
                call = self._variation(self._rng.choice(self._lists))
            else:
                tool = self._rng.choice(list(self._domain.tools.values()))
                call = CallText(name=tool.name, arguments=self._arguments(tool))
            if str(call) not in self._drawn:
                found[str(call)] = call
        return list(found.values())

    def _variation(self, earlier: CallText) -> CallText:
        """Ask for a list that was shown in another way: one more filter, another order, another page."""
        parameters = self._domain.tools[earlier.name].parameters
        arguments = dict(earlier.arguments)
        name = self._rng.choice([name for name in parameters if name not in arguments] or list(parameters))
        arguments[name] = self._value(parameters[name])
        if name not in _PAGING and self._rng.random() < _WHOLE_LIST_SHARE:
            arguments.pop("offset", None)
        return CallText(name=earlier.name, arguments={key: arguments[key] for key in parameters if key in arguments})

    def _arguments(self, tool: Tool) -> dict[str, Any]:
        arguments = {
            name: self._value(parameter)
            for name, parameter in tool.parameters.items()
            if parameter.required or self._rng.random() < _OPTIONAL_SHARE
        }
        if tool.where is not None and self._rng.random() < _WHOLE_LIST_SHARE:
            arguments.pop("offset", None)
            arguments["limit"] = LARGEST_PAGE
        if arguments and self._rng.random() < _WRONG_SHARE:
            name = self._rng.choice(list(arguments))
            if self._rng.random() < 0.5:
                del arguments[name]
            else:
                arguments[name] = self._rng.choice((-1, 0, "none", None, True))
        return arguments

    def _value(self, parameter: Parameter) -> Any:
        if parameter.table is not None:
            return self._number(parameter.table)
        if parameter.column is not None:
            table, column = parameter.column.split(".")
            known = list(self._ledger.known_values(table, column))
            values = known or [row[column] for row in self.rows.find(table)]
            return self._rng.choice(str(self._rng.choice(values)).split())
        return self._rng.choice(parameter.samples)

    def _number(self, table: str) -> int:
        chance, known = self._rng.random(), list(self._ledger.rows[table])
        if known and chance < _KNOWN_ROW:
            return self._rng.choice(known)
        existing = [int(row["id"]) for row in self.rows.find(table)]
        return self._rng.choice(existing) if chance < _EXISTING_ROW and existing else self._rng.randrange(1, 100)


def _kind(tool: Tool) -> str:
    if tool.writes:
        return "write"
    return "list" if tool.where is not None else "record"
