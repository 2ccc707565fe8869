"""OpenAI's `/v1/completions` with token ids in and out: the part that `vllm` and `openai` share.

Ids come back as `choices[0].token_ids`, else as `token_id:N` in `logprobs.tokens`, else as `logprobs.content[].id`;
which of them a server has, the reader finds. Not here: what only one server knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from envecho.rollout.served.dialect import Answer, AnswerError, Turn, dig

ROUTE: Final = "/v1/completions"

_OF: Final = f"the answer of {ROUTE}"
_PREFIX: Final = "token_id:"


def completion_body(turn: Turn, model: str | None) -> dict[str, Any]:
    """Return the fields that every server of completions knows, and those that ask for token ids."""
    return {
        **({} if model is None else {"model": model}),
        "prompt": list(turn.prompt),
        "max_tokens": turn.max_tokens,
        "temperature": turn.temperature,
        "top_p": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "seed": turn.seed,
        "logprobs": max(1, turn.num_top),
        "stream": False,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        **({"stop_token_ids": list(turn.stop_token_ids)} if turn.stop_token_ids else {}),
    }


def read_completion(reply: Any) -> Answer:
    """Read the one choice of an answer."""
    choice = dig(reply, "choices", 0, of=_OF)
    told = dig(choice, "logprobs", of=f"{_OF}, choices.0,")
    if "content" in told:
        ids, logprobs, top = _read_content(dig(told, "content", of=_OF))
    else:
        logprobs = [float(value) for value in dig(told, "token_logprobs", of=f"{_OF}, choices.0.logprobs,")]
        ids = choice.get("token_ids") or _named_ids(told.get("tokens") or [])
        top = told.get("top_logprobs") or []
    return Answer(
        token_ids=tuple(int(token) for token in ids),
        logprobs=tuple(logprobs),
        top=tuple(cast(Mapping[str, float], entry or {}) for entry in top),
        is_cut=choice.get("finish_reason") == "length",
    )


def _named_ids(names: list[Any]) -> list[int]:
    if not all(isinstance(name, str) and name.startswith(_PREFIX) for name in names):
        raise AnswerError(
            f"{_OF} has no token ids: neither choices.0.token_ids nor {_PREFIX}N in choices.0.logprobs.tokens"
            f" (found {names[:3]}); the text alone does not say which tokens were drawn"
        )
    return [int(name.removeprefix(_PREFIX)) for name in names]


def _read_content(content: list[Any]) -> tuple[list[int], list[float], list[dict[str, float]]]:
    where = f"{_OF}, choices.0.logprobs.content,"
    ids = [int(dig(entry, "id", of=where)) for entry in content]
    logprobs = [float(dig(entry, "logprob", of=where)) for entry in content]
    top = [
        {str(other.get("id")): float(other["logprob"]) for other in entry.get("top_logprobs") or []}
        for entry in content
    ]
    return ids, logprobs, top
