"""Planted models: predictors of which it is known what they know, to prove that the suite tells them apart.

    lookup    the output of every command on every machine, whatever stands around it; nothing of the harness
    phrases   how the harness ends an observation (`[exit status 0]`); nothing of the world
    copier    that what followed the same tokens earlier in the episode follows again; nothing else
    blank     nothing: every token is as likely as any other

They read SmolLM2's chat format. No test stands here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pool_builders import RulePredictor

from envecho.tokens import ChatTokenizer, tokenize_trajectory
from envecho.trajectory import Role, Trajectory

SURE: Final = 0.95
"""What a planted model gives to what it knows; the rest is shared by all other tokens."""


class _Turns:
    """Reads turns of the chat format from ids."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self.start, self.end = (tokenizer.added[text].id for text in ("<|im_start|>", "<|im_end|>"))
        # A newline and the blank that a content begins with may be one token.
        texts = [tokenizer.token_bytes(token) for token in range(len(tokenizer.hf))]
        self.line_starts = np.array([text.startswith(b"\n") for text in texts])
        self.line_ends = np.array([text.endswith(b"\n") for text in texts])
        self._texts: dict[bytes, str] = {}

    def openings(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """Where the content of each turn begins: behind its start token, its role and a newline."""
        starts, newlines = np.flatnonzero(ids == self.start), np.flatnonzero(self.line_starts[ids])
        return newlines[np.searchsorted(newlines, starts)] + 1

    def text(self, ids: NDArray[np.int32]) -> str:
        """The text of a turn's content, to its end."""
        ends = np.flatnonzero(ids == self.end)
        content = ids[: ends[0]] if len(ends) else ids
        key = content.tobytes()
        if key not in self._texts:
            self._texts[key] = str(self._tokenizer.hf.decode(content))
        return self._texts[key]


class Lookup(RulePredictor):
    """Knows the output of each command of each task, token by token, and nothing of what stands around it."""

    def __init__(self, tokenizer: ChatTokenizer, trajectories: Sequence[Trajectory]) -> None:
        super().__init__(len(tokenizer.hf))
        self._turns = _Turns(tokenizer)
        self._outputs: dict[tuple[str, str], list[int]] = {}
        for trajectory in trajectories:
            (sequence,) = tokenize_trajectory(trajectory, tokenizer)
            said = sequence.role_mask(Role.ENV_OUTPUT)
            for turn in range(3, len(trajectory.messages), 2):
                task, command = trajectory.messages[1].content, trajectory.messages[turn - 1].content
                output = sequence.token_ids[said & (sequence.turns == turn)].tolist()
                known = self._outputs.setdefault((task, command), output)
                assert known == output, (task, command)

    def rule(self, token_ids: NDArray[np.int32], position: int) -> Mapping[int, float]:
        turns = self._turns.openings(token_ids)
        if len(turns) < 4:
            return {}
        task, command = (self._turns.text(token_ids[turns[place] :]) for place in (1, -2))
        output = self._outputs.get((task, command), [])
        place = position - int(turns[-1])
        return {output[place]: SURE} if 0 <= place < len(output) else {}


class Phrases(RulePredictor):
    """Knows the phrases that end an observation, whichever comes: at each line's start one may begin."""

    def __init__(self, tokenizer: ChatTokenizer, phrases: Sequence[str]) -> None:
        super().__init__(len(tokenizer.hf))
        self._turns = _Turns(tokenizer)
        self._phrases = [tokenizer.encode_text(phrase)[0] for phrase in phrases]

    def rule(self, token_ids: NDArray[np.int32], position: int) -> Mapping[int, float]:
        start = int(self._turns.openings(token_ids)[-1])
        line = position
        while line > start and not self._turns.line_ends[token_ids[line - 1]]:
            line -= 1
        begun = token_ids[line:position].tolist()
        following = {p[len(begun)] for p in self._phrases if p[: len(begun)] == begun and len(p) > len(begun)}
        return {token: SURE / len(following) for token in following}


class Copier(RulePredictor):
    """Expects what followed the longest earlier occurrence of the last tokens; the longer it is, the surer."""

    def rule(self, token_ids: NDArray[np.int32], position: int) -> Mapping[int, float]:
        ends = np.flatnonzero(token_ids[: position - 1] == token_ids[position - 1])
        length = 0
        while len(ends):
            found, length = ends, length + 1
            longer = ends[ends >= length]
            ends = longer[token_ids[longer - length] == token_ids[position - 1 - length]]
        return {int(token_ids[found[-1] + 1]): min(SURE, 1 - 0.5**length)} if length else {}
