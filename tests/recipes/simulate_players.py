"""Players for the tests of simulation: models whose words are a rule of what they read. No test stands here."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.seam import EngineCapabilities, Sample, SamplingParams, ScoreRequest, Scores, TurnRequest
from envecho.tokens import ChatTokenizer
from envecho.trajectory import Message, Segment, Source, Trajectory

ACTION_END = "<|im_end|>\n<|im_start|>user\n"


class RuleEngine:
    """Writes what `rule(text of the prompt)` says, and finds every token equally likely, or as `likely` says.

    `likely(text of the prompt, text of the token)` is a log-prob; None: -1 for every token.
    """

    def __init__(
        self,
        tokenizer: ChatTokenizer,
        rule: Callable[[str], str],
        *,
        likely: Callable[[str, str], float] | None = None,
        samples: bool = True,
        max_context_tokens: int = 100_000,
    ) -> None:
        self.tokenizer, self.rule, self.likely = tokenizer, rule, likely
        self.prompts: list[str] = []
        self.capabilities = EngineCapabilities(
            trains=False, samples=samples, max_context_tokens=max_context_tokens, devices="cpu", compute_dtype="float32"
        )

    @contextmanager
    def sampling_session(self) -> Generator[Any]:
        yield self

    def drop(self, row: int) -> None:
        pass

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        return [self._say(request.prompt, params) for request in requests]

    def logprobs(self, requests: Sequence[ScoreRequest], **options: Any) -> list[Scores]:
        return [self._score(request) for request in requests]

    def _say(self, prompt: NDArray[np.int32], params: SamplingParams) -> Sample:
        text = self.tokenizer.hf.decode(prompt.tolist())
        self.prompts.append(text)
        ids, _ = self.tokenizer.encode_text(self.rule(text))
        ids = [*ids, params.stop_token_ids[-1]][: params.max_tokens]
        stopped = ids[-1] in params.stop_token_ids
        return Sample(token_ids=np.array(ids, dtype=np.int32), logprobs=np.zeros(len(ids), np.float32), stopped=stopped)

    def _score(self, request: ScoreRequest) -> Scores:
        logprobs = np.full(len(request.token_ids), np.nan, dtype=np.float32)
        for place in np.flatnonzero(request.read):
            token = self.tokenizer.hf.decode([int(request.token_ids[place])])
            before = self.tokenizer.hf.decode(request.token_ids[:place].tolist())
            logprobs[place] = -1.0 if self.likely is None else self.likely(before, token)
        return Scores(logprobs=logprobs, top1=None)


def last_action(prompt: str) -> str:
    """The action in front of the answer that a prompt asks for, in SmolLM2's template."""
    return prompt.removesuffix(ACTION_END).rpartition("<|im_start|>assistant\n")[2]


def said(text: str) -> Message:
    """An assistant turn."""
    return Message(role="assistant", segments=(Segment(source=Source.POLICY, text=text),))


def answered(output: str, *, status: int = 0) -> Message:
    """An answer of the terminal world."""
    segments = [Segment(source=Source.STDOUT if not status else Source.STDERR, text=output)] if output else []
    if status:
        break_before = "" if output.endswith("\n") or not output else "\n"
        segments.append(Segment(source=Source.STATUS, text=f"{break_before}[exit status {status}]"))
    return Message(role="user", segments=tuple(segments))


def shell_episode(name: str, turns: Sequence[tuple[str, Message]], *, task: str | None = None) -> Trajectory:
    """An episode of commands and answers behind a system message and a task."""
    opening = (
        Message(role="system", segments=(Segment(source=Source.SYSTEM, text="A shell."),)),
        Message(role="user", segments=(Segment(source=Source.TASK, text="Look around."),)),
    )
    messages = [message for command, answer in turns for message in (said(command), answer)]
    return Trajectory(id=name, task_id=task or name, messages=(*opening, *messages), metadata={"world": "terminal"})
