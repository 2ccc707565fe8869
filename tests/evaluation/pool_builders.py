"""Pools written by hand, and predictors whose figures are known in advance. No test stands here."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envecho.seam import EngineCapabilities, Sample, SamplingParams, ScoreRequest, Scores
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Message, Segment, Source, Trajectory

FIRST = {"view": "first"}


def derivable(operation: str) -> dict[str, str]:
    """Labels of an observation that earlier output determines."""
    return {"view": "derivable", "operation": operation}


def answer(stdout: str = "", *, stderr: str = "", status: str = "", labels: Mapping[str, str] | None = None) -> Message:
    """An observation of a shell."""
    pairs = ((Source.STDOUT, stdout), (Source.STDERR, stderr), (Source.STATUS, status))
    segments = tuple(Segment(source=source, text=text) for source, text in pairs if text)
    return Message(role="user", segments=segments, labels=dict(labels or {}))


def command(text: str) -> Message:
    """An assistant turn that says one command."""
    return Message(role="assistant", segments=(Segment(source=Source.POLICY, text=text),))


def episode(name: str, turns: Sequence[tuple[str, Message]], *, task: str | None = None) -> Trajectory:
    """An episode of commands and answers behind a system message and a task."""
    opening = (
        Message(role="system", segments=(Segment(source=Source.SYSTEM, text="You are in a shell."),)),
        Message(role="user", segments=(Segment(source=Source.TASK, text="Look around."),)),
    )
    messages = [message for text, reply in turns for message in (command(text), reply)]
    return Trajectory(id=name, task_id=task or f"task-{name}", messages=(*opening, *messages))


def box_episode(number: int, *, num_lines: int = 6, silent: bool = True) -> Trajectory:
    """Show a log of its own, then ask for parts of it, with one failing and one silent command between."""
    rng = random.Random(number)
    words = ("retry", "timeout", "login", "flush", "commit", "purge")
    lines = [
        f"{rng.choice(('ERROR', 'INFO'))} {rng.choice(words)} {rng.randrange(100, 999)}\n" for _ in range(num_lines)
    ]
    lines[0], lines[1] = f"ERROR boot {number}\n", f"INFO ready {number}\n"
    errors = [line for line in lines if line.startswith("ERROR")]
    return episode(
        f"box-{number}",
        [
            ("cat app.log", answer("".join(lines), labels=FIRST)),
            ("cat gone.log", answer(stderr="cat: gone.log: No such file\n", status="[exit status 1]")),
            ("head -n 2 app.log", answer("".join(lines[:2]), labels=derivable("slice"))),
            *([("cd /tmp", answer())] if silent else []),
            ("grep ERROR app.log", answer("".join(errors), labels=derivable("filter"))),
            ("wc -l app.log", answer(f"{num_lines} app.log\n", labels=derivable("count"))),
        ],
    )


def small_pool(count: int = 4) -> list[Trajectory]:
    """A few episodes on boxes of their own."""
    return [box_episode(number) for number in range(count)]


class RulePredictor:
    """A predictor made of a rule, with what an evaluation needs of an engine.

    `rule(token_ids, position)` gives some tokens their probability from the tokens before `position`; the rest is
    shared evenly by all others.
    """

    def __init__(self, vocab_size: int, *, max_context_tokens: int = 100_000) -> None:
        self.vocab_size = vocab_size
        self.num_calls = 0
        self.capabilities = EngineCapabilities(
            trains=False,
            samples=True,
            max_context_tokens=max_context_tokens,
            devices="cpu",
            compute_dtype="float64",
        )

    def rule(self, token_ids: NDArray[np.int32], position: int) -> dict[int, float]:
        return {}

    def logprobs(self, requests: Sequence[ScoreRequest]) -> list[Scores]:
        self.num_calls += 1
        return [self._score(request) for request in requests]

    def _score(self, request: ScoreRequest) -> Scores:
        logprobs = np.full(len(request.token_ids), np.nan, dtype=np.float32)
        top1 = np.zeros(len(request.token_ids), dtype=np.bool_)
        for position in np.flatnonzero(request.read):
            token, known = int(request.token_ids[position]), self.rule(request.token_ids[:position], int(position))
            rest = (1.0 - sum(known.values())) / (self.vocab_size - len(known))
            logprobs[position] = np.log(known.get(token, rest))
            top1[position] = bool(known) and max(known, key=lambda t: known[t]) == token
        return Scores(logprobs=logprobs, top1=top1)

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        assert params.temperature == 0
        return [self._continue(prompt, params) for prompt in prompts]

    def _continue(self, prompt: NDArray[np.int32], params: SamplingParams) -> Sample:
        ids = prompt.copy()
        while len(ids) - len(prompt) < params.max_tokens:
            known = self.rule(ids, len(ids)) or {0: 1.0}
            ids = np.append(ids, np.int32(max(known, key=lambda t: known[t])))
            if ids[-1] in params.stop_token_ids:
                break
        new = ids[len(prompt) :].astype(np.int32)
        return Sample(token_ids=new, logprobs=np.zeros(len(new), np.float32), stopped=ids[-1] in params.stop_token_ids)


class LastTokenPredictor(RulePredictor):
    """Sees one token of context: it cannot know the command."""

    def rule(self, token_ids: NDArray[np.int32], position: int) -> dict[int, float]:
        last = int(token_ids[position - 1])
        return {(last * 7919 + 13) % self.vocab_size: 0.5, (last + 1) % self.vocab_size: 0.25}


class OraclePredictor(RulePredictor):
    """Knows what each command of each episode prints, and gives 0.9 to the next token of it; 1 % elsewhere.

    It reads the last command of the context and nothing else of the history but the first output, which names the box.
    """

    def __init__(self, tokenizer: ChatTokenizer, trajectories: Sequence[Trajectory]) -> None:
        super().__init__(len(tokenizer.hf))
        self._tokenizer = tokenizer
        self._start, self._end = (tokenizer.added[text].id for text in ("<|im_start|>", "<|im_end|>"))
        self._line_end = tokenizer.encode_text("\n")[0][0]
        self._outputs: dict[tuple[str, str], list[int]] = {}
        for trajectory in trajectories:
            messages = trajectory.messages
            for said, reply in zip(messages[2::2], messages[3::2], strict=True):
                ids, _ = tokenizer.encode_text(reply.content)
                self._outputs[messages[3].content, said.content] = [*ids, self._end]

    def rule(self, token_ids: NDArray[np.int32], position: int) -> dict[int, float]:
        starts = np.flatnonzero(token_ids == self._start)
        # A turn opens with its start token, its role, and a line end.
        contents = [a + int(np.flatnonzero(token_ids[a:] == self._line_end)[0]) + 1 for a in starts]
        turns = [self._text(token_ids[content:]) for content in contents]
        box = turns[3] if len(turns) > 4 else None
        output = self._outputs.get((box, turns[-2])) if box else None
        place = position - contents[-1]
        return {output[place]: 0.9} if output and place < len(output) else {}

    def _text(self, token_ids: NDArray[np.int32]) -> str:
        ends = np.flatnonzero(token_ids == self._end)
        return self._tokenizer.hf.decode(token_ids[: ends[0]] if len(ends) else token_ids)


def write_pool(path: Path, trajectories: Sequence[Trajectory]) -> Path:
    """Write trajectories as Parquet and return the path."""
    from envecho.trajectory.store import write_trajectories

    write_trajectories(path, trajectories)
    return path
