"""The Protocols that rooms share: what a world, a policy and an engine must do.

Imports level 0 only, so that every room can import it. The engine's verbs are those of the Tinker API and of OpenEnv
RFC 007's optimizer; the world's are OpenEnv's `Environment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from envecho.trajectory import Message, Segment

if TYPE_CHECKING:
    from envecho.losses.batch import WeightedBatch


# --- worlds -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a world answers, as typed segments, so that roles are facts from the start.

    `reward` is None where nothing was graded. `labels` are facts that the world states about this answer.
    `tools` are the schemas of what an action may call, as chat templates take them; `reset` states them, and how they
    are shown to a policy is the rollout's choice. `metadata` is for people and never becomes text: exit status,
    seconds, counts.
    """

    segments: tuple[Segment, ...]
    done: bool = False
    reward: float | None = None
    timed_out: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class World(Protocol):
    """OpenEnv's `Environment` contract, fulfilled structurally: an action is the text of one assistant turn."""

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        """Start an episode; the observation's segments are the task (and what the system says)."""
        ...

    def step(self, action: str, timeout_s: float | None = None) -> Observation:
        """Carry out one action and answer."""
        ...

    @property
    def state(self) -> Mapping[str, Any]:
        """Episode id, step count and task id of the running episode."""
        ...

    def close(self) -> None:
        """End the episode and release everything that it holds; may be called twice."""
        ...


@runtime_checkable
class TaskSuite(Protocol):
    """The numbered tasks of one world: number n of a split is the same task in every run and process.

    `splits` name disjoint sets of tasks, `train` among them. A suite is what `--world NAME` and `[rollout] world` name.
    """

    @property
    def name(self) -> str:
        """The name in configurations."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        ...

    def num_tasks(self, split: str) -> int | None:
        """How many different tasks a split has; beyond that, numbers start over. None: no end."""
        ...

    def task_id(self, split: str, number: int) -> str:
        """Name the task; results of one task are clustered by it."""
        ...

    def make_world(self, split: str, number: int) -> World:
        """Return a world whose `reset` starts this task, whatever seed it gets."""
        ...

    def scripted_policy(self, split: str, number: int, *, policy: str, seed: int) -> Policy:
        """Return the policy `oracle` or `explore` for one episode of this task.

        Raises:
            ConfigError: the suite has no such policy, or none for this task.
        """
        ...


# --- policies -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PolicyTurn:
    """One action of a policy: the assistant message, and labels for the observation that answers it.

    `observation_labels` is for scripted policies that know what they ask (an explorer knows that its command is a
    function of text already shown). `finished` says that the policy has nothing more to do.
    """

    message: Message
    observation_labels: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False


@runtime_checkable
class Policy(Protocol):
    """Chooses the next action from the messages so far."""

    def act(self, messages: Sequence[Message]) -> PolicyTurn:
        """Return the next assistant turn."""
        ...


# --- engines ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AdamParams:
    """One AdamW step; `grad_clip_norm` None leaves the gradient as it is."""

    learning_rate: float
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float | None = 1.0


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample; training samples use top_p 1, top_k 0 and no penalties, so these are not options here."""

    max_tokens: int
    temperature: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Sampled ids (the stop token included), their log-probs and entropies under the sampling distribution, `[token]`.

    An entropy is that of the whole distribution from which the token was drawn, in nats; None where nobody computed it.
    """

    token_ids: NDArray[np.int32]
    logprobs: NDArray[np.float32]
    stopped: bool
    entropies: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class TurnRequest:
    """One turn to sample in a `SamplingSession`.

    `row` names the episode within the session; `prompt` `[token]` is the whole history of it. `key` seeds the draws:
    the draw of position p of this turn is a function of (`SamplingParams.seed`, key, p) and of nothing else, so it does
    not depend on what is decoded beside it.
    """

    row: int
    prompt: NDArray[np.int32]
    key: tuple[int, ...]


class SamplingSession(Protocol):
    """Episodes that are decoded together; each keeps its key-value cache from turn to turn."""

    def sample(self, requests: Sequence[TurnRequest], params: SamplingParams) -> list[Sample]:
        """Sample one turn for each request; what a row's prompt shares with its last prompt is not computed again."""
        ...

    def drop(self, row: int) -> None:
        """Free the cache of an episode that is over."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreRequest:
    """Token ids `[token]` and a mask `[token]` of the tokens to score (never token 0)."""

    token_ids: NDArray[np.int32]
    read: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Per token of a request: `logprobs` float32, NaN where not read; `top1` whether it was the argmax.

    `top1` is None where the engine is told log-probs alone. `entropies` float32 in nats, NaN where not read, is that of
    the distribution over the token; None unless asked for.
    """

    logprobs: NDArray[np.float32]
    top1: NDArray[np.bool_] | None
    entropies: NDArray[np.float32] | None = None


@dataclass(frozen=True, kw_only=True)
class ForwardBackwardOutput:
    """Sums over the batch, and per token the log-prob that its term read (`[token]`, NaN where none did).

    `env_logprobs` is at T = 1 at every `env_targets` token; `policy_logprobs` at the batch's temperature, at every
    token with a policy, KL or entropy weight. `entropies` belongs to the same tokens, in nats; `clipped` marks the
    tokens where the clip of the policy loss binds. `kl_loss` and `entropy_loss` are those terms as they stand in
    `loss`.
    """

    loss: float
    policy_loss: float
    env_loss: float
    kl_loss: float = 0.0
    entropy_loss: float = 0.0
    policy_logprobs: NDArray[np.float32]
    env_logprobs: NDArray[np.float32]
    entropies: NDArray[np.float32]
    clipped: NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class TermGradients:
    """L2 norms of the gradients of the policy side (policy, KL, entropy) and of the environment term, and their cosine.

    A norm is 0 where the term has no weight; `cosine` is then None. `seconds` is what measuring took.
    """

    policy_norm: float
    env_norm: float
    cosine: float | None
    seconds: float


Ability = Literal[
    "term_gradients",
    "grad_norm",
    "grad_clip",
    "entropies",
    "kl",
    "entropy_bonus",
    "importance_cap",
    "env_nll_clip",
    "policy_temperature",
    "loss_grpo",
    "loss_cispo",
    "loss_gspo",
    "loss_sft",
    "ratio_sampling",
    "ratio_proximal",
    "ratio_current",
    "exact_resume",
]
"""What a run may ask of an engine beyond the plain weighted sum.

`term_gradients`: the verb. `grad_norm`, `grad_clip`: `optim_step` knows the norm, and heeds `grad_clip_norm`.
`entropies`: of the actions, in sums and scores.
`kl` and `entropy_bonus`: these weights. `importance_cap`, `env_nll_clip`: these fields of `PolicyLossSpec`.
`policy_temperature`: actions read at another temperature than 1. `loss_*` and `ratio_*`: `PolicyLossSpec.name` and its
`ratio_denominator`. `exact_resume`: `load_state` restores bit for bit, random state included.
"""


@dataclass(frozen=True, kw_only=True)
class EngineCapabilities:
    """What an engine can do, asked before a run starts.

    `lacks` names what it cannot do, with the reason in a clause that an error can end with; all else it can.
    """

    trains: bool
    samples: bool
    max_context_tokens: int
    devices: str
    compute_dtype: str
    lacks: Mapping[Ability, str] = field(default_factory=dict[Ability, str])


@runtime_checkable
class Sampler(Protocol):
    """Samples turns: an engine, or a server that holds a copy of the policy's weights."""

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt."""
        ...

    def sampling_session(self) -> AbstractContextManager[SamplingSession]:
        """Open a session for a batch of episodes; leaving the block frees its cache."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Owns model weights and devices; computes sum(weight * per-token loss), steps, samples and saves."""

    @property
    def capabilities(self) -> EngineCapabilities:
        """What this engine can do."""
        ...

    def forward_backward(self, batch: WeightedBatch) -> ForwardBackwardOutput:
        """Add the gradient of the batch's loss to what is accumulated since the last step."""
        ...

    def term_gradients(self, batch: WeightedBatch) -> TermGradients:
        """Measure the gradients of the two terms apart; nothing is accumulated and nothing changes.

        It costs two forward and backward passes over the batch.
        """
        ...

    def optim_step(self, params: AdamParams) -> float | None:
        """Apply one AdamW step to the accumulated gradient, clear it, and return its norm before clipping.

        None where the engine is not told the norm (`lacks` names `grad_norm`).
        """
        ...

    def logprobs(
        self, requests: Sequence[ScoreRequest], *, temperature: float = 1.0, with_entropies: bool = False
    ) -> list[Scores]:
        """Score tokens without a gradient, under softmax(logits / temperature)."""
        ...

    def sample(self, prompts: Sequence[NDArray[np.int32]], params: SamplingParams) -> list[Sample]:
        """Continue each prompt."""
        ...

    def sampling_session(self) -> AbstractContextManager[SamplingSession]:
        """Open a session for a batch of episodes; leaving the block frees its cache."""
        ...

    def save_model(self, folder: Path) -> None:
        """Write the weights alone into an existing empty folder, in plain Hugging Face layout."""
        ...

    def load_model(self, folder: Path) -> None:
        """Take the weights of a folder that `save_model` or `save_state` wrote; the optimiser's state stays."""
        ...

    def save_state(self, folder: Path) -> None:
        """Write model, optimiser and random state into an existing empty folder, as safetensors and JSON."""
        ...

    def load_state(self, folder: Path) -> None:
        """Restore what `save_state` wrote, bit for bit."""
        ...
