"""The room's front: a trajectory, or the messages so far, to ids with one source per token.

Not here: how (`marks`, `spans`, `render`, `branches`, `windows`), and what the tokens are worth (`envecho.objective`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError
from envecho.tokens.branches import Branch, render_open, split_branches
from envecho.tokens.chat import ChatTokenizer
from envecho.tokens.exact import exact_arrays
from envecho.tokens.render import TokenArrays, encode_rendering
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.tokens.windows import split_windows
from envecho.trajectory import Message, Trajectory


def tokenize_trajectory(
    trajectory: Trajectory, tokenizer: ChatTokenizer, *, max_tokens: int | None = None
) -> list[TokenizedTrajectory]:
    """Turn an episode into sequences of ids with one source per token: its branches, each in its windows.

    Over all sequences every observation and every action is owned exactly once (`owned_mask`). Sampled turns keep their
    ids and log-probs. Of a token-exact trajectory (`Trajectory.branches`) the ids are kept as they are.

    Args:
        max_tokens: the model's context; longer sequences become overlapping windows. None: no limit.

    Raises:
        TemplateError: the chat template's text cannot be followed character by character; it names the message.
        DataError: the sampled turns state more than one temperature, or exact ids are of another tokenizer.
    """
    temperature = _temperature(trajectory)
    if trajectory.branches:
        pairs = zip(exact_arrays(trajectory, tokenizer), trajectory.branches, strict=True)
        sequences = [
            _sequence(trajectory, arrays, number, temperature, owned_from=branch.owned_from)
            for number, (arrays, branch) in enumerate(pairs)
        ]
    else:
        branches = split_branches(trajectory.messages, tokenizer, tools=trajectory.tools)
        sequences = [
            _tokenize_branch(trajectory, branch, number, tokenizer, temperature)
            for number, branch in enumerate(branches)
        ]
    return [window for sequence in sequences for window in split_windows(sequence, max_tokens)]


def render_prompt(
    messages: Sequence[Message], tokenizer: ChatTokenizer, *, tools: Sequence[Mapping[str, Any]] = ()
) -> NDArray[np.int32]:
    """Ids `[token]` from which the next action is sampled: the messages and the generation prompt.

    Sampled turns stand in it with their own ids, unless the template rewrites them, so an action sampled from this
    prompt stands behind the same ids in `tokenize_trajectory`.

    Raises:
        TemplateError: the chat template's text cannot be followed character by character.
    """
    rendering, kept_turns = render_open(messages, tokenizer, tools=tools)
    return encode_rendering(rendering, messages, tokenizer, kept_turns=kept_turns).token_ids


def _tokenize_branch(
    trajectory: Trajectory, branch: Branch, number: int, tokenizer: ChatTokenizer, temperature: float | None
) -> TokenizedTrajectory:
    arrays = encode_rendering(branch.rendering, trajectory.messages, tokenizer, kept_turns=branch.kept_turns)
    new = np.flatnonzero(arrays.turns >= branch.first) if branch.first else np.zeros(1, dtype=np.int64)
    owned_from = int(new[0]) if len(new) else len(arrays.token_ids)
    sequence = _sequence(trajectory, arrays, number, temperature, owned_from=owned_from)
    return replace(sequence, context_truncated=branch.context_differs)


def _sequence(
    trajectory: Trajectory, arrays: TokenArrays, number: int, temperature: float | None, *, owned_from: int
) -> TokenizedTrajectory:
    return TokenizedTrajectory(
        trajectory_id=trajectory.id,
        task_id=trajectory.task_id,
        group_id=trajectory.group_id,
        reward=trajectory.reward,
        branch=number,
        window=0,
        owned_from=owned_from,
        context_truncated=False,
        token_ids=arrays.token_ids,
        sources=arrays.sources,
        turns=arrays.turns,
        num_bytes=arrays.num_bytes,
        sampling_logprobs=arrays.sampling_logprobs,
        sampling_entropies=arrays.sampling_entropies,
        sampling_temperature=temperature,
        stop_reason=trajectory.stop_reason,
        turn_tools=tuple(
            tuple(sorted({segment.tool for segment in message.segments if segment.tool is not None}))
            for message in trajectory.messages
        ),
    )


def _temperature(trajectory: Trajectory) -> float | None:
    stated = {message.sampled.temperature for message in trajectory.messages if message.sampled is not None}
    if len(stated) > 1:
        raise DataError(
            f"trajectory {trajectory.id!r} was sampled at temperatures {sorted(map(str, stated))}, expected one for "
            "all its turns; split it into one trajectory per temperature"
        )
    return stated.pop() if stated else None
