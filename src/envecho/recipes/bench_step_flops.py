"""What a training step should cost, counted: model FLOPs of the body, and of the head per token that is read.

    linear layers    2 * weights * tokens
    attention        4 * heads * head size * layers * (pairs of a token and one that it sees)
    head             2 * vocabulary * hidden size * tokens that are read

forward, and twice that backward. Recomputation (gradient checkpointing, kernels that compute scores or logits twice) is
not counted, nor are norms, activations, rotations and softmax. Not here: any measurement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from envecho.engines.quiet import quiet_transformers
from envecho.errors import EngineError

_PASSES: Final = 3
"""A forward pass, and a backward pass of twice its cost."""


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The sizes of a dense decoder that its FLOPs depend on; `linear_weights` without those of the head."""

    linear_weights: int
    attention_width: int
    num_layers: int
    vocab_size: int
    hidden_size: int

    def body_flops(self, lengths: Sequence[int]) -> int:
        """Return the FLOPs of a forward and backward pass of the body over sequences of these lengths."""
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        linear = 2 * self.linear_weights * sum(lengths)
        return _PASSES * (linear + 4 * self.attention_width * self.num_layers * pairs)

    def head_flops(self, num_read: int) -> int:
        """Return the FLOPs of reading so many tokens, forward and backward."""
        return _PASSES * 2 * self.vocab_size * self.hidden_size * num_read


def sizes_of(folder: Path) -> ModelSizes:
    """Return the sizes of the model of a folder, whose weights are not loaded.

    Raises:
        EngineError: a layer has weights of other shapes than linear layers have (experts), which would go uncounted.
    """
    with quiet_transformers(), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder)
        network: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    text = config.get_text_config()
    head = network.get_output_embeddings()
    assert head is not None
    vocab_size, hidden_size = head.weight.shape  # pyright: ignore[reportGeneralTypeIssues]
    linear = [module for module in network.base_model.modules() if isinstance(module, torch.nn.Linear)]
    counted = {id(module.weight) for module in linear} | {id(head.weight)}
    counted.add(id(network.get_input_embeddings().weight))
    left = [name for name, value in network.named_parameters() if value.dim() > 1 and id(value) not in counted]
    if left:
        raise EngineError(f"FLOPs are counted for dense models of linear layers; {left[0]} of {folder} is of none")
    width = text.num_attention_heads * (getattr(text, "head_dim", None) or hidden_size // text.num_attention_heads)
    return ModelSizes(
        linear_weights=sum(module.weight.numel() for module in linear),
        attention_width=width,
        num_layers=text.num_hidden_layers,
        vocab_size=int(vocab_size),
        hidden_size=int(hidden_size),
    )
