"""What a server's dialect has to say: how one turn is asked for, how the answer reads, and how weights are taken.

    Turn -> Call -> HTTP -> JSON -> Answer

One file per dialect: `vllm`, `sglang`, `llama_cpp`, `openai`. Not here: HTTP (`wire`), what a server really does
(`probe` measures it), and what an answer must be to be trained on (`sampler`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Protocol, cast

from envecho.errors import EngineError
from envecho.rollout.served.wire import Wire

ServerKind = Literal["vllm", "sglang", "llama_cpp", "openai"]
"""The dialects: vLLM, SGLang, the server of llama.cpp, and OpenAI's completions with token ids."""


NAME_PREFIX: Final = "envecho-"
"""With what the names of pushes begin, so that an adapter of ours is told from one that is served anyway."""


class AnswerError(EngineError):
    """An answer of the server lacks what a turn needs, or holds what it cannot."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One continuation to ask for: draws from softmax(logits / temperature), whole, without penalties.

    `num_top` asks for the log-probs of that many of the most likely tokens beside the drawn one. `salt` names the
    weights, so that a cache of prompts filled under others is not read.
    """

    prompt: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int
    stop_token_ids: tuple[int, ...] = ()
    num_top: int = 0
    salt: str = ""


@dataclass(frozen=True, kw_only=True)
class Call:
    """One POST."""

    path: str
    body: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server drew: ids `[token]`, their log-probs, and per token the most likely ones by name.

    `is_cut` says that the limit of tokens ended it, `has_own_end` that an end token of the server's own did, which is
    the last id.
    """

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[Mapping[str, float], ...] = ()
    is_cut: bool
    has_own_end: bool = False


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a server states about itself; None is what it does not state."""

    version: str | None
    model: str | None
    max_context_tokens: int | None


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights to load: a folder as the server calls it, and a name that no other push to this server has."""

    folder: str
    is_adapter: bool
    name: str


class Dialect(Protocol):
    """One way to talk to a server.

    `most_top` is the most `num_top` that servers of this kind answer without being told to; `cannot_push` says why none
    of them takes new weights while it runs, None where it does.
    """

    most_top: ClassVar[int]
    cannot_push: ClassVar[str | None]

    def identify(self, wire: Wire) -> Identity:
        """Ask the server who it is."""
        ...

    def call(self, turn: Turn, model: str | None) -> Call:
        """Return the request of a turn; `model` is the served name."""
        ...

    def read(self, reply: Any) -> Answer:
        """Read the answer of `call`.

        Raises:
            AnswerError: it has no token ids or no log-probs, or they do not belong together.
        """
        ...

    def push(self, wire: Wire, weights: Weights, *, model: str | None) -> str | None:
        """Have the server load weights; return the served model's name from now on.

        Raises:
            EngineError: the server does not.
        """
        ...


def dig(reply: Any, *path: str | int, of: str) -> Any:
    """Return what lies at a path of keys and places in JSON.

    Raises:
        AnswerError: nothing lies there.
    """
    value = reply
    for step in path:
        if isinstance(step, str) and isinstance(value, Mapping):
            value = cast(Mapping[str, Any], value).get(step)
        elif isinstance(step, int) and isinstance(value, Sequence) and not isinstance(value, str):
            items = cast(Sequence[Any], value)
            value = items[step] if -len(items) <= step < len(items) else None
        else:
            value = None
        if value is None:
            raise AnswerError(f"{of} has no {'.'.join(map(str, path))}")
    return value
