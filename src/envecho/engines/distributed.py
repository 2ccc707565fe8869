"""`DistributedEngine`: the local engine over the processes of one torchrun, behind the same seam.

    torchrun --nproc-per-node 4 -m envecho train CONFIG.toml --out runs/x

Rank 0 is the command: loop, worlds, files and metrics exist once. The other ranks wait in `serve` for verbs. Each verb
is dealt out to all ranks, rank 0 among them, and their parts become the one answer for the whole batch. A rank's part
is a sum, because weights were counted over the whole step. Not here: processes (`distributed_group`), who gets what
(`distributed_plan`), and what a rank computes (`distributed_rank`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Unpack, final

import numpy as np
import torch
from numpy.typing import NDArray
from packaging.version import Version

from envecho.engines import state
from envecho.engines.distributed_group import Ranks
from envecho.engines.distributed_plan import BatchPart, split_prompts, split_requests, split_step
from envecho.engines.distributed_rank import RankEngine, RankFacts, RankOptions, TermSums
from envecho.engines.local import LocalEngine
from envecho.engines.lora import LoraOptions
from envecho.engines.micro_batches import PassKeywords, PassOptions, without_env, without_policy
from envecho.engines.precision import ComputeDtype, Trainable
from envecho.engines.pretrained import resolve_model
from envecho.engines.torchrun import world_size
from envecho.errors import EngineError
from envecho.losses import WeightedBatch
from envecho.seam import (
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

_OLDEST_TORCH: Final = Version("2.13")
"""The release that the tests of several processes run on; FSDP2's sums and gloo's scatters are younger than 2.6."""
_COUNTERS: Final = ("seed", "num_optim_steps")
_OPEN: Final = "open"


@final
class _Process:
    """This process's engines by number, and the ranks that it belongs to."""

    def __init__(self) -> None:
        self.ranks = Ranks()
        self.engines: dict[int, RankEngine] = {}
        self.num_opened = 0

    def handle(self, verb: str, payload: Any) -> Any:
        """Do one verb of one engine."""
        number, argument = payload
        if verb == _OPEN:
            engine = RankEngine(argument, local_rank=self.ranks.local_rank, size=self.ranks.size)
            self.engines[number] = engine
            return engine.facts
        return getattr(self.engines[number], verb)(argument)

    def leave(self) -> None:
        """Free what this process holds of the engines, then its place among the ranks."""
        self.engines.clear()
        self.ranks.leave()


_process: _Process | None = None


def is_distributed() -> bool:
    """Whether torchrun started this process as one of several."""
    return world_size() > 1


@contextmanager
def rank_zero() -> Generator[bool]:
    """Wrap what rank 0 does; the block's value is False on every other rank, whose work is over by then.

        with rank_zero() as is_controller:
            if is_controller:
                ...

    Other ranks wait here for verbs until rank 0 leaves its block. Without torchrun the block simply runs.

    Raises:
        EngineError: on another rank, when rank 0 is gone.
    """
    if not is_distributed():
        yield True
        return
    process = _joined()
    if process.ranks.rank:
        process.ranks.serve(process.handle)
        process.leave()
        yield False
        return
    try:
        yield True
    finally:
        if not process.ranks.is_broken:
            process.ranks.dismiss()
            process.leave()


def open_local(
    model: str | Path,
    *,
    device: str = "auto",
    compute_dtype: ComputeDtype = "auto",
    seed: int = 0,
    trains: bool = True,
    trainable: Trainable = "all",
    lora: LoraOptions | None = None,
    **passes: Unpack[PassKeywords],
) -> LocalEngine | DistributedEngine:
    """Open a model on this machine: on one device, or, under torchrun, on all ranks; arguments as of `LocalEngine`.

    Raises:
        EngineError: as `LocalEngine`; a rank has no device of its own; this is not rank 0.
    """
    if not is_distributed():
        return LocalEngine(
            model, device=device, compute_dtype=compute_dtype, seed=seed, trains=trains, trainable=trainable,
            lora=lora, **passes,
        )  # fmt: skip
    resolve_model(model)  # once, before every rank looks for it
    options = RankOptions(
        model=str(model),
        device=device,
        compute_dtype=compute_dtype,
        seed=seed,
        trains=trains,
        trainable=trainable,
        lora=lora,
        passes=PassOptions(**passes),
    )
    return DistributedEngine(options)


@final
class DistributedEngine:
    """A model over the ranks of one torchrun; fulfils `envecho.seam.Engine`. Made by `open_local`, on rank 0.

    Sequences, score requests, prompts and episodes are dealt out to the ranks. Log-probs and draws do not depend on
    how many there are, beyond rounding; the bits of a step are the same for the same number.
    """

    def __init__(self, options: RankOptions) -> None:
        if options.lora is not None and (not options.trains or options.trainable != "all"):
            raise EngineError("lora trains an adapter alone: it needs trains=True and trainable='all'")
        if Version(torch.__version__) < _OLDEST_TORCH:
            raise EngineError(f"several devices need torch {_OLDEST_TORCH} or later, found {torch.__version__}")
        self._process = _joined()
        if self._process.ranks.rank:
            raise EngineError("engines are opened on rank 0; the other ranks wait in `rank_zero`")
        self._process.num_opened += 1
        self._number = self._process.num_opened
        self._options = options
        self._num_sessions = 0
        self._counters = {"seed": options.seed, "num_optim_steps": 0}
        self._facts: list[RankFacts] = self._all(_OPEN, options)

    @property
    def capabilities(self) -> EngineCapabilities:
        """What this engine can do."""
        return EngineCapabilities(
            trains=self._options.trains,
            samples=True,
            max_context_tokens=self._facts[0].max_context_tokens,
            devices=f"{len(self._facts)} ranks: {', '.join(facts.device for facts in self._facts)}",
            compute_dtype=self._facts[0].compute_dtype,
        )

    def forward_backward(self, batch: WeightedBatch) -> ForwardBackwardOutput:
        """Add the gradient of the whole batch to what is accumulated; every rank computes some of the sequences.

        Raises:
            EngineError: as of `LocalEngine`; or some rank failed, and the message names it. The gradient is then
                cleared.
        """
        parts = self._split(batch)
        try:
            outputs: list[ForwardBackwardOutput] = self._each("forward_backward", parts)
        except EngineError:
            self._forget()
            raise
        return _joined_output(batch, parts, outputs)

    def term_gradients(self, batch: WeightedBatch) -> TermGradients:
        """Measure the gradients of the two terms apart; see `envecho.seam.Engine`. What is accumulated stays."""
        started = time.monotonic()
        policy, env = self._split(without_env(batch)), self._split(without_policy(batch))
        sums: list[TermSums] = self._each("term_gradients", list(zip(policy, env, strict=True)))
        norms = [sum(s.policy for s in sums) ** 0.5, sum(s.env for s in sums) ** 0.5]
        product = sum(s.product for s in sums)
        return TermGradients(
            policy_norm=norms[0],
            env_norm=norms[1],
            cosine=product / (norms[0] * norms[1]) if all(norms) else None,
            seconds=time.monotonic() - started,
        )

    def optim_step(self, params: AdamParams) -> float:
        """Clip by the norm over all shards, apply one AdamW step, clear, and return the norm before clipping.

        Raises:
            EngineError: the gradient holds NaN or infinity; weights are left as they are and the gradient is cleared.
        """
        squares: list[float | None] = self._all("square_norm", None)
        if all(square is None for square in squares):
            return 0.0
        norm = sum(square or 0.0 for square in squares) ** 0.5
        if not np.isfinite(norm):
            self._all("clear_gradients", None)
            raise EngineError(
                f"the gradient norm is {norm}; the step was not applied. Lower the learning rate, or resume from the"
                " last checkpoint"
            )
        clip, factor = params.grad_clip_norm, 1.0
        if clip is not None and norm > clip:
            factor = clip / (norm + 1e-6)
        self._all("optim_step", (params, factor))
        self._counters["num_optim_steps"] += 1
        return norm

    def gradients(self) -> dict[str, NDArray[np.floating]]:
        """Return a copy of the gradient accumulated since the last step, by the parameter's name in the model."""
        return {name: value.numpy().copy() for name, value in self._gathered("whole_gradients").items()}

    def logprobs(
        self, requests: Sequence[ScoreRequest], *, temperature: float = 1.0, with_entropies: bool = False
    ) -> list[Scores]:
        """Score tokens under softmax(logits / temperature); requests with a common beginning stay on one rank."""
        shares = split_requests(requests, self._process.ranks.size)
        return self._dealt("logprobs", requests, shares, lambda mine: (mine, temperature, with_entropies))

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt; the draws are those of `LocalEngine`."""
        shares = split_prompts(prompts, self._process.ranks.size)
        return self._dealt("sample", prompts, shares, lambda mine: (mine, params, self._counters["seed"]))

    @contextmanager
    def sampling_session(self) -> Generator[DistributedSession]:
        """Open a session for a batch of episodes, which are dealt out to the ranks and stay there."""
        self._num_sessions += 1
        number = self._num_sessions
        self._all("open_session", (number, self._counters["seed"]))
        try:
            yield DistributedSession(self._each, number, num_ranks=self._process.ranks.size)
        finally:
            self._all("close_session", number)

    def save_model(self, folder: Path) -> None:
        """Write the model alone, as a plain Hugging Face folder, without the optimiser; rank 0 writes."""
        self._mine.write_model(folder, self._gathered("whole_weights"))

    def load_model(self, folder: Path) -> None:
        """Take the weights of a model folder of the same architecture; every rank reads the folder."""
        self._all("load_model", folder)

    def save_state(self, folder: Path) -> None:
        """Write what `LocalEngine.save_state` writes: any number of ranks, or one device alone, can go on from it.

        Raises:
            EngineError: a gradient is accumulated that no step has used; it would be lost.
        """
        if any(square is not None for square in self._all("square_norm", None)):
            raise EngineError("save_state after forward_backward and before optim_step would lose the gradient")
        self.save_model(folder)
        state.write_moments(self._gathered("whole_moments"), folder)
        state.save_counters(self._counters, folder)

    def load_state(self, folder: Path) -> None:
        """Restore what `save_state` wrote; an accumulated gradient is dropped. Every rank reads the folder."""
        counters = state.load_counters(_COUNTERS, folder)
        self._all("load_model", folder)
        self._all("load_moments", folder)
        self._counters = counters

    # --- the ranks ------------------------------------------------------------------------------------------------

    @property
    def _mine(self) -> RankEngine:
        return self._process.engines[self._number]

    def _each(self, verb: str, payloads: Sequence[Any]) -> list[Any]:
        """Do a verb with one payload per rank."""
        messages = [(self._number, payload) for payload in payloads]
        return self._process.ranks.call(self._process.handle, verb, messages)

    def _all(self, verb: str, payload: Any) -> list[Any]:
        """Do a verb with the same payload on every rank."""
        return self._each(verb, [payload] * self._process.ranks.size)

    def _gathered(self, verb: str) -> dict[str, Any]:
        size = self._process.ranks.size
        return self._each(verb, [rank == 0 for rank in range(size)])[0]

    def _dealt(
        self, verb: str, asked: Sequence[Any], shares: Sequence[Sequence[int]], payload: Callable[[list[Any]], Any]
    ) -> list[Any]:
        """Do a verb on shares of what was asked, and return the answers in the order of the asking."""
        answers = self._each(verb, [payload([asked[n] for n in share]) for share in shares])
        found: dict[int, Any] = {}
        for share, answered in zip(shares, answers, strict=True):
            found |= dict(zip(share, answered, strict=True))
        return [found[n] for n in range(len(asked))]

    def _split(self, batch: WeightedBatch) -> list[BatchPart]:
        longest = int(batch.positions.max()) + 1 if len(batch.positions) else 0
        limit = self.capabilities.max_context_tokens
        if longest > limit:
            raise EngineError(
                f"a sequence has {longest} tokens, the model's context {limit}; tokenise with max_tokens so that long"
                " trajectories become windows"
            )
        flat = all(facts.lays_flat for facts in self._facts)
        return split_step(batch, self._process.ranks.size, self._options.passes, flat=flat)

    def _forget(self) -> None:
        """Clear a gradient that holds a part of a batch that failed, unless the ranks are gone."""
        if not self._process.ranks.is_broken:
            self._all("clear_gradients", None)


@final
class DistributedSession:
    """Episodes that are decoded together, each on the rank that got it; fulfils `envecho.seam.SamplingSession`."""

    def __init__(self, each: Callable[[str, Sequence[Any]], list[Any]], number: int, *, num_ranks: int) -> None:
        self._each, self._number = each, number
        self._rank_of: dict[int, int] = {}
        self._dropped: list[list[int]] = [[] for _ in range(num_ranks)]

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request, as `envecho.engines.decoding.CachedSession` draws it."""
        shares: list[list[int]] = [[] for _ in self._dropped]
        for place, request in enumerate(requests):
            shares[self._rank(request.row)].append(place)
        payloads = [
            (self._number, dropped, [requests[place] for place in share], params)
            for share, dropped in zip(shares, self._dropped, strict=True)
        ]
        self._dropped = [[] for _ in self._dropped]
        answers = self._each("sample_session", payloads)
        found = {p: s for share, mine in zip(shares, answers, strict=True) for p, s in zip(share, mine, strict=True)}
        return [found[place] for place in range(len(requests))]

    def drop(self, row: int) -> None:
        """Free the cache of an episode that is over, with the next turn."""
        if row in self._rank_of:
            self._dropped[self._rank_of.pop(row)].append(row)

    def _rank(self, row: int) -> int:
        """The rank of an episode; a new one goes where the fewest are."""
        if row not in self._rank_of:
            loads = [list(self._rank_of.values()).count(rank) for rank in range(len(self._dropped))]
            self._rank_of[row] = loads.index(min(loads))
        return self._rank_of[row]


def _joined() -> _Process:
    """This process's place among the ranks, joined once."""
    global _process
    if _process is None:
        _process = _Process()
    return _process


def _joined_output(
    batch: WeightedBatch, parts: Sequence[BatchPart], outputs: Sequence[ForwardBackwardOutput]
) -> ForwardBackwardOutput:
    """The sums of all parts, and their values per token at the places of the whole batch."""
    values: dict[str, NDArray[Any]] = {}
    for name in ("policy_logprobs", "env_logprobs", "entropies", "clipped"):
        found = [getattr(output, name) for output in outputs]
        values[name] = np.zeros(len(batch.token_ids), dtype=found[0].dtype)
        for part, value in zip(parts, found, strict=True):
            values[name][part.places.numpy()] = value
    return ForwardBackwardOutput(
        loss=sum(output.loss for output in outputs),
        policy_loss=sum(output.policy_loss for output in outputs),
        env_loss=sum(output.env_loss for output in outputs),
        kl_loss=sum(output.kl_loss for output in outputs),
        entropy_loss=sum(output.entropy_loss for output in outputs),
        **values,
    )
