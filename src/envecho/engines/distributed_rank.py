"""What one rank does of each verb: its part of a batch through the shards, its requests through the whole copy.

    forward_backward   passes over its sequences; FSDP adds the gradients of all ranks up into everybody's shards
    optim_step         AdamW on its shards
    logprobs, sample   its share of the requests, with weights that were gathered since they last changed
    save, load         shards to whole tensors, and back

Not here: who gets what (`distributed_plan`), and how the parts become one answer (`distributed`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from envecho.engines import state
from envecho.engines.batch_sums import BatchSums
from envecho.engines.decoding import CachedSession
from envecho.engines.distributed_group import Broken
from envecho.engines.distributed_plan import BatchPart
from envecho.engines.distributed_weights import ShardedWeights, named_state, whole
from envecho.engines.lora import LoraAdapter, LoraOptions, apply_lora
from envecho.engines.micro_batches import MicroBatch, PassOptions, take
from envecho.engines.model import load_causal_model
from envecho.engines.precision import ComputeDtype, Trainable, choose_compute_dtype, choose_device, freeze_all_but
from envecho.engines.pretrained import resolve_model
from envecho.engines.sampling import draw_samples
from envecho.engines.scoring import ScoringOptions, score, trees_are_exact
from envecho.engines.token_forest import forests_are_exact
from envecho.errors import EngineError, EnvechoError
from envecho.losses import WeightedBatch
from envecho.seam import AdamParams, ForwardBackwardOutput, Sample, SamplingParams, ScoreRequest, Scores, TurnRequest

_TWO = torch.zeros(2)
_EMPTY = WeightedBatch(
    token_ids=torch.zeros(2, dtype=torch.int64),
    positions=torch.arange(2),
    sequence_index=torch.zeros(2, dtype=torch.int64),
    policy_weights=_TWO,
    advantages=_TWO,
    env_weights=_TWO,
    env_targets=_TWO != 0,
    kl_weights=_TWO,
    entropy_weights=_TWO,
    sampling_logprobs=_TWO,
)
"""Two tokens that nothing weighs: the pass of a rank that has no micro-batch where others have one."""
_EMPTY_MICRO = MicroBatch(tokens=torch.arange(2), lengths=[2])


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """How every rank opens the model; the fields are the arguments of `LocalEngine`."""

    model: str
    device: str
    compute_dtype: ComputeDtype
    seed: int
    trains: bool
    trainable: Trainable
    lora: LoraOptions | None
    passes: PassOptions


@dataclass(frozen=True, kw_only=True)
class RankFacts:
    """What an open rank says of itself."""

    max_context_tokens: int
    device: str
    compute_dtype: str
    lays_flat: bool


@dataclass(frozen=True, kw_only=True)
class TermSums:
    """This rank's shards of two gradients: their squared norms and their inner product."""

    policy: float
    env: float
    product: float


@final
class RankEngine:
    """One rank's share of an engine; every public method is a verb that all ranks do together.

    Raises:
        EngineError: the model cannot be loaded or sharded, or there is no device for this rank.
    """

    def __init__(self, options: RankOptions, *, local_rank: int, size: int) -> None:
        self._options = options
        place = _place(options.device, local_rank)
        self._dtype = choose_compute_dtype(options.compute_dtype, place)
        if options.passes.activation_memory_mb is not None:
            raise EngineError("activation_memory_mb is for one device; on several set gradient_checkpointing")
        trains, lora = options.trains, options.lora
        load_dtype = torch.float32 if trains and self._dtype == torch.bfloat16 and lora is None else self._dtype
        # On the CPU first: a device holds its shards, and the whole model only when it reads.
        start = torch.device("cpu") if trains else place
        self._model = load_causal_model(resolve_model(options.model), dtype=load_dtype, device=start)
        self._max_tokens = options.passes.tokens_per_micro_batch
        self._chunk_size = self._model.chunk_size(place)
        self._lays_flat = place.type == "cpu" and forests_are_exact(self._model)
        self._shares_prefixes = self._lays_flat or trees_are_exact(self._model)
        if options.passes.packing and not self._shares_prefixes:
            raise EngineError(
                f"{type(self._model.network).__name__} cannot keep the sequences of a packed row apart exactly (layers"
                " that do not see all tokens before, or positions and masks of its own); set packing to false"
            )
        self._sessions: dict[int, CachedSession] = {}
        self._is_whole = not trains
        self._weights: ShardedWeights | None = None
        self._adapter: LoraAdapter | None = None
        if not trains:
            self._model.network.requires_grad_(False)
            return
        freeze_all_but(self._model.network, options.trainable)
        if lora is not None:
            self._adapter = apply_lora(self._model.network, lora, seed=options.seed)
        self._weights = ShardedWeights(
            self._model,
            mesh=init_device_mesh(place.type, (size,)),
            device=place,
            compute_dtype=self._dtype,
            chunk_size=self._chunk_size,
            gradient_checkpointing=options.passes.gradient_checkpointing,
        )
        self._optimizer = torch.optim.AdamW(list(self._weights.trained.values()), fused=True)

    @property
    def facts(self) -> RankFacts:
        """What the engine's capabilities are made of."""
        return RankFacts(
            max_context_tokens=self._model.max_context_tokens,
            device=str(self._model.device),
            compute_dtype=str(self._dtype).removeprefix("torch."),
            lays_flat=self._lays_flat,
        )

    def forward_backward(self, part: BatchPart) -> ForwardBackwardOutput:
        """Add the gradient of this rank's sequences, and of everybody's, to what is accumulated in the shards."""
        sums, problem = self._run_passes(part)
        if problem is not None:
            raise problem
        return sums.output()

    def term_gradients(self, parts: tuple[BatchPart, BatchPart]) -> TermSums:
        """Measure this rank's shards of the gradients of the policy side and of the environment term."""
        weights = self._trained()
        found: list[Mapping[str, Tensor]] = []
        problems: list[EnvechoError | None] = []
        for part in parts:
            with weights.set_aside():
                problems.append(self._run_passes(part)[1])
                found.append(weights.gradients())
        for problem in problems:
            if problem is not None:
                raise problem
        policy, env = found
        return TermSums(
            policy=_square(policy),
            env=_square(env),
            product=sum(float((policy[n].double() * env[n].double()).sum()) for n in policy.keys() & env.keys()),
        )

    def _run_passes(self, part: BatchPart) -> tuple[BatchSums, EnvechoError | None]:
        """Run this rank's passes; where other ranks alone have one, an empty one that ends in a connected zero."""
        weights = self._trained()
        self._forget_whole()
        sums, problems = BatchSums(len(part.batch.token_ids)), list[EnvechoError]()
        with _collective():
            for micro, with_gradient in zip(part.passes, part.with_gradient, strict=True):
                batch = _EMPTY if micro is None else part.batch
                taken = _EMPTY_MICRO if micro is None else micro
                with torch.set_grad_enabled(with_gradient), taken.laid_out():
                    loss, out, problem = weights.module(take(batch, taken.tokens, self._device), taken)
                    if with_gradient:
                        loss.backward()
                    else:
                        weights.reshard()
                if problem is not None:
                    problems.append(problem)
                if micro is not None:
                    sums.add(micro.tokens, out)
        return sums, problems[0] if problems else None

    def square_norm(self, _: None) -> float | None:
        """The squared norm of this rank's shards of the gradient, None where there is no gradient."""
        gradients = self._trained().gradients()
        return _square(gradients) if gradients else None

    def clear_gradients(self, _: None) -> None:
        """Forget the accumulated gradient."""
        self._trained().clear_gradients()

    def optim_step(self, step: tuple[AdamParams, float]) -> None:
        """Multiply the gradient by the factor of the clip, and step this rank's shards."""
        params, factor = step
        weights = self._trained()
        if factor != 1:
            for gradient in weights.gradients().values():
                gradient.mul_(factor)
        for group in self._optimizer.param_groups:
            group["lr"] = params.learning_rate
            group["betas"] = (params.beta1, params.beta2)
            group["eps"] = params.eps
            group["weight_decay"] = params.weight_decay
        self._optimizer.step()
        weights.clear_gradients()
        self._forget_whole()

    def logprobs(self, asked: tuple[Sequence[ScoreRequest], float, bool]) -> list[Scores]:
        """Score this rank's requests."""
        requests, temperature, with_entropies = asked
        self._make_whole()
        options = ScoringOptions(
            max_tokens=self._max_tokens,
            chunk_size=self._chunk_size,
            share=self._shares_prefixes,
            flat=self._lays_flat,
            temperature=temperature,
            with_entropies=with_entropies,
        )
        return score(self._model, requests, options)

    def sample(self, asked: tuple[Sequence[NDArray[np.int32]], SamplingParams, int]) -> list[Sample]:
        """Continue this rank's prompts."""
        prompts, params, seed = asked
        self._make_whole()
        return draw_samples(self._model, prompts, params, seed=seed, max_tokens=self._max_tokens)

    def open_session(self, opened: tuple[int, int]) -> None:
        """Open a session under a number, with the engine's seed."""
        number, seed = opened
        self._sessions[number] = CachedSession(self._model, seed=seed)

    def sample_session(self, asked: tuple[int, Sequence[int], Sequence[TurnRequest], SamplingParams]) -> list[Sample]:
        """Forget the rows that are over and sample this rank's turns."""
        number, dropped, requests, params = asked
        self._make_whole()
        session = self._sessions[number]
        for row in dropped:
            session.drop(row)
        return session.sample(requests, params)

    def close_session(self, number: int) -> None:
        """Free a session's cache."""
        del self._sessions[number]

    def whole_weights(self, keep: bool) -> dict[str, Tensor] | None:
        """Gather the weights on the CPU of the rank that keeps them."""
        return self._gathered(lambda value: value, keep=keep)

    def whole_gradients(self, keep: bool) -> dict[str, Tensor] | None:
        """Gather the accumulated gradient on the CPU of the rank that keeps it."""
        return self._gathered(lambda value: value.grad, keep=keep)

    def whole_moments(self, keep: bool) -> dict[str, dict[str, Tensor]] | None:
        """Gather the optimiser's moments on the CPU of the rank that keeps them."""
        found: dict[str, dict[str, Tensor]] = {}
        with _collective():
            for name, value in self._trained().trained.items():
                for moment, shard in self._optimizer.state.get(value, {}).items():
                    full = whole(shard)
                    if keep:
                        found.setdefault(name, {})[moment] = full.cpu()
        return found if keep else None

    def write_model(self, folder: Path, weights: Mapping[str, Tensor]) -> None:
        """Write whole weights as a plain Hugging Face folder; on the rank that has them."""
        named = named_state(self._model.network, weights)
        state.write_model(self._model, named, folder, adapter=self._adapter, in_float32=self._dtype == torch.bfloat16)

    def load_model(self, folder: Path) -> None:
        """Take this rank's shards of a model folder."""
        weights = self._trained()
        self._forget_whole()
        if self._adapter is not None:
            weights.take(self._adapter.load(folder))
        else:
            weights.take(state.read_model(folder, weights.parameters))

    def load_moments(self, folder: Path) -> None:
        """Take this rank's shards of the optimiser's moments; an accumulated gradient is dropped."""
        weights = self._trained()
        weights.clear_gradients()
        self._optimizer.state.clear()
        for name, moment, value in state.read_moments(weights.trained, folder):
            parameter = weights.trained[name]
            is_moment = value.shape == parameter.shape and moment != "step"
            self._optimizer.state[parameter][moment] = weights.shard(value, parameter) if is_moment else value

    def _gathered(self, of: Callable[[Tensor], Tensor | None], *, keep: bool) -> dict[str, Tensor] | None:
        found: dict[str, Tensor] = {}
        with _collective():
            for name, parameter in self._trained().parameters.items():
                value = of(parameter)
                if value is None:
                    continue
                full = whole(value.detach())
                if keep:
                    found[name] = full.cpu()
        return found if keep else None

    def _make_whole(self) -> None:
        if self._weights is not None and not self._is_whole:
            with _collective():
                self._weights.gather()
            self._is_whole = True

    def _forget_whole(self) -> None:
        if self._weights is not None and self._is_whole:
            self._weights.release()
            self._is_whole = False

    def _trained(self) -> ShardedWeights:
        if self._weights is None:
            raise EngineError("this engine was made with trains=False; it can score and sample alone")
        return self._weights

    @property
    def _device(self) -> torch.device:
        return self._model.device


@contextmanager
def _collective() -> Generator[None]:
    """Mark a block in which all ranks take part: an error in it leaves the others waiting, so this rank must end."""
    try:
        yield
    except Exception as error:
        raise Broken from error


def _place(device: str, local_rank: int) -> torch.device:
    """This rank's device: the GPU of its number on the machine, or the CPU."""
    place = choose_device(device)
    if place.type != "cuda":
        return place
    if ":" in device:
        raise EngineError(f"device {device!r} names one device; under torchrun every rank takes its own: write 'cuda'")
    if local_rank >= torch.cuda.device_count():
        raise EngineError(
            f"torchrun started at least {local_rank + 1} processes here, and there are {torch.cuda.device_count()}"
            " CUDA devices; pass --nproc-per-node with their number"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _square(gradients: Mapping[str, Tensor]) -> float:
    return sum(float(value.double().square().sum()) for value in gradients.values())
