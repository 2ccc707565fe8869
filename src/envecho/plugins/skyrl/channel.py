"""How marks and weights of the environment's tokens reach SkyRL's loss.

SkyRL hands its loss log-probs, advantages, `loss_mask` and `rollout_logprobs`, and nothing else: a further tensor of a
batch is dropped before the worker. But where `loss_mask` is 0 `rollout_logprobs` is a placeholder that nothing reads,
and a log-prob is never positive. So a positive number there is ours:

    generator's output   1 an observation that is a target, 2 an observation that is none
    trainer -> loss      the weight of the token in the loss: lambda and normaliser folded in, 0 elsewhere

Every release carries this field through concatenation, filters, merges and padding. Not here: what a token is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from envecho.errors import DataError

TARGET: Final = 1.0
OBSERVED: Final = 2.0


class Marks(NamedTuple):
    """Which response tokens are which, bool `[row token]`; a target is an observation, too."""

    targets: Tensor
    observations: Tensor


def with_env_masks(
    output: Mapping[str, Any], targets: Sequence[Sequence[int]], observations: Sequence[Sequence[int]] | None = None
) -> dict[str, Any]:
    """Return a generator's output whose observations are marked; everything else stays as it is.

    `targets` marks, for each response, the tokens that the environment term trains; `observations` all that the world
    said, harness words included, which only the rule `reference_sequence_mean` counts (None: the targets).

    Example: one command, its output in the template's scaffold.

        response_ids      ls   -1   <e>   <a>   a.log  \\n   <e>
        loss_masks        1    1    1     0     0      0     0
        targets           0    0    0     0     1      1     0
        rollout_logprobs  -.1  -.7  -.0   0     1      1     0

    Raises:
        DataError: there are no log-probs to carry the marks, a mask has another length than its response, or a token
            is both the policy's and the world's.
    """
    if output.get("rollout_logprobs") is None:
        raise DataError(
            "the generator's output has no rollout_logprobs, in which marks travel: set"
            " generator.sampling_params.logprobs=1"
        )
    marked: list[list[float]] = []
    shown = targets if observations is None else observations
    for number, (logprobs, loss_mask) in enumerate(zip(output["rollout_logprobs"], output["loss_masks"], strict=True)):
        row = [float(value) for value in logprobs]
        if not len(row) == len(loss_mask) == len(targets[number]) == len(shown[number]):
            raise DataError(f"the masks are not as long as the response of {len(row)} tokens", turn=number)
        for place, trained in enumerate(loss_mask):
            code = TARGET if targets[number][place] else OBSERVED if shown[number][place] else 0.0
            if trained and code:
                raise DataError(f"token {place} is the policy's and the world's at once", turn=number)
            if not trained:
                row[place] = code
        marked.append(row)
    return {**output, "rollout_logprobs": marked}


def read_marks(rollout_logprobs: Tensor, loss_mask: Tensor) -> Marks:
    """Return what the generator marked, from SkyRL's padded tensors `[row token]`.

    A token is read as marked whatever its loss mask became since: SkyRL's filters set whole rows to 0.
    """
    code = torch.where(loss_mask > 0, torch.zeros_like(rollout_logprobs), rollout_logprobs)
    return Marks(targets=code == TARGET, observations=(code == TARGET) | (code == OBSERVED))


def with_weights(rollout_logprobs: Tensor, loss_mask: Tensor, weights: Tensor) -> Tensor:
    """Return the log-probs of the policy's tokens, and at all others the weight in the loss, 0 or more."""
    return torch.where(loss_mask > 0, rollout_logprobs, weights.to(rollout_logprobs))


def split_weights(rollout_logprobs: Tensor, loss_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return `(rollout_logprobs, weights)`: the first with SkyRL's placeholder 0 where its mask is 0."""
    trained = loss_mask > 0
    zeros = torch.zeros_like(rollout_logprobs)
    return torch.where(trained, rollout_logprobs, zeros), torch.where(trained, zeros, rollout_logprobs)
