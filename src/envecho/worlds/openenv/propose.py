"""A first look at a server: `propose_map(URL)` asks it what it is and proposes a map, with a reason for each line.

One episode is started, and one action is taken where one can be drawn that changes nothing. What comes out is for a
person to read: a proposed source makes targets of text only once somebody has put the map to use. Not here: the guesses
themselves (`guess`).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast

from envecho.errors import WorldError
from envecho.seam import Observation
from envecho.worlds.openenv.address import parse_address
from envecho.worlds.openenv.facts import ServerFacts, fetch_facts
from envecho.worlds.openenv.guess import guess_map, guess_source
from envecho.worlds.openenv.maps import FOLDER, EnvironmentMap
from envecho.worlds.openenv.reading import find
from envecho.worlds.openenv.suite import known_map
from envecho.worlds.openenv.tasks import find_tasks
from envecho.worlds.openenv.world import OpenEnvWorld
from envecho.worlds.tool_calls import CallText

_HARMLESS: Final = {"command": "pwd", "code": "print(1)", "message": "hello", "text": "hello", "query": "hello"}
_READS_ONLY: Final = ("get", "list", "show", "read", "describe", "count", "help", "status", "view")
_LONGEST_SAMPLE: Final = 60


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a server seems to be.

    `text` is a map as TOML with comments, valid as it stands. `known` is the name of our map where we have one; `text`
    is that map then. `taken` is the action that was tried, None where none could be drawn; `problems` are what went
    wrong on the way.
    """

    text: str
    known: str | None
    taken: str | None
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What an episode showed: raw observations of `reset` and of one action."""

    reset: Mapping[str, Any]
    step: Mapping[str, Any]
    taken: str | None
    problems: tuple[str, ...]


def propose_map(url: str) -> Proposal:
    """Ask a server what it is and propose a map for it.

    Raises:
        ConfigError: no such URL.
        WorldLostError: nothing answers there, or what answers is no OpenEnv server.
    """
    facts = fetch_facts(parse_address(url))
    known = known_map(facts)
    environment = known or guess_map(facts)
    look = _look(facts, environment)
    if known is not None:
        text = _known_text(known)
    else:
        text = "\n".join([*_head(facts, look), *_action_lines(environment), *_field_lines(facts, look), *_TAIL, ""])
    return Proposal(text=text, known=known.name if known else None, taken=look.taken, problems=look.problems)


# --- looking ------------------------------------------------------------------------------------------------------


def _look(facts: ServerFacts, environment: EnvironmentMap) -> _Look:
    tasks = find_tasks(facts, environment)
    world, taken, problems = None, None, list[str]()
    reset: Mapping[str, Any] = {}
    step: Mapping[str, Any] = {}
    try:
        world = OpenEnvWorld(facts, environment, tasks.task(tasks.splits[0], 0), max_turns=2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # fields without a map are what is proposed here
            opened = world.reset(seed=0)
            reset = opened.metadata.get("observation", {})
            taken = _harmless(environment, opened)
            step = world.step(taken).metadata.get("observation", {}) if taken is not None else {}
    except WorldError as error:
        problems.append(str(error))
    finally:
        if world is not None:
            world.close()
    return _Look(reset=reset, step=step, taken=taken, problems=tuple(problems))


def _harmless(environment: EnvironmentMap, opened: Observation) -> str | None:
    """Draw an action that changes nothing, as far as names tell; None where names do not tell."""
    if environment.action.kind == "text":
        return _HARMLESS.get(environment.action.field)
    for tool in opened.tools:
        function = tool.get("function", tool)
        name, schema = str(function["name"]), function.get("parameters") or {}
        if name.split("_")[0].lower() in _READS_ONLY and not schema.get("required"):
            return str(CallText(name=name, arguments={}))
    return None


# --- the text -----------------------------------------------------------------------------------------------------

_TAIL: Final = (
    "",
    "[reward]",
    'read = "sum"  # or "last" (only the end counts), "max", "finish" (that of a finish step)',
    "",
    "# Where something must be done to grade or to free an episode:",
    "# [[finish.steps]]",
    '# action = { type = "call_tool", tool_name = "done", arguments = {} }',
    "# release = true",
)


def _known_text(known: EnvironmentMap) -> str:
    return Path(FOLDER / f"{known.name}.toml").read_text(encoding="utf-8")


def _head(facts: ServerFacts, look: _Look) -> Iterator[str]:
    yield f"# A proposal from a first look at {facts.address}. Read every line before you use it: a source decides what"
    yield "# is trained (stdout, stderr, tool_result, tool_error, user_reply are; everything else is not)."
    taken = _one_line(look.taken) if look.taken else "reset alone, no action without effects could be drawn"
    yield f"# Tried: {taken}."
    yield from (f"# Problem: {_one_line(problem)}" for problem in look.problems)
    yield f"name = {_quoted(facts.title)}"
    if facts.description:
        yield f"instruction = {_quoted(facts.description)}  # the task where `reset` states none"
    yield from ("", "[recognise]", f"names = [{_quoted(facts.title)}]")


def _action_lines(environment: EnvironmentMap) -> Iterator[str]:
    rule = environment.action
    why = {
        "text": f"the text of a turn goes into {rule.field!r}",
        "json": "no single text field: a turn is a JSON object",
    }
    yield from ("", "[action]", f"kind = {_quoted(rule.kind)}  # {why.get(rule.kind, 'tools are called')}")
    if rule.field:
        yield f"field = {_quoted(rule.field)}"


def _field_lines(facts: ServerFacts, look: _Look) -> Iterator[str]:
    """One line for each field, of `reset` and of a step, in the order of the schema and then of what was seen."""
    for table, schema, seen in (
        ("reset_fields", facts.reset_observation or facts.observation, look.reset),
        ("fields", facts.observation, look.step),
    ):
        yield from ("", f"[{table}]")
        properties: Mapping[str, Any] = (schema or {}).get("properties") or {}
        for name in dict.fromkeys([*properties, *seen]):
            if name not in ("done", "reward", "metadata"):
                yield _field_line(name, properties.get(name) or {}, find(seen, name), table)


def _field_line(name: str, kind: Mapping[str, Any], value: Any, table: str) -> str:
    if not kind:
        kind = {"type": "string"} if isinstance(value, str) else {}
    source, why = guess_source(name, kind)
    if table == "fields" and source == "task":
        source, why = "ignore", "the task again"
    elif table == "reset_fields" and source not in ("task", "grader", "ignore"):
        source, why = "task", "shown before the first action; never a target"
    if isinstance(value, list | dict) and value and source == "ignore" and why == "no text":
        source, why = "tool_result", "no text: it would be shown as JSON; ignore it if it is not for the policy"
    sample = f"; seen: {_one_line(cast('Any', value))}" if value not in (None, "", [], {}) else ""
    return f"{_key(name)} = {_quoted(str(source))}  # {why}{sample}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=True)


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() and name.isascii() else _quoted(name)


def _one_line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= _LONGEST_SAMPLE else f"{text[:_LONGEST_SAMPLE]}..."
