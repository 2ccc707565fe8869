"""SkyRL's trainer and policy worker in one process on a CPU: what stands in for Ray, FSDP and flash-attn.

Real are the trainer's conversion, log-prob pass, advantages, reduction and training step, the worker's micro-batches
and losses, and its model wrapper. Stood in for: the dispatch to Ray actors (calls in this process), the strategy (plain
`backward`), `torch.cuda.current_device()` (there is no CUDA), and the import of flash-attn, which has no build for a
CPU and which SkyRL uses with `remove_microbatch_padding` alone. Not here: what is measured (`skyrl`).
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import nn

from envecho.objective import EchoConfig
from envecho.plugins.skyrl import trainer_class


@contextmanager
def cpu_as_device() -> Generator[None]:
    """SkyRL moves its batches to `torch.cuda.current_device()`; while the block runs, that is the CPU.

    Its autocast for CUDA then says that it does nothing, which is meant.
    """
    with warnings.catch_warnings(), mock.patch.object(torch.cuda, "current_device", return_value="cpu"):
        warnings.filterwarnings("ignore", message="CUDA is not available")
        yield


def import_model_wrapper() -> Any:
    """Import SkyRL's model wrapper; flash-attn is an empty module while it is imported, where it is absent."""
    transformers: Any = importlib.import_module("transformers")
    for name in ("AutoModelForCausalLM", "AutoModel", "BitsAndBytesConfig", "Qwen3ForCausalLM"):
        getattr(transformers, name)
    importlib.import_module("peft.tuners.lora")
    stand_ins: dict[str, types.ModuleType] = {}
    if not transformers.utils.is_flash_attn_2_available():
        padding: Any = types.ModuleType("flash_attn.bert_padding")
        padding.pad_input = padding.unpad_input = None
        stand_ins = {"flash_attn": types.ModuleType("flash_attn"), "flash_attn.bert_padding": padding}
    with mock.patch.dict(sys.modules, stand_ins):
        return importlib.import_module("skyrl.backends.skyrl_train.workers.model_wrapper")


class _Strategy:
    """Backward as it is, and sums over one rank."""

    def backward(self, loss: torch.Tensor, model: nn.Module, optimizer: Any) -> None:
        loss.backward()

    def all_reduce(self, values: dict[str, float], op: str = "mean", group: Any = None) -> dict[str, float]:
        return values


def policy_worker(cfg: Any, network: nn.Module, *, ranks: int = 1) -> Any:
    """Return SkyRL's `PolicyWorkerBase` around a network; its Ray and device set-up is left out."""
    wrapper = import_model_wrapper()
    worker_module: Any = importlib.import_module("skyrl.backends.skyrl_train.workers.worker")
    registry: Any = importlib.import_module("skyrl.backends.skyrl_train.utils.ppo_utils").PolicyLossRegistry
    worker = object.__new__(worker_module.PolicyWorkerBase)
    worker.cfg = cfg.trainer
    worker.model = wrapper.HFModelWrapper(network)
    worker.strategy = _Strategy()
    worker.optimizer = None
    worker.scheduler = SimpleNamespace(get_last_lr=lambda: [0.0])
    worker.mesh_rank = SimpleNamespace(dp_size=ranks)
    worker.device_mesh = SimpleNamespace(get_group=lambda name: None)
    worker.policy_loss_fn = registry.get(cfg.trainer.algorithm.policy_loss_type)
    return worker


class _Dispatch:
    """SkyRL's dispatch to its workers, in this process; several ranks run one after the other, gradients averaged."""

    def __init__(self, worker: Any, ranks: int) -> None:
        self._worker, self._ranks = worker, ranks

    def dp_size(self, model: str) -> int:
        return self._ranks

    def get_lcm_dp_size(self) -> int:
        return self._ranks

    def forward(self, model: str, data: Any) -> Any:
        return self._worker.forward(data)

    def stage_data(self, model: str, data: Any, boundaries: list[tuple[int, int]]) -> list[Any]:
        return [data[start:end].chunk((end - start) // self._ranks) for start, end in boundaries]

    def forward_from_staged(self, model: str, chunks: Any) -> Any:
        outputs = [self._worker.forward(chunk) for chunk in chunks]
        return SimpleNamespace(loss_fn_outputs=[row for output in outputs for row in output.loss_fn_outputs])

    def forward_backward_from_staged(self, model: str, chunks: Any) -> Any:
        found: dict[str, list[float]] = defaultdict(list)
        for chunk in chunks:
            for name, value in self._worker.forward_backward(chunk).metrics.items():
                found[name].append(value)
        for value in self._worker.model.parameters():
            if value.grad is not None:
                value.grad /= self._ranks
        # Losses are parts of a sum over the ranks, other metrics are means: SkyRL's all_reduce_metrics.
        metrics = {n: sum(v) if n.endswith("_loss") else sum(v) / len(v) for n, v in found.items()}
        return SimpleNamespace(metrics=metrics)

    def optim_step(self, model: str) -> None:
        return None

    def empty_cache(self, model: str | None = None) -> None:
        return None


def trainer_on_cpu(cfg: Any, objective: EchoConfig, network: nn.Module, *, pad_id: int, ranks: int = 1) -> Any:
    """Return the plug-in's trainer around a network, without Ray, data sets and inference engines."""
    trainer = object.__new__(trainer_class())
    trainer.cfg = cfg
    trainer.objective = objective
    trainer.observed = False
    trainer.tokenizer = SimpleNamespace(pad_token_id=pad_id)
    trainer.dispatch = _Dispatch(policy_worker(cfg, network, ranks=ranks), ranks)
    trainer.ref_model = None
    trainer.reward_kl_controller = None
    trainer.all_metrics, trainer.all_timings = {}, {}
    trainer.global_step = trainer.total_training_steps = 1
    return trainer


def train_once(trainer: Any, output: dict[str, Any], uids: list[str]) -> dict[str, float]:
    """Take a generator's output through one training step as `RayPPOTrainer.train` does; gradients stay in place."""
    with cpu_as_device():
        processed: Any = trainer.postprocess_generator_output(output, uids)
        data = trainer.convert_to_training_input(*processed)
        data = trainer.fwd_logprobs_values_reward(data)
        data = trainer.compute_advantages_and_returns(data)
        status: dict[str, float] = trainer.train_critic_and_policy(data)
    return status
