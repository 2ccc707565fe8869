"""What a live world answers otherwise than a stored trajectory says, action by action.

A turn is equal where the world's own words are (output of commands, tool results, errors, a user's replies): as text,
or as JSON values where both are JSON. Words of a harness (echo, status, notices) are compared too and reported, and do
not count: another harness has other words. Not here: replaying (`replay`).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from envecho.rollout.replay import carried_out
from envecho.trajectory import Role, Source, StopReason, Trajectory
from envecho.worlds.explore.history import Exchange, exchanges

_MOST_LINES: Final = 8
_LONGEST_VALUE: Final = 100
_MOST_SHOWN: Final = 20
_MOST_NAMES: Final = 4


@dataclass(frozen=True, kw_only=True)
class KeyDifference:
    """One place in two JSON values, as `$.order.lines[0].id`, and what stands there; `kind` says on which side."""

    path: str
    kind: Literal["changed", "only stored", "only replayed"]
    stored: Any = None
    replayed: Any = None

    def __str__(self) -> str:
        """One line."""
        if self.kind == "changed":
            return f"{self.path}: {_short(self.stored)} -> {_short(self.replayed)}"
        return f"{self.path}: {self.kind}: {_short(self.stored if self.kind == 'only stored' else self.replayed)}"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What one source said in answer to action `turn` (from 0), stored and replayed; an empty text: it said nothing.

    `keys` are the places that differ where both texts are JSON; else it is empty.
    """

    turn: int
    action: str
    source: Source
    stored: str
    replayed: str
    keys: tuple[KeyDifference, ...] = ()

    @property
    def is_the_worlds(self) -> bool:
        """Whether the world itself differs, not its harness."""
        return self.source.role is Role.ENV_OUTPUT

    def __str__(self) -> str:
        """A heading, and a line for each place or line that differs."""
        lines = [str(key) for key in self.keys] or _line_differences(self.stored, self.replayed)
        more = [f"... and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        return "\n    ".join([f"turn {self.turn}, {_short(self.action)}: {self.source}", *lines[:_MOST_LINES], *more])

    def as_json(self) -> dict[str, Any]:
        """Return the difference as JSON values."""
        keys = [
            {"path": key.path, "kind": key.kind, "stored": key.stored, "replayed": key.replayed} for key in self.keys
        ]
        return {
            "turn": self.turn,
            "action": self.action,
            "source": self.source.value,
            "stored": self.stored,
            "replayed": self.replayed,
            "keys": keys,
        }


@dataclass(frozen=True, kw_only=True)
class ReplayedEpisode:
    """One episode, stored and replayed.

    `num_turns` counts the actions to which the world said something in either, `num_equal` those with the same answer,
    `num_not_replayed` the stored actions that the live episode ended before. `tools_missing` and `tools_added` are
    names, where the stored trajectory names tools.
    """

    stored_id: str
    task_id: str
    num_turns: int
    num_equal: int
    num_not_replayed: int
    task_is_equal: bool
    tools_missing: tuple[str, ...]
    tools_added: tuple[str, ...]
    rewards: tuple[float | None, float | None]
    stop_reason: StopReason
    differences: tuple[Difference, ...]

    @property
    def is_equal(self) -> bool:
        """Whether the world said the same throughout."""
        return self.num_equal == self.num_turns and not self.num_not_replayed

    @property
    def is_unchanged(self) -> bool:
        """Whether nothing at all differs: the harness's words, the task, the tools and the reward neither."""
        tools = self.tools_missing or self.tools_added
        same = self.task_is_equal and not tools and self.rewards[0] == self.rewards[1]
        return self.is_equal and same and not self.differences

    def __str__(self) -> str:
        """A heading, and what differs."""
        facts = [f"{self.num_equal} of {self.num_turns} turns equal"]
        facts += [f"{self.num_not_replayed} not replayed"] if self.num_not_replayed else []
        facts += ["another task text"] if not self.task_is_equal else []
        facts += [f"tools missing: {_few(self.tools_missing)}"] if self.tools_missing else []
        facts += [f"tools added: {_few(self.tools_added)}"] if self.tools_added else []
        facts += [f"reward {self.rewards[0]} -> {self.rewards[1]}"] if self.rewards[0] != self.rewards[1] else []
        facts += [self.stop_reason.value] if self.stop_reason is StopReason.WORLD_ERROR else []
        return "\n  ".join([f"{self.stored_id}: {'; '.join(facts)}", *map(str, self.differences)])

    def as_json(self) -> dict[str, Any]:
        """Return the episode as JSON values."""
        return {
            "stored_id": self.stored_id,
            "task_id": self.task_id,
            "num_turns": self.num_turns,
            "num_equal": self.num_equal,
            "num_not_replayed": self.num_not_replayed,
            "task_is_equal": self.task_is_equal,
            "tools_missing": list(self.tools_missing),
            "tools_added": list(self.tools_added),
            "rewards": list(self.rewards),
            "stop_reason": self.stop_reason.value,
            "differences": [difference.as_json() for difference in self.differences],
        }


@dataclass(frozen=True, kw_only=True)
class ReplayReport:
    """All replayed episodes, in the order of the stored ones."""

    episodes: tuple[ReplayedEpisode, ...]

    @property
    def equal_fraction(self) -> float | None:
        """Which share of the turns was answered as before; None without turns. Turns not replayed are not equal."""
        num_turns = sum(episode.num_turns + episode.num_not_replayed for episode in self.episodes)
        return sum(episode.num_equal for episode in self.episodes) / num_turns if num_turns else None

    def __str__(self) -> str:
        """A summary, then the episodes that differ, as many as one reads."""
        differing = [episode for episode in self.episodes if not episode.is_unchanged]
        share = self.equal_fraction
        rate = "no turn had an answer" if share is None else f"{share:.1%} of the turns answered as before"
        num_equal = sum(episode.is_equal for episode in self.episodes)
        count = f"{len(self.episodes)} episode{'' if len(self.episodes) == 1 else 's'}"
        head = f"{count} replayed, {num_equal} equal throughout; {rate}"
        rest = len(differing) - _MOST_SHOWN
        more = [f"... and {rest} more episodes that differ"] if rest > 0 else []
        return "\n".join([head, *map(str, differing[:_MOST_SHOWN]), *more])

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "num_episodes": len(self.episodes),
            "num_equal_episodes": sum(episode.is_equal for episode in self.episodes),
            "equal_fraction": self.equal_fraction,
            "episodes": [episode.as_json() for episode in self.episodes],
        }


def replay_report(stored: Iterable[Trajectory], replayed: Iterable[Trajectory]) -> ReplayReport:
    """Compare stored trajectories with their replays, which are in the same order."""
    pairs = zip(stored, replayed, strict=True)
    return ReplayReport(episodes=tuple(_episode(one, other) for one, other in pairs))


def differences(stored: Trajectory, replayed: Trajectory) -> list[Difference]:
    """Return what differs, turn by turn, for the turns that both have."""
    found: list[Difference] = []
    pairs = zip(carried_out(stored), carried_out(replayed), strict=False)
    for turn, (one, other) in enumerate(pairs):
        found += _turn_differences(turn, one, other)
    return found


def _episode(stored: Trajectory, replayed: Trajectory) -> ReplayedEpisode:
    before, after = carried_out(stored), carried_out(replayed)
    pairs = [(one, other) for one, other in zip(before, after, strict=False) if _output(one) or _output(other)]
    tools, live = _tool_names(stored), _tool_names(replayed)
    return ReplayedEpisode(
        stored_id=stored.id,
        task_id=replayed.task_id,
        num_turns=len(pairs),
        num_equal=sum(_same(_output(one), _output(other)) for one, other in pairs),
        num_not_replayed=sum(bool(_output(exchange)) for exchange in before[len(after) :]),
        task_is_equal=_task(stored) == _task(replayed),
        tools_missing=tuple(name for name in tools if name not in live),
        tools_added=tuple(name for name in live if tools and name not in tools),
        rewards=(stored.reward, replayed.reward),
        stop_reason=replayed.stop_reason,
        differences=tuple(differences(stored, replayed)),
    )


def _task(trajectory: Trajectory) -> str:
    """The task's own words before the first action; how tools are described there is the harness's."""
    opening, _ = exchanges(trajectory.messages)
    segments = [segment for message in opening for segment in message.segments if segment.source is Source.TASK]
    return "".join(segment.text for segment in segments).strip()


def _tool_names(trajectory: Trajectory) -> list[str]:
    """The names of the tools; where they stand in the text, a rollout keeps their names in the metadata."""
    named = trajectory.metadata.get("tools")
    if not trajectory.tools and isinstance(named, list):
        return [str(name) for name in cast("list[Any]", named)]
    return [str(tool.get("function", tool).get("name")) for tool in trajectory.tools]


def _by_source(exchange: Exchange) -> dict[Source, str]:
    """What each source said in answer, without the grader and other context."""
    said: dict[Source, str] = {}
    for answer in exchange.answers:
        for segment in answer.segments:
            if segment.source.role in (Role.ENV_OUTPUT, Role.WARNING):
                said[segment.source] = said.get(segment.source, "") + segment.text
    return said


def _output(exchange: Exchange) -> str:
    """The world's own words in answer."""
    return "".join(text for source, text in _by_source(exchange).items() if source.role is Role.ENV_OUTPUT)


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    first, second = _json(one), _json(other)
    return first is not None and second is not None and not list(_key_differences(first[0], second[0], "$"))


def _turn_differences(turn: int, one: Exchange, other: Exchange) -> Iterator[Difference]:
    before, after = _by_source(one), _by_source(other)
    same_output = _same(_output(one), _output(other))
    for source in dict.fromkeys((*before, *after)):
        stored, replayed = before.get(source, ""), after.get(source, "")
        if (same_output and source.role is Role.ENV_OUTPUT) or _same(stored, replayed):
            continue
        first, second = _json(stored), _json(replayed)
        keys = tuple(_key_differences(first[0], second[0], "$")) if first and second else ()
        yield Difference(turn=turn, action=one.text, source=source, stored=stored, replayed=replayed, keys=keys)


def _json(text: str) -> tuple[Any] | None:
    """The JSON object or array that a text is; a lone number or word is text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (value,) if isinstance(value, dict | list) else None


def _key_differences(stored: Any, replayed: Any, path: str) -> Iterator[KeyDifference]:
    """Yield the places where two JSON values differ; `1` and `1.0` are one number, `1` and `true` are two values.

    `deepdiff` does this among much else, and is slow to load; these are the few lines of it that a report needs.
    """
    if isinstance(stored, dict) and isinstance(replayed, dict):
        one, other = cast("dict[str, Any]", stored), cast("dict[str, Any]", replayed)
        for key in dict.fromkeys((*one, *other)):
            yield from _side_by_side(one, other, key, f"{path}.{key}")
    elif isinstance(stored, list) and isinstance(replayed, list):
        first = dict(enumerate(cast("list[Any]", stored)))
        second = dict(enumerate(cast("list[Any]", replayed)))
        for place in range(max(len(first), len(second))):
            yield from _side_by_side(first, second, place, f"{path}[{place}]")
    elif stored != replayed or isinstance(stored, bool) != isinstance(replayed, bool):
        yield KeyDifference(path=path, kind="changed", stored=stored, replayed=replayed)


def _side_by_side(stored: dict[Any, Any], replayed: dict[Any, Any], key: Any, path: str) -> Iterator[KeyDifference]:
    if key not in replayed:
        yield KeyDifference(path=path, kind="only stored", stored=stored[key])
    elif key not in stored:
        yield KeyDifference(path=path, kind="only replayed", replayed=replayed[key])
    else:
        yield from _key_differences(stored[key], replayed[key], path)


def _line_differences(stored: str, replayed: str) -> Sequence[str]:
    """`- ` before stored lines, `+ ` before replayed ones; ends of lines that differ are shown as text."""
    before, after = stored.splitlines(), replayed.splitlines()
    if before == after:
        return [f"- {stored[-40:]!r}", f"+ {replayed[-40:]!r}"]
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[2:]  # the first two name files
    return [f"{line[0]} {_short(line[1:])}" for line in lines if not line.startswith("@@")]


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_VALUE else f"{line[: _LONGEST_VALUE - 3]}..."
