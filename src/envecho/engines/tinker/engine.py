"""`TinkerEngine`: the optimizer seam over a server that sums coefficients; see the package.

    batch -> coefficients -> (forward) -> forward_backward       optim_step -> AdamW on the server

Not here: tensors of weights or gradients, which never leave the server, and any wire (`sdk`, `foundry`).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.engines.tinker.accumulation import Accumulation
from envecho.engines.tinker.checkpoints import Checkpoint, read_checkpoint, unpack_adapter, write_checkpoint
from envecho.engines.tinker.probe import ServerFacts
from envecho.engines.tinker.rows import Parts, checked_logprobs, scored_row
from envecho.engines.tinker.service import RemoteSampler, RemoteService
from envecho.engines.tinker.surrogate import coefficients, needs_logprobs, refuse_inexpressible
from envecho.errors import EngineError
from envecho.losses import BatchLoss, WeightedBatch, loss_of_logprobs, policy_side
from envecho.seam import (
    Ability,
    AdamParams,
    EngineCapabilities,
    ForwardBackwardOutput,
    Sample,
    SamplingParams,
    ScoreRequest,
    Scores,
    TermGradients,
    TurnRequest,
)

_LACKS: Final[dict[Ability, str]] = {
    "term_gradients": "gradients never leave the server",
    "entropies": "the API tells the log-probs of given tokens and nothing else of a distribution",
    "entropy_bonus": "the API tells no entropies",
    "policy_temperature": "the API knows log-probs at T = 1 alone",
    "exact_resume": "weights and optimiser are the server's to keep, and it promises no bits",
}


@final
class TinkerEngine:
    """LoRA weights on a server; fulfils `envecho.seam.Engine`. `open_tinker` and `open_foundry` make one.

    Args:
        service: the server.
        facts: how it sums, as `measure_server` found.
        rank: of the LoRA weights.
        seed: of the fresh LoRA weights, and mixed into the seed of every draw.
        max_context_tokens: the longest sequence.
        download_adapter: whether saving also brings the LoRA weights into the folder.
    """

    def __init__(
        self,
        service: RemoteService,
        *,
        facts: ServerFacts,
        rank: int,
        seed: int,
        max_context_tokens: int,
        download_adapter: bool = True,
    ) -> None:
        self._service, self._facts, self._rank = service, facts, rank
        self._seed, self._num_optim_steps = seed, 0
        self._max_context_tokens, self._download_adapter = max_context_tokens, download_adapter
        self._model = service.create(rank=rank, seed=seed)
        self._gradient = Accumulation(facts)
        self._sampler: RemoteSampler | None = None

    @property
    def capabilities(self) -> EngineCapabilities:
        """What this engine can do."""
        lacks = dict(_LACKS)
        if self._facts.grad_norm_metric is None:
            lacks["grad_norm"] = "the server's steps report no norm of the gradient"
        if not self._facts.clips_gradients:
            lacks["grad_clip"] = "the server's steps do not clip, which was measured"
        return EngineCapabilities(
            trains=True,
            samples=True,
            max_context_tokens=self._max_context_tokens,
            devices=f"{self._service.name} ({self._service.base_model}, LoRA of rank {self._rank})",
            compute_dtype="the server's",
            lacks=lacks,
        )

    def forward_backward(self, batch: WeightedBatch) -> ForwardBackwardOutput:
        """Add the gradient of the batch's loss; one backward pass for both terms.

        A pass without a gradient comes first where coefficients depend on the current log-probs (`needs_logprobs`), or
        where the server's backward pass does not tell every log-prob. Sequences that carry no weight are scored alone.

        Raises:
            EngineError: the loss is no function of log-probs at T = 1, a sequence is too long, or the server failed.
            DataError: log-probs that a term needs are missing.
        """
        refuse_inexpressible(batch)
        parts = Parts(batch)
        self._refuse_longer(parts.longest)
        values = np.zeros(len(batch.token_ids))
        read = policy_side(batch).numpy() | batch.env_targets.numpy() | (batch.env_weights != 0).numpy()
        first = needs_logprobs(batch) or not self._facts.tells_all_logprobs
        if first:
            self._score(parts, parts.touching(read), values)
        found = coefficients(batch, values)
        weighted = parts.touching(found != 0)
        waiting = self._gradient.send(self._model, parts.rows(weighted, found))
        if not first:
            self._score(parts, [n for n in parts.touching(read) if n not in set(weighted)], values)
        logprobs = waiting()
        if not first:
            parts.fill(values, weighted, logprobs)
        return _output(loss_of_logprobs(torch.from_numpy(values), batch))

    def term_gradients(self, batch: WeightedBatch) -> TermGradients:
        """Refused: gradients never leave the server."""
        raise EngineError(f"{self._service.name} cannot tell the gradients of the terms: {_LACKS['term_gradients']}")

    def optim_step(self, params: AdamParams) -> float | None:
        """Apply one AdamW step on the server and return the norm that it reports, None where it reports none.

        Where nothing has been accumulated, nothing is sent, nothing changes, and 0 is returned.

        Raises:
            EngineError: a clip is asked of a server that does not clip, or the norm that it reports is not finite.
        """
        if not self._gradient.exists:
            return 0.0
        clip = params.grad_clip_norm
        if clip is not None and math.isfinite(clip) and not self._facts.clips_gradients:
            raise EngineError(
                f"grad_clip_norm is {clip}, and {self._service.name} does not clip (measured); say so with"
                " [optimizer] grad_clip_norm = inf"
            )
        metrics = self._model.optim_step(params)
        self._gradient.clear()
        self._sampler = None
        self._num_optim_steps += 1
        name = self._facts.grad_norm_metric
        norm = None if name is None else float(metrics[name])
        if norm is not None and not math.isfinite(norm):
            raise EngineError(f"the server's gradient norm is {norm}; go back to the last checkpoint")
        return norm

    def logprobs(
        self, requests: Sequence[ScoreRequest], *, temperature: float = 1.0, with_entropies: bool = False
    ) -> list[Scores]:
        """Score tokens at T = 1 under the current weights; `top1` is unknown.

        Raises:
            EngineError: another temperature or entropies are asked for, or a sequence is too long.
        """
        if temperature != 1:
            raise EngineError(f"temperature is {temperature}; {_LACKS['policy_temperature']}")
        if with_entropies:
            raise EngineError(f"entropies are asked for; {_LACKS['entropies']}")
        self._refuse_longer(max((len(request.token_ids) for request in requests), default=0))
        values = [np.full(len(request.token_ids), np.nan, dtype=np.float32) for request in requests]
        asked = [n for n, request in enumerate(requests) if request.read.any()]
        rows = [scored_row(requests[n].token_ids) for n in asked]
        for n, found in zip(asked, self._model.forward(rows)() if rows else [], strict=True):
            mask = requests[n].read
            values[n][1:][mask[1:]] = checked_logprobs(found, len(mask))[mask[1:]]
        return [Scores(logprobs=value, top1=None) for value in values]

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt; a prompt's seed is of its tokens and of how many equal prompts stand before it."""
        seen: Counter[bytes] = Counter()
        keys: list[tuple[bytes | int, ...]] = []
        for prompt in prompts:
            content = np.ascontiguousarray(prompt, dtype=np.int32).tobytes()
            keys.append((content, seen[content]))
            seen[content] += 1
        return self._sample(prompts, params, keys)

    @contextmanager
    def sampling_session(self) -> Generator[RemoteSession]:
        """Open a session for a batch of episodes; what prompts share is the server's to cache."""
        yield RemoteSession(self)

    def sample_turns(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request, seeded by its key."""
        return self._sample([request.prompt for request in requests], params, [request.key for request in requests])

    def save_model(self, folder: Path) -> None:
        """Write where the server keeps the weights, and the LoRA weights in peft's layout, into an empty folder."""
        self._refuse_gradient("save_model")
        checkpoint = Checkpoint(
            service=self._service.name,
            address=self._model.save(),
            base_model=self._service.base_model,
            rank=self._rank,
            seed=self._seed,
            num_optim_steps=self._num_optim_steps,
        )
        write_checkpoint(checkpoint, folder)
        if self._download_adapter:
            unpack_adapter(self._model.adapter_archive(), folder)

    def load_model(self, folder: Path) -> None:
        """Take the weights that `save_model` or `save_state` left on the server; the optimiser starts afresh.

        The API cannot keep an optimiser's state over other weights.
        """
        self._restore(folder, with_optimizer=False)

    def save_state(self, folder: Path) -> None:
        """Do as `save_model`; the server's checkpoint holds the optimiser, too.

        Raises:
            EngineError: a gradient is accumulated that no step has used; it would be lost.
        """
        self._refuse_gradient("save_state")
        self.save_model(folder)

    def load_state(self, folder: Path) -> None:
        """Go on from what `save_state` left on the server; an accumulated gradient is dropped."""
        checkpoint = self._restore(folder, with_optimizer=True)
        self._seed, self._num_optim_steps = checkpoint.seed, checkpoint.num_optim_steps

    def _restore(self, folder: Path, *, with_optimizer: bool) -> Checkpoint:
        checkpoint = read_checkpoint(folder)
        if (checkpoint.base_model, checkpoint.rank) != (self._service.base_model, self._rank):
            raise EngineError(
                f"{folder} holds LoRA weights of rank {checkpoint.rank} for {checkpoint.base_model}; this engine has"
                f" rank {self._rank} for {self._service.base_model}"
            )
        self._model = self._service.restore(checkpoint.address, rank=self._rank, with_optimizer=with_optimizer)
        self._gradient.clear()
        self._sampler = None
        return checkpoint

    def _score(self, parts: Parts, numbers: Sequence[int], values: NDArray[np.float64]) -> None:
        if numbers:
            parts.fill(values, numbers, self._model.forward([scored_row(parts.ids(n)) for n in numbers])())

    def _sample(
        self,
        prompts: Sequence[NDArray[np.int32]],
        params: SamplingParams,
        keys: Sequence[tuple[bytes | int, ...]],
    ) -> list[Sample]:
        if params.temperature not in (0.0, 1.0):
            raise EngineError(
                f"temperature is {params.temperature}, and the API tells log-probs at T = 1 alone; sample at 1, or at 0"
                " for the likeliest tokens"
            )
        for prompt in prompts:
            if not 0 < len(prompt) <= self._max_context_tokens - params.max_tokens:
                raise EngineError(
                    f"a prompt of {len(prompt)} tokens and {params.max_tokens} new ones do not fit in the context of"
                    f" {self._max_context_tokens}"
                )
        if not prompts:
            return []
        if self._sampler is None:
            self._sampler = self._model.sampler()
        seeds = [_seed(self._seed, params.seed, key) for key in keys]
        found = self._sampler.sample(prompts, params, seeds)
        for one in found:
            if one.stopped and params.stop_token_ids and one.token_ids[-1] not in params.stop_token_ids:
                raise EngineError(
                    f"{self._service.name} ended a turn with token {one.token_ids[-1]}, expected one of the stop tokens"
                    f" {params.stop_token_ids}: ids must be exact to be trained"
                )
        is_greedy = params.temperature == 0
        return [
            Sample(
                token_ids=one.token_ids,
                logprobs=np.zeros_like(one.logprobs) if is_greedy else one.logprobs,
                stopped=one.stopped,
            )
            for one in found
        ]

    def _refuse_longer(self, longest: int) -> None:
        if longest > self._max_context_tokens:
            raise EngineError(
                f"a sequence has {longest} tokens, the model's context {self._max_context_tokens}; tokenise with"
                " max_tokens so that long trajectories become windows"
            )

    def _refuse_gradient(self, verb: str) -> None:
        if self._gradient.exists:
            raise EngineError(f"{verb} after forward_backward and before optim_step would lose the gradient")


@final
class RemoteSession:
    """Episodes that are sampled together; the server keeps what cache it likes, so there is nothing to drop."""

    def __init__(self, engine: TinkerEngine) -> None:
        self._engine = engine

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request."""
        return self._engine.sample_turns(requests, params)

    def drop(self, row: int) -> None:
        """Nothing is held here."""


def _seed(*parts: int | tuple[bytes | int, ...]) -> int:
    """A number below 2**31 that is a function of everything that it is made from."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big") >> 1


def _output(sums: BatchLoss) -> ForwardBackwardOutput:
    return ForwardBackwardOutput(
        loss=float(sums.loss),
        policy_loss=float(sums.policy_loss),
        env_loss=float(sums.env_loss),
        kl_loss=float(sums.kl_loss),
        policy_logprobs=sums.policy_logprobs.float().numpy(),
        env_logprobs=sums.env_logprobs.float().numpy(),
        entropies=sums.entropies.float().numpy(),
        clipped=sums.clipped.numpy(),
    )
