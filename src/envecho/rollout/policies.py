"""Policies: scripted ones (oracle, explorer) and the model itself through an engine.

Not here: the episode loop (`episode`), and what a world's explorer draws (`envecho.worlds`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import final

from envecho.seam import Engine, PolicyTurn, SamplingParams
from envecho.tokens import ChatTokenizer, render_prompt
from envecho.trajectory import Message, SampledTokens, Segment, Source


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


@final
class EnginePolicy:
    """The model acts: one assistant turn is one command, or `answer: ...` at the end.

    Token in, token out: the sampled ids and their log-probs are kept in the message exactly. Each turn draws with its
    own seed, made from `seed` and the turn's place, so that an episode can be repeated.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: ChatTokenizer,
        *,
        temperature: float = 1.0,
        max_tokens: int = 48,
        seed: int = 0,
    ) -> None:
        self._engine, self._tokenizer = engine, tokenizer
        self._temperature, self._max_tokens, self._seed = temperature, max_tokens, seed

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Sample the next turn from the model."""
        prompt = render_prompt(messages, self._tokenizer)
        end = self._tokenizer.end_of_turn_id
        params = SamplingParams(
            max_tokens=self._max_tokens,
            temperature=self._temperature,
            seed=self._seed * 1_000_003 + len(messages),
            stop_token_ids=(end,),
        )
        (sample,) = self._engine.sample([prompt], params)
        ids = [int(token) for token in sample.token_ids]
        text_ids = ids[:-1] if ids and ids[-1] == end else ids
        text = self._tokenizer.hf.decode(text_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        sampled = SampledTokens(
            token_ids=tuple(ids),
            logprobs=tuple(min(0.0, float(value)) for value in sample.logprobs),
            temperature=self._temperature,
        )
        segments = (Segment(source=Source.POLICY, text=str(text)),)
        return PolicyTurn(message=Message(role="assistant", segments=segments, sampled=sampled))
