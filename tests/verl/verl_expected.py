"""Loss and gradient of a batch under one of verl's modes, in float64 and plain loops, from the modes' definitions.

Written from the sentences of docs/verl.md; nothing is shared with the plug-in or with verl.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from envecho.recipes.agreement.case import Setting
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES, Role

SCALE = 17


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Actions and targets of one sequence."""

    actions: int
    targets: int


MODES: dict[str, Callable[[Counts, Sequence[Counts]], float]] = {
    "token-mean": lambda one, all_: 1 / sum(c.actions for c in all_),
    "token-sum": lambda one, all_: 1.0,
    "seq-mean-token-sum": lambda one, all_: 1 / len(all_),
    "seq-mean-token-sum-norm": lambda one, all_: 1 / len(all_) / SCALE,
    "seq-mean-token-mean": lambda one, all_: 1 / len(all_) / one.actions,
}
"""What one action weighs under each mode."""

RULES: dict[str, Callable[[Counts, Sequence[Counts]], tuple[float, float]]] = {
    "global_token_mean": lambda one, all_: (1 / sum(c.actions for c in all_), 1 / sum(c.targets for c in all_)),
    "sequence_mean_selected": lambda one, all_: (1 / len(all_) / one.actions, 1 / len(all_) / max(one.targets, 1)),
    "verl_token_mean": lambda one, all_: (1 / sum(c.actions for c in all_), 1 / sum(c.actions for c in all_)),
}
"""What one action and one target weigh under each rule."""


def expected(
    model: Path, setting: Setting, *, mode: str, rule: str, coeff: float
) -> tuple[float, dict[str, NDArray[np.float64]]]:
    """Return effective lambda and gradient: lambda is the rule's, whatever the mode divides by."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    sequences = setting.sequences()
    counts = [Counts(actions=_number(s, Role.ACTION), targets=_number(s, Role.ENV_OUTPUT)) for s in sequences]
    policy = [MODES[mode](one, counts) for one in counts]
    ruled = [RULES[rule](one, counts) for one in counts]
    verl_sum = sum(weight * one.actions for weight, one in zip(policy, counts, strict=True))
    rule_sum = sum(weight * one.actions for (weight, _), one in zip(ruled, counts, strict=True))
    env = [coeff * weight * verl_sum / rule_sum for _, weight in ruled]
    advantages = _advantages(sequences)
    loss = torch.zeros((), dtype=torch.float64)
    for number, sequence in enumerate(sequences):
        ids = torch.from_numpy(sequence.token_ids.astype(np.int64))
        logits = network(input_ids=ids[None], use_cache=False).logits[0]
        for place in range(1, len(ids)):
            role = SOURCES[sequence.sources[place]].role
            if role is Role.ACTION:
                logprob = (logits[place - 1] / setting.temperature).log_softmax(-1)[ids[place]]
                loss = loss - policy[number] * advantages[number] * torch.exp(logprob - logprob.detach())
            elif role is Role.ENV_OUTPUT:
                loss = loss - env[number] * logits[place - 1].log_softmax(-1)[ids[place]]
    loss.backward()
    env_sum = sum(weight * one.targets for weight, one in zip(env, counts, strict=True))
    return env_sum / verl_sum, {name: value.grad.numpy() for name, value in network.named_parameters()}


def distance(found: dict[str, NDArray[np.float32]], wanted: dict[str, NDArray[np.float64]]) -> float:
    """Relative L2 distance of two gradients."""
    assert found.keys() == wanted.keys()
    difference = sum(float(np.square(found[name].astype(np.float64) - wanted[name]).sum()) for name in wanted)
    return (difference / sum(float(np.square(value).sum()) for value in wanted.values())) ** 0.5


def _number(sequence: TokenizedTrajectory, role: Role) -> int:
    return sum(SOURCES[code].role is role for code in sequence.sources[1:])


def _advantages(sequences: Sequence[TokenizedTrajectory]) -> list[float]:
    found: list[float] = []
    for sequence in sequences:
        group = np.array([s.reward for s in sequences if s.group_id == sequence.group_id], dtype=np.float64)
        assert sequence.reward is not None
        found.append((sequence.reward - group.mean()) / (group.std(ddof=1) + 1e-6))
    return found
