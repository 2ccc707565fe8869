"""What echo-rl's generator writes, read as token sequences: its masks are taken at their word, no text is needed.

    echo-rl's interaction          generator output            here
    completion_masks               loss_masks                  the policy's tokens
    completion_env_output_masks    world_env_masks             tool_result: all text of an observation but its warnings
    completion_warning_masks       world_warning_masks         harness_notice: the `WARNINGS:` prefix
    completion_observation_masks   world_loss_masks            its targets; ours come from `world_loss_target`
    neither                        neither                     scaffold; the prompt is the task

Under the target `reference` exactly the tokens of its `env_only` are trained. Source: echo_rl/terminal_agent of
github.com/microsoft/echo-rl. Not here: rows that we write (`skyrl`), and traces of text (`envecho.formats`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.trajectory import Source, StopReason

_COLUMNS: Final[dict[str, tuple[str, str]]] = {
    "prompt": ("prompt_token_ids", "prompt_token_ids"),
    "response": ("response_ids", "completion_token_ids"),
    "actions": ("loss_masks", "completion_masks"),
    "env": ("world_env_masks", "completion_env_output_masks"),
    "warnings": ("world_warning_masks", "completion_warning_masks"),
    "logprobs": ("rollout_logprobs", "completion_logprobs"),
    "reward": ("rewards", "reward"),
    "stop": ("stop_reasons", "stop_reason"),
    "ids": ("trajectory_ids", "trajectory_id"),
}
"""Each field under its name in a generator's output (one list per field) and in an interaction (one episode)."""

_STOPS: Final = {
    "stop": StopReason.COMPLETED,
    "done": StopReason.COMPLETED,
    "length": StopReason.MAX_TOKENS,
    "max_total_tokens": StopReason.MAX_TOKENS,
    "max_context_tokens": StopReason.MAX_TOKENS,
    "max_turns": StopReason.MAX_TURNS,
    "timeout": StopReason.TIMEOUT,
    "error": StopReason.WORLD_ERROR,
    "env_setup_error": StopReason.WORLD_ERROR,
}


def is_generator_output(document: Any) -> bool:
    """Whether a JSON object is a generator's output, one of its rows or an interaction, with echo-rl's masks."""
    if not isinstance(document, Mapping):
        return False
    return any(_COLUMNS["response"][form] in document and _COLUMNS["env"][form] in document for form in (0, 1))


def sequences_of(document: Mapping[str, Any], *, temperature: float | None = None) -> list[TokenizedTrajectory]:
    """Return the sequences of a generator's output (lists of rows), of one of its rows, or of an interaction.

    `temperature` is that of the sampler, which no output states; without it a policy term cannot use the log-probs.

    Raises:
        DataError: a field is missing or has another length than the response; `turn` is the row.
    """
    form = 0 if _COLUMNS["response"][0] in document else 1
    row: dict[str, Any] = {name: document.get(names[form]) for name, names in _COLUMNS.items()}
    for name in ("prompt", "response", "actions", "env"):
        if row[name] is None:
            raise DataError(f"expected {_COLUMNS[name][form]} beside the ids, found none")
    if form == 1 or not _is_nested(row["response"]):
        return [_sequence(row, 0, temperature)]
    num_rows = len(row["response"])
    for name, values in row.items():
        if values is not None and len(values) != num_rows:
            raise DataError(f"{_COLUMNS[name][0]} has {len(values)} rows, expected {num_rows}")
    rows = [{n: None if v is None else v[k] for n, v in row.items()} for k in range(num_rows)]
    return [_sequence(row, k, temperature) for k, row in enumerate(rows)]


def _is_nested(values: Any) -> bool:
    return isinstance(values, Sequence) and bool(values) and isinstance(values[0], Sequence)


def _sequence(row: Mapping[str, Any], number: int, temperature: float | None) -> TokenizedTrajectory:
    prompt, response = list(row["prompt"]), list(row["response"])
    masks = {name: _mask(row[name], len(response), name, number) for name in ("actions", "env", "warnings")}
    sources = np.full(len(response), Source.SCAFFOLD.code, dtype=np.uint8)
    for name, source in (("env", Source.TOOL_RESULT), ("warnings", Source.HARNESS_NOTICE), ("actions", Source.POLICY)):
        sources[masks[name]] = source.code
    n = len(prompt) + len(response)
    logprobs = np.full(n, np.nan, dtype=np.float32)
    if row["logprobs"] is not None:
        stated = np.array(row["logprobs"], dtype=np.float32)
        if len(stated) != len(response):
            raise DataError(f"log-probs: {len(stated)} for {len(response)} tokens", turn=number)
        logprobs[len(prompt) :] = np.where(masks["actions"], stated, np.nan)
    name, group = _identity(row["ids"], number)
    return TokenizedTrajectory(
        trajectory_id=name,
        task_id=group or name,
        group_id=group,
        reward=_reward(row["reward"]),
        branch=0,
        window=0,
        owned_from=0,
        context_truncated=False,
        token_ids=np.array([*prompt, *response], dtype=np.int32),
        sources=np.concatenate([np.full(len(prompt), Source.TASK.code, dtype=np.uint8), sources]),
        turns=np.full(n, -1, dtype=np.int32),
        num_bytes=np.zeros(n, dtype=np.uint16),
        sampling_logprobs=logprobs,
        sampling_entropies=np.full(n, np.nan, dtype=np.float32),
        sampling_temperature=temperature,
        stop_reason=_STOPS.get(str(row["stop"]), StopReason.UNKNOWN),
    )


def _mask(values: Any, length: int, name: str, number: int) -> NDArray[np.bool_]:
    if values is None:
        return np.zeros(length, dtype=np.bool_)
    if len(values) != length:
        raise DataError(f"{' or '.join(_COLUMNS[name])}: {len(values)} entries for {length} tokens", turn=number)
    return np.array(values) != 0


def _identity(stated: Any, number: int) -> tuple[str, str | None]:
    """The name of a rollout and of its prompt; SkyRL's ids have both."""
    if isinstance(stated, Mapping) and "instance_id" in stated:
        group = str(stated["instance_id"])
        return f"{group}_{stated.get('repetition_id', number)}", group
    return (str(number), None) if stated is None else (str(stated), None)


def _reward(stated: Any) -> float | None:
    """A reward per token, as SkyRL's trainer makes it, is their sum."""
    if stated is None:
        return None
    return float(sum(stated)) if isinstance(stated, Sequence) else float(stated)
