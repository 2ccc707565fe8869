"""Group advantages and the clipped policy loss against loops and hand-worked numbers."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import DataError
from envecho.losses import group_advantages, grpo_loss, reinforce_loss

FINITE = st.floats(-100, 100, allow_nan=False)
GRADED = st.lists(st.tuples(FINITE, st.integers(0, 3)), min_size=1, max_size=12)


@pytest.mark.parametrize("kind", ["group_std", "group_mean", "leave_one_out"])
@settings(deadline=None, max_examples=50)
@given(graded=GRADED)
def test_an_advantage_is_the_distance_from_the_group(kind, graded):
    """Catches groups that leak into each other, and a standard deviation without Bessel's correction."""
    rewards, groups = zip(*graded, strict=True)
    advantages = group_advantages(torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), kind=kind).tolist()
    for place, (reward, group, advantage) in enumerate(zip(rewards, groups, advantages, strict=True)):
        members = [r for r, g in graded if g == group]
        if len(set(members)) == 1:
            assert advantage == 0
            continue
        others = [r for k, (r, g) in enumerate(graded) if g == group and k != place]
        expected = {
            "group_std": (reward - statistics.fmean(members)) / (statistics.stdev(members) + 1e-6),
            "group_mean": reward - statistics.fmean(members),
            "leave_one_out": reward - statistics.fmean(others),
        }[kind]
        assert advantage == pytest.approx(expected, rel=1e-6, abs=1e-8)


@settings(deadline=None, max_examples=50)
@given(reward=FINITE, num=st.integers(1, 7))
def test_a_group_without_variance_has_advantages_of_exactly_zero(reward, num):
    """Catches rounding of the mean divided by eps: three rewards of 0.1 would push every action a little."""
    advantages = group_advantages(torch.full((num,), reward), torch.zeros(num, dtype=torch.int64), kind="group_std")
    assert advantages.tolist() == [0.0] * num


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_unknown_reward_is_refused_with_its_place(bad):
    """Catches an ungraded rollout that turns a whole group's gradient into NaN, or silently counts as 0."""
    with pytest.raises(DataError, match=r"\[1\]"):
        group_advantages(torch.tensor([0.0, bad]), torch.tensor([0, 0]), kind="group_std")


def slow_grpo(logprob, advantage, denominator, low, high):
    ratio = math.exp(logprob - denominator)
    limited = min(max(ratio, 1 - low), 1 + high)
    binds = limited * advantage < ratio * advantage
    return -min(ratio * advantage, limited * advantage), 0.0 if binds else -advantage * ratio, binds


@settings(deadline=None, max_examples=50)
@given(
    tokens=st.lists(st.tuples(st.floats(-9, 0), st.floats(-3, 3), st.floats(-9, 0)), min_size=1, max_size=8),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
)
def test_the_clipped_loss_and_its_gradient_are_those_of_the_slow_loop(tokens, low, high):
    """Catches min and max exchanged, a clip on the wrong side, and a gradient through the denominator."""
    logprobs, advantages, denominators = torch.tensor(tokens, dtype=torch.float64).T
    logprobs.requires_grad_()
    denominators.requires_grad_()
    losses, clipped = grpo_loss(logprobs, advantages, denominator_logprobs=denominators, clip_low=low, clip_high=high)
    losses.sum().backward()
    for i, (logprob, advantage, denominator) in enumerate(tokens):
        value, gradient, binds = slow_grpo(logprob, advantage, denominator, low, high)
        ratio = math.exp(logprob - denominator)
        assert losses[i].item() == pytest.approx(value, rel=1e-9, abs=1e-12)
        if min(abs(ratio - 1 + low), abs(ratio - 1 - high), abs(advantage)) > 1e-9:
            assert bool(clipped[i]) == binds
            assert float(logprobs.grad[i]) == pytest.approx(gradient, rel=1e-9, abs=1e-12)
    assert denominators.grad is None


@settings(deadline=None, max_examples=50)
@given(tokens=st.lists(st.tuples(st.floats(-9, 0), st.floats(-3, 3)), min_size=1, max_size=8))
def test_at_ratio_one_the_gradient_is_the_plain_policy_gradient(tokens):
    """Catches a surrogate whose first step is not the policy gradient: the reference takes one step per batch."""
    logprobs, advantages = torch.tensor(tokens, dtype=torch.float64).T
    logprobs.requires_grad_()
    losses, clipped = grpo_loss(logprobs, advantages, denominator_logprobs=logprobs, clip_low=0.2, clip_high=0.2)
    (grpo,) = torch.autograd.grad(losses.sum(), [logprobs])
    (plain,) = torch.autograd.grad(reinforce_loss(logprobs, advantages).sum(), [logprobs])
    assert torch.equal(grpo, plain)
    assert not clipped.any()
