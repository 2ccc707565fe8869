"""JSON schemas as they are written: checked, references followed, `allOf` joined to what stands beside it.

Not here: values (`drawing`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from jsonschema.protocols import Validator
from jsonschema.validators import validator_for

from envecho.errors import ConfigError


def validator_of(schema: Any, what: str) -> Validator:
    """Return the validator of a schema, of the draft that it names (else 2020-12).

    Raises:
        ConfigError: it is no JSON schema; the message names `what`.
    """
    kind = validator_for(schema, default=Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        place = "/".join(map(str, error.path)) or "its top"
        raise ConfigError(f"{what}: expected a JSON schema, found at {place}: {error.message}") from error
    return kind(schema)


def merged(schema: Any, root: Any) -> Any:
    """Return a schema without `$ref` and `allOf` at its top: what they say is joined to what stands beside them.

    Raises:
        LookupError: a reference leads to nothing, to another document, or round in a circle.
    """
    if not isinstance(schema, Mapping):
        return schema
    result: dict[str, Any] = {}
    for part in _parts(schema, root, 0):
        if part is False:
            return False
        if isinstance(part, Mapping):
            result = _joined(result, part)
    return result


def _parts(schema: Any, root: Any, depth: int) -> Iterator[Any]:
    if depth > 32:
        raise LookupError("a reference that leads to itself")
    if not isinstance(schema, Mapping):
        yield schema
        return
    yield {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
    if "$ref" in schema:
        yield from _parts(_resolved(str(schema["$ref"]), root), root, depth + 1)
    for inner in schema.get("allOf", ()):
        yield from _parts(inner, root, depth + 1)


def _resolved(reference: str, root: Any) -> Any:
    if not reference.startswith("#"):
        raise LookupError(f"{reference!r}, expected a reference within the schema that starts with #")
    found: Any = root
    for step in filter(None, reference[1:].split("/")):
        key = step.replace("~1", "/").replace("~0", "~").replace("%25", "%")
        found = found[int(key)] if isinstance(found, Sequence) else found[key]
    return found


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Both schemas at once, for the words whose meeting is plain; for others the second speaks."""
    joined = {**one, **other}
    for word, both in _MEETINGS.items():
        if word in one and word in other:
            joined[word] = both(one[word], other[word])
    return joined


def _common(one: Sequence[Any], other: Sequence[Any]) -> list[Any]:
    return [value for value in one if value in other] or list(one)


def _common_types(one: Any, other: Any) -> Any:
    kinds = [[kind] if isinstance(kind, str) else list(kind) for kind in (one, other)]
    return _common(*kinds)


_MEETINGS: Final[Mapping[str, Callable[[Any, Any], Any]]] = {
    "properties": lambda one, other: {
        name: {"allOf": [one[name], other[name]]} if name in one and name in other else {**one, **other}[name]
        for name in {**one, **other}
    },
    "required": lambda one, other: list(dict.fromkeys([*one, *other])),
    "enum": _common,
    "type": _common_types,
    "minimum": max,
    "exclusiveMinimum": max,
    "minLength": max,
    "minItems": max,
    "maximum": min,
    "exclusiveMaximum": min,
    "maxLength": min,
    "maxItems": min,
}
