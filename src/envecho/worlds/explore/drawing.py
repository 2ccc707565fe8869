"""Values drawn from JSON schemas, each checked against its schema.

A value is built from what a schema says in its common words (types, enums, bounds, formats, patterns, `$ref`, `allOf`,
`anyOf`, `oneOf`, defaults and examples) and then validated by `jsonschema`, which knows all of them: what the building
overlooked (`not`, `if`, `dependentRequired`) is drawn again. `hypothesis-jsonschema` draws for tests and cannot be
seeded by a caller, `jsf` and `polyfactory` draw from generators that a process shares. Not here: which value an
explorer would rather take (`seen`).
"""

from __future__ import annotations

import datetime
import math
import random
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from jsonschema.protocols import Validator
from referencing.exceptions import Unresolvable

from envecho.errors import ConfigError
from envecho.worlds.explore.patterns import draw_match
from envecho.worlds.explore.schemas import merged, validator_of

WORDS: Final = (
    "alpha", "amber", "basic", "blue", "cedar", "city", "coral", "delta", "draft", "early", "first", "garden", "green",
    "harbor", "hello", "iron", "late", "lemon", "maple", "night", "north", "note", "ocean", "open", "paper", "pearl",
    "plan", "quick", "red", "river", "sample", "second", "silver", "small", "south", "stone", "sunny", "table", "west",
)  # fmt: skip
"""What free text is made of."""

Hint = Callable[[str, Mapping[str, Any]], Sequence[Any]]
"""Says which values a property of this name and schema may take, best first; none: it is drawn."""

_TRIES: Final = 40
_DEPTH: Final = 6
_STATED_SHARE: Final = 0.4
OPTIONAL_SHARE: Final = 0.35
"""How often a property of an object is written that need not be."""
_NAMED_SHARE: Final = 0.9
"""How often a text under a name like `email` or `start_date` has the form that the name speaks of."""
_WIDE: Final = 40
_SMALL: Final = 10
_SMALL_SHARE: Final = 0.85
_FIRST_DAY: Final = datetime.date(2025, 1, 1)


@dataclass(frozen=True, kw_only=True)
class Drawer:
    """Draws values of one schema; `what` names it in errors."""

    schema: Any
    what: str
    validator: Validator

    @classmethod
    def of(cls, schema: Any, what: str) -> Drawer:
        """Return the drawer of a schema.

        Raises:
            ConfigError: it is no JSON schema.
        """
        return cls(schema=schema, what=what, validator=validator_of(schema, what))

    def draw(self, rng: random.Random, hint: Hint | None = None, *, optional_share: float = OPTIONAL_SHARE) -> Any:
        """Return a value that the schema accepts.

        Args:
            rng: what is drawn from.
            hint: asked for every property of an object; None: all is drawn.
            optional_share: how often a property is written that need not be.

        Raises:
            ConfigError: none was found: the schema contradicts itself, or says what it means by rarely met words alone.
        """
        for attempt in range(_TRIES):
            told = None if attempt > _TRIES // 2 else hint
            drawing = _Drawing(root=self.schema, rng=rng, hint=told, optional_share=optional_share)
            try:
                value = drawing.value(self.schema, "", _DEPTH)
                if self.validator.is_valid(value):
                    return value
            except _Contradiction:
                continue
            except (Unresolvable, LookupError) as error:
                raise ConfigError(f"{self.what}: the schema refers to what it does not hold: {error}") from error
        raise ConfigError(
            f"{self.what}: no value that its schema accepts was found in {_TRIES} tries; give actions of your own "
            "in a file of seed actions"
        )


class _Contradiction(Exception):
    """This part of the schema has no value, or none that could be built."""


@dataclass(frozen=True, kw_only=True)
class _Drawing:
    root: Any
    rng: random.Random
    hint: Hint | None
    optional_share: float

    def value(self, schema: Any, name: str, depth: int) -> Any:
        """A value of `schema`, which stands under the property `name` where it stands under one."""
        schema = merged(schema, self.root)
        if schema is False or depth < -_DEPTH:
            raise _Contradiction
        if schema is True or not schema:
            return self.rng.choice(WORDS)
        for word in ("anyOf", "oneOf"):
            if word in schema:
                return self._one_of(schema, word, name, depth)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.rng.choice(list(schema["enum"]))
        if hinted := self.hint(name, schema) if self.hint and name else ():
            return hinted[0]
        stated = [*schema.get("examples", ()), *([schema["default"]] if "default" in schema else [])]
        stated = [value for value in stated if value is not None]
        if stated and self.rng.random() < _STATED_SHARE:
            return self.rng.choice(stated)
        return self._typed(schema, name, depth)

    def _one_of(self, schema: Mapping[str, Any], word: str, name: str, depth: int) -> Any:
        rest = {key: value for key, value in schema.items() if key != word}
        options = list(schema[word])
        useful = [option for option in options if merged(option, self.root) != {"type": "null"}]
        options = options if self.rng.random() < 0.1 or not useful else useful
        if depth <= 0:
            # The shortest alternative is the likeliest to end a schema that holds itself.
            options = sorted(schema[word], key=lambda option: len(str(merged(option, self.root))))[:1]
        return self.value({"allOf": [rest, self.rng.choice(options)]}, name, depth - 1)

    def _typed(self, schema: Mapping[str, Any], name: str, depth: int) -> Any:
        kind = schema.get("type") or _type_of_words(schema)
        if isinstance(kind, list):
            kinds = [one for one in kind if one != "null"] or ["null"]
            kind = self.rng.choice(kinds)
        match kind:
            case "object":
                return self._object(schema, depth)
            case "array":
                return self._array(schema, name, depth)
            case "integer":
                return self._integer(schema)
            case "number":
                return self._number(schema)
            case "boolean":
                return self.rng.random() < 0.5
            case "null":
                return None
            case _:
                return self._string(schema, name)

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties", {})
        required: Sequence[str] = schema.get("required", ())
        least = int(schema.get("minProperties", 0))
        drawn: dict[str, Any] = {}
        for name in dict.fromkeys((*properties, *required)):
            wanted = name in required or len(drawn) + len(required) < least
            inner = properties.get(name, True)
            if wanted or (depth > 0 and self._takes_optional(name, inner)):
                drawn[name] = self.value(inner, name, depth - 1)
        extra = schema.get("additionalProperties", True)
        for word in (word for word in WORDS if word not in properties):
            if len(drawn) >= least or extra is False:
                break
            drawn[word] = self.value(extra, word, depth - 1)
        return drawn

    def _takes_optional(self, name: str, schema: Any) -> bool:
        """Whether an optional property is written; one that may be any object (OpenEnv's `metadata`) never is."""
        inner = merged(schema, self.root)
        if not isinstance(inner, Mapping) or (inner.get("type") == "object" and not inner.get("properties")):
            return False
        return self.rng.random() < self.optional_share

    def _array(self, schema: Mapping[str, Any], name: str, depth: int) -> list[Any]:
        fixed: Sequence[Any] = schema.get("prefixItems", ())
        items: Any = schema.get("items", schema.get("contains", True))
        least = int(schema.get("minItems", 1 if "contains" in schema else 0))
        most = int(schema.get("maxItems", max(least, len(fixed)) + 2))
        wanted = least if depth <= 0 else self.rng.randint(max(least, min(1, most)), max(least, most))
        if items is False:
            wanted = min(wanted, len(fixed))
        singular = name[:-1] if name.endswith("s") else name
        drawn: list[Any] = []
        for _ in range(_TRIES):
            if len(drawn) >= wanted:
                break
            inner = fixed[len(drawn)] if len(drawn) < len(fixed) else items
            value = self.value(inner, singular, depth - 1)
            if not schema.get("uniqueItems") or value not in drawn:
                drawn.append(value)
        return drawn

    def _integer(self, schema: Mapping[str, Any]) -> int:
        low, high = _bounds(schema)
        step = int(schema.get("multipleOf", 1)) or 1
        least = math.floor(low) + 1 if low == schema.get("exclusiveMinimum") else math.ceil(low)
        most = math.ceil(high) - 1 if high == schema.get("exclusiveMaximum") else math.floor(high)
        first, last = -(-least // step), most // step
        if first > last:
            raise _Contradiction
        if last - first > _WIDE and self.rng.random() < _SMALL_SHARE:
            # Of a page, an offset or a limit the small numbers mean something.
            first = max(first, min(0, last - _SMALL))
            last = first + _SMALL
        return step * self.rng.randint(first, last)

    def _number(self, schema: Mapping[str, Any]) -> float:
        if "multipleOf" in schema:
            return float(self._integer({**schema, "multipleOf": max(1, math.ceil(schema["multipleOf"]))}))
        low, high = _bounds(schema)
        value = round(self.rng.uniform(low, high), 2)
        return value if low < value < high else low + (high - low) / 2

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        least, most = int(schema.get("minLength", 0)), schema.get("maxLength")
        if "pattern" in schema:
            return draw_match(str(schema["pattern"]), self.rng)
        last = re.split(r"[_ -]|(?<=[a-z])(?=[A-Z])", name)[-1].lower()
        for form in (schema.get("format"), last if self.rng.random() < _NAMED_SHARE else None):
            if form is not None and form in _FORMATS:
                return _FORMATS[form](self.rng)
        text = " ".join(self.rng.choices(WORDS, k=self.rng.choice((1, 1, 1, 2, 3))))
        while len(text) < least:
            text += " " + self.rng.choice(WORDS)
        return text if most is None else text[: int(most)]


def _type_of_words(schema: Mapping[str, Any]) -> str:
    """The type that a schema without one speaks of."""
    for kind, words in (
        ("object", ("properties", "required", "additionalProperties", "minProperties")),
        ("array", ("items", "prefixItems", "minItems", "maxItems", "contains")),
        ("number", ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")),
    ):
        if any(word in schema for word in words):
            return kind
    return "string"


def _bounds(schema: Mapping[str, Any]) -> tuple[float, float]:
    """The least and the greatest number; where one is not stated, some ten above or below the other."""
    lows = [schema[word] for word in ("minimum", "exclusiveMinimum") if word in schema]
    highs = [schema[word] for word in ("maximum", "exclusiveMaximum") if word in schema]
    low = max(lows) if lows else None
    high = min(highs) if highs else None
    span = 10 * max(1, math.ceil(schema.get("multipleOf", 1)))
    if low is None:
        low = 1 if high is None or high >= 1 else high - span
    return low, low + span if high is None else high


def _day(rng: random.Random) -> str:
    return (_FIRST_DAY + datetime.timedelta(days=rng.randrange(365))).isoformat()


def _clock(rng: random.Random) -> str:
    return f"{rng.randrange(24):02d}:{rng.randrange(60):02d}:00"


_FORMATS: Final[Mapping[str, Callable[[random.Random], str]]] = {
    "date": _day,
    "time": lambda rng: f"{_clock(rng)}Z",
    "date-time": lambda rng: f"{_day(rng)}T{_clock(rng)}Z",
    "email": lambda rng: f"{rng.choice(WORDS)}@example.com",
    "uuid": lambda rng: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
    "uri": lambda rng: f"https://example.com/{rng.choice(WORDS)}",
    "url": lambda rng: f"https://example.com/{rng.choice(WORDS)}",
    "hostname": lambda rng: f"{rng.choice(WORDS)}.example.com",
    "ipv4": lambda rng: f"192.0.2.{rng.randrange(1, 255)}",
    "ipv6": lambda rng: f"2001:db8::{rng.randrange(1, 65535):x}",
}
