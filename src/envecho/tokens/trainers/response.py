"""A sequence cut into what trainers call prompt and response, with a mask for each question that they ask.

The response begins at the first token that this sequence trains: an action, or what the world said. Tokens of the
sequence that an earlier branch or window owns are in the prompt, so that nothing is trained twice. A mask is about the
token at its place, which is the token that is predicted. Not here: the names that each trainer gives them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.tokens.targets import env_target_mask
from envecho.tokens.tokenized import TokenizedTrajectory
from envecho.trajectory import SOURCES, Role, Source

_SAID_BY_MASKS = {Source.POLICY, Source.SYSTEM, Source.TASK, Source.SCAFFOLD, Source.PADDING, Source.SHELL_PROMPT}
"""Sources of which nobody asks more than their role."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """Prompt and response; masks and log-probs are `[token]` over the response, masks of 0 and 1.

    `action_mask`, `obs_mask` and `warning_mask` are RFC 010's: who wrote the token. `policy_mask` marks the actions
    that a policy term may train: those with a sampling log-prob, in a context that is the one they were sampled in.
    `logprobs` are 0 where no sampler stated one, as trainers expect at masked places; None where none is known.

    Example: one command and its output; the prompt ends with the generation prompt.

        response_ids   ls   -1   <e>   <a>   a.log  \\n   <e>
        action_mask    1    1    1     0     0      0     0
        obs_mask       0    0    0     0     1      1     0
        logprobs      -.1  -.7  -.0    0     0      0     0
    """

    prompt_ids: list[int]
    response_ids: list[int]
    action_mask: list[int]
    policy_mask: list[int]
    obs_mask: list[int]
    warning_mask: list[int]
    logprobs: list[float] | None
    about: dict[str, Any]

    @property
    def has_all_logprobs(self) -> bool:
        """Whether every action of the response may be trained by a policy term."""
        return self.logprobs is not None and self.policy_mask == self.action_mask


def response_of(sequence: TokenizedTrajectory, notes: Counter[str]) -> Response | None:
    """Return the sequence cut in two, or None where it trains nothing; `notes` counts what masks cannot say."""
    action, obs, warning = (sequence.role_mask(r) for r in (Role.ACTION, Role.ENV_OUTPUT, Role.WARNING))
    owned, policy = sequence.owned_mask(), policy_mask(sequence)
    if not (policy | owned & (obs | warning)).any():
        notes["sequences that nothing can be trained on: left out"] += 1
        return None
    start = int(np.flatnonzero(owned & (action | obs | warning))[0])
    known = ~np.isnan(sequence.sampling_logprobs)
    notes["action tokens without log-probs: not in the policy's mask"] += int((action & owned & ~known).sum())
    if sequence.context_truncated:
        notes["action tokens in another context than they were sampled in: not in the policy's mask"] += int(
            (action & owned & known).sum()
        )
    notes["entropies of sampled tokens"] += int((~np.isnan(sequence.sampling_entropies[start:])).sum())
    _note_sources(sequence, owned, notes)
    logprobs = np.where(policy, sequence.sampling_logprobs, 0.0)[start:]
    ids: list[int] = sequence.token_ids.tolist()
    return Response(
        prompt_ids=ids[:start],
        response_ids=ids[start:],
        action_mask=_bits(action[start:]),
        policy_mask=_bits(policy[start:]),
        obs_mask=_bits(env_target_mask(sequence)[start:]),
        warning_mask=_bits(warning[start:]),
        logprobs=[float(value) for value in logprobs] if policy.any() else None,
        about=about(sequence),
    )


def policy_mask(sequence: TokenizedTrajectory) -> NDArray[np.bool_]:
    """Mask `[token]` of the actions that a policy term may train in this sequence."""
    if sequence.context_truncated:
        return np.zeros(len(sequence), dtype=np.bool_)
    return sequence.action_mask & sequence.owned_mask() & ~np.isnan(sequence.sampling_logprobs)


def about(sequence: TokenizedTrajectory) -> dict[str, Any]:
    """Return what names a row, and what no trainer has a field for."""
    return {
        "trajectory_id": sequence.trajectory_id,
        "task_id": sequence.task_id,
        "group_id": sequence.group_id,
        "branch": sequence.branch,
        "sampling_temperature": sequence.sampling_temperature,
        "stop_reason": sequence.stop_reason.value,
    }


def _note_sources(sequence: TokenizedTrajectory, owned: NDArray[np.bool_], notes: Counter[str]) -> None:
    """Count the tokens of which a mask says the role alone."""
    counts = np.bincount(sequence.sources[owned], minlength=len(SOURCES))
    for source, count in zip(SOURCES, counts, strict=True):
        if count and source not in _SAID_BY_MASKS:
            notes[f"tokens of source {source.value}: the masks say {source.role.value}"] += int(count)


def _bits(mask: NDArray[np.bool_]) -> list[int]:
    return mask.astype(np.int64).tolist()
