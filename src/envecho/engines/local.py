"""`LocalEngine`: any transformers causal language model on this machine's CPU or GPU, behind the optimizer seam.

    batch -> micro-batches -> body -> batch_loss -> backward    (gradients add up in full precision)
    optim_step: clip, fused AdamW, publish the masters to the working copy

The network runs without dropout, so training, scoring and sampling see the same distribution and nothing here is
random but the draws of `sample`. Not here: what a token is worth (`envecho.objective`), and when to step or save
(`envecho.training`).
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack, final

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.engines import state
from envecho.engines.allocator import keep_freed_memory
from envecho.engines.batch_sums import BatchSums
from envecho.engines.checkpointing import checkpoint_all, checkpoint_by_budget
from envecho.engines.decoding import CachedSession
from envecho.engines.lora import LoraAdapter, LoraOptions, apply_lora
from envecho.engines.micro_batches import (
    MicroBatch,
    PassKeywords,
    PassOptions,
    split_batch,
    split_flat,
    take,
    weight_mask,
    without_env,
    without_policy,
)
from envecho.engines.model import load_causal_model
from envecho.engines.precision import (
    ComputeDtype,
    MasterWeights,
    Trainable,
    choose_compute_dtype,
    choose_device,
    freeze_all_but,
)
from envecho.engines.pretrained import resolve_model
from envecho.engines.sampling import draw_samples
from envecho.engines.scoring import ScoringOptions, score, trees_are_exact
from envecho.engines.token_forest import forests_are_exact
from envecho.errors import EngineError
from envecho.losses import WeightedBatch, batch_loss
from envecho.seam import (
    AdamParams,
    EngineCapabilities,
    ForwardBackwardOutput,
    Sample,
    SamplingParams,
    ScoreRequest,
    Scores,
    TermGradients,
)

_COUNTERS = ("seed", "num_optim_steps")


@final
class LocalEngine:
    """A model on one local device; fulfils `envecho.seam.Engine`.

    Args:
        model: name or folder, as `resolve_model` takes it.
        device: `auto` (CUDA where there is one, else CPU), `cpu`, `cuda`, `cuda:1`.
        compute_dtype: `auto`, `float32`, `bfloat16`, or `float64` for proofs. When computing in bfloat16, weights and
            optimiser stay in float32.
        seed: mixed into the seed of every draw.
        trains: False keeps no gradients, optimiser or masters.
        trainable: which parameters are trained: `all`, or `attention` (with normalisation layers).
        lora: train an adapter of this size instead, the model frozen. In bfloat16 the frozen weights are held in that
            precision alone, without the float32 masters that everything else has.
        passes: the fields of `PassOptions`; the result does not depend on them.

    Raises:
        ConfigError: `lora` without peft in the tested range.
        EngineError: the model cannot be found, loaded, or taken apart, or cannot be packed exactly; options that
            exclude each other.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str = "auto",
        compute_dtype: ComputeDtype = "auto",
        seed: int = 0,
        trains: bool = True,
        trainable: Trainable = "all",
        lora: LoraOptions | None = None,
        **passes: Unpack[PassKeywords],
    ) -> None:
        options = PassOptions(**passes)
        if lora is not None and (not trains or trainable != "all"):
            raise EngineError(
                "lora trains an adapter alone: it needs trains=True and trainable='all'"
                " (LoraOptions(targets='attention') adapts attention alone)"
            )
        place = choose_device(device)
        if trains and place.type == "cpu":
            keep_freed_memory()
        dtype = choose_compute_dtype(compute_dtype, place)
        load_dtype = torch.float32 if trains and dtype == torch.bfloat16 and lora is None else dtype
        self._model = load_causal_model(resolve_model(model), dtype=load_dtype, device=place)
        self._dtype = dtype
        self._max_tokens = options.tokens_per_micro_batch
        self._chunk_size = self._model.chunk_size(place)
        self._counters = {"seed": seed, "num_optim_steps": 0}
        self.lays_flat = forests_are_exact(self._model)
        self.shares_prefixes = self.lays_flat or trees_are_exact(self._model)
        self._packing = options.packing
        if self._packing and not self.shares_prefixes:
            raise EngineError(
                f"{type(self._model.network).__name__} cannot keep the sequences of a packed row apart exactly (layers"
                " that do not see all tokens before, or positions and masks of its own); set packing to false"
            )
        self._optimizer: torch.optim.AdamW | None = None
        self._adapter: LoraAdapter | None = None
        if trains:
            freeze_all_but(self._model.network, trainable)
            if lora is not None:
                self._adapter = apply_lora(self._model.network, lora, seed=seed)
            self._masters = MasterWeights(self._model.network, dtype, frozen_too=lora is None)
            self._optimizer = torch.optim.AdamW(list(self._masters.trained.values()), fused=True)
        else:
            self._model.network.requires_grad_(False)
        if options.gradient_checkpointing:
            checkpoint_all(self._model)
        elif options.activation_memory_mb is not None and trains:
            checkpoint_by_budget(self._model, num_tokens=self._max_tokens, megabytes=options.activation_memory_mb)

    @property
    def capabilities(self) -> EngineCapabilities:
        """What this engine can do."""
        return EngineCapabilities(
            trains=self._optimizer is not None,
            samples=True,
            max_context_tokens=self._model.max_context_tokens,
            devices=str(self._model.device),
            compute_dtype=str(self._dtype).removeprefix("torch."),
        )

    def forward_backward(self, batch: WeightedBatch) -> ForwardBackwardOutput:
        """Add the gradient of `sum(weight * per-token loss)` to what is accumulated, micro-batch by micro-batch.

        A micro-batch in which no token has a weight is run without a gradient, for its log-probs alone, and one that
        nothing reads is left out.

        Raises:
            EngineError: the engine was made with trains=False, or a sequence is longer than the model's context.
        """
        self._require_training()
        longest = int(batch.positions.max()) + 1 if len(batch.positions) else 0
        if longest > self._model.max_context_tokens:
            raise EngineError(
                f"a sequence has {longest} tokens, the model's context {self._model.max_context_tokens}; tokenise with"
                " max_tokens so that long trajectories become windows"
            )
        sums = BatchSums(len(batch.token_ids))
        for micro in self._split(batch):
            part = take(batch, micro.tokens, self._model.device)
            has_weight = bool(weight_mask(part).any())
            if not has_weight and not bool(part.env_targets.any()):
                continue
            with torch.set_grad_enabled(has_weight), micro.laid_out():
                out = batch_loss(
                    micro.hidden(self._model, part),
                    self._model.head_weight,
                    part,
                    head_bias=self._model.head_bias,
                    softcap=self._model.softcap,
                    chunk_size=self._chunk_size,
                )
                if out.loss.requires_grad:
                    out.loss.backward()
            sums.add(micro.tokens, out)
        return sums.output()

    def _split(self, batch: WeightedBatch) -> list[MicroBatch]:
        if self.lays_flat:
            return split_flat(batch, self._max_tokens, share=self.shares_prefixes)
        return split_batch(batch, self._max_tokens, packing=self._packing)

    def term_gradients(self, batch: WeightedBatch) -> TermGradients:
        """Measure the gradients of the policy side and of the environment term apart; see `envecho.seam.Engine`.

        Two forward and backward passes, and memory for two more gradients; what is accumulated stays, bit for bit.
        """
        self._require_training()
        started = time.monotonic()
        with self._masters.set_aside():
            policy = self._term_gradient(without_env(batch))
        with self._masters.set_aside():
            env = self._term_gradient(without_policy(batch))
        norms = [sum(float(g.double().square().sum()) for g in term.values()) ** 0.5 for term in (policy, env)]
        product = sum(float((policy[name].double() * env[name].double()).sum()) for name in policy.keys() & env.keys())
        return TermGradients(
            policy_norm=norms[0],
            env_norm=norms[1],
            cosine=product / (norms[0] * norms[1]) if all(norms) else None,
            seconds=time.monotonic() - started,
        )

    def _term_gradient(self, batch: WeightedBatch) -> dict[str, torch.Tensor]:
        if not bool(weight_mask(batch).any()):
            return {}
        self.forward_backward(batch)
        return self._masters.named_gradients()

    def gradients(self) -> dict[str, NDArray[np.floating]]:
        """Return a copy of the gradient accumulated since the last step, by the parameter's name in the model."""
        return {name: value.cpu().numpy().copy() for name, value in self._masters.named_gradients().items()}

    def optim_step(self, params: AdamParams) -> float:
        """Clip the accumulated gradient, apply one AdamW step, clear, and return the norm before clipping.

        Weight decay applies to every parameter. Where nothing has been accumulated, nothing changes and 0 is returned.

        Raises:
            EngineError: the gradient holds NaN or infinity; weights are left as they are and the gradient is cleared.
        """
        optimizer = self._require_training()
        gradients = self._masters.gradients()
        if not gradients:
            return 0.0
        norm = torch.nn.utils.get_total_norm(gradients)
        if not bool(torch.isfinite(norm)):
            optimizer.zero_grad(set_to_none=True)
            raise EngineError(
                f"the gradient norm is {float(norm)}; the step was not applied. Lower the learning rate, or resume from"
                " the last checkpoint"
            )
        if params.grad_clip_norm is not None and float(norm) > params.grad_clip_norm:
            torch.nn.utils.clip_grads_with_norm_(self._masters.trained.values(), params.grad_clip_norm, norm)
        for group in optimizer.param_groups:
            group["lr"] = params.learning_rate
            group["betas"] = (params.beta1, params.beta2)
            group["eps"] = params.eps
            group["weight_decay"] = params.weight_decay
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self._masters.publish()
        self._counters["num_optim_steps"] += 1
        return float(norm)

    def logprobs(
        self, requests: Sequence[ScoreRequest], *, temperature: float = 1.0, with_entropies: bool = False
    ) -> list[Scores]:
        """Score tokens under softmax(logits / temperature); requests with a common beginning compute it once.

        `shares_prefixes` is off for models that cannot do this exactly; set it to False to score every request by
        itself. The results agree within rounding.
        """
        options = ScoringOptions(
            max_tokens=self._max_tokens,
            chunk_size=self._chunk_size,
            share=self.shares_prefixes,
            flat=self.lays_flat,
            temperature=temperature,
            with_entropies=with_entropies,
        )
        return score(self._model, requests, options)

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt; see `envecho.engines.sampling.draw_samples`."""
        return draw_samples(self._model, prompts, params, seed=self._counters["seed"], max_tokens=self._max_tokens)

    @contextmanager
    def sampling_session(self) -> Generator[CachedSession]:
        """Open a session for a batch of episodes; see `envecho.engines.decoding.CachedSession`."""
        session = CachedSession(self._model, seed=self._counters["seed"])
        yield session

    def save_model(self, folder: Path) -> None:
        """Write the model alone, as a plain Hugging Face folder, without the optimiser.

        With `lora` the weights in it are merged, and `adapter/` holds the adapter alone.
        """
        self._require_training()
        state.save_model(self._model, self._masters, folder, adapter=self._adapter)

    def load_model(self, folder: Path) -> None:
        """Take the weights of a model folder of the same architecture; the optimiser's state stays as it is.

        With `lora` these are the adapter's, and the folder must have been written with the same base model.
        """
        self._require_training()
        state.load_model(self._masters, folder, adapter=self._adapter)

    def save_state(self, folder: Path) -> None:
        """Write model, optimiser, seed and counters into an existing empty folder, as safetensors and JSON.

        Raises:
            EngineError: a gradient is accumulated that no step has used; it would be lost.
        """
        optimizer = self._require_training()
        if self._masters.gradients():
            raise EngineError("save_state after forward_backward and before optim_step would lose the gradient")
        state.save_model(self._model, self._masters, folder, adapter=self._adapter)
        state.save_optimizer(optimizer, self._masters.trained, folder)
        state.save_counters(self._counters, folder)

    def load_state(self, folder: Path) -> None:
        """Restore what `save_state` wrote, bit for bit; an accumulated gradient is dropped."""
        optimizer = self._require_training()
        counters = state.load_counters(_COUNTERS, folder)
        state.load_model(self._masters, folder, adapter=self._adapter)
        optimizer.zero_grad(set_to_none=True)
        state.load_optimizer(optimizer, self._masters.trained, folder)
        self._counters = counters

    def _require_training(self) -> torch.optim.AdamW:
        if self._optimizer is None:
            raise EngineError("this engine was made with trains=False; it can score and sample alone")
        return self._optimizer
