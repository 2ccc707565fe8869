"""A server of Tinker's shape in this process: a real small network with peft's LoRA, and reductions to choose from.

It does what a server does with rows and coefficients; no wire. The wire itself is covered by a recorded exchange.
"""

from __future__ import annotations

import copy
import io
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from envecho.engines.tinker.service import RemoteSample

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class FakeService:
    """One base model; `calls` counts what was asked, `saved` holds the checkpoints.

    `reduction`: `sum`, `sequence_mean`, or one that no server has. `heeds_pin`: whether CISPO's clip is heeded.
    """

    name = "a fake server"
    base_model = "tiny"

    def __init__(self, folder, reduction="sum", *, clips=True, norm_metric=None, heeds_pin=True, tells_all=True):
        self.folder, self.reduction = folder, reduction
        self.clips, self.norm_metric, self.heeds_pin, self.tells_all = clips, norm_metric, heeds_pin, tells_all
        self.saved, self.calls, self.models = {}, [], []
        self.max_context_tokens = None

    def create(self, *, rank, seed):
        torch.manual_seed(seed)
        network = AutoModelForCausalLM.from_pretrained(self.folder, dtype=torch.float64)
        config = LoraConfig(r=rank, lora_alpha=8 * rank, target_modules=TARGETS, lora_dropout=0.0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name of old
            self.models.append(FakeModel(self, get_peft_model(network, config)))
        return self.models[-1]

    def restore(self, address, *, rank, with_optimizer):
        weights, moments = copy.deepcopy(self.saved[address])
        model = FakeModel(self, self.models[-1].network)
        model.network.load_state_dict(weights)
        model.network.zero_grad()
        if with_optimizer:
            model.optimizer.load_state_dict(moments)
        self.models.append(model)
        return model


class FakeModel:
    def __init__(self, service, network):
        self.service, self.network, self.num_rows = service, network, 0
        self.trained = [value for value in network.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained)

    def logprobs(self, row):
        ids = torch.from_numpy(row.token_ids.astype(np.int64))
        logits = self.network(input_ids=ids[None], use_cache=False).logits[0, :-1]
        return torch.log_softmax(logits, dim=-1).gather(-1, ids[1:, None])[:, 0]

    def forward(self, rows):
        self.service.calls.append(("forward", len(rows)))
        with torch.no_grad():
            found = [self.logprobs(row).float().numpy() for row in rows]
        return lambda: found

    def forward_backward(self, rows, loss):
        self.service.calls.append(("forward_backward", len(rows)))
        found = []
        for row in rows:
            logprobs = self.logprobs(row)
            coefficients = torch.from_numpy(row.coefficients[1:].astype(np.float64))
            self.num_rows += 1
            self._loss(logprobs, coefficients, loss, len(rows)).backward()
            told = logprobs.detach().float().numpy()
            found.append(told if self.service.tells_all else told[: int((coefficients > 0).sum())])
        return lambda: found

    def _loss(self, logprobs, coefficients, loss, rows_of_call):
        ratio = torch.ones_like(logprobs)
        if loss == "pinned_ratio" and not self.service.heeds_pin:
            ratio = logprobs.detach().exp()
        total = -(ratio * coefficients * logprobs).sum()
        if self.service.reduction == "sum":
            return total
        if self.service.reduction == "mean_of_calls":
            return total / rows_of_call
        # As SkyRL on JAX: by the weights, which are the coefficients of cross-entropy and else all 1.
        divisor = coefficients.sum() if loss == "cross_entropy" else torch.tensor(float(len(logprobs)))
        return total / divisor.clamp(min=1e-9)

    def gradients(self):
        """The gradient that a step would use now, by parameter."""
        count = self.num_rows if self.service.reduction == "sequence_mean" else 1
        named = self.network.named_parameters()
        return {name: value.grad / count for name, value in named if value.requires_grad and value.grad is not None}

    def optim_step(self, params):
        self.service.calls.append(("optim_step", 1))
        for name, gradient in self.gradients().items():
            self.network.get_parameter(name).grad = gradient
        norm = torch.nn.utils.get_total_norm([value.grad for value in self.trained if value.grad is not None])
        if self.service.clips and params.grad_clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.trained, params.grad_clip_norm, norm)
        for group in self.optimizer.param_groups:
            group.update(lr=params.learning_rate, betas=(params.beta1, params.beta2), eps=params.eps)
            group["weight_decay"] = params.weight_decay
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.num_rows = 0
        return {} if self.service.norm_metric is None else {self.service.norm_metric: float(norm), "other": 2.0}

    def save(self):
        address = f"fake://{len(self.service.saved)}"
        state = (self.network.state_dict(), self.optimizer.state_dict())
        self.service.saved[address] = copy.deepcopy(state)
        return address

    def adapter_archive(self):
        buffer = io.BytesIO()
        with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            self.network.save_pretrained(folder)
            for file in Path(folder).iterdir():
                archive.add(file, arcname=f"adapter/{file.name}")
        return buffer.getvalue()

    def sampler(self):
        return FakeSampler(copy.deepcopy(self.network))


class FakeSampler:
    """Draws each continuation from its own generator."""

    def __init__(self, network):
        self.network = network
        self.change: Callable[[RemoteSample], RemoteSample] = lambda sample: sample

    def sample(self, prompts, params, seeds):
        return [self.change(self._one(prompt, params, seed)) for prompt, seed in zip(prompts, seeds, strict=True)]

    @torch.no_grad()
    def _one(self, prompt, params, seed):
        generator = torch.Generator().manual_seed(seed)
        ids, told = prompt.tolist(), []
        while len(told) < params.max_tokens:
            logits = self.network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            logprobs = torch.log_softmax(logits, dim=-1)
            token = (
                int(torch.multinomial(logprobs.exp(), 1, generator=generator))
                if params.temperature
                else int(logits.argmax())
            )
            ids.append(token)
            told.append(float(logprobs[token]))
            if token in params.stop_token_ids:
                break
        new = np.array(ids[len(prompt) :], dtype=np.int32)
        stopped = bool(len(new)) and int(new[-1]) in params.stop_token_ids
        return RemoteSample(token_ids=new, logprobs=np.array(told, dtype=np.float32), stopped=stopped)
