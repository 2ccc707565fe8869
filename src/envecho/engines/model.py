"""`CausalModel`: a transformers causal language model taken apart into body, head and soft cap.

Any architecture is accepted whose logits are `softcap(head(body(ids)))`; that is checked with a real forward pass when
the model is loaded, not looked up in a list. Not here: optimisers, batches, sampling.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from envecho.engines.attention import install_attention
from envecho.engines.quiet import quiet_transformers
from envecho.errors import EngineError
from envecho.losses.products import linear

_PROBE_LENGTH = 8


@dataclass(frozen=True, kw_only=True)
class CausalModel:
    """A model and how to read it: `logits = softcap * tanh(head(body(ids)) / softcap)`, or `head(body(ids))`.

    `sees_all` says that every layer attends to all tokens before, so that a tree of sequences can share one row;
    `lays_flat` that our own attention is in place for it (`engines.attention`).
    """

    network: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    softcap: float | None
    sees_all: bool
    lays_flat: bool
    max_context_tokens: int

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head_weight.device

    @property
    def head_weight(self) -> Tensor:
        """The output embedding `[vocab, hidden]`."""
        return _head(self.network).weight  # pyright: ignore[reportReturnType]

    @property
    def head_bias(self) -> Tensor | None:
        """The bias `[vocab]` of the output embedding, where it has one."""
        return getattr(_head(self.network), "bias", None)

    def chunk_size(self, device: torch.device) -> int:
        """How many positions the head reads at once on a device: float32 logits of 25 MB on a CPU, of 1 GB on a GPU.

        From 32 MB on the C library maps memory anew for each tensor; a softmax then takes ten times as long.
        """
        return max(64, (2**28 if device.type == "cuda" else 6 * 2**20) // self.head_weight.shape[0])

    def hidden(self, token_ids: Tensor, **options: Any) -> Tensor:
        """Return the last hidden states `[row, token, hidden]` of `token_ids` `[row, token]`.

        `options` go to the body: `attention_mask`, `position_ids`.
        """
        return self.network.base_model(input_ids=token_ids, use_cache=False, **options).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits `[..., vocab]` of hidden states `[..., hidden]`, soft cap included."""
        logits = linear(hidden, self.head_weight, self.head_bias)
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)


def load_causal_model(folder: Path, *, dtype: torch.dtype, device: torch.device) -> CausalModel:
    """Load the model of a Hugging Face folder, without dropout, and check that it can be taken apart.

    Raises:
        EngineError: the folder holds no causal language model, or one whose logits are not head(body(ids)).
    """
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(folder)
            if config.is_encoder_decoder:
                raise EngineError(f"{folder} holds an encoder-decoder; a causal language model is needed")
            network: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{folder} cannot be loaded as a causal language model: {error}") from error
    torch.nn.Module.to(network, device)
    network.eval()
    text = network.config.get_text_config().to_dict()
    sees_all = _sees_all(text)
    if device.type == "cpu":
        _use_fast_products(network)
    if dtype == torch.float64:
        use_float64_norms(network)
    model = CausalModel(
        network=network,
        tokenizer=_load_tokenizer(folder),
        softcap=text.get("final_logit_softcapping"),
        sees_all=sees_all,
        lays_flat=device.type == "cpu" and sees_all and install_attention(network),
        max_context_tokens=int(text.get("max_position_embeddings") or 2**31),
    )
    _check_parts(model, folder)
    return model


class Linear(torch.nn.Linear):
    """A linear layer whose product is computed by `envecho.losses.products`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return `input @ weight.T + bias`."""
        return linear(input, self.weight, self.bias)


def _use_fast_products(network: PreTrainedModel) -> None:
    for module in network.modules():
        if type(module) is torch.nn.Linear:
            # The class alone changes: parameters, hooks and names stay, and copies compute alike.
            module.__class__ = Linear


class _Float64Norm(torch.nn.Module):
    """An RMS norm in the dtype of its input."""

    weight: Tensor
    float64_eps: float

    def forward(self, hidden: Tensor) -> Tensor:
        """Return `hidden` over its root mean square, times the weight."""
        return torch.nn.functional.rms_norm(hidden, self.weight.shape, self.weight, self.float64_eps)


@torch.no_grad()
def use_float64_norms(network: PreTrainedModel) -> None:
    """Let RMS norms compute in float64; those of transformers round to float32 even in a float64 model."""
    for module in network.modules():
        eps, weight = getattr(module, "variance_epsilon", getattr(module, "eps", None)), getattr(module, "weight", None)
        if not type(module).__name__.endswith("RMSNorm") or eps is None or not isinstance(weight, Tensor):
            continue
        sample = torch.linspace(-2, 3, len(weight), dtype=torch.float64, device=weight.device)
        expected, own = module(sample[None]), type(module)
        module.__class__, module.float64_eps = _Float64Norm, float(eps)  # pyright: ignore[reportArgumentType]
        if not torch.allclose(module(sample[None]), expected, rtol=1e-5, atol=1e-6):
            # Its weight means something else (Gemma adds 1 to it).
            module.__class__ = own


def refuse_dropout(network: PreTrainedModel) -> None:
    """Raise EngineError if the model's configuration asks for dropout, which would make training random."""
    found = [
        name
        for name, value in network.config.get_text_config().to_dict().items()
        if ("dropout" in name or name.endswith("pdrop")) and isinstance(value, float) and value > 0
    ]
    if found:
        raise EngineError(
            f"gradient checkpointing puts the model in training mode, where {', '.join(found)} would be on;"
            " set them to 0 in its config.json or turn gradient_checkpointing off"
        )


def _head(network: PreTrainedModel) -> torch.nn.Module:
    head = network.get_output_embeddings()
    if head is None:
        raise EngineError(f"{type(network).__name__} has no output embedding, so no token can be scored")
    return head


def _load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    # A model without tokenizer files can still be trained on ids; its checkpoints then have none either.
    if not (folder / "tokenizer_config.json").is_file():
        return None
    return AutoTokenizer.from_pretrained(folder)


def _sees_all(text_config: dict[str, Any]) -> bool:
    layer_types = text_config.get("layer_types")
    if layer_types:
        return set(layer_types) == {"full_attention"}
    if text_config.get("use_sliding_window") is False:
        return True
    return text_config.get("sliding_window") is None


@torch.no_grad()
def _check_parts(model: CausalModel, folder: Path) -> None:
    vocab_size = model.head_weight.shape[0]
    ids = (torch.arange(1, _PROBE_LENGTH + 1, device=model.device) % vocab_size)[None]
    try:
        hidden = model.hidden(ids)
    except (AttributeError, TypeError) as error:
        raise EngineError(
            f"the body of {type(model.network).__name__} in {folder} cannot be called: {error}"
        ) from error
    expected = model.network(input_ids=ids, use_cache=False).logits.float()
    found = model.logits(hidden).float()
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=1e-2, atol=1e-2):
        raise EngineError(
            f"the logits of {type(model.network).__name__} in {folder} are not its output embedding applied to its last"
            " hidden state (a scale or a second head is in between); this engine cannot train it exactly"
        )
