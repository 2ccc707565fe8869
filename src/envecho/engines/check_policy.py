"""Checks of the policy side: every loss and ratio, the clip, temperature, KL and entropy.

Each per-token loss is linear in the gradient of log p, with a factor that the kit computes itself from the ratios that
it prepared. So the step of a policy batch must equal that of an environment batch whose weights are these factors. At
another temperature, and for the entropy, there is no such twin; there the gradient is checked by reciprocity: what the
environment loss falls by along the gradient of the policy loss is what the policy loss falls by along that of the
environment. Not here: the environment term (`check_sums`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from envecho.engines.check_subject import Check, CheckFailed, Subject
from envecho.errors import EnvechoError
from envecho.losses import PolicyLossSpec, WeightedBatch
from envecho.seam import Ability

_CLIP_LOW, _CLIP_HIGH = 0.2, 0.3
_OFFSETS = (-0.6, -0.1, 0.05, 0.15, 0.7)
"""log(ratio) of the actions in turn: well inside and well outside of the clip range, so that rounding decides none."""
_CAP = 1.2
_MISMATCHES = (-0.5, 0.1, 0.6)
_TEMPERATURE = 0.7


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Actions:
    """A policy batch at the start, and what the kit prepared it from; arrays are `[token]`, float64."""

    batch: WeightedBatch
    weights: NDArray[np.float64]
    advantages: NDArray[np.float64]
    ratios: NDArray[np.float64]

    def clip_binds(self) -> NDArray[np.bool_]:
        """Where min(ratio * A, clip(ratio) * A) is the clipped one."""
        high = (self.advantages > 0) & (self.ratios > 1 + _CLIP_HIGH)
        low = (self.advantages < 0) & (self.ratios < 1 - _CLIP_LOW)
        return (self.weights != 0) & (high | low)

    def factors(self, name: str) -> NDArray[np.float64]:
        """By how much each token's gradient of -log p counts."""
        plain = self.weights * self.advantages
        if name == "sft":
            return plain
        if name == "cispo":
            return plain * self.ratios.clip(1 - _CLIP_LOW, 1 + _CLIP_HIGH)
        return np.where(self.clip_binds(), 0.0, plain * self.ratios)


def _actions(subject: Subject, *, denominator: str, name: str = "grpo") -> _Actions:
    """Half of the tokens as actions whose ratios are `exp(_OFFSETS)`; what the ratio is not over stays unknown."""
    base = subject.batch
    actions = (base.positions > 0).numpy() & ~base.env_targets.numpy()
    number = np.cumsum(actions)
    weights = np.where(actions, 0.5 + (number % 3), 0.0) / len(actions) / 2
    advantages = np.where(number % 2 == 0, 1.0, -0.75)
    logratios = np.array(_OFFSETS)[number % len(_OFFSETS)] if denominator != "current" else np.zeros(len(actions))
    known = torch.from_numpy(np.where(actions, subject.read(base) - logratios, np.nan)).float()
    unknown = torch.full_like(known, torch.nan)
    ratios = np.exp(logratios)
    batch = dataclasses.replace(
        base,
        env_weights=torch.zeros_like(base.env_weights),
        env_targets=torch.zeros_like(base.env_targets),
        policy_weights=torch.from_numpy(weights).float(),
        advantages=torch.from_numpy(advantages).float(),
        sampling_logprobs=known if denominator == "sampling" else unknown,
        proximal_logprobs=known if denominator == "proximal" else None,
        sequence_ratios=torch.from_numpy(ratios).float() if name == "gspo" else None,
        policy_loss=PolicyLossSpec(
            name=name,  # pyright: ignore[reportArgumentType]
            clip_low=_CLIP_LOW,
            clip_high=_CLIP_HIGH,
            ratio_denominator=denominator,  # pyright: ignore[reportArgumentType]
        ),
    )
    return _Actions(batch=batch, weights=weights, advantages=advantages, ratios=ratios)


def _twin(subject: Subject, factors: NDArray[np.float64]) -> WeightedBatch:
    """The environment batch whose gradient is the sum of the factors times that of -log p."""
    weights = torch.from_numpy(factors).float()
    return dataclasses.replace(subject.batch, env_weights=weights, env_targets=weights != 0)


def _a_policy_loss_has_its_gradient(subject: Subject, *, name: str, denominator: str) -> None:
    prepared = _actions(subject, denominator=denominator, name=name)
    expected = subject.after(_twin(subject, prepared.factors(name)))
    subject.alike(subject.after(prepared.batch), expected, f"log-probs after a step of {name} over {denominator}")


def _a_policy_loss_is_reported(subject: Subject, *, name: str) -> None:
    prepared = _actions(subject, denominator="current" if name == "sft" else "sampling", name=name)
    logprobs = np.nan_to_num(subject.read(subject.batch))
    out = subject.engine.forward_backward(prepared.batch)
    ratios, advantages = prepared.ratios, prepared.advantages
    values = {
        "sft": advantages * logprobs,
        "cispo": ratios.clip(1 - _CLIP_LOW, 1 + _CLIP_HIGH) * advantages * logprobs,
    }.get(name, np.minimum(ratios * advantages, ratios.clip(1 - _CLIP_LOW, 1 + _CLIP_HIGH) * advantages))
    subject.near(out.policy_loss, -float((prepared.weights * values).sum()), f"policy_loss of {name}")
    subject.near(out.loss, out.policy_loss, "loss of a batch with the policy term alone")
    subject.near(out.env_loss, 0.0, "env_loss without environment weights")
    actions = prepared.weights != 0
    subject.alike(out.policy_logprobs, np.where(actions, subject.read(subject.batch), np.nan), "log-probs of actions")
    if name == "grpo":
        subject.require(bool((out.clipped == prepared.clip_binds()).all()), "`clipped` exactly where the clip binds")


def _an_importance_cap_multiplies_the_loss(subject: Subject) -> None:
    prepared = _actions(subject, denominator="proximal")
    assert prepared.batch.proximal_logprobs is not None
    mismatch = np.array(_MISMATCHES)[np.arange(len(prepared.weights)) % len(_MISMATCHES)]
    sampling = prepared.batch.proximal_logprobs - torch.from_numpy(mismatch).float()
    spec = dataclasses.replace(prepared.batch.policy_loss, importance_cap=_CAP)
    batch = dataclasses.replace(prepared.batch, sampling_logprobs=sampling, policy_loss=spec)
    factors = prepared.factors("grpo") * np.exp(mismatch).clip(max=_CAP)
    subject.alike(subject.after(batch), subject.after(_twin(subject, factors)), "log-probs after a capped step")


def _a_kl_term_has_its_gradient(subject: Subject) -> None:
    prepared = _actions(subject, denominator="sampling")
    logprobs = subject.read(subject.batch)
    difference = np.array(_MISMATCHES)[np.arange(len(logprobs)) % len(_MISMATCHES)]
    batch = dataclasses.replace(
        prepared.batch,
        policy_weights=torch.zeros_like(prepared.batch.policy_weights),
        kl_weights=prepared.batch.policy_weights,
        reference_logprobs=torch.from_numpy(logprobs + difference).float(),
    )
    out = subject.descend(batch)
    # k3 = exp(d) - d - 1 with d = reference - log p, so its derivative by log p is 1 - exp(d).
    expected = subject.after(_twin(subject, prepared.weights * (np.exp(difference) - 1)))
    subject.alike(subject.after(batch), expected, "log-probs after a step of the KL term")
    value = float((prepared.weights * (np.exp(difference) - difference - 1)).sum())
    subject.near(out.kl_loss, value, "kl_loss")
    subject.near(out.loss, value, "loss of a batch with the KL term alone")


def _an_entropy_bonus_has_its_gradient(subject: Subject) -> None:
    prepared = _actions(subject, denominator="current")
    batch = dataclasses.replace(
        prepared.batch,
        policy_weights=torch.zeros_like(prepared.batch.policy_weights),
        entropy_weights=prepared.batch.policy_weights,
        temperature=_TEMPERATURE,
    )

    def loss() -> float:
        entropies = subject.read_entropies(subject.batch, temperature=_TEMPERATURE)
        return -float(np.nansum(prepared.weights * entropies))

    before = loss()
    out = subject.engine.forward_backward(batch)
    subject.near(out.entropy_loss, before, "entropy_loss")
    subject.near(out.loss, before, "loss of a batch with the entropy term alone")
    actions = prepared.weights != 0
    expected = np.where(actions, subject.read_entropies(subject.batch, temperature=_TEMPERATURE), np.nan)
    subject.alike(out.entropies, expected, "entropies of actions")
    _reciprocal(subject, batch, loss, weights=prepared.weights)


def _actions_are_read_at_their_temperature(subject: Subject) -> None:
    """The environment term stays at temperature 1 in the same batch."""
    prepared = _actions(subject, denominator="current")
    mixed = dataclasses.replace(
        prepared.batch, temperature=_TEMPERATURE, env_weights=subject.batch.env_weights,
        env_targets=subject.batch.env_targets,
    )  # fmt: skip
    out = subject.engine.forward_backward(mixed)
    targets, actions = subject.batch.env_targets.numpy(), prepared.weights != 0
    subject.alike(out.env_logprobs, np.where(targets, subject.read(subject.batch), np.nan), "targets at temperature 1")
    expected = np.where(actions, subject.read(subject.batch, temperature=_TEMPERATURE), np.nan)
    subject.alike(out.policy_logprobs, expected, f"actions at temperature {_TEMPERATURE}")
    factors = prepared.factors("grpo")

    def loss() -> float:
        return -float(np.nansum(factors * subject.read(subject.batch, temperature=_TEMPERATURE)))

    _reciprocal(subject, dataclasses.replace(prepared.batch, temperature=_TEMPERATURE), loss, weights=factors)


def _reciprocal(
    subject: Subject, batch: WeightedBatch, loss: Callable[[], float], *, weights: NDArray[np.float64]
) -> None:
    """Compare two ways to measure the inner product of two gradients; `weights` are those of this term in `loss`.

    What may differ: a hundredth for the curvature, and the rounding of every log-prob that the losses add up.
    """
    env_weights = subject.batch.env_weights.double().numpy()

    def env_loss() -> float:
        return -float(np.nansum(env_weights * subject.read(subject.batch)))

    found, expected = subject.slope(env_loss, batch), subject.slope(loss, subject.batch)
    own = (abs(subject.slope(env_loss, subject.batch)) * abs(subject.slope(loss, batch))) ** 0.5
    rounding = subject.tolerance * float(np.linalg.norm(weights) + np.linalg.norm(env_weights))
    limit = (2e-2 + 2 * subject.tolerance) * own + rounding
    if not abs(found - expected) <= limit:
        raise CheckFailed(
            f"the environment loss falls by {found} along the gradient of this term, this term by {expected} along that"
            f" of the environment; expected equal numbers within {limit:.2g}"
        )


def _surprising_targets_are_clipped(subject: Subject) -> None:
    nll = -subject.read(subject.batch)
    targets = subject.batch.env_targets.numpy()
    low, high = np.sort(nll[targets])[[targets.sum() // 2 - 1, targets.sum() // 2]]
    clip = float(low + high) / 2
    batch = dataclasses.replace(subject.batch, policy_loss=PolicyLossSpec(env_nll_clip=clip))
    out = subject.descend(batch)
    found = subject.read(subject.batch)
    weights = subject.batch.env_weights.numpy()
    expected = subject.after(_twin(subject, np.where(nll > clip, 0.0, weights)))
    subject.alike(found, expected, "log-probs after a step without the surprising targets")
    value = float((weights * np.minimum(nll, clip))[targets].sum())
    subject.near(out.env_loss, value, "env_loss of clipped targets")


def _missing_log_probs_are_refused(subject: Subject, *, name: str, denominator: str) -> None:
    batch = _actions(subject, denominator=denominator).batch
    batch = dataclasses.replace(
        batch, policy_loss=dataclasses.replace(batch.policy_loss, name=name),
        sampling_logprobs=torch.full_like(batch.policy_weights, torch.nan), proximal_logprobs=None,
    )  # fmt: skip
    try:
        subject.engine.forward_backward(batch)
    except EnvechoError:
        return
    raise CheckFailed(f"expected an error of envecho, as the {denominator} log-probs of actions are unknown")


def _a_batch_without_actions_needs_no_log_probs(subject: Subject) -> None:
    spec = PolicyLossSpec(ratio_denominator="proximal")
    out = subject.engine.forward_backward(dataclasses.replace(subject.batch, policy_loss=spec))
    subject.near(out.policy_loss, 0.0, "policy_loss of a step whose rollouts all failed")
    subject.near(out.loss, out.env_loss, "loss of a step whose rollouts all failed")


def _loss_checks() -> list[Check]:
    checks: list[Check] = []
    for name in ("grpo", "cispo", "gspo", "sft"):
        loss = cast(Ability, f"loss_{name}")
        denominators = ("current",) if name == "sft" else ("sampling", "proximal", "current")
        for denominator in denominators:
            ratio = cast(Ability, f"ratio_{denominator}")
            needs: tuple[Ability, ...] = (loss,) if name == "sft" else (loss, ratio)
            checks.append(
                Check(
                    name=f"policy loss {name}" + ("" if name == "sft" else f", ratio over {denominator}"),
                    run=partial(_a_policy_loss_has_its_gradient, name=name, denominator=denominator),
                    needs=needs,
                )
            )
        needs = (loss,) if name == "sft" else (loss, "ratio_sampling")
        checks.append(
            Check(
                name=f"policy loss {name} is reported", run=partial(_a_policy_loss_is_reported, name=name), needs=needs
            )
        )
    return checks


CHECKS = (
    *_loss_checks(),
    Check(
        name="missing sampling log-probs are refused",
        run=partial(_missing_log_probs_are_refused, name="grpo", denominator="sampling"),
        needs=("loss_grpo", "ratio_sampling"),
    ),
    Check(
        name="missing proximal log-probs are refused",
        run=partial(_missing_log_probs_are_refused, name="grpo", denominator="proximal"),
        needs=("loss_grpo", "ratio_proximal"),
    ),
    Check(
        name="a batch without actions needs no log-probs",
        run=_a_batch_without_actions_needs_no_log_probs,
        needs=("loss_grpo", "ratio_proximal"),
    ),
    Check(
        name="actions are read at their temperature, targets at 1",
        run=_actions_are_read_at_their_temperature,
        needs=("loss_grpo", "ratio_current", "policy_temperature"),
    ),
    Check(name="importance cap", run=_an_importance_cap_multiplies_the_loss, needs=("importance_cap", "loss_grpo")),
    Check(name="KL to a reference", run=_a_kl_term_has_its_gradient, needs=("kl",)),
    Check(name="entropy bonus", run=_an_entropy_bonus_has_its_gradient, needs=("entropy_bonus", "entropies")),
    Check(name="surprising targets are clipped", run=_surprising_targets_are_clipped, needs=("env_nll_clip",)),
)
