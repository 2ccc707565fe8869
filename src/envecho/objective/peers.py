"""The peers: implementations of ECHO in the field, and the rule that each divides by.

A lambda belongs to a rule. `carry_lambda` finds the coefficient under another rule that weighs the environment term of
the same tokens equally, and says how single tokens differ. `peer_config` is the `EchoConfig` that reproduces a peer.

    peer               normaliser                what it is
    echo-rl            reference_sequence_mean   ECHO's reference code on SkyRL
    verl-recipe        sequence_mean_selected    the ECHO recipe of verl, sequence mode
    verl-token-mean    verl_token_mean           verl and rLLM on verl, token mode
    rllm-hosted        verl_token_mean           rLLM on hosted engines: everything not sampled is a target
    openenv-rfc010     global_token_mean         the toy of OpenEnv's RFC 010
    openenv-trl-demo   trl_token_mean            OpenEnv's TRL demo: a mean per micro-batch
    prime-rl           global_token_mean         prime-rl's `echo` algorithm
    envecho-trl        global_token_mean         our plug-in in TRL

Not here: the rules themselves (`losses.weights`), and what a token's role is (`tokens`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

import torch

from envecho.errors import ConfigError, did_you_mean
from envecho.losses import AdvantageName, NormalizerName, TokenCounts, normalizer_weights
from envecho.objective.config import EchoConfig, PolicyConfig
from envecho.objective.step import Step, flatten
from envecho.tokens import TokenizedTrajectory, WorldLossTarget

PeerTarget = WorldLossTarget | Literal["everything_not_sampled"]
"""`everything_not_sampled` trains prompt and template too: no `world_loss_target` of ours does."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """One implementation: its rule, the tokens it trains, its lambda, and its policy half as far as it is known.

    `world_model_coeff` is the peer's own default or published setting; `advantage` None: it is handed its advantages;
    `clip` is the range of the ratio, None: another loss. `not_reproduced` says what an `EchoConfig` cannot do as the
    peer does.
    """

    title: str
    normalizer: NormalizerName
    world_loss_target: PeerTarget
    world_model_coeff: float
    advantage: AdvantageName | None
    clip: tuple[float, float] | None
    source: str
    not_reproduced: str = ""


PEERS: Final[dict[str, Peer]] = {
    "echo-rl": Peer(
        title="ECHO's reference code on SkyRL, sequence mean",
        normalizer="reference_sequence_mean",
        world_loss_target="reference",
        world_model_coeff=0.05,
        advantage="group_std",
        clip=(0.2, 0.2),
        source="github.com/microsoft/echo-rl, echo_rl/world_modeling and configs/qwen3_8b_rl_wm05.yaml",
        not_reproduced="its cross-entropy is read at the sampling temperature (0.8 in its configurations); ours at 1",
    ),
    "verl-recipe": Peer(
        title="the ECHO recipe of verl, sequence mode",
        normalizer="sequence_mean_selected",
        world_loss_target="reference",
        world_model_coeff=0.05,
        advantage="group_std",
        clip=(0.2, 0.2),
        source="github.com/verl-project/verl-recipe, pull request 142",
        not_reproduced="its cross-entropy is read at the temperature of the actor's log-probs",
    ),
    "verl-token-mean": Peer(
        title="verl, and rLLM on verl, token mode",
        normalizer="verl_token_mean",
        world_loss_target="reference",
        world_model_coeff=0.05,
        advantage="group_std",
        clip=(0.2, 0.2),
        source="verl's agg_loss, loss_agg_mode token-mean; github.com/rllm-org/rllm, pull request 668",
    ),
    "rllm-hosted": Peer(
        title="rLLM on hosted engines",
        normalizer="verl_token_mean",
        world_loss_target="everything_not_sampled",
        world_model_coeff=0.05,
        advantage="group_std",
        clip=None,
        source="github.com/rllm-org/rllm, pull request 668",
        not_reproduced="it trains the prompt and the template's own tokens; ours are never targets",
    ),
    "openenv-rfc010": Peer(
        title="the toy of OpenEnv's RFC 010",
        normalizer="global_token_mean",
        world_loss_target="env_only",
        world_model_coeff=0.05,
        advantage=None,
        clip=None,
        source="github.com/huggingface/OpenEnv, RFC 010 (pull request 819)",
        not_reproduced="its policy term has no ratio: -advantage * log p, the same gradient on policy",
    ),
    "openenv-trl-demo": Peer(
        title="OpenEnv's TRL demo",
        normalizer="trl_token_mean",
        world_loss_target="all",
        world_model_coeff=0.05,
        advantage="group_std",
        clip=(0.2, 0.2),
        source="github.com/huggingface/OpenEnv, examples (pull requests 844 and 858)",
        not_reproduced="its mask is everything not sampled behind the prompt, template included",
    ),
    "prime-rl": Peer(
        title="prime-rl's `echo` algorithm",
        normalizer="global_token_mean",
        world_loss_target="all",
        world_model_coeff=0.1,
        advantage="group_mean",
        clip=None,
        source="github.com/PrimeIntellect-ai/prime-rl, orchestrator/algo/echo.py, read at 2026-08-21",
        not_reproduced="its policy loss is DPPO with a KL term; its targets are bodies of tool messages whole",
    ),
    "envecho-trl": Peer(
        title="our plug-in in TRL, told `normalizer` to match TRL's default `dapo`",
        normalizer="global_token_mean",
        world_loss_target="env_only",
        world_model_coeff=0.05,
        advantage="group_std",
        clip=(0.2, 0.2),
        source="docs/trl.md",
    ),
}
"""The peers by name, in the order of the table in docs/peers.md."""


def get_peer(name: str) -> Peer:
    """Return the peer of a name.

    Raises:
        ConfigError: there is no such peer.
    """
    if name not in PEERS:
        raise ConfigError(f"no peer is named {name!r}; known: {', '.join(PEERS)}.{did_you_mean(name, PEERS)}")
    return PEERS[name]


def peer_config(name: str, *, world_model_coeff: float | None = None) -> EchoConfig:
    """Return the objective that reproduces a peer as far as ours can; `Peer.not_reproduced` says what remains.

    `world_model_coeff` None takes the peer's own.

    Raises:
        ConfigError: there is no such peer, or its targets are none of ours.
    """
    peer = get_peer(name)
    if peer.world_loss_target == "everything_not_sampled":
        raise ConfigError(f"{name} cannot be reproduced: {peer.not_reproduced}")
    clip_low, clip_high = peer.clip or (None, None)
    return EchoConfig(
        world_model_coeff=peer.world_model_coeff if world_model_coeff is None else world_model_coeff,
        world_loss_target=peer.world_loss_target,
        normalizer=peer.normalizer,
        policy=PolicyConfig(advantage=peer.advantage, clip_low=clip_low, clip_high=clip_high),
    )


@dataclass(frozen=True, kw_only=True)
class CarriedLambda:
    """A coefficient under another rule, of equal effective lambda on the same tokens.

    `coeff`: to write into the other stack. `effective_lambda`: of both. A token that both train counts under the new
    rule and coefficient between `lowest_ratio` and `highest_ratio` times what it counted before: 1 and 1 where the
    rules are proportional. `num_targets_before` and `num_targets_after` differ where the peers train other tokens.
    """

    coeff: float
    effective_lambda: float
    lowest_ratio: float
    highest_ratio: float
    num_targets_before: int
    num_targets_after: int

    @property
    def sentence(self) -> str:
        """What an equal effective lambda leaves different, in words."""
        found: list[str] = []
        if self.highest_ratio - self.lowest_ratio > 1e-9:
            found.append(
                f"the sums agree, single tokens do not: under the new rule a target counts {self.lowest_ratio:.2f} to"
                f" {self.highest_ratio:.2f} times what it counted before"
            )
        if self.num_targets_before != self.num_targets_after:
            found.append(f"other tokens are trained: {self.num_targets_after:,} instead of {self.num_targets_before:,}")
        return "; ".join(found) or "every target counts exactly what it counted before"


def carry_lambda(
    sequences: Sequence[TokenizedTrajectory],
    coeff: float,
    *,
    source: str,
    to: str,
    num_micro_batches: int = 1,
    constant_length: int | None = None,
) -> CarriedLambda:
    """Return the coefficient under `to` whose effective lambda on these sequences is that of `coeff` under `source`.

        coeff_to = coeff * (sum env / sum policy under source) / (sum env / sum policy under to)

    `source` and `to` are names of peers, or of normalisers (then with the targets `env_only`). The sequences are taken
    as one optimiser step; `num_micro_batches` cuts it, in order, for the rules with a mean per micro-batch.

    Raises:
        ConfigError: a name is unknown, or a rule needs `constant_length` and it is not given.
        DataError: there is no sequence.
    """
    before = _Rule.named(source, sequences, num_micro_batches, constant_length)
    after = _Rule.named(to, sequences, num_micro_batches, constant_length)
    one, other = before.unit_lambda, after.unit_lambda
    if one is None or other is None or not other:
        raise ConfigError("an effective lambda needs tokens of both kinds: these sequences lack actions or targets")
    carried = coeff * one / other
    both = (before.env > 0) & (after.env > 0)
    ratios = (after.env / after.policy.sum())[both] / (before.env / before.policy.sum())[both] * (one / other)
    return CarriedLambda(
        coeff=carried,
        effective_lambda=coeff * one,
        lowest_ratio=float(ratios.min()) if len(ratios) else 1.0,
        highest_ratio=float(ratios.max()) if len(ratios) else 1.0,
        num_targets_before=int((before.env > 0).sum()),
        num_targets_after=int((after.env > 0).sum()),
    )


def effective_lambdas(
    sequences: Sequence[TokenizedTrajectory], coeff: float | None = None, *, num_micro_batches: int = 1
) -> dict[str, float | None]:
    """Return the effective lambda of every peer at a nominal coefficient; None takes each peer's own.

    A peer has None where these sequences have no action.

    Raises:
        DataError: there is no sequence.
    """
    found: dict[str, float | None] = {}
    for name, peer in PEERS.items():
        unit = _Rule.named(name, sequences, num_micro_batches, None).unit_lambda
        nominal = peer.world_model_coeff if coeff is None else coeff
        found[name] = None if unit is None else nominal * unit
    return found


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """The weights `[token]` of both terms under a rule, the environment's at lambda 1."""

    policy: torch.Tensor
    env: torch.Tensor

    @property
    def unit_lambda(self) -> float | None:
        """The effective lambda at lambda 1."""
        total = float(self.policy.sum())
        return float(self.env.sum()) / total if total else None

    @staticmethod
    def named(
        name: str, sequences: Sequence[TokenizedTrajectory], num_micro_batches: int, constant_length: int | None
    ) -> _Rule:
        if name in PEERS:
            rule, target = PEERS[name].normalizer, PEERS[name].world_loss_target
        elif name in (rules := get_args(NormalizerName)):
            rule, target = cast(NormalizerName, name), "env_only"
        else:
            known = (*PEERS, *rules)
            raise ConfigError(f"no peer or normalizer is named {name!r}.{did_you_mean(name, known)}")
        if rule == "constant_length" and constant_length is None:
            raise ConfigError("the rule constant_length divides by a length of your choice: give constant_length")
        everything = target == "everything_not_sampled"
        step = flatten(sequences, EchoConfig(world_loss_target="all" if everything else target))
        counts = _counts(step, everything=everything, num_micro_batches=num_micro_batches, length=constant_length)
        policy, env = normalizer_weights(rule, counts)
        return _Rule(policy=policy, env=env)


def _counts(step: Step, *, everything: bool, num_micro_batches: int, length: int | None) -> TokenCounts:
    env, obs = torch.from_numpy(step.env_mask), torch.from_numpy(step.obs_mask)
    action = torch.from_numpy(step.action_mask)
    sequence = torch.from_numpy(step.sequence_index)
    if everything:
        env = obs = torch.from_numpy(step.fresh & (step.positions > 0)) & ~action
    num_parts = max(1, min(num_micro_batches, step.num_sequences))
    return TokenCounts(
        action_mask=action,
        obs_mask=obs,
        env_mask=env,
        sequence_index=torch.from_numpy(step.trajectory_of_token),
        num_sequences=len(step.trajectories),
        constant_length=length,
        micro_batch_index=sequence * num_parts // step.num_sequences,
    )
