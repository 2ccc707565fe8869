"""`echo_loss` keeps every property that RFC 010's two sets of example tests pin for the loss, and a few more."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.losses import echo_loss


def example(seed=0, num_rows=2, num_tokens=6, vocab=50):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_rows, num_tokens, vocab, generator=generator, dtype=torch.float64, requires_grad=True)
    input_ids = torch.randint(0, vocab, (num_rows, num_tokens), generator=generator)
    roles = torch.randint(0, 4, (num_rows, num_tokens), generator=generator)
    advantages = torch.randn(num_rows, generator=generator)
    return logits, input_ids, roles == 1, roles == 2, advantages


def slow_echo(logits, input_ids, action_mask, obs_mask, advantages, world_model_coeff, use_rl):
    """The two token means, one token at a time."""
    policy, environment = [], []
    for row in range(logits.shape[0]):
        for i in range(1, logits.shape[1]):
            logprob = torch.log_softmax(logits[row, i - 1], dim=-1)[input_ids[row, i]]
            if action_mask[row, i]:
                policy.append(-advantages[row] * logprob)
            if obs_mask[row, i]:
                environment.append(-logprob)
    l_grpo = sum(policy) / max(len(policy), 1) if use_rl else 0.0
    return l_grpo + world_model_coeff * sum(environment) / max(len(environment), 1)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**20),
    num_tokens=st.integers(1, 7),
    coeff=st.sampled_from([0.0, 0.05, 1.0]),
    use_rl=st.booleans(),
)
def test_loss_and_gradient_are_those_of_the_slow_loop(seed, num_tokens, coeff, use_rl):
    """Catches an off-by-one between logits and targets, and an advantage of another row."""
    logits, *rest = example(seed, num_tokens=num_tokens, vocab=9)
    loss, parts = echo_loss(logits, *rest, world_model_coeff=coeff, use_rl=use_rl)
    expected = slow_echo(logits, *rest, coeff, use_rl)
    assert loss.item() == pytest.approx(float(torch.as_tensor(expected).detach()), rel=1e-6, abs=1e-9)
    assert parts["loss"] == loss.item()
    (grad,) = torch.autograd.grad(loss, [logits])
    if isinstance(expected, torch.Tensor):
        (expected_grad,) = torch.autograd.grad(expected, [logits])
        torch.testing.assert_close(grad, expected_grad, rtol=1e-6, atol=1e-9)
    else:
        assert not grad.any()


def test_lambda_zero_is_grpo_and_still_reports_the_environment_term():
    """RFC 010: catches an environment term that is added at 0, or not reported, so that no baseline can be logged."""
    loss, parts = echo_loss(*example(), world_model_coeff=0.0)
    assert loss.item() == parts["loss"] == parts["l_grpo"]
    assert parts["l_env"] > 0


def test_lambda_zero_leaves_every_bit_of_the_gradient_of_grpo():
    """Catches 0 * l_env in the sum, which is NaN as soon as one observation has probability 0."""
    logits, input_ids, actions, observations, advantages = example()
    with torch.no_grad():
        row, place = (x[0] for x in torch.nonzero(observations[:, 1:], as_tuple=True))
        logits[row, place, input_ids[row, place + 1]] = -math.inf
    loss, _ = echo_loss(logits, input_ids, actions, observations, advantages, world_model_coeff=0.0)
    plain, _ = echo_loss(logits, input_ids, actions, torch.zeros_like(observations), advantages, world_model_coeff=0.0)
    assert loss.item() == plain.item()
    (one,), (other,) = torch.autograd.grad(loss, [logits]), torch.autograd.grad(plain, [logits])
    assert torch.equal(one.view(torch.int64), other.view(torch.int64))


@pytest.mark.parametrize("coeff", [0.05, 0.5, 1.0])
def test_without_rl_the_loss_is_lambda_times_the_cross_entropy(coeff):
    """RFC 010: catches a policy term that survives verifier-free mode, and a lambda that does not scale linearly."""
    loss, parts = echo_loss(*example(), world_model_coeff=coeff, use_rl=False)
    assert parts["l_grpo"] == 0.0
    assert parts["l_env"] > 0
    assert loss.item() == pytest.approx(coeff * parts["l_env"], abs=1e-9)


def test_uniform_logits_give_log_of_the_vocabulary():
    """RFC 010: catches a cross-entropy in bits, or one that is scaled by a count."""
    _, input_ids, _, _, _ = example(num_rows=1, vocab=100)
    mask = torch.ones_like(input_ids, dtype=torch.bool)
    _, parts = echo_loss(torch.zeros(1, 6, 100), input_ids, ~mask, mask, torch.zeros(1), use_rl=False)
    assert parts["l_env"] == pytest.approx(math.log(100), abs=1e-5)


def test_the_loss_is_finite_and_differentiable():
    """RFC 010: catches a loss that was detached or turned NaN on the way."""
    logits, *rest = example()
    loss, _ = echo_loss(logits, *rest)
    assert torch.isfinite(loss)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.any()


def test_masks_on_the_first_token_are_ignored():
    """Catches a role taken from the predicting position: nothing predicts token 0 (trap 12)."""
    logits, input_ids, actions, observations, advantages = example()
    firsts = torch.zeros_like(actions)
    firsts[:, 0] = True
    _, with_first = echo_loss(logits, input_ids, actions | firsts, observations | firsts, advantages)
    _, without = echo_loss(logits, input_ids, actions & ~firsts, observations & ~firsts, advantages)
    assert with_first == without


def test_nothing_selected_gives_a_zero_that_can_be_differentiated():
    """Catches 0/0 for a batch without actions or observations (trap 19)."""
    logits, input_ids, actions, _, advantages = example()
    nothing = torch.zeros_like(actions)
    for coeff in (0.0, 0.05):
        loss, parts = echo_loss(logits, input_ids, nothing, nothing, advantages, world_model_coeff=coeff)
        assert parts == {"loss": 0.0, "l_grpo": 0.0, "l_env": 0.0}
        (grad,) = torch.autograd.grad(loss, [logits])
        assert not grad.any()


def test_bf16_logits_are_read_in_float32():
    """Catches a log-softmax in bf16: 8 bits of mantissa cannot hold a loss of 10 nats to 0.01."""
    logits, *rest = example(vocab=400)
    low = logits.detach().bfloat16()
    _, parts = echo_loss(low, *rest)
    _, exact = echo_loss(low.double(), *rest)
    assert parts["l_env"] == pytest.approx(exact["l_env"], abs=1e-5)
