"""A model's weights over several ranks: shards that are trained, by torch's FSDP2, and a whole copy that reads.

Every decoder layer is one unit of `fully_shard`, everything else (embedding, last norm, head) another. Gradients are
added up over ranks, never averaged: the weights of a batch are counted over the whole step already. Masters,
gradients and moments exist as shards alone. Not here: which rank gets which tokens (`distributed_plan`), and verbs
(`distributed_rank`).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn import Module, ModuleList, Parameter
from transformers import PreTrainedModel

from envecho.engines.checkpointing import checkpoint_all
from envecho.engines.micro_batches import MicroBatch, without_env, without_policy
from envecho.engines.model import CausalModel
from envecho.errors import EngineError, EnvechoError
from envecho.losses import BatchLoss, WeightedBatch, batch_loss


@final
class LossModule(Module):
    """Body, head and loss as one module: inside of its forward all weights are whole, those of a tied head included."""

    def __init__(self, model: CausalModel, *, chunk_size: int) -> None:
        super().__init__()
        self.network = model.network
        self._model, self._chunk_size = model, chunk_size

    def forward(self, part: WeightedBatch, micro: MicroBatch) -> tuple[Tensor, BatchLoss, EnvechoError | None]:
        """Return the loss of the tokens of a micro-batch with its graph, the values, and what was wrong with the data.

        Data that no loss can be computed from gives a connected zero, so that the passes of all ranks still match.
        """
        hidden = micro.hidden(self._model, part)
        try:
            out, problem = self._loss(hidden, part), None
        except EnvechoError as error:
            out, problem = self._loss(hidden, without_env(without_policy(part))), error
        return out.loss, out, problem

    def _loss(self, hidden: Tensor, part: WeightedBatch) -> BatchLoss:
        return batch_loss(
            hidden,
            self._model.head_weight,
            part,
            head_bias=self._model.head_bias,
            softcap=self._model.softcap,
            chunk_size=self._chunk_size,
        )


@final
class ShardedWeights:
    """The shards of a model that is trained; `model` itself becomes the whole copy, empty until `gather`.

    In bfloat16 the shards are float32 masters; layers are gathered in bfloat16, and gradients added up in float32.

    Raises:
        EngineError: the network has no list of decoder layers.
    """

    def __init__(
        self,
        model: CausalModel,
        *,
        mesh: DeviceMesh,
        device: torch.device,
        compute_dtype: torch.dtype,
        chunk_size: int,
        gradient_checkpointing: bool,
    ) -> None:
        self._mesh, self._device, self._dtype = mesh, device, compute_dtype
        network = copy.deepcopy(model.network)
        self._readers = dict(model.network.named_parameters())
        self.release()
        torch.nn.Module.to(model.network, device)
        if gradient_checkpointing:
            checkpoint_all(dataclasses.replace(model, network=network))
        self.module = LossModule(dataclasses.replace(model, network=network), chunk_size=chunk_size)
        policy = MixedPrecisionPolicy(
            param_dtype=compute_dtype if compute_dtype == torch.bfloat16 else None,
            reduce_dtype=torch.float32 if compute_dtype == torch.bfloat16 else None,
            cast_forward_inputs=False,
        )
        for unit in (*_decoder_layers(network), self.module):
            sharded = fully_shard(unit, mesh=mesh, mp_policy=policy)
            sharded.set_gradient_divide_factor(1.0)
            # Plain sums in every backend: gloo knows no other, and a division by 1 needs none.
            sharded.set_force_sum_reduction_for_comms(True)
        self.parameters: dict[str, Parameter] = dict(network.named_parameters())

    @property
    def trained(self) -> dict[str, Parameter]:
        """The shards that are trained, by the parameter's name in the network."""
        return {name: value for name, value in self.parameters.items() if value.requires_grad}

    def reshard(self) -> None:
        """Give up what a forward pass without a backward pass has left whole."""
        cast(FSDPModule, self.module).reshard()

    def gradients(self) -> dict[str, Tensor]:
        """This rank's shards of the gradients that exist, as plain tensors."""
        return {name: local(value.grad) for name, value in self.trained.items() if value.grad is not None}

    def clear_gradients(self) -> None:
        """Forget the accumulated gradient."""
        for value in self.parameters.values():
            value.grad = None

    @contextmanager
    def set_aside(self) -> Generator[None]:
        """Lay the accumulated gradients aside for the block, and put the very same tensors back at its end."""
        kept = {name: value.grad for name, value in self.parameters.items()}
        self.clear_gradients()
        try:
            yield
        finally:
            for name, value in self.parameters.items():
                value.grad = kept[name]

    def gather(self) -> None:
        """Make the whole copy, in the dtype that computes; all ranks must call it."""
        with torch.no_grad():
            for name, reader in self._readers.items():
                reader.data = whole(self.parameters[name].detach().to(self._dtype))

    def release(self) -> None:
        """Free the whole copy."""
        for reader in self._readers.values():
            reader.data = torch.empty(0, dtype=self._dtype, device=self._device)

    def take(self, weights: Mapping[str, Tensor]) -> None:
        """Take this rank's shards of whole tensors."""
        with torch.no_grad():
            for name, value in weights.items():
                self.parameters[name].copy_(self.shard(value, self.parameters[name]))

    def shard(self, value: Tensor, like: Tensor) -> DTensor:
        """This rank's shard of a whole tensor, cut as `like` is; nothing is sent."""
        placements = cast(DTensor, like).placements
        moved = value.detach().to(self._device, like.dtype)
        return distribute_tensor(moved, self._mesh, placements, src_data_rank=None)


def whole(value: Tensor) -> Tensor:
    """The whole of a sharded tensor, a plain one as it is; all ranks must call it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def local(value: Tensor) -> Tensor:
    """This rank's part of a sharded tensor, sharing its memory; a plain one as it is."""
    return value.to_local() if isinstance(value, DTensor) else value


def _decoder_layers(network: PreTrainedModel) -> ModuleList:
    count = int(network.config.get_text_config().num_hidden_layers)
    for module in network.base_model.modules():
        if isinstance(module, ModuleList) and len(module) == count:
            return module
    raise EngineError(f"{type(network).__name__} has no list of its {count} layers, which several devices would share")


def named_state(network: PreTrainedModel, parameters: Mapping[str, Tensor]) -> dict[str, Any]:
    """Parameters under every name that the network's state has, tied names included, and its buffers."""
    names = {id(value): name for name, value in network.named_parameters()}
    state = dict(network.state_dict())
    for name, value in network.named_parameters(remove_duplicate=False):
        state[name] = parameters[names[id(value)]]
    return state
