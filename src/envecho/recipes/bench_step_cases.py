"""What one training step of a benchmark is taken over: rows of random tokens, each a prompt, then actions and answers.

The cost of a step depends on how many tokens there are, in sequences of which length, and on which of them a term
reads, not on what they say; so ids are drawn at random. Not here: who takes the step (`bench_step_subjects`), and what
it should cost (`bench_step_flops`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.engines.micro_batches import plan_rows
from envecho.engines.precision import choose_compute_dtype, choose_device
from envecho.errors import ConfigError
from envecho.losses import PolicyLossSpec, WeightedBatch

StepDtype = Literal["float32", "bfloat16"]

PROMPT: Final = 0
ACTION: Final = 1
OBSERVATION: Final = 2

_TURN_TOKENS: Final = 128


@dataclass(frozen=True, kw_only=True)
class StepCase:
    """One step: `tokens` in rows of `length` (one row of `tokens` where they are fewer).

    `shares` of prompt, action and observation tokens of each row, in percent. `group`: so many rows have the same
    prompt. `ragged` draws the length of each row from half of `length` up to it. `micro_batch_tokens` is the engine's
    `tokens_per_micro_batch`.

    Raises:
        ConfigError: a number that makes no step, or a row without room for prompt, action and observation.
    """

    tokens: int
    length: int
    shares: tuple[int, int, int]
    dtype: StepDtype
    checkpointing: bool
    micro_batch_tokens: int
    group: int = 1
    ragged: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shares) != 3 or sum(self.shares) != 100 or min(self.shares) < 1:
            raise ConfigError(
                f"shares are {'/'.join(map(str, self.shares))}, expected three whole numbers of at least 1 that add up"
                " to 100: prompt, action and observation, such as 30/10/60"
            )
        if self.tokens > self.length and self.tokens % self.length:
            raise ConfigError(f"{self.tokens} tokens are no whole number of rows of {self.length}; change one of them")
        if min(_sizes(self.shortest, self.shares)) < 1:
            raise ConfigError(
                f"a row of {self.shortest} tokens has no room for each of {'/'.join(map(str, self.shares))}"
            )
        if self.num_rows % self.group:
            raise ConfigError(f"{self.num_rows} rows cannot be put into groups of {self.group}")

    @property
    def num_rows(self) -> int:
        """How many sequences the step has."""
        return max(1, self.tokens // self.length)

    @property
    def longest(self) -> int:
        """The length of a row; with `ragged` of the longest that there may be."""
        return min(self.tokens, self.length)

    @property
    def shortest(self) -> int:
        """The length of the shortest row that there may be."""
        return self.longest // 2 if self.ragged else self.longest

    @property
    def title(self) -> str:
        """The name of the case in tables."""
        rows = f"{self.num_rows} x {'up to ' if self.ragged else ''}{self.longest:,}"
        extras = [f"prompt shared by {self.group}"] if self.group > 1 else []
        extras += ["checkpointing"] if self.checkpointing else []
        return ", ".join([rows, "/".join(map(str, self.shares)), self.dtype, *extras])

    def document(self) -> dict[str, Any]:
        """The fields as they are written."""
        return dataclasses.asdict(self) | {"shares": list(self.shares), "num_rows": self.num_rows}


def cases_of(
    *, tokens: Sequence[int], shares: Sequence[str], dtypes: Sequence[str], checkpointing: str, **same: Any
) -> list[StepCase]:
    """Return a case for each combination of what is given several times, in order.

    Args:
        tokens: of the steps.
        shares: each of the form 30/10/60.
        dtypes: `auto` is what the engine chooses on this machine.
        checkpointing: `off`, `on` or `both`.
        same: the other fields of `StepCase`, the same for all.

    Raises:
        ConfigError: shares that are no three numbers; what `StepCase` refuses.
    """
    settings = {"off": (False,), "on": (True,), "both": (False, True)}[checkpointing]
    return [
        StepCase(tokens=num, shares=share, dtype=dtype, checkpointing=setting, **same)
        for share in map(_shares, shares)
        for dtype in map(_dtype, dtypes)
        for setting in settings
        for num in tokens
    ]


def _shares(text: str) -> tuple[int, int, int]:
    try:
        prompt, action, observation = map(int, text.split("/"))
    except ValueError:
        raise ConfigError(f"shares are {text!r}, expected three whole numbers such as 30/10/60") from None
    return prompt, action, observation


def _dtype(name: str) -> StepDtype:
    if name == "auto":
        return "bfloat16" if choose_compute_dtype("auto", choose_device("auto")) == torch.bfloat16 else "float32"
    return "bfloat16" if name == "bfloat16" else "float32"


def make_roles(case: StepCase) -> list[NDArray[np.int8]]:
    """Return the role of each token of each row: the prompt, then turns of an action and its observation.

    A turn has about 128 tokens. Rows of a group have a prompt of one length.
    """
    rng = np.random.default_rng(case.seed)
    rows: list[NDArray[np.int8]] = []
    for number in range(case.num_rows):
        length = int(rng.integers(case.shortest, case.longest + 1))
        prompt, action, observation = _sizes(length, case.shares)
        if number % case.group:
            prompt = min(int((rows[number - number % case.group] == PROMPT).sum()), length - 2)
            action = max(1, round((length - prompt) * action / (action + observation)))
            observation = length - prompt - action
        rows.append(_row(prompt, action, observation))
    return rows


def _sizes(length: int, shares: tuple[int, int, int]) -> tuple[int, int, int]:
    prompt, action = (max(1, round(length * share / 100)) for share in shares[:2])
    return prompt, action, length - prompt - action


def _row(prompt: int, action: int, observation: int) -> NDArray[np.int8]:
    turns = min(action, observation, max(1, round((action + observation) / _TURN_TOKENS)))
    ends = [[size * turn // turns for turn in range(turns + 1)] for size in (action, observation)]
    parts = [np.full(prompt, PROMPT, dtype=np.int8)]
    for turn in range(turns):
        for role, end in zip((ACTION, OBSERVATION), ends, strict=True):
            parts.append(np.full(end[turn + 1] - end[turn], role, dtype=np.int8))
    return np.concatenate(parts)


def make_batch(case: StepCase, vocab_size: int) -> WeightedBatch:
    """Return the step as ECHO takes it: every action with a policy weight, every observation with an env weight.

    Both terms are means over their tokens of the step; ratios are over the current policy, as in the one step that
    follows sampling.
    """
    rows = make_roles(case)
    rng = np.random.default_rng((case.seed, 1))
    ids = [rng.integers(0, vocab_size, len(row)) for row in rows]
    for number in range(len(rows)):
        first = number - number % case.group
        shared = int((rows[number] == PROMPT).sum())
        ids[number][:shared] = ids[first][:shared]
    advantages = rng.normal(size=len(rows))
    lengths = torch.tensor([len(row) for row in rows])
    roles = torch.from_numpy(np.concatenate(rows))
    actions, observations = roles == ACTION, roles == OBSERVATION
    zeros = torch.zeros(len(roles))
    return WeightedBatch(
        token_ids=torch.from_numpy(np.concatenate(ids)),
        positions=torch.cat([torch.arange(len(row)) for row in rows]),
        sequence_index=torch.repeat_interleave(torch.arange(len(rows)), lengths),
        policy_weights=actions / actions.sum(),
        advantages=torch.repeat_interleave(torch.from_numpy(advantages).float(), lengths),
        env_weights=observations / observations.sum(),
        env_targets=observations,
        kl_weights=zeros,
        entropy_weights=zeros,
        sampling_logprobs=torch.full_like(zeros, torch.nan),
        policy_loss=PolicyLossSpec(ratio_denominator="current"),
    )


def lengths_of(batch: WeightedBatch) -> list[int]:
    """Return the length of each sequence of a batch."""
    return torch.bincount(batch.sequence_index).tolist()


def warm_up_part(batch: WeightedBatch, micro_batch_tokens: int) -> WeightedBatch:
    """Return the first micro-batch of a step: enough to warm a subject up, and cheap where steps are long."""
    return batch.select(plan_rows(lengths_of(batch), micro_batch_tokens)[0])
