"""Checks of the weighted sum itself: the environment term, accumulation, the step, and what is reported.

Not here: the policy side (`check_policy`), files and sampling (`check_state`).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch

from envecho.engines.check_subject import LENGTHS, PLAIN_STEP, Check, Subject, descent, scaled


def _capabilities_are_stated(subject: Subject) -> None:
    able = subject.engine.capabilities
    subject.require(able.trains and able.samples, "capabilities that say trains and samples")
    subject.require(able.max_context_tokens >= max(LENGTHS), "a context of at least a dozen tokens")
    unsaid = [ability for ability, reason in able.lacks.items() if not reason.strip()]
    subject.require(not unsaid, f"a reason for everything that is lacking; none is given for {unsaid}")


def _training_and_scoring_agree(subject: Subject) -> None:
    out = subject.engine.forward_backward(subject.batch)
    targets = subject.batch.env_targets.numpy()
    expected = np.where(targets, subject.read(subject.batch), np.nan)
    subject.alike(out.env_logprobs, expected, "log-probs of targets")
    subject.require(bool(np.isnan(out.policy_logprobs).all()), "NaN policy log-probs without policy weights")


def _the_loss_is_the_weighted_sum(subject: Subject) -> None:
    out = subject.engine.forward_backward(subject.batch)
    targets = subject.batch.env_targets.numpy()
    expected = -float((subject.batch.env_weights.numpy()[targets] * out.env_logprobs[targets]).sum())
    subject.near(out.loss, expected, "loss")
    subject.near(out.env_loss, expected, "env_loss")
    subject.near(out.policy_loss, 0.0, "policy_loss without policy weights")


def _gradients_of_parts_add_up(subject: Subject) -> None:
    whole = subject.after(subject.batch)
    parts = [subject.batch.select(numbers) for numbers in ([3, 0], [1], [2])]
    subject.alike(subject.after(*parts), whole, "log-probs after a step over parts")


def _the_norm_of_parts_is_that_of_the_whole(subject: Subject) -> None:
    subject.engine.forward_backward(subject.batch)
    expected = subject.engine.optim_step(PLAIN_STEP)
    subject.reset()
    for part in (subject.batch.select([3, 0]), subject.batch.select([1]), subject.batch.select([2])):
        subject.engine.forward_backward(part)
    _near_norm(subject, subject.engine.optim_step(PLAIN_STEP), expected, "gradient norm over parts")


def _the_gradient_is_linear_in_the_weights(subject: Subject) -> None:
    thrice = subject.after(scaled(subject.batch, 3.0), change=0.2)
    subject.alike(
        thrice,
        subject.after(subject.batch, subject.batch, subject.batch, change=0.2),
        "log-probs at 3 times the weights",
    )


def _the_norm_is_what_the_loss_falls_by(subject: Subject) -> None:
    subject.engine.forward_backward(subject.batch)
    found = subject.engine.optim_step(PLAIN_STEP)
    subject.require(found is not None, "a gradient norm, which `lacks` does not exclude")
    expected = subject.norm(subject.batch)
    subject.near(
        (found or 0.0) / expected, 1.0, "norm over the root of what the loss falls by", tolerance=_rough(subject)
    )


def _a_step_clears_the_gradient(subject: Subject) -> None:
    expected = subject.after(subject.batch)
    norm = subject.engine.optim_step(descent(subject.rate()))
    subject.near(norm or 0.0, 0.0, "gradient norm of a second step")
    subject.alike(subject.read(subject.batch), expected, "log-probs after a second step")


def _no_weight_means_no_change(subject: Subject) -> None:
    before = subject.read(subject.batch)
    nothing = scaled(subject.batch, 0.0)
    out = subject.engine.forward_backward(nothing)
    reported = out.env_logprobs[nothing.env_targets.numpy()]
    subject.require(bool(np.isfinite(reported).all()), "log-probs of targets also where their weight is 0")
    subject.near(out.loss, 0.0, "loss without weights")
    norm = subject.engine.optim_step(PLAIN_STEP)
    subject.near(norm or 0.0, 0.0, "gradient norm")
    found = subject.read(subject.batch)
    subject.require(bool((found == before)[~np.isnan(before)].all()), "weights that stay as they are")


def _training_lowers_the_loss(subject: Subject) -> None:
    first = subject.engine.forward_backward(subject.batch).loss
    for _ in range(5):
        subject.engine.optim_step(PLAIN_STEP)
        last = subject.engine.forward_backward(subject.batch).loss
        subject.require(last < first, f"a loss below {first} after a step on the same batch, found {last}")


def _clipping_is_reported_before_it_happens(subject: Subject) -> None:
    subject.engine.forward_backward(subject.batch)
    expected = subject.engine.optim_step(PLAIN_STEP)
    subject.reset()
    subject.engine.forward_backward(subject.batch)
    clipped = dataclasses.replace(PLAIN_STEP, grad_clip_norm=(expected or 1.0) / 10)
    _near_norm(subject, subject.engine.optim_step(clipped), expected, "gradient norm of a clipped step")


def _clipping_scales_the_step(subject: Subject) -> None:
    norm = subject.norm(subject.batch)
    expected = subject.after(scaled(subject.batch, 0.5))
    subject.reset()
    subject.engine.forward_backward(scaled(subject.batch, 4.0))
    subject.engine.optim_step(descent(subject.rate(), grad_clip_norm=norm / 2))
    before_clip = float(np.nanmax(np.abs(subject.read(subject.batch) - expected)))
    subject.near(before_clip, 0.0, "log-probs after a step clipped to half the norm", tolerance=_rough(subject))


def _logged_targets_leave_the_step_unchanged(subject: Subject) -> None:
    half = torch.arange(len(subject.batch.token_ids)) % 2 == 0
    weights = torch.where(half, subject.batch.env_weights, torch.zeros(()))
    logged = dataclasses.replace(subject.batch, env_weights=weights)
    silent = dataclasses.replace(logged, env_targets=subject.batch.env_targets & half)
    out = subject.descend(logged)
    found = subject.read(subject.batch)
    targets = subject.batch.env_targets.numpy()
    subject.require(
        bool((np.isfinite(out.env_logprobs) == targets).all()), "log-probs at every target and nowhere else"
    )
    subject.alike(found, subject.after(silent), "log-probs after the step, logged against not logged")


def _near_norm(subject: Subject, found: float | None, expected: float | None, what: str) -> None:
    if found is None or expected is None:
        subject.require(found is expected, f"{what}: a norm from both steps, as `lacks` names no grad_norm")
        return
    subject.near(found / expected, 1.0, f"{what} over {expected}")


def _rough(subject: Subject) -> float:
    """Tolerance of a figure from finite steps: curvature adds about a hundredth."""
    return 2e-2 + 2 * subject.tolerance


CHECKS = (
    Check(name="capabilities are stated", run=_capabilities_are_stated),
    Check(name="log-probs of training and scoring agree", run=_training_and_scoring_agree),
    Check(name="the loss is the weighted sum", run=_the_loss_is_the_weighted_sum),
    Check(name="gradients of parts add up", run=_gradients_of_parts_add_up),
    Check(
        name="the norm of parts is that of the whole", run=_the_norm_of_parts_is_that_of_the_whole, needs=("grad_norm",)
    ),
    Check(name="the gradient is linear in the weights", run=_the_gradient_is_linear_in_the_weights),
    Check(name="the norm is what the loss falls by", run=_the_norm_is_what_the_loss_falls_by, needs=("grad_norm",)),
    Check(name="a step clears the gradient", run=_a_step_clears_the_gradient),
    Check(name="no weight means no change", run=_no_weight_means_no_change),
    Check(name="logged targets leave the step unchanged", run=_logged_targets_leave_the_step_unchanged),
    Check(name="training lowers the loss", run=_training_lowers_the_loss),
    Check(name="clipping scales the step", run=_clipping_scales_the_step, needs=("grad_clip",)),
    Check(
        name="clipping is reported before it happens",
        run=_clipping_is_reported_before_it_happens,
        needs=("grad_norm", "grad_clip"),
    ),
)
