"""Who takes a benchmark's training step: our engine with and without ECHO, all logits at once, and the body by itself.

`all-logits` is the way that examples of the objective compute it (OpenEnv's RFC 010, arXiv:2605.24517's recipe): the
logits of every position in float32, log-softmax over all of them, the labels gathered, then masks. It has the engine's
body, masters, micro-batches and optimiser, so that what differs is the reading. `body` has neither head nor masters nor
optimiser. Not here: TRL's trainer (`bench_step_trl`), and clocks (`bench_step`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol, final

import torch
from numpy.typing import NDArray
from torch import Tensor

from envecho.engines.checkpointing import checkpoint_all
from envecho.engines.local import LocalEngine
from envecho.engines.micro_batches import MicroBatch, split_batch, split_flat, take, without_env
from envecho.engines.model import CausalModel, load_causal_model
from envecho.engines.precision import MasterWeights, choose_compute_dtype, choose_device
from envecho.engines.pretrained import resolve_model
from envecho.engines.token_forest import forests_are_exact
from envecho.losses import WeightedBatch
from envecho.recipes.bench_step_cases import StepCase
from envecho.seam import AdamParams

STEP_PARAMS: Final = AdamParams(learning_rate=1e-6)
"""Of every subject; so small that the last step of a benchmark costs what the first one did."""


class Subject(Protocol):
    """Takes steps in two parts, which are timed apart."""

    def prepare(self, batch: WeightedBatch) -> Any:
        """Return a batch as `run_pass` takes it; not timed."""
        ...

    def run_pass(self, prepared: Any) -> None:
        """Add the gradient of a batch to what is accumulated: forward and backward, micro-batch by micro-batch."""
        ...

    def run_optimizer(self) -> float | None:
        """Clip, apply one AdamW step and clear; return the norm of the gradient, or None where there is no step."""
        ...

    def gradients(self) -> Mapping[str, NDArray[Any]]:
        """The accumulated gradient, by the parameter's name."""
        ...


@final
class EngineStep:
    """`LocalEngine` on the batch as it is, or on its policy side alone: plain GRPO, where nothing else is read."""

    def __init__(self, model: str, case: StepCase, *, with_env: bool) -> None:
        self._with_env = with_env
        self._engine = LocalEngine(
            model,
            compute_dtype=case.dtype,
            tokens_per_micro_batch=case.micro_batch_tokens,
            gradient_checkpointing=case.checkpointing,
        )

    def prepare(self, batch: WeightedBatch) -> WeightedBatch:
        """Leave the observations out where this is plain GRPO."""
        return batch if self._with_env else without_env(batch)

    def run_pass(self, prepared: WeightedBatch) -> None:
        """See `Subject`."""
        self._engine.forward_backward(prepared)

    def run_optimizer(self) -> float:
        """See `Subject`."""
        return self._engine.optim_step(STEP_PARAMS)

    def gradients(self) -> Mapping[str, NDArray[Any]]:
        """See `Subject`."""
        return self._engine.gradients()


def _load(model: str, case: StepCase, *, in_compute_dtype: bool) -> tuple[CausalModel, torch.dtype]:
    """Return the model with the engine's body, and the dtype that it computes in."""
    device = choose_device("auto")
    dtype = choose_compute_dtype(case.dtype, device)
    load_dtype = dtype if in_compute_dtype else torch.float32
    loaded = load_causal_model(resolve_model(model), dtype=load_dtype, device=device)
    if case.checkpointing:
        checkpoint_all(loaded)
    return loaded, dtype


def _micro_batches(model: CausalModel, batch: WeightedBatch, case: StepCase) -> list[tuple[MicroBatch, WeightedBatch]]:
    """The engine's micro-batches, each sequence of them computed by itself."""
    if forests_are_exact(model):
        found = split_flat(batch, case.micro_batch_tokens, share=False)
    else:
        found = split_batch(batch, case.micro_batch_tokens)
    return [(micro, take(batch, micro.tokens, model.device)) for micro in found]


@final
class AllLogitsStep:
    """ECHO by the log-softmax of all positions."""

    def __init__(self, model: str, case: StepCase) -> None:
        self._case = case
        self._model, dtype = _load(model, case, in_compute_dtype=False)
        self._masters = MasterWeights(self._model.network, dtype)
        self._optimizer = torch.optim.AdamW(
            list(self._masters.trained.values()),
            lr=STEP_PARAMS.learning_rate,
            weight_decay=STEP_PARAMS.weight_decay,
            fused=True,
        )

    def prepare(self, batch: WeightedBatch) -> list[tuple[MicroBatch, WeightedBatch]]:
        """See `Subject`."""
        return _micro_batches(self._model, batch, self._case)

    def run_pass(self, prepared: list[tuple[MicroBatch, WeightedBatch]]) -> None:
        """See `Subject`."""
        for micro, part in prepared:
            with micro.laid_out():
                logits = self._model.logits(micro.hidden(self._model, part)).float()
                _all_logits_loss(logits, part).backward()

    def run_optimizer(self) -> float:
        """See `Subject`."""
        assert STEP_PARAMS.grad_clip_norm is not None
        norm = torch.nn.utils.clip_grad_norm_(self._masters.trained.values(), STEP_PARAMS.grad_clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._masters.publish()
        return float(norm)

    def gradients(self) -> Mapping[str, NDArray[Any]]:
        """See `Subject`."""
        return {name: value.numpy(force=True).copy() for name, value in self._masters.named_gradients().items()}


def _all_logits_loss(logits: Tensor, batch: WeightedBatch) -> Tensor:
    """The loss of a batch with GRPO over the current policy, from logits `[token, vocab]` of every position."""
    logprobs = torch.log_softmax(logits, dim=-1)
    chosen = logprobs[:-1].gather(-1, batch.token_ids[1:, None]).squeeze(-1)
    ratios = torch.exp(chosen - chosen.detach())
    policy = -(ratios * batch.advantages[1:] * batch.policy_weights[1:]).sum()
    return policy - (chosen * batch.env_weights[1:]).sum()


@final
class BodyPass:
    """The body forward, and backward from a gradient of random numbers: no head, no loss, no masters, no optimiser."""

    def __init__(self, model: str, case: StepCase) -> None:
        self._case = case
        self._model, _ = _load(model, case, in_compute_dtype=True)

    def prepare(self, batch: WeightedBatch) -> list[tuple[MicroBatch, WeightedBatch, Tensor]]:
        """Draw the gradient of the hidden states."""
        generator = torch.Generator().manual_seed(self._case.seed)
        weight = self._model.head_weight
        size = weight.shape[1]
        return [
            (micro, part, torch.randn(len(part.token_ids), size, generator=generator).to(weight))
            for micro, part in _micro_batches(self._model, batch, self._case)
        ]

    def run_pass(self, prepared: list[tuple[MicroBatch, WeightedBatch, Tensor]]) -> None:
        """See `Subject`."""
        for micro, part, gradient in prepared:
            with micro.laid_out():
                micro.hidden(self._model, part).backward(gradient)

    def run_optimizer(self) -> None:
        """Clear the gradient."""
        self._model.network.zero_grad(set_to_none=True)

    def gradients(self) -> Mapping[str, NDArray[Any]]:
        """See `Subject`."""
        named = self._model.network.named_parameters()
        return {name: value.grad.float().numpy(force=True).copy() for name, value in named if value.grad is not None}
