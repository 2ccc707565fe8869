"""Tools over rows: JSON-schema parameters, JSON answers, and errors as web APIs give them.

    {"items":[{"id":412,"name":"desk lamp","price":35}],"total":1}
    {"error":{"status":404,"message":"order 99 not found"}}
    {"error":{"status":422,"field":"quantity","message":"must be at least 1"}}

Not here: which tools there are (`domains`), and turns, rewards and ends of episodes (`world`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from envecho.errors import did_you_mean
from envecho.worlds.tools.rows import Comparison, Condition, Row, Rows, Table

PAGE = 5
LARGEST_PAGE = 8
_LARGEST_ID = 1_000_000_000
_LONGEST_NAME = 64


class ApiError(Exception):
    """An answer that is an error: a status as in HTTP, a message, and the field that a 422 is about."""

    def __init__(self, status: int, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.field = status, message, field

    @property
    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        field = {} if self.field is None else {"field": self.field}
        return {"error": {"status": self.status, **field, "message": self.message}}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """A parameter's JSON schema, and what an explorer may say for it.

    `table` is the table whose ids it takes; `column` (`table.column`) one whose words it may search for; `samples` are
    values that make sense where the schema alone does not say them.
    """

    schema: Mapping[str, Any]
    required: bool = True
    table: str | None = None
    column: str | None = None
    samples: tuple[Any, ...] = ()

    @property
    def optional(self) -> Parameter:
        """The same parameter, which may be left out."""
        return replace(self, required=False)


def ref(table: str) -> Parameter:
    """Return a parameter that takes the id of a row."""
    return Parameter(schema={"type": "integer", "minimum": 1, "maximum": _LARGEST_ID}, table=table)


def choice(*values: str) -> Parameter:
    """Return a parameter that takes one of some words."""
    return Parameter(schema={"type": "string", "enum": list(values)}, samples=values)


def whole(low: int, high: int, *samples: int) -> Parameter:
    """Return a parameter that takes a whole number within bounds."""
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Parameter(schema=schema, samples=samples or tuple(range(low, min(high, low + 8) + 1)))


def text(*samples: str, column: str | None = None, longest: int = 80) -> Parameter:
    """Return a parameter that takes a text which is not empty."""
    return Parameter(schema={"type": "string", "minLength": 1, "maxLength": longest}, samples=samples, column=column)


def pattern(regex: str, *samples: str) -> Parameter:
    """Return a parameter that takes a text of a form, such as a date."""
    return Parameter(schema={"type": "string", "pattern": f"^{regex}$", "maxLength": 32}, samples=samples)


def day(*samples: str) -> Parameter:
    """Return a parameter that takes a date, YYYY-MM-DD."""
    return pattern(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", *samples)


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One tool: `run(rows, arguments)` returns the JSON answer or raises `ApiError`.

    `shows` is the table of the record, or of the items of a list, that it answers; `inside` says which keys of that
    record hold items of another table, and by which column they point back. `writes` are tables that it may change;
    `where` the conditions that a list's arguments mean. These serve readers of answers (`ledger`), never the tool.
    """

    name: str
    description: str
    parameters: Mapping[str, Parameter]
    run: Callable[[Rows, Mapping[str, Any]], Any]
    shows: str | None = None
    inside: Mapping[str, tuple[str, str]] | None = None
    writes: tuple[str, ...] = ()
    creates: bool = False
    where: Callable[[Mapping[str, Any]], tuple[Condition, ...]] | None = None

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return {
            "type": "object",
            "properties": {name: dict(parameter.schema) for name, parameter in self.parameters.items()},
            "required": [name for name, parameter in self.parameters.items() if parameter.required],
            "additionalProperties": False,
        }

    @property
    def function(self) -> dict[str, Any]:
        """The tool as chat templates take it."""
        function = {"name": self.name, "description": self.description, "parameters": self.schema}
        return {"type": "function", "function": function}

    @cached_property
    def validator(self) -> Draft202012Validator:
        """What checks the arguments."""
        return Draft202012Validator(self.schema)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a call was answered: compact JSON, and the status as in HTTP."""

    text: str
    status: int = 200

    @property
    def is_error(self) -> bool:
        """True where the API refused."""
        return self.status >= 400


def call_tool(tools: Mapping[str, Tool], rows: Rows, name: str, arguments: Mapping[str, Any]) -> Answer:
    """Validate and run one call; an API's error is an answer."""
    try:
        tool = tools.get(name)
        if tool is None:
            hint = did_you_mean(name[:_LONGEST_NAME], tools).strip()
            raise ApiError(404, f"no such tool{'; ' if hint else ''}{hint}")
        _validate(tool, arguments)
        return Answer(text=compact(tool.run(rows, arguments)))
    except ApiError as error:
        return Answer(text=compact(error.body), status=error.status)


def compact(value: Any) -> str:
    """Return JSON without spaces."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _validate(tool: Tool, arguments: Mapping[str, Any]) -> None:
    problems = sorted(tool.validator.iter_errors(arguments), key=lambda problem: (str(problem.path), problem.message))  # pyright: ignore[reportUnknownMemberType]
    unknown = sorted(set(arguments) - set(tool.parameters))
    missing = [name for name in tool.schema["required"] if name not in arguments]
    if unknown:
        field = readable(unknown[0][:_LONGEST_NAME])
        raise ApiError(422, f"unknown parameter; expected {', '.join(tool.parameters) or 'none'}", field=field)
    if missing:
        raise ApiError(422, "is required", field=missing[0])
    if problems:
        raise ApiError(422, _complaint(problems[0]), field=str(problems[0].path[0]))
    for field, value in arguments.items():
        if isinstance(value, str) and readable(value) != value:
            raise ApiError(422, "must be valid Unicode text", field=field)


def readable(text: str) -> str:
    """Return the text with whatever UTF-8 cannot say (lone surrogates) replaced."""
    return text.encode("utf-8", errors="replace").decode()


def _complaint(problem: ValidationError) -> str:
    limit: Any = problem.validator_value  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    match str(problem.validator):  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        case "type":
            return f"must be of type {limit}"
        case "enum":
            return f"must be one of {', '.join(map(str, limit))}"
        case "minimum":
            return f"must be at least {limit}"
        case "maximum":
            return f"must be at most {limit}"
        case "minLength":
            return "must not be empty"
        case "maxLength":
            return f"must have at most {limit} characters"
        case _:
            return f"must match {limit}"


# --- tools that many domains have ---------------------------------------------------------------------------------


class Filter(NamedTuple):
    """A parameter of a list, and the condition that it means."""

    parameter: Parameter
    column: str
    comparison: Comparison = "="


def list_tool(
    table: Table, name: str, description: str, *, filters: Mapping[str, Filter], sorts: Sequence[str] = ()
) -> Tool:
    """Return a tool that lists rows in pages, filtered and sorted."""
    parameters = {key: filter_.parameter.optional for key, filter_ in filters.items()}
    if sorts:
        parameters["sort"] = choice(*(f"{sign}{column}" for column in sorts for sign in ("", "-"))).optional
    parameters["limit"] = whole(1, LARGEST_PAGE, 1, 2, 3, LARGEST_PAGE).optional
    parameters["offset"] = whole(0, 1000, PAGE).optional

    def where(arguments: Mapping[str, Any]) -> tuple[Condition, ...]:
        return tuple(
            Condition(filter_.column, filter_.comparison, arguments[key])
            for key, filter_ in filters.items()
            if key in arguments
        )

    def run(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
        found = rows.find(table.name, where(arguments), sort=arguments.get("sort", "id"))
        start = arguments.get("offset", 0)
        page = found[start : start + arguments.get("limit", PAGE)]
        return {"items": [table.item(row) for row in page], "total": len(found)}

    return Tool(name=name, description=description, parameters=parameters, run=run, shows=table.name, where=where)


def get_tool(
    table: Table, *, parameter: str | None = None, inside: Mapping[str, tuple[Table, str]] | None = None
) -> Tool:
    """Return a tool that shows one record, with the items of other tables that point to it."""
    key = parameter or f"{table.noun}_id"

    def run(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
        record = table.record(need(rows, table, arguments[key]))
        for name, (other, column) in (inside or {}).items():
            found = rows.find(other.name, (Condition(column, "=", record["id"]),))
            record[name] = [other.item(row) for row in found]
        return record

    return Tool(
        name=f"get_{table.noun}",
        description=f"Show one {table.noun}.",
        parameters={key: ref(table.name)},
        run=run,
        shows=table.name,
        inside={name: (other.name, column) for name, (other, column) in (inside or {}).items()},
    )


def need(rows: Rows, table: Table, number: int) -> Row:
    """Return a row, or raise the error 404 that it is not there."""
    found = rows.get(table.name, number)
    if found is None:
        raise ApiError(404, f"{table.noun} {number} not found")
    return found


def changed(rows: Rows, table: Table, number: int, **values: Any) -> dict[str, Any]:
    """Set columns of a row and return its record."""
    rows.change(table.name, number, values)
    return table.record(need(rows, table, number))


def created(rows: Rows, table: Table, **values: Any) -> dict[str, Any]:
    """Add a row and return its record."""
    number = rows.insert(table.name, values)
    return table.record({"id": number, **values})
