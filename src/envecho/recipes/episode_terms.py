"""What an objective makes of one episode: the weight of every token, and the losses of one forward pass.

The episode counts as the whole optimiser step; its advantage comes from the rollouts of its group. Where the policy
term is undefined it is said why, and the environment term is there all the same. Not here: the formulas
(`envecho.losses`), and how it is printed.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envecho.errors import DataError, TemplateError
from envecho.losses import SPLIT_RULES
from envecho.objective import CompiledBatch, EchoConfig, compile_batch, filter_rollouts
from envecho.seam import Engine
from envecho.tokens import ChatTokenizer, TokenizedTrajectory, tokenize_trajectory, with_closed_turns
from envecho.training.passes import with_passes
from envecho.trajectory import SOURCES, Trajectory

VERIFIER_FREE = "use_rl is false in the configuration"
"""Why there is no policy term where the configuration asks for none."""


@dataclass(frozen=True, kw_only=True)
class EpisodeTerms:
    """The weights of an episode. `compiled` holds the episode's own sequences, in order, and no others.

    `policy_missing` says in words why there is no policy term; None: there is one. `advantage` and `group_rewards`
    (those of its group in the file, its own included) are None without one; `env_excluded` is the rollout filter that
    left the observations out.
    """

    sequences: tuple[TokenizedTrajectory, ...]
    compiled: CompiledBatch
    policy_missing: str | None
    env_excluded: str | None
    advantage: float | None = None
    group_rewards: tuple[float | None, ...] | None = None

    def weights(self, term: str) -> list[NDArray[np.float32]]:
        """Return the weights `[token]` of each sequence; `term` is `policy` or `env`."""
        batch = self.compiled.batch
        weights = (batch.policy_weights if term == "policy" else batch.env_weights).numpy()
        return np.split(weights, np.cumsum([len(sequence) for sequence in self.sequences])[:-1])


@dataclass(frozen=True, kw_only=True)
class WeightRow:
    """The tokens of one turn and source that one term trains: how many, what they weigh together, and one of them.

    `per_token` is None where they do not weigh the same.
    """

    turn: int
    source: str
    term: str
    num_tokens: int
    weight: float
    per_token: float | None


@dataclass(frozen=True, kw_only=True)
class TermLoss:
    """One term (or their sum) of one forward pass.

    `loss` is the weighted sum as it stands in the objective, `mean` its mean over the tokens in nats (environment
    alone), `share` that of the episode's tokens. None: undefined, or not measured.
    """

    name: str
    loss: float | None
    num_tokens: int
    share: float
    mean: float | None = None
    gradient_norm: float | None = None


@dataclass(frozen=True, kw_only=True)
class EpisodeLosses:
    """GRPO, environment and ECHO loss of one forward pass, with the gradient norm of each term."""

    policy: TermLoss
    env: TermLoss
    echo: TermLoss
    cosine: float | None
    num_extra_passes: int
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return dataclasses.asdict(self)


def compile_episode(
    trajectory: Trajectory,
    mates: Sequence[Trajectory],
    tokenizer: ChatTokenizer,
    objective: EchoConfig,
    *,
    max_tokens: int | None = None,
) -> EpisodeTerms:
    """Weigh the tokens of an episode as if it were the whole optimiser step.

    Args:
        mates: the other rollouts of its group: they give its advantage, and nothing else.

    Raises:
        TemplateError: the chat template cannot render the episode.
        DataError: the configuration needs something for the environment term that the file does not say.
    """
    imitates = objective.use_rl and objective.policy.loss == "sft"
    told = with_closed_turns(trajectory, tokenizer) if imitates else trajectory
    sequences = tuple(tokenize_trajectory(told, tokenizer, max_tokens=max_tokens))
    # Which incorrect rollouts `correct_fraction` draws is a matter of the whole pool, not of one episode.
    filters = objective.filters.model_copy(update={"correct_fraction": None})
    excluded = filter_rollouts([trajectory], filters).excluded
    reason = excluded.get(trajectory.id)

    def weigh(some: Sequence[TokenizedTrajectory], config: EchoConfig) -> CompiledBatch:
        split = [0] * len(some) if config.preset.normalizer in SPLIT_RULES else None
        return compile_batch(some, config, micro_batch_index=split, excluded_env=excluded)

    alone = weigh(sequences, objective.model_copy(update={"use_rl": False}))
    if not objective.use_rl:
        return EpisodeTerms(sequences=sequences, compiled=alone, policy_missing=VERIFIER_FREE, env_excluded=reason)
    try:
        # The advantage is that of the group in one step; every weight is that of the episode by itself.
        others = [s for mate in mates for s in tokenize_trajectory(mate, tokenizer, max_tokens=max_tokens)]
        group = weigh([*sequences, *others], objective)
        compiled = weigh(sequences, objective)
    except (DataError, TemplateError) as error:
        missing = str(error).removesuffix(" Set use_rl = false to train on observations alone").rstrip(".")
        return EpisodeTerms(sequences=sequences, compiled=alone, policy_missing=missing, env_excluded=reason)
    advantages = group.batch.advantages[: len(compiled.batch.token_ids)]
    batch = dataclasses.replace(compiled.batch, advantages=advantages)
    return EpisodeTerms(
        sequences=sequences,
        compiled=dataclasses.replace(compiled, batch=batch),
        policy_missing=None,
        env_excluded=reason,
        advantage=float(advantages[0]),
        group_rewards=(trajectory.reward, *(mate.reward for mate in mates)),
    )


def weight_rows(terms: EpisodeTerms) -> list[WeightRow]:
    """Return what is trained, turn by turn and source by source, in the order of the episode."""
    rows: list[WeightRow] = []
    found: dict[tuple[int, int, str], list[NDArray[np.float32]]] = {}
    for term in ("policy", "env"):
        for sequence, weights in zip(terms.sequences, terms.weights(term), strict=True):
            trained = np.flatnonzero(weights)
            pairs = np.unique(np.stack([sequence.turns[trained], sequence.sources[trained]]), axis=1)
            for turn, source in pairs.T:
                mask = (sequence.turns[trained] == turn) & (sequence.sources[trained] == source)
                found.setdefault((int(turn), int(source), term), []).append(weights[trained][mask])
    for (turn, source, term), parts in sorted(found.items()):
        weights = np.concatenate(parts)
        same = bool(np.isclose(weights, weights[0], rtol=1e-5, atol=0).all())
        rows.append(
            WeightRow(
                turn=turn,
                source=SOURCES[source].value,
                term=term,
                num_tokens=len(weights),
                weight=float(weights.astype(np.float64).sum()),
                per_token=float(weights[0]) if same else None,
            )
        )
    return rows


def episode_losses(terms: EpisodeTerms, engine: Engine) -> EpisodeLosses:
    """Return the losses of one forward pass over the episode, and the norm of each term's gradient.

    The norms cost two more passes; `num_extra_passes` counts passes without a gradient that the configured ratio or KL
    asks for (the reference is the model itself).

    Raises:
        EngineError: the engine does not train.
    """
    compiled, num_passes = with_passes(terms.compiled, engine, reference=engine)
    batch = compiled.batch
    output = engine.forward_backward(batch)
    norms = engine.term_gradients(batch)
    num_all = sum(len(s) - min(s.owned_from, len(s)) for s in terms.sequences)
    policy, env = batch.policy_weights != 0, batch.env_weights != 0
    nlls = -output.env_logprobs[env.numpy()].astype(np.float64)
    defined = terms.policy_missing is None
    counts = {"policy": int(policy.sum()), "env": int(env.sum()), "both": int((policy | env).sum())}
    shares = {name: count / num_all if num_all else 0.0 for name, count in counts.items()}
    # KL and entropy stand on the policy's side, as they do in its gradient. Adding 0 turns -0.0 into 0.0.
    policy_loss = output.policy_loss + output.kl_loss + output.entropy_loss + 0.0
    return EpisodeLosses(
        policy=TermLoss(
            name="policy",
            loss=policy_loss if defined else None,
            num_tokens=counts["policy"],
            share=shares["policy"],
            gradient_norm=norms.policy_norm if defined else None,
        ),
        env=TermLoss(
            name="env",
            loss=output.env_loss + 0.0,
            num_tokens=counts["env"],
            share=shares["env"],
            mean=float(nlls.mean()) if len(nlls) else None,
            gradient_norm=norms.env_norm,
        ),
        echo=TermLoss(
            name="echo",
            loss=output.loss + 0.0 if defined else None,
            num_tokens=counts["both"],
            share=shares["both"],
            gradient_norm=_norm_of_sum(norms.policy_norm, norms.env_norm, norms.cosine) if defined else None,
        ),
        cosine=norms.cosine,
        num_extra_passes=num_passes,
        seconds=norms.seconds,
    )


def _norm_of_sum(first: float, second: float, cosine: float | None) -> float:
    """The norm of the sum of two vectors from their norms and the cosine between them."""
    return math.sqrt(max(0.0, first**2 + second**2 + 2 * (cosine or 0.0) * first * second))


def explain_losses(terms: EpisodeTerms, losses: EpisodeLosses, *, reward: float | None) -> list[str]:
    """Return what the figures say, in sentences."""
    said: list[str] = []
    if terms.policy_missing is not None:
        said.append(f"The GRPO term is undefined: {terms.policy_missing}.")
    elif terms.advantage == 0:
        rewards = terms.group_rewards or ()
        known = {r for r in rewards if r is not None}
        group = (
            "the only rollout of its group in this file"
            if len(rewards) == 1
            else f"one of {len(rewards)} rollouts of its group"
            + (f", all with reward {next(iter(known)):g}" if len(known) == 1 else "")
        )
        said.append(
            f"Reward {reward:g}, {group}: its advantage is 0, so the GRPO term and its gradient are exactly"
            f" {losses.policy.loss:g}."
            if reward is not None
            else f"Without a reward, {group}: the GRPO term is exactly {losses.policy.loss:g}."
        )
    elif terms.advantage is not None and reward is not None:
        said.append(
            f"Reward {reward:g} among {len(terms.group_rewards or ())} rollouts: advantage {terms.advantage:+.3g}."
        )
    if terms.env_excluded is not None:
        said.append(f"A rollout filter leaves its observations out ({terms.env_excluded}): no environment term.")
    elif not losses.env.num_tokens:
        said.append("No token of it is a target of the environment term.")
    elif losses.env.gradient_norm:
        said.append(f"The environment term still has a gradient of norm {losses.env.gradient_norm:.4g}.")
    return said
