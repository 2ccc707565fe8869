"""Maps: which field of an environment's observation is whose text, how its actions are written, how its episodes end.

A map is a TOML file, one for each environment; those that we ship lie in `maps/`, a user's own is named by
`SuiteOptions.world_map`. Every key is in `docs/openenv.md`. Not here: reading and writing by a map (`reading`,
`actions`), and guessing one (`propose`).
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from envecho.errors import ConfigError, did_you_mean
from envecho.trajectory import Source

FOLDER: Final = Path(__file__).parent / "maps"
OWN_FIELDS: Final = frozenset({"segments", "text", "timed_out", "labels"})
"""Fields by which the observation of a server of ours is known."""

_NOT_OF_A_WORLD: Final = {Source.POLICY, Source.SCAFFOLD, Source.PADDING, Source.REDACTED}
_PLACEHOLDER: Final = re.compile(r"\{([a-z_]+(?:\.[A-Za-z_]+)*)\}")

SourceName = Source | Literal["ignore"]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CutRule(_Table):
    """Text inside a field that is not the field's own: what `pattern` matches (multi-line) is of `source`."""

    pattern: str
    source: Source

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern


class EachRule(_Table):
    """A field that is a list of objects: `text` names the key of an item's text, `by` the key that says whose it is."""

    text: str
    by: str = ""


class FieldRule(_Table):
    """Whose text a field is.

    `sources` chooses another source by the value of the field `by` (of an item's key with `each`). `growing` says that
    every answer repeats what was shown before, of which only the new rest is shown.
    """

    source: SourceName
    by: str = ""
    sources: dict[str, SourceName] = {}
    growing: bool = False
    cut: tuple[CutRule, ...] = ()
    each: EachRule | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _sources_of_a_world(self) -> FieldRule:
        wrong = _NOT_OF_A_WORLD & {self.source, *self.sources.values(), *(rule.source for rule in self.cut)}
        if wrong:
            raise ValueError(f"no world writes text of source {', '.join(sorted(wrong))}")
        return self


class RecogniseMap(_Table):
    """How an environment is known: one of its names, or exactly these fields of action and observation."""

    names: tuple[str, ...] = ()
    action: frozenset[str] = frozenset()
    observation: frozenset[str] = frozenset()


class ConnectionMap(_Table):
    """Deadlines and sizes. `bearer_env` names the environment variable with a token for the server.

    `client` "auto" uses the client of an installed package of this environment, where there is one.
    """

    connect_seconds: float = Field(default=10.0, gt=0)
    reset_seconds: float = Field(default=120.0, gt=0)
    step_seconds: float = Field(default=120.0, gt=0)
    release_seconds: float = Field(default=10.0, gt=0)
    capacity_seconds: float = Field(default=5.0, ge=0)
    max_message_mb: float = Field(default=100.0, gt=0)
    bearer_env: str = ""
    client: Literal["auto", "generic"] = "auto"

    def headers(self) -> dict[str, str] | None:
        """Return the headers that open a connection.

        Raises:
            ConfigError: the variable with the token is not set.
        """
        if not self.bearer_env:
            return None
        if not os.environ.get(self.bearer_env):
            raise ConfigError(f"the map takes the server's token from ${self.bearer_env}, which is not set")
        return {"Authorization": f"Bearer {os.environ[self.bearer_env]}"}


class ActionMap(_Table):
    """How the text of a turn becomes an action.

    `kind`: `text` puts it into `field`, beside `constants`; `json` takes a JSON object; `mcp` takes a tool call;
    `tokens` puts its token ids by `tokenizer` into `field`; `message` is a server of ours. With `accepts_json` a text
    that is a JSON object of the action's own fields is taken as one; with `fences` the inside of one fenced block is
    the text. `errors_are_answers`: an exception of the environment answers the action instead of ending the episode.
    """

    kind: Literal["text", "json", "mcp", "tokens", "message"]
    field: str = ""
    constants: dict[str, Any] = {}
    tokenizer: str = ""
    accepts_json: bool = True
    fences: bool = False
    errors_are_answers: bool = False

    @model_validator(mode="after")
    def _names_its_field(self) -> ActionMap:
        if self.kind in ("text", "tokens") and not self.field:
            raise ValueError(f"kind {self.kind!r} needs field, the action's field that the text goes into")
        return self


class FinishStep(_Table):
    """One action that ends or grades an episode; `{answer}` in it stands for the text after `answer:`.

    Its reward counts only if the field `graded_by` of the answer is there. Text of the fields `show` is the grader's.
    `release` marks an action that frees what the episode holds: it is taken however the episode ended.
    """

    action: dict[str, Any]
    when: Literal["always", "answer"] = "always"
    graded_by: str = ""
    show: tuple[str, ...] = ()
    release: bool = False


class FinishMap(_Table):
    """How an episode ends. `on_answer`: a turn `answer: TEXT` ends it; else such a turn is an action like any other."""

    on_answer: bool | None = None
    seconds: float = Field(default=600.0, gt=0)
    steps: tuple[FinishStep, ...] = ()


class RewardMap(_Table):
    """Which of an episode's rewards is its reward; that of `reset` never counts.

    `sum`, `last` and `max` are over the rewards of all steps, `finish` takes that of the finish steps alone.
    """

    read: Literal["sum", "last", "max", "finish"] = "sum"


class TasksMap(_Table):
    """Which tasks there are.

    `list` holds the arguments of `reset` for each task, beside `id` and `split`. `ask` is an action whose answer lists
    them in the field `items`; an item stands for as many tasks as its field `count` says. `reset` holds the arguments
    of `reset` for such a task and for one of the server's Task API, with `{split}`, `{index}`, and `{item...}` or
    `{task...}` filled in; `id` names it. With `split_every` n every n-th item is held out and the one before it is for
    validation. `seeded` False says that the seed of a task changes nothing.
    """

    list: tuple[dict[str, Any], ...] = ()
    ask: dict[str, Any] | None = None
    items: str = ""
    count: str = ""
    reset: dict[str, Any] = {}
    id: str = ""
    split_every: int = Field(default=0, ge=0)
    seeded: bool = True


class EnvironmentMap(_Table):
    """All that is known of an environment.

    `fields` says how a step's answer is read and `reset_fields` how that of `reset`, in the order in which they are
    shown; a field that one of the two names alone is left out of the other. `reset` holds arguments of every `reset`,
    `reset_fails` the values that tell that it failed. `instruction` is the task where the environment states none.
    """

    name: str
    note: str = ""
    recognise: RecogniseMap = RecogniseMap()
    connection: ConnectionMap = ConnectionMap()
    action: ActionMap
    fields: dict[str, FieldRule] = {}
    reset_fields: dict[str, FieldRule] = {}
    max_field_chars: int = Field(default=100_000, gt=0)
    reset: dict[str, Any] = {}
    reset_fails: dict[str, tuple[Any, ...]] = {}
    instruction: str = ""
    tasks: TasksMap = TasksMap()
    finish: FinishMap = FinishMap()
    reward: RewardMap = RewardMap()

    @property
    def ends_on_answer(self) -> bool:
        """Whether `answer: TEXT` ends an episode: as the map says, else where tools are called or something grades."""
        stated = self.finish.on_answer
        return (self.action.kind == "mcp" or bool(self.finish.steps)) if stated is None else stated


# --- files --------------------------------------------------------------------------------------------------------


def shipped_maps() -> dict[str, EnvironmentMap]:
    """Return the maps that come with envecho, by name."""
    return {path.stem: load_map(path) for path in sorted(FOLDER.glob("*.toml"))}


def load_map(path: Path) -> EnvironmentMap:
    """Read a map; `extends = "NAME"` in it starts from one of ours, and its own keys come over it.

    Raises:
        ConfigError: the file is missing, no TOML, or no map; says which key.
    """
    document = _read(path)
    base = document.pop("extends", None)
    if base is not None:
        known = sorted(found.stem for found in FOLDER.glob("*.toml"))
        if base not in known:
            raise ConfigError(
                f"{path}: extends {base!r}, which is none of our maps ({', '.join(known)}).{did_you_mean(base, known)}"
            )
        document = _merged(_read(FOLDER / f"{base}.toml"), document)
    return parse_map(document, where=str(path))


def parse_map(document: Mapping[str, Any], *, where: str) -> EnvironmentMap:
    """Check a document.

    Raises:
        ConfigError: it is no map; says which key.
    """
    try:
        return EnvironmentMap.model_validate(dict(document))
    except ValidationError as error:
        told = "; ".join(_explain(detail) for detail in error.errors(include_url=False))
        raise ConfigError(f"{where}: {told}") from error


def recognise(
    names: Iterable[str], action: Iterable[str] | None, observation: Iterable[str] | None
) -> EnvironmentMap | None:
    """Return our map of an environment: by one of its names, else by the fields of its schemas.

    A server of ours is known by its observation alone, whatever its name.
    """
    maps = shipped_maps()
    found_action, found_observation = frozenset(action or ()), frozenset(observation or ())
    if found_observation >= OWN_FIELDS:
        return maps["envecho"]
    folded = {name.casefold() for name in names}
    for candidate in maps.values():
        if folded & {name.casefold() for name in candidate.recognise.names}:
            return candidate
    for candidate in maps.values():
        known = candidate.recognise
        if known.action and found_action == known.action and known.observation <= found_observation:
            return candidate
    return None


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """Fill `{name}` and `{name.key}` in a template's texts; a text that is one placeholder becomes the value itself.

    Raises:
        ConfigError: a placeholder names nothing.
    """
    if isinstance(template, Mapping):
        return {key: fill(value, values) for key, value in cast("Mapping[str, Any]", template).items()}
    if isinstance(template, list | tuple):
        return [fill(value, values) for value in cast("list[Any]", template)]
    if not isinstance(template, str):
        return template
    whole = _PLACEHOLDER.fullmatch(template)
    return (
        _value(whole[1], values) if whole else _PLACEHOLDER.sub(lambda found: str(_value(found[1], values)), template)
    )


def _value(path: str, values: Mapping[str, Any]) -> Any:
    value: Any = values
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            known = sorted(map(str, cast("Mapping[str, Any]", value))) if isinstance(value, Mapping) else []
            raise ConfigError(
                f"the map has the placeholder {{{path}}}; known here: {', '.join(known) or 'nothing'}."
                f"{did_you_mean(key, known)}"
            )
        value = cast("Mapping[str, Any]", value)[key]
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the map {path} cannot be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the map {path} is no TOML: {error}") from error


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _explain(detail: Any) -> str:
    """One sentence for one pydantic error, with its key."""
    loc = [str(part) for part in detail["loc"] if part not in ("literal['ignore']",)]
    key = ".".join(loc)
    if detail["type"] == "extra_forbidden":
        known = _fields_at(loc[:-1])
        return f"unknown key {key!r}; known: {', '.join(known)}.{did_you_mean(loc[-1], known)}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] in ("enum", "literal_error") and "source" in key + str(detail.get("input")):
        known = ["ignore", *(source.value for source in Source if source not in _NOT_OF_A_WORLD)]
        found = str(detail["input"])
        return f"{key}: no source {found!r}; known: {', '.join(known)}.{did_you_mean(found, known)}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{key}: {message} (found {detail['input']!r})" if key else message


def _fields_at(loc: list[str]) -> list[str]:
    """Names of the keys that the table at this place may have."""
    model: type[BaseModel] = EnvironmentMap
    for part in loc:
        model = _TABLE_AT.get(part, FieldRule if model is EnvironmentMap else model)
    return list(model.model_fields)


_TABLE_AT: Final[dict[str, type[BaseModel]]] = {
    "recognise": RecogniseMap,
    "connection": ConnectionMap,
    "action": ActionMap,
    "fields": FieldRule,
    "reset_fields": FieldRule,
    "cut": CutRule,
    "each": EachRule,
    "tasks": TasksMap,
    "finish": FinishMap,
    "steps": FinishStep,
    "reward": RewardMap,
}
