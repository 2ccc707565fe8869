"""Token ids and log-probs as files hold them, under the names that trainers and servers give them.

    prompt_ids, prompt_token_ids              completion_ids, completion_token_ids, response_ids, output_ids
    logprobs, completion_logprobs, response_logprobs, rollout_logprobs, sampling_logprobs

Not here: what follows from them (`exact`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from envecho.errors import DataError

PROMPT = ("prompt_ids", "prompt_token_ids", "input_ids")
COMPLETION = ("completion_ids", "completion_token_ids", "response_ids", "response_token_ids", "output_ids")
LOGPROBS = ("logprobs", "completion_logprobs", "response_logprobs", "rollout_logprobs", "sampling_logprobs")
MASK = ("tool_mask", "env_mask", "response_mask", "loss_mask", "loss_masks", "completion_mask")
"""1 where the model wrote: TRL, verl, SkyRL."""


def field(row: Mapping[str, Any], names: Sequence[str]) -> tuple[str, Any] | None:
    """Return the first of these fields that is there and not null, with its name."""
    return next(((name, row[name]) for name in names if row.get(name) is not None), None)


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number (true and false are none)."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_call(row: Any) -> bool:
    """Whether an object holds the ids of a prompt and of a completion."""
    if not isinstance(row, Mapping):
        return False
    prompt, completion = field(row, PROMPT), field(row, COMPLETION)
    return prompt is not None and completion is not None and isinstance(prompt[1], list)


def ids(row: Mapping[str, Any], names: Sequence[str], place: int) -> tuple[int, ...]:
    """Return the ids of the first of these fields.

    Raises:
        DataError: it is missing, or no list of whole numbers from 0 on.
    """
    found = field(row, names)
    if found is None:
        raise DataError(f"expected token ids under {' or '.join(names[:2])}, found none", turn=place)
    name, values = found
    if not isinstance(values, list):
        raise DataError(f"{name}: expected a list of token ids, found {type(values).__name__}", turn=place)
    for k, value in enumerate(values):
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**31:
            raise DataError(f"{name}[{k}]: expected a token id from 0 on, found {value!r:.40}", turn=place)
    return tuple(values)


def logprobs(row: Mapping[str, Any]) -> tuple[float, ...] | None:
    """Return the log-probs, None where they are missing or no list of numbers (a server's own shape has more)."""
    found = field(row, LOGPROBS)
    values = found[1] if found else None
    if isinstance(values, Mapping):
        values = values.get("content")
    if not isinstance(values, list):
        return None
    numbers: list[Any] = [value.get("logprob") if isinstance(value, Mapping) else value for value in values]
    return tuple(map(float, numbers)) if all(map(is_number, numbers)) else None


def known_logprobs(values: Sequence[float] | None, num_ids: int) -> tuple[float, ...] | None:
    """Return the log-probs if they are one for each id, finite and at most 0; others cannot be aligned or are none."""
    if values is None or len(values) != num_ids or not all(math.isfinite(x) and x <= 1e-6 for x in values):
        return None
    return tuple(float(min(x, 0.0)) for x in values)


def temperature(row: Mapping[str, Any]) -> float | None:
    """Return the sampling temperature that a row states, beside the ids or under `sampling_params`."""
    params = row.get("sampling_params") or row.get("sampling_args")
    for source in (row, params if isinstance(params, Mapping) else {}):
        value: Any = source.get("temperature")
        if is_number(value) and value >= 0:
            return float(value)
    return None
