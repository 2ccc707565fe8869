"""Values drawn from JSON schemas against `jsonschema` itself."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from envecho.errors import ConfigError
from envecho.worlds.explore.drawing import Drawer
from envecho.worlds.explore.patterns import draw_match

NAMES = st.sampled_from(("id", "name", "tags", "user_id", "limit", "note", "email"))


def bounded(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """A number schema whose bounds leave room."""
    return st.tuples(st.integers(-50, 50), st.integers(5, 60), st.booleans(), st.sampled_from((None, 1, 3))).map(
        lambda t: {
            "type": kind,
            "exclusiveMinimum" if t[2] else "minimum": t[0],
            "maximum": t[0] + t[1],
            **({"multipleOf": t[3]} if t[3] else {}),
        }
    )


LEAVES = st.one_of(
    st.sampled_from(
        (
            {"type": "string"},
            {"type": "boolean"},
            {"type": ["integer", "null"]},
            {"enum": ["open", "shipped", 3, None]},
            {"const": "call_tool"},
            {"type": "string", "pattern": r"^[A-Z]{3}-\d+$"},
            {"type": "string", "pattern": r"^(GET|POST) /[^ ]{2,5}$", "maxLength": 40},
            {"type": "string", "minLength": 12, "maxLength": 14},
            {"type": "integer", "default": 7},
            {"$ref": "#/$defs/kind"},
            {"anyOf": [{"type": "string", "format": "date"}, {"type": "null"}], "default": None},
            True,
        )
    ),
    bounded("integer"),
    bounded("number"),
)


def nested(children: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects, arrays, alternatives and joins of smaller schemas."""
    objects = st.dictionaries(NAMES, children, max_size=4).flatmap(
        lambda properties: st.tuples(st.sets(st.sampled_from(sorted(properties) or ["id"])), st.booleans()).map(
            lambda t: {
                "type": "object",
                "properties": properties,
                "required": sorted(t[0]),
                **({"additionalProperties": False} if t[1] and t[0] <= properties.keys() else {}),
            }
        )
    )
    arrays = st.tuples(children, st.integers(0, 2), st.integers(0, 2)).map(
        lambda t: {"type": "array", "items": t[0], "minItems": t[1], "maxItems": t[1] + t[2]}
    )
    either = st.lists(children, min_size=1, max_size=3).map(lambda options: {"anyOf": options})
    both = objects.map(
        lambda schema: {"allOf": [schema, {"type": "object", "required": ["id"]}]} if _open(schema) else schema
    )
    return st.one_of(objects, arrays, either, both)


def _open(schema: dict[str, Any]) -> bool:
    return schema.get("additionalProperties") is not False


SCHEMAS = st.recursive(LEAVES, nested, max_leaves=8)


@settings(max_examples=150, deadline=None)
@given(SCHEMAS, st.integers(0, 1000))
def test_what_is_drawn_is_valid_whatever_the_schema(schema: Any, seed: int):
    """Catches a word of a schema that the drawing gets wrong so often that it finds no value, or lets one pass."""
    full = schema if schema is True else {**schema, "$defs": {"kind": {"enum": ["a", "b"]}}}
    value = Drawer.of(full, "a test").draw(random.Random(seed))
    Draft202012Validator(full).validate(value)


@pytest.mark.parametrize("name", ["date", "email", "uuid", "ipv4", "ipv6"])
def test_formats_are_kept(name: str):
    """Catches a date that is none, which a strict server refuses with every call."""
    schema = {"type": "string", "format": name}
    for seed in range(20):
        value = Drawer.of(schema, "a test").draw(random.Random(seed))
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(value)


def test_times_and_addresses_are_kept():
    """Catches formats that `jsonschema` itself checks only with further packages."""
    rng = random.Random(2)
    assert datetime.fromisoformat(Drawer.of({"type": "string", "format": "date-time"}, "a test").draw(rng)).tzinfo
    assert re.fullmatch(r"\d\d:\d\d:\d\dZ", Drawer.of({"type": "string", "format": "time"}, "a test").draw(rng))
    assert urlsplit(Drawer.of({"type": "string", "format": "uri"}, "a test").draw(rng)).hostname == "example.com"


N = {"type": "integer"}
RARER: dict[str, dict[str, Any]] = {
    "tree": {"properties": {"child": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}}, "required": ["child"]},
    "list-tree": {"properties": {"children": {"type": "array", "items": {"$ref": "#"}, "maxItems": 3}}},
    "not": {"properties": {"n": N}, "required": ["n"], "not": {"properties": {"n": {"maximum": 3}}}},
    "oneOf": {"oneOf": [{"type": "integer", "minimum": 4}, {"type": "integer", "maximum": 8}]},
    "tuple": {"type": "array", "prefixItems": [{"type": "string"}, N], "items": False, "minItems": 2},
    "unique": {"type": "array", "items": {"enum": [1, 2, 3]}, "uniqueItems": True, "minItems": 3},
    "minProperties": {"type": "object", "minProperties": 3, "additionalProperties": N},
    "draft4": {"$schema": "http://json-schema.org/draft-04/schema#", **N, "minimum": 3, "exclusiveMinimum": True},
    "if": {"properties": {"a": N, "b": N}, "required": ["a"], "if": {"required": ["a"]}, "then": {"required": ["b"]}},
}


@pytest.mark.parametrize("schema", RARER.values(), ids=RARER)
def test_rarer_words_are_kept(schema: dict[str, Any]):
    """Catches endless recursion, and words that only the validator knows."""
    for seed in range(10):
        drawer = Drawer.of(schema, "a test")
        drawer.validator.validate(drawer.draw(random.Random(seed)))


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "integr"}, "tool 'x': expected a JSON schema, found at type"),
        ({"type": "integer", "minimum": 4, "maximum": 3}, "no value that its schema accepts"),
        ({"$ref": "#/$defs/gone"}, "refers to what it does not hold"),
        ({"$ref": "https://example.com/action.json"}, "refers to what it does not hold"),
        ({"$ref": "#"}, "leads to itself"),
        ({"type": "object", "properties": {"child": {"$ref": "#"}}, "required": ["child"]}, "no value"),
    ],
)
def test_a_schema_without_a_value_is_named(schema: dict[str, Any], message: str):
    """Catches an endless search, and a bug's traceback where the schema is at fault."""
    with pytest.raises(ConfigError, match=re.escape(message)):
        Drawer.of(schema, "tool 'x'").draw(random.Random(0))


@pytest.mark.parametrize(
    "pattern",
    [r"^[^\W\d]{3,6}$", r"(ab|c[d-f])*x+?", r"[^aeiou]{4}", r"\s\S", r"^#?[0-9a-f]{6}$", r".{2}", r"(?i:Q)\.5"],
)
def test_a_text_matches_its_pattern(pattern: str):
    """Catches a part of a regular expression that is drawn as nothing."""
    rng = random.Random(3)
    for _ in range(20):
        assert re.search(pattern, draw_match(pattern, rng))


def test_a_drawing_is_the_same_in_every_process():
    """Catches an order that follows the hash seed of a process, after which no collection can be repeated."""
    code = (
        "import random; from envecho.worlds.explore.drawing import Drawer; "
        "s = {'type': 'object', 'properties': {n: {'type': 'string', 'pattern': '[^a-c]{8}'} for n in 'abcdef'}}; "
        "print([Drawer.of(s, 't').draw(random.Random(5)) for _ in range(3)])"
    )
    said: set[str] = set()
    for seed in ("1", "2", "3"):
        environment = {"PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        said.add(done.stdout)
    assert len(said) == 1
    assert "{" in said.pop()
