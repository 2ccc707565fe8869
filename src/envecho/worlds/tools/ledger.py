"""`Ledger`: what a reader of an episode knows of the database, and the answers that follow from it.

The ledger reads calls and the text of their answers, never the database. `predict` runs the tool itself on the rows
that were shown; whatever was not shown raises `NotShown`, and then the answer does not follow. So an answer that is
predicted is a function of the text before it and of the call: `tests/worlds/tools/test_ledger.py` proves it again by
changing everything in the database that no answer showed. Not here: which calls are drawn (`explorer`).
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from envecho.errors import WorldError
from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.api import Answer, Tool, call_tool
from envecho.worlds.tools.domain import Domain
from envecho.worlds.tools.rows import Condition, Row

Query = frozenset[Condition]
_EVERYTHING: Query = frozenset()
_NOT_FOUND = re.compile(r"(?P<noun>[a-z ]+) (?P<number>[0-9]+) not found")


class NotShown(Exception):
    """A tool asked for something that no answer has shown."""


class _ShownRow(dict[str, Any]):
    """The columns of a row that were shown."""

    def __missing__(self, column: str) -> Any:
        raise NotShown(column)


@final
class ShownRows:
    """The rows that were shown, as `envecho.worlds.tools.rows.Rows`.

    `complete` holds conditions of which all rows are known, with their ids. `next_ids` is known for a table after a
    row of it was added, or once all its rows are known and none was ever removed.
    """

    def __init__(self, tables: Sequence[str]) -> None:
        self.rows: dict[str, dict[int, _ShownRow]] = {table: {} for table in tables}
        self.absent: dict[str, set[int]] = {table: set() for table in tables}
        self.complete: dict[str, dict[Query, set[int]]] = {table: {} for table in tables}
        self.next_ids: dict[str, int] = {}
        self.removed_from: set[str] = set()

    def get(self, table: str, number: int) -> Row | None:
        """Return the row with this id, or None where it is known that there is none."""
        if number in self.rows[table]:
            return self.rows[table][number]
        if number in self.absent[table] or _EVERYTHING in self.complete[table]:
            return None
        raise NotShown(table)

    def find(self, table: str, where: Sequence[Condition] = (), *, sort: str = "id") -> Sequence[Row]:
        """Return all rows that meet the conditions, where a query that was shown whole holds them."""
        wanted = frozenset(where)
        for shown, numbers in self.complete[table].items():
            if shown <= wanted:
                left = wanted - shown
                found = [self.rows[table][number] for number in sorted(numbers)]
                found = [row for row in found if all(condition.holds(row) for condition in left)]
                column = sort.removeprefix("-")
                return sorted(found, key=lambda row: row[column], reverse=sort.startswith("-"))
        raise NotShown(table)

    def insert(self, table: str, values: Row) -> int:
        """Add a row under the id that must come next."""
        if table not in self.next_ids:
            raise NotShown(table)
        number = self.next_ids[table]
        self.next_ids[table] = number + 1
        self.change(table, number, values)
        return number

    def change(self, table: str, number: int, values: Row) -> None:
        """Set columns of a row, and see which queries hold it after that."""
        self.learn(table, {"id": number, **values})
        row = self.rows[table][number]
        for query, numbers in list(self.complete[table].items()):
            if not any(condition.column in values for condition in query) and query != _EVERYTHING:
                continue
            try:
                belongs = all(condition.holds(row) for condition in query)
            except NotShown:
                del self.complete[table][query]
                continue
            (numbers.add if belongs else numbers.discard)(number)

    def remove(self, table: str, number: int) -> None:
        """Delete a known row."""
        self.rows[table].pop(number)
        self.absent[table].add(number)
        self.removed_from.add(table)
        for numbers in self.complete[table].values():
            numbers.discard(number)

    def learn(self, table: str, values: Row) -> None:
        """Take in columns of a row that an answer shows; no query that is known whole gains a row by that."""
        self.rows[table].setdefault(int(values["id"]), _ShownRow()).update(values)

    def forget(self, table: str) -> None:
        """Drop everything about a table that may have changed unseen."""
        self.rows[table].clear()
        self.absent[table].clear()
        self.complete[table].clear()
        self.next_ids.pop(table, None)
        self.removed_from.add(table)


@final
class Ledger:
    """What the calls and answers of an episode have shown so far."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._nouns = {table.noun: table.name for table in domain.tables}
        self._shown = ShownRows([table.name for table in domain.tables])
        self._pages: dict[tuple[str, Query, str], dict[int, int]] = {}

    @property
    def rows(self) -> Mapping[str, Mapping[int, Row]]:
        """The rows that were shown, by table and id; a row may lack columns."""
        return self._shown.rows

    def predict(self, call: CallText) -> Answer | None:
        """Return the answer that follows from what was shown, or None where it does not follow."""
        foretold = self._foretell(call)
        return foretold and foretold[0]

    def observe(self, call: CallText, answer: Answer) -> None:
        """Take in one call and its answer.

        Raises:
            WorldError: another answer followed from what was shown; then the answers are not those of one database.
        """
        tool = self._domain.tools.get(call.name)
        foretold = self._foretell(call)
        if foretold is not None:
            if foretold[0] != answer:
                raise WorldError(
                    f"{call} was answered {answer.text}, and {foretold[0].text} follows from what was shown"
                )
            self._shown = foretold[1]
        if tool is None:
            return
        if answer.is_error:
            self._learn_absence(answer)
            return
        self._pages = {key: page for key, page in self._pages.items() if key[0] not in tool.writes}
        if foretold is None:
            for table in tool.writes:
                self._shown.forget(table)
        if tool.shows is not None:
            self._learn(tool, tool.shows, call.arguments, json.loads(answer.text))

    def _foretell(self, call: CallText) -> tuple[Answer, ShownRows] | None:
        after = copy.deepcopy(self._shown)
        try:
            answer = call_tool(self._domain.tools, after, call.name, call.arguments)
        except NotShown:
            return None
        return answer, (copy.deepcopy(self._shown) if answer.is_error else after)

    def _learn_absence(self, answer: Answer) -> None:
        found = _NOT_FOUND.fullmatch(json.loads(answer.text)["error"]["message"])
        if found and found["noun"] in self._nouns:
            self._shown.absent[self._nouns[found["noun"]]].add(int(found["number"]))

    def _learn(self, tool: Tool, table: str, arguments: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        if tool.where is not None:
            self._learn_page(table, frozenset(tool.where(arguments)), arguments, body)
            return
        inside = tool.inside or {}
        self._shown.learn(table, {key: value for key, value in body.items() if key not in inside})
        for key, (other, column) in inside.items():
            here = Condition(column, "=", body["id"])
            for item in body[key]:
                self._shown.learn(other, {**item, column: body["id"]})
            self._complete(other, frozenset({here}), [item["id"] for item in body[key]])
        if tool.creates:
            self._shown.next_ids[table] = body["id"] + 1

    def _learn_page(self, table: str, query: Query, arguments: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        said = {condition.column: condition.value for condition in query if condition.comparison == "="}
        page = self._pages.setdefault((table, query, arguments.get("sort", "id")), {})
        for place, item in enumerate(body["items"], start=arguments.get("offset", 0)):
            self._shown.learn(table, {**said, **item})
            page[place] = item["id"]
        if len(page) == body["total"]:
            self._complete(table, query, list(page.values()))

    def _complete(self, table: str, query: Query, numbers: Sequence[int]) -> None:
        self._shown.complete[table][query] = set(numbers)
        if query == _EVERYTHING and numbers and table not in self._shown.removed_from:
            self._shown.next_ids[table] = max(numbers) + 1

    def known_values(self, table: str, column: str) -> Iterator[Any]:
        """Yield the values of a column that were shown."""
        yield from (row[column] for row in self._shown.rows[table].values() if column in row)
