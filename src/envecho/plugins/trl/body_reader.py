"""Log-probs at T = 1 from the hidden states of the forward pass that TRL makes anyway.

TRL never shows logits: its fused head returns log-probs at the sampling temperature, from which those at T = 1 cannot
be computed. So a hook behind the model's body takes the hidden states as they pass, and reads the targets from them
with the output embedding, in chunks (`losses.batch_loss`, the code of the local engine). Body and attention run once;
the head is applied once more, to the targets alone. The hook runs inside the model's own forward, where a sharded
model has its weights.

A forward that never calls the body as a module would leave ECHO without hidden states: that is an error, not a zero.
Not here: weights (`step_weights`).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from envecho.errors import EngineError
from envecho.losses import BatchLoss, PolicyLossSpec, WeightedBatch, batch_loss

_PROBE_LENGTH = 8


@dataclass(kw_only=True)
class Reading:
    """One micro-batch that is to be read in the next forward pass, and what was read."""

    batch: WeightedBatch
    found: list[BatchLoss] = field(default_factory=list[BatchLoss])

    @property
    def result(self) -> BatchLoss:
        """What was read.

        Raises:
            EngineError: the forward pass did not show its hidden states, or there was more than one.
        """
        if len(self.found) != 1:
            raise EngineError(
                f"TRL scored a batch with {len(self.found)} calls of the model's body as a module, expected 1. A fused"
                " or compiled forward that bypasses the body hides the hidden states, and ECHO would be inert; turn it"
                " off"
            )
        return self.found[0]


@final
class BodyReader:
    """Reads the hidden states behind the body of a causal language model.

    Args:
        model: the model under any wrapper, as TRL patches it.
        head_in_float32: apply the head in float32, as `cast_lm_head_to_fp32` does for TRL's own log-probs.

    Raises:
        EngineError: the model's logits are not its output embedding applied to its last hidden state.
    """

    def __init__(self, model: PreTrainedModel, *, head_in_float32: bool) -> None:
        self._model, self._head_in_float32 = model, head_in_float32
        self._softcap: float | None = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
        self._open: Reading | None = None
        self._check_head()
        model.base_model.register_forward_hook(self._after_body)

    @contextmanager
    def reading(self, batch: WeightedBatch) -> Generator[Reading]:
        """Read this batch in the forward pass that the block makes; its tokens are the rows of the pass, joined."""
        self._open = Reading(batch=batch)
        try:
            yield self._open
        finally:
            self._open = None

    def _after_body(self, body: torch.nn.Module, args: Any, output: Any) -> None:
        if self._open is None:
            return
        hidden: Tensor = output.last_hidden_state
        if self._head_in_float32:
            hidden = hidden.float()
        weight, bias = self._head()
        found = batch_loss(hidden.flatten(0, 1), weight, self._open.batch, head_bias=bias, softcap=self._softcap)
        self._open.found.append(found)

    def _head(self) -> tuple[Tensor, Tensor | None]:
        head: Any = self._model.get_output_embeddings()
        weight, bias = head.weight, getattr(head, "bias", None)
        if isinstance(weight, DTensor):
            raise EngineError(
                "the output embedding is still sharded where the model's body ends, so its gradient would be that of"
                " one process alone; let FSDP wrap the layers and the whole model, not the head by itself"
            )
        return weight, bias

    @torch.no_grad()
    def _check_head(self) -> None:
        weight, bias = self._head()
        if weight.is_meta or not weight.numel():
            return  # another process holds the weights, and checks them
        ids = (torch.arange(1, _PROBE_LENGTH + 1, device=weight.device) % weight.shape[0])[None]
        training = self._model.training
        self._model.eval()
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        found = torch.nn.functional.linear(hidden.to(weight.dtype), weight, bias).float()
        if self._softcap is not None:
            found = self._softcap * torch.tanh(found / self._softcap)
        expected = self._model(input_ids=ids, use_cache=False).logits.float()
        self._model.train(training)
        if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
            raise EngineError(
                f"the logits of {type(self._model).__name__} are not its output embedding applied to its last hidden"
                " state (a scale or a second head is in between), so the environment term cannot be read exactly"
            )


def env_batch(token_ids: Tensor, env_weights: Tensor, env_targets: Tensor, *, nll_clip: float | None) -> WeightedBatch:
    """Return rows `[row, token]` as a batch of the environment term alone; weights and targets are of completions.

    `env_weights` and `env_targets` `[row, completion token]` belong to the last tokens of each row.
    """
    rows, length = token_ids.shape
    before = length - env_weights.shape[1]
    zeros = torch.zeros(rows * length, device=token_ids.device)
    return WeightedBatch(
        token_ids=token_ids.flatten(),
        positions=torch.arange(length, device=token_ids.device).repeat(rows),
        sequence_index=torch.arange(rows, device=token_ids.device).repeat_interleave(length),
        policy_weights=zeros,
        advantages=zeros,
        env_weights=torch.nn.functional.pad(env_weights, (before, 0)).flatten(),
        env_targets=torch.nn.functional.pad(env_targets, (before, 0)).flatten(),
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=zeros,
        policy_loss=PolicyLossSpec(env_nll_clip=nll_clip),
    )
