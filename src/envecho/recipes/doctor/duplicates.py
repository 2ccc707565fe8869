"""Checks over trajectories: equal ids, near-identical episodes, and rows that repeat an earlier row and go on.

Each trajectory costs about 200 bytes of memory: three hashes of eight bytes in Python's sets.
"""

from __future__ import annotations

import hashlib
import re
from typing import final

from envecho.recipes.doctor.episode import Episode, is_action
from envecho.recipes.doctor.findings import Findings
from envecho.trajectory import Message

_SPACE = re.compile(r"\s+")


@final
class DuplicateCheck:
    """Finds a trajectory that an earlier one of the file already holds."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._num_trajectories = self._num_equal = 0
        self._ids: set[int] = set()
        self._near: set[int] = set()
        self._exact: set[int] = set()

    def see(self, episode: Episode) -> None:
        """Look at one episode."""
        self._num_trajectories += 1
        trajectory = episode.trajectory
        name = _number(hashlib.blake2b(trajectory.id.encode(errors="replace"), digest_size=8).digest())
        if name in self._ids:
            self._findings.add("duplicate_ids")
        self._ids.add(name)
        near = hashlib.blake2b(digest_size=8)
        exact = hashlib.blake2b(digest_size=8)
        has_answer = False
        grown: int | None = None
        for turn, message in enumerate(trajectory.messages):
            text = _told(message)
            near.update(_SPACE.sub(" ", _steady(episode, turn) or text).encode(errors="replace"))
            exact.update(text.encode(errors="replace"))
            if has_answer and _number(exact.digest()) in self._exact:
                grown = turn
            has_answer = has_answer or is_action(message)
        whole, literal = _number(near.digest()), _number(exact.digest())
        if whole in self._near:
            self._num_equal += literal in self._exact
            self._findings.add("duplicate_trajectories", text=trajectory.messages[-1].content)
        elif grown is not None:
            self._findings.add("growing_rows", turn=grown, text="repeats an earlier trajectory up to here")
        self._near.add(whole)
        self._exact.add(literal)

    def conclude(self) -> None:
        """Say what the whole file shows."""
        count = self._findings.count("duplicate_trajectories")
        if count:
            detail = f"{count / self._num_trajectories:.1%} of the file; {self._num_equal:,} equal to the character"
            self._findings.state("duplicate_trajectories", detail)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little")


def _steady(episode: Episode, turn: int) -> str:
    """What the world said in a turn, without what differs from run to run; empty where it said nothing."""
    pieces: list[str] = []
    for text, spans in episode.volatile.get(turn, ()):
        done = 0
        for start, end, kind in spans:
            pieces += [text[done:start], kind]
            done = end
        pieces.append(text[done:])
    return "".join(pieces)


def _told(message: Message) -> str:
    calls = "\x1d".join(f"{call.name}\x1c{call.arguments}" for call in message.tool_calls)
    return "\x1f".join((message.role, message.content, calls)) + "\x1e"
