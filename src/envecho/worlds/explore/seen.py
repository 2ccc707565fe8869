"""What an explorer has seen: the values in a world's answers, under the names that they had there.

An answer is read as JSON (also JSON in text fields of JSON) or as lines of `key: value` and `key=value`. A value is
kept with its key and with the kind of thing that it belongs to: `{"products": [{"id": 3}]}`, and `[{"id": 3}]` as the
answer to `list_products`, both say that 3 is an id of a product. Not here: how a value is drawn that nothing has shown
(`drawing`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from envecho.trajectory import Message, Source

_READ: Final = frozenset({Source.TASK, Source.TOOL_RESULT, Source.STDOUT, Source.USER_REPLY})
_MOST_VALUES: Final = 4000
_DEEPEST: Final = 12
_LINE: Final = re.compile(r"^[\s\-*>]*[\"']?([A-Za-z][\w .-]{0,40}?)[\"']?\s*[:=]\s*(\S.*?)[,;]?\s*$")
_PAIR: Final = re.compile(r"([A-Za-z_]\w{0,40})=(\"[^\"]*\"|'[^']*'|[^\s,;&]+)")
_EMAIL: Final = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_DATE: Final = re.compile(r"\b\d{4}-\d{2}-\d{2}\b(?!T)")
_NUMBER: Final = re.compile(r"-?\d+(?:\.\d+)?")
_KEYWORDS: Final = frozenset({"query", "q", "keyword", "search", "term", "text", "filter", "contains"})
_TELLING: Final = frozenset({"name", "title", "category", "description"})
_ENVELOPES: Final = {
    "content", "data", "result", "results", "items", "response", "output", "rows", "records", "value",
    "structuredContent",
}  # fmt: skip
"""Keys of JSON objects that wrap an answer and name no kind of thing."""
OWN_NAMES: Final = frozenset({"id", "name", "key", "code", "uuid", "title", "number", "ref", "slug"})
"""Keys that say nothing without the thing that they belong to."""


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """What a value is: its key, and the kind of thing that it belongs to, both as `words_of` writes them."""

    key: str
    thing: str


def words_of(name: str) -> list[str]:
    """Return a name as lower-case words in the singular: `listProducts` and `list_products` are `list`, `product`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return [_singular(word.lower()) for word in re.findall(r"[A-Za-z]+|\d+", spaced)]


def _singular(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return f"{word[:-3]}y"
    if len(word) > 4 and word.endswith(("sses", "xes", "ches", "shes")):
        return word[:-2]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _joined(name: str) -> str:
    return "_".join(words_of(name))


@final
class Seen:
    """The values of an episode so far by what they mean, oldest first."""

    def __init__(self) -> None:
        self._values: dict[Meaning, dict[str, Any]] = {}
        self._texts: list[str] = []
        self._num_values = 0

    def read(self, message: Message, *, things: Sequence[str] = ()) -> None:
        """Take in what a message says; `things` are the words of the tool that it answers, without the verb."""
        for segment in message.segments:
            if segment.source in _READ:
                self._texts.append(segment.text)
                for key, thing, value in _facts(segment.text, "_".join(things)):
                    values = self._values.setdefault(Meaning(key=_joined(key), thing=thing), {})
                    name = json.dumps(value)
                    if name not in values and self._num_values < _MOST_VALUES:
                        values[name] = value
                        self._num_values += 1

    def holds(self, text: str) -> bool:
        """Whether something that the world said holds this text."""
        return any(text in one for one in self._texts)

    def candidates(self, parameter: str, *, things: Sequence[str], kind: str) -> list[Any]:
        """Return the values that a parameter may have: those of the likeliest meanings, oldest first.

        Args:
            parameter: its name.
            things: the words of its tool without the verb: `id` of `get_product` is a product's.
            kind: a JSON schema `format`, or an empty text.
        """
        wanted, own = _joined(parameter), "_".join(things)
        scores = {meaning: _score(meaning, wanted, own) for meaning in self._values}
        best = max(scores.values(), default=0)
        if best:
            likeliest = [meaning for meaning, score in scores.items() if score == best]
            return _distinct([value for meaning in likeliest for value in self._of(meaning)])
        return self._by_form(wanted, own, kind)

    def _by_form(self, wanted: str, own: str, kind: str) -> list[Any]:
        """Values that no name joins to the parameter, and their form does: e-mails, dates, words to search for."""
        last = wanted.rsplit("_", 1)[-1]
        form = _EMAIL if "email" in (kind, last) else _DATE if "date" in (kind, last) else None
        if form is not None:
            return _distinct([found for text in self._texts for found in form.findall(text)])
        if last not in _KEYWORDS:
            return []
        telling = [meaning for meaning in self._values if meaning.key in _TELLING]
        of_the_kind = [meaning for meaning in telling if meaning.thing == own] or telling
        texts = [value for meaning in of_the_kind for value in self._of(meaning)]
        return _distinct([word for text in texts if isinstance(text, str) for word in text.split() if len(word) > 3])

    def _of(self, meaning: Meaning) -> Iterable[Any]:
        return self._values[meaning].values()


def _score(meaning: Meaning, wanted: str, own: str) -> int:
    """How sure it is that a parameter `wanted`, of a tool about `own`, takes values of this meaning; 0: not at all."""
    *others, thing = meaning.thing.split("_")
    if meaning.key not in OWN_NAMES:
        if wanted in (meaning.key, f"{meaning.thing}_{meaning.key}"):
            return 6
        return 2 if "_" in meaning.key and wanted.endswith(f"_{meaning.key}") else 0
    if not thing:
        return 0
    if wanted == f"{meaning.thing}_{meaning.key}" or (wanted == meaning.key and own == meaning.thing):
        return 6
    # `id` of `get_product` and `product_id` are the `id` of what `list_new_products` answered.
    if wanted == f"{thing}_{meaning.key}" or (wanted == meaning.key and thing in own.split("_")):
        return 4
    # `sender_account_id` is an account's id; `get_user_orders` may tell a user's id; `product` may be an id or a name.
    if wanted.endswith(f"_{thing}_{meaning.key}") or wanted in [f"{other}_{meaning.key}" for other in others]:
        return 3
    return 1 if wanted == thing else 0


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list({json.dumps(value): value for value in values}.values())


def _facts(text: str, thing: str) -> Iterator[tuple[str, str, Any]]:
    """Yield key, thing and value of everything with a name in a text."""
    try:
        document: Any = json.loads(text)
    except (ValueError, RecursionError):
        yield from _line_facts(text, thing)
        return
    yield from _json_facts(document, "", thing, 0)


def _json_facts(value: Any, key: str, thing: str, depth: int) -> Iterator[tuple[str, str, Any]]:
    if depth > _DEEPEST:
        return
    if isinstance(value, Mapping):
        # An object under a name is of that kind: `{"product": {...}}`; `content`, `data` and the like are no kinds.
        inner = thing if not key or key in _ENVELOPES else _joined(key)
        # What names a product beside its own id is no product: `{"id": 7, "product_id": 3}`.
        own = "" if inner and f"{inner}_id" in {_joined(str(name)) for name in value} else inner
        for name, child in value.items():
            of = own if _joined(str(name)) in OWN_NAMES and not isinstance(child, Mapping | list) else inner
            yield from _json_facts(child, str(name), of, depth + 1)
    elif isinstance(value, list):
        for child in value:
            yield from _json_facts(child, key, thing, depth + 1)
    elif isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        yield from _facts(value, thing) if depth < _DEEPEST else ()
    elif key and value is not None and not isinstance(value, bool) and value != "":
        yield key, thing, value


def _line_facts(text: str, thing: str) -> Iterator[tuple[str, str, Any]]:
    for line in text.splitlines()[:400]:
        pairs = _PAIR.findall(line)
        match = _LINE.match(line) if not pairs else None
        for key, value in [(match[1], match[2])] if match else pairs:
            yield key, thing, _plain(value.strip("\"'"))


def _plain(text: str) -> Any:
    return json.loads(text) if _NUMBER.fullmatch(text) and not re.match(r"-?0\d", text) else text
