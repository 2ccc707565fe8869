"""Gradient checkpointing: activations of all layers, or of as many as a budget asks for, are computed again.

What a layer keeps for its backward pass is measured once, in a forward pass of a few tokens, so it is right whatever
the architecture, the dtype and the parameters that are trained. Not here: what a micro-batch is (`micro_batches`).
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from envecho.engines.attention import Segment, laid_out
from envecho.engines.model import CausalModel, refuse_dropout
from envecho.errors import EngineError

_PROBE_TOKENS = 32


def checkpoint_all(model: CausalModel) -> None:
    """Checkpoint every layer.

    Raises:
        EngineError: the model's configuration asks for dropout.
    """
    network = model.network
    refuse_dropout(network)
    with warnings.catch_warnings():
        # Its new name exists in recent releases alone; this one works in all from 5.2 up to 6.
        warnings.simplefilter("ignore", FutureWarning)
        network.gradient_checkpointing_enable({"use_reentrant": False})
    # transformers recomputes in training mode alone; without dropout that mode changes nothing else.
    network.train()


def checkpoint_by_budget(model: CausalModel, *, num_tokens: int, megabytes: int) -> int:
    """Checkpoint as few layers as keep the activations of `num_tokens` within the budget; return how many.

    Activations are what the body keeps for its backward pass, and what one layer makes again of its own.

    Raises:
        EngineError: the budget is too small even where every layer is checkpointed; the model asks for dropout, or has
            no layers that transformers can checkpoint.
    """
    layers = [module for module in model.network.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise EngineError(
            f"{type(model.network).__name__} has no layers that can be checkpointed one by one; leave"
            " activation_memory_mb out"
        )
    whole, states = activation_bytes(model)
    per_layer = whole / len(layers)
    budget = megabytes * 1e6 / num_tokens
    for count in range(len(layers) + 1):
        kept = (len(layers) - count) * per_layer + count * states + (per_layer if count else 0)
        if kept <= budget:
            break
    else:
        least = (len(layers) * states + per_layer) * num_tokens / 1e6
        raise EngineError(
            f"activation_memory_mb is {megabytes}, but {num_tokens} tokens need {least:,.0f} MB even with every layer"
            " checkpointed; lower tokens_per_micro_batch"
        )
    if count:
        checkpoint_all(model)
        for layer in layers[count:]:
            layer.gradient_checkpointing = False
    return count


def activation_bytes(model: CausalModel) -> tuple[float, float]:
    """Return the bytes that the body keeps for each token of a training pass, and those of one state `[hidden]`."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.network.parameters()}
    kept: dict[int, int] = {}

    def keep(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return value

    ids = torch.ones(1, _PROBE_TOKENS, dtype=torch.int64, device=model.device)
    row = [Segment(start=0, stop=_PROBE_TOKENS)] if model.lays_flat else None
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), laid_out(row):
        states = model.hidden(ids)
        total = sum(kept.values())
        del states
    width = model.head_weight.shape[1] * model.head_weight.element_size()
    return total / _PROBE_TOKENS, float(width)
