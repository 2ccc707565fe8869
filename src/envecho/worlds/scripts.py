"""Scripted policies: a list of lines, as oracles and explorers say them.

Not here: what an explorer draws, policies that look at answers (each world's own), and a model that acts
(`envecho.rollout`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

from envecho.seam import PolicyTurn
from envecho.trajectory import Message, Segment, Source


@final
class ScriptedPolicy:
    """Says fixed lines in order, each with the labels that its answer will carry, then finishes.

    Oracle and explorer are scripts: `ScriptedPolicy.oracle(task.oracle)`, `ScriptedPolicy(plan)`.
    """

    def __init__(self, lines: Iterable[tuple[str, Mapping[str, str]]]) -> None:
        self._lines = list(lines)
        self._next = 0

    @classmethod
    def oracle(cls, commands: Iterable[str]) -> ScriptedPolicy:
        """Return the policy that says these commands, unlabelled."""
        return cls((command, {}) for command in commands)

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next line; `finished` once there is none left."""
        if self._next >= len(self._lines):
            return PolicyTurn(message=Message(role="assistant", segments=()), finished=True)
        text, labels = self._lines[self._next]
        self._next += 1
        message = Message(role="assistant", segments=(Segment(source=Source.POLICY, text=text),))
        return PolicyTurn(message=message, observation_labels=labels)
