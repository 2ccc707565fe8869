"""Loss and gradient of a setting in float64, written from the definition: all logits, one log-softmax, plain loops.

Nothing here is shared with the engines: not the chunked log-probs, not the compiled weights, not the advantages. It is
slow and meant to be read beside METHOD of the objective (docs/objective.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM

from envecho.engines.quiet import quiet_transformers
from envecho.errors import ConfigError
from envecho.recipes.agreement.case import Setting
from envecho.tokens import TokenizedTrajectory
from envecho.trajectory import SOURCES, Role, Source


@dataclass(frozen=True, kw_only=True)
class Reference:
    """What a subject is compared with.

    `gradient` holds one float64 array for each parameter name of the Hugging Face model (tied weights once);
    `env_ce` is the mean of `-log p` at T = 1 over the targets, in nats; `policy_logprobs` and `env_logprobs` are those
    of actions and targets, in the order of the batch.
    """

    loss: float
    policy_loss: float
    env_loss: float
    env_ce: float
    effective_lambda: float | None
    gradient: Mapping[str, NDArray[np.float64]]
    policy_logprobs: NDArray[np.float64]
    env_logprobs: NDArray[np.float64]


def reference(model: Path, setting: Setting) -> Reference:
    """Compute a setting on the model of a folder, in float64."""
    with quiet_transformers():
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    sequences = setting.sequences()
    policy_terms: list[Tensor] = []
    env_terms: list[Tensor] = []
    policy_logprobs: list[Tensor] = []
    env_logprobs: list[Tensor] = []
    total_policy = total_env = 0.0
    advantages = _advantages(sequences)
    weigh = _Rule(sequences, setting)
    for number, sequence in enumerate(sequences):
        ids = torch.from_numpy(sequence.token_ids.astype(np.int64))
        logits = network(input_ids=ids[None], use_cache=False).logits[0]
        at_one = torch.log_softmax(logits, dim=-1)
        at_temperature = torch.log_softmax(logits / setting.temperature, dim=-1)
        for place in range(1, len(ids)):
            source = SOURCES[sequence.sources[place]]
            policy_weight, env_weight = weigh(number, source)
            if policy_weight is not None:
                logprob = at_temperature[place - 1, ids[place]]
                # On policy the ratio is 1 and no clip binds; its gradient is that of log p.
                ratio = torch.exp(logprob - logprob.detach())
                policy_terms.append(-policy_weight * advantages[number] * ratio)
                policy_logprobs.append(logprob.detach())
                total_policy += policy_weight
            if env_weight is not None:
                logprob = at_one[place - 1, ids[place]]
                env_terms.append(-setting.objective.world_model_coeff * env_weight * logprob)
                env_logprobs.append(logprob.detach())
                total_env += setting.objective.world_model_coeff * env_weight
    policy_loss = torch.stack(policy_terms).sum() if policy_terms else torch.zeros((), dtype=torch.float64)
    env_loss = torch.stack(env_terms).sum()
    loss = policy_loss + env_loss
    loss.backward()
    env = torch.stack(env_logprobs).numpy()
    return Reference(
        loss=loss.item(),
        policy_loss=policy_loss.item(),
        env_loss=env_loss.item(),
        env_ce=float(-env.mean()),
        effective_lambda=total_env / total_policy if total_policy else None,
        gradient={
            name: np.zeros(tuple(value.shape)) if value.grad is None else value.grad.numpy()
            for name, value in network.named_parameters()
        },
        policy_logprobs=torch.stack(policy_logprobs).numpy() if policy_logprobs else np.zeros(0),
        env_logprobs=env,
    )


class _Rule:
    """The weight of a token by the sentence that defines each normaliser; None where the term does not read it."""

    def __init__(self, sequences: Sequence[TokenizedTrajectory], setting: Setting) -> None:
        self._setting = setting
        self._num = len(sequences)
        self._actions = [self._count(s, {Role.ACTION}) for s in sequences]
        self._observed = [self._count(s, {Role.ENV_OUTPUT, Role.WARNING}) for s in sequences]
        self._targets = [sum(self._is_target(SOURCES[code]) for code in s.sources[1:]) for s in sequences]

    def __call__(self, number: int, source: Source) -> tuple[float | None, float | None]:
        objective = self._setting.objective
        is_action = source.role is Role.ACTION and objective.use_rl
        return (
            self._policy(number) if is_action else None,
            self._env(number) if self._is_target(source) else None,
        )

    def _policy(self, number: int) -> float:
        rule, objective = self._setting.objective.preset.normalizer, self._setting.objective
        if rule in ("sequence_mean_selected", "reference_sequence_mean"):
            return 1 / self._actions[number] / self._num
        if rule == "constant_length":
            assert objective.constant_length is not None
            return 1 / objective.constant_length / self._num
        return 1 / sum(self._actions)

    def _env(self, number: int) -> float:
        rule, objective = self._setting.objective.preset.normalizer, self._setting.objective
        if rule == "sequence_mean_selected":
            return 1 / self._targets[number] / self._num
        if rule == "reference_sequence_mean":
            return 1 / self._observed[number] / self._num
        if rule == "constant_length":
            assert objective.constant_length is not None
            return 1 / objective.constant_length / self._num
        if rule == "verl_token_mean":
            return 1 / sum(self._actions)
        if rule == "global_token_mean":
            return 1 / sum(self._targets)
        raise ConfigError(f"the reference knows no rule {rule!r}")

    def _is_target(self, source: Source) -> bool:
        roles = {"env_only": {Role.ENV_OUTPUT}, "all": {Role.ENV_OUTPUT, Role.WARNING}}
        return source.role in roles[self._setting.objective.world_loss_target]

    @staticmethod
    def _count(sequence: TokenizedTrajectory, roles: set[Role]) -> int:
        return sum(SOURCES[code].role in roles for code in sequence.sources[1:])


def _advantages(sequences: Sequence[TokenizedTrajectory]) -> list[float]:
    """(r - mean of the group) / (its standard deviation + 1e-6), 0 where all rewards of the group are equal."""
    rewards: dict[str, list[float]] = {}
    for sequence in sequences:
        assert sequence.reward is not None
        rewards.setdefault(str(sequence.group_id), []).append(sequence.reward)
    found: list[float] = []
    for sequence in sequences:
        group = np.array(rewards[str(sequence.group_id)])
        spread = float(group.std(ddof=1))
        found.append((float(sequence.reward or 0.0) - float(group.mean())) / (spread + 1e-6) if spread else 0.0)
    return found
