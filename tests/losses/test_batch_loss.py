"""`batch_loss`: the weighted sum over a packed micro-batch, term by term, bit by bit."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.errors import DataError
from envecho.losses import PolicyLossSpec, WeightedBatch, batch_loss

VOCAB, HIDDEN = 11, 5


def make_batch(seed=0, lengths=(5, 1, 7), temperature=0.8, **changes):
    """A batch with actions, weighted targets, and targets of weight 0, drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    positions = torch.cat([torch.arange(length) for length in lengths])
    kinds = torch.randint(0, 4, (n,), generator=generator) * (positions > 0)
    noise = torch.rand(3, n, generator=generator, dtype=torch.float64)
    fields = {
        "token_ids": torch.randint(0, VOCAB, (n,), generator=generator),
        "positions": positions,
        "sequence_index": torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        "policy_weights": noise[0] * (kinds == 1),
        "advantages": 4 * noise[1] - 2,
        "env_weights": noise[2] * (kinds == 2),
        "env_targets": kinds >= 2,
        "kl_weights": torch.zeros(n),
        "entropy_weights": torch.zeros(n),
        "sampling_logprobs": torch.where(kinds == 1, -3 * noise[2], torch.nan),
    }
    return WeightedBatch(**(fields | changes), temperature=temperature)


def make_states(seed, batch, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed + 1)
    hidden = torch.randn(len(batch.token_ids), HIDDEN, generator=generator, dtype=torch.float64)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator, dtype=torch.float64)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()


def slow_loss(hidden, weight, batch):
    """The formula of `WeightedBatch`, one token at a time, from full logits."""
    spec, total = batch.policy_loss, hidden.new_zeros(())
    for i in range(1, len(batch.token_ids)):
        logits = weight @ hidden[i - 1]
        if batch.policy_weights[i]:
            logprob = torch.log_softmax(logits / batch.temperature, dim=0)[batch.token_ids[i]]
            ratio = torch.exp(logprob - batch.sampling_logprobs[i])
            limited = ratio.clamp(1 - spec.clip_low, 1 + spec.clip_high)
            advantage = batch.advantages[i]
            total = total - batch.policy_weights[i] * torch.minimum(ratio * advantage, limited * advantage)
        if batch.env_weights[i]:
            total = total - batch.env_weights[i] * torch.log_softmax(logits, dim=0)[batch.token_ids[i]]
    return total


def gradient_bits(hidden, weight, batch, **options):
    out = batch_loss(hidden, weight, batch, **options)
    grads = torch.autograd.grad(out.loss, [hidden, weight])
    return out, [grad.view(torch.int64 if grad.dtype == torch.float64 else torch.int32) for grad in grads]


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**20), chunk_size=st.integers(1, 9), temperature=st.sampled_from([0.6, 1.0, 1.7]))
def test_loss_and_gradients_are_those_of_the_formula(seed, chunk_size, temperature):
    """Catches a token read from its own state, a term at the other's temperature, a weight on the wrong token."""
    batch = make_batch(seed, temperature=temperature)
    hidden, weight = make_states(seed, batch)
    out = batch_loss(hidden, weight, batch, chunk_size=chunk_size)
    slow = slow_loss(hidden, weight, batch)
    torch.testing.assert_close(out.loss, slow, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out.policy_loss + out.env_loss, slow.detach(), rtol=1e-10, atol=1e-12)
    if slow.requires_grad:
        for one, other in zip(
            torch.autograd.grad(out.loss, [hidden, weight]), torch.autograd.grad(slow, [hidden, weight]), strict=True
        ):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**20), dtype=st.sampled_from([torch.float32, torch.float64]), chunk_size=st.integers(1, 9))
def test_logging_targets_at_lambda_zero_changes_no_bit_of_the_gradient(seed, dtype, chunk_size):
    """Catches targets of weight 0 that share a chunk with actions, or add a zero to the graph."""
    batch = make_batch(seed)
    hidden, weight = make_states(seed, batch, dtype)
    nothing = torch.zeros(len(batch.token_ids))
    logged = dataclasses.replace(batch, env_weights=nothing)
    plain = dataclasses.replace(batch, env_weights=nothing, env_targets=nothing.bool())
    out, bits = gradient_bits(hidden, weight, logged, chunk_size=chunk_size)
    bare, bare_bits = gradient_bits(hidden, weight, plain, chunk_size=chunk_size)
    assert all(torch.equal(one, other) for one, other in zip(bits, bare_bits, strict=True))
    assert torch.equal(out.loss, bare.loss)
    assert torch.equal(torch.isfinite(out.env_logprobs), batch.env_targets)
    assert not torch.isfinite(bare.env_logprobs).any()


def test_reported_logprobs_are_those_that_each_term_read():
    """Catches cross-entropies logged at the sampling temperature, and values at tokens that no term read."""
    batch = make_batch(3)
    hidden, weight = make_states(3, batch)
    out = batch_loss(hidden, weight, batch)
    logits = (hidden @ weight.T).detach()
    for i in range(len(batch.token_ids)):
        for values, read, temperature in (
            (out.policy_logprobs, bool(batch.policy_weights[i]), batch.temperature),
            (out.env_logprobs, bool(batch.env_targets[i]), 1.0),
        ):
            if read:
                expected = torch.log_softmax(logits[i - 1] / temperature, dim=0)[batch.token_ids[i]]
                assert float(values[i]) == pytest.approx(float(expected))
            else:
                assert math.isnan(values[i])


@pytest.mark.parametrize("with_bias", [False, True])
def test_nothing_selected_gives_a_connected_zero_even_from_infinite_states(with_bias):
    """Catches 0 * inf, and a micro-batch after which some rank has no gradient and the others wait (trap 19)."""
    n = 4
    nothing = torch.zeros(n)
    batch = make_batch(0, lengths=(n,), policy_weights=nothing, env_weights=nothing, env_targets=nothing.bool())
    hidden = torch.full((n, HIDDEN), math.inf, requires_grad=True)
    leaves = [hidden, torch.ones(VOCAB, HIDDEN, requires_grad=True)]
    bias = torch.ones(VOCAB, requires_grad=True) if with_bias else None
    out = batch_loss(hidden, leaves[1], batch, head_bias=bias)
    assert out.loss.item() == float(out.policy_loss) == float(out.env_loss) == 0
    grads = torch.autograd.grad(out.loss, leaves + ([bias] if bias is not None else []))
    assert all(torch.equal(grad, torch.zeros_like(grad)) for grad in grads)


def test_bias_and_softcap_reach_both_terms():
    """Catches a head option that one of the reads forgets: its gradient would be that of another model."""
    batch = make_batch(5)
    hidden, weight = make_states(5, batch)
    bias = torch.linspace(-2, 2, VOCAB, dtype=torch.float64)
    out = batch_loss(hidden, weight, batch, head_bias=bias, softcap=1.5)
    logits = 1.5 * torch.tanh((hidden @ weight.T + bias) / 1.5)
    rows = torch.arange(1, len(batch.token_ids))
    for values, temperature in ((out.policy_logprobs, batch.temperature), (out.env_logprobs, 1.0)):
        expected = torch.log_softmax(logits[:-1] / temperature, dim=-1)[rows - 1, batch.token_ids[1:]].detach()
        read = torch.isfinite(values[1:])
        assert read.any()
        torch.testing.assert_close(values[1:][read], expected[read])


@pytest.mark.parametrize("denominator", ["sampling", "proximal"])
def test_a_missing_ratio_denominator_is_refused(denominator):
    """Catches a placeholder in the ratio (trap 17): the gradient would vanish for exactly the surprising tokens."""
    unknown = torch.full((13,), torch.nan)
    batch = make_batch(0, sampling_logprobs=unknown)
    batch = dataclasses.replace(batch, policy_loss=PolicyLossSpec(ratio_denominator=denominator))
    assert batch.policy_weights.any()
    with pytest.raises(DataError, match=f"{denominator}_logprobs"):
        batch_loss(*make_states(0, batch), batch)


def test_the_current_policy_as_denominator_is_the_plain_policy_gradient():
    """Catches a ratio of 1 without a gradient, or one that still reads the sampling log-probs."""
    batch = make_batch(0, env_weights=torch.zeros(13), sampling_logprobs=torch.full((13,), torch.nan))
    batch = dataclasses.replace(batch, policy_loss=PolicyLossSpec(ratio_denominator="current"))
    hidden, weight = make_states(0, batch)
    out = batch_loss(hidden, weight, batch)
    rows = torch.nonzero(batch.policy_weights).flatten()
    logprobs = torch.log_softmax(hidden[rows - 1] @ weight.T / batch.temperature, dim=-1)
    chosen = logprobs[torch.arange(len(rows)), batch.token_ids[rows]]
    plain = -(batch.policy_weights * batch.advantages)[rows] @ chosen
    for one, other in zip(
        torch.autograd.grad(out.loss, [hidden, weight]), torch.autograd.grad(plain, [hidden, weight]), strict=True
    ):
        torch.testing.assert_close(one, other)
    assert not out.clipped.any()


def test_hidden_states_of_another_batch_are_refused():
    """Catches states of a padded batch that are read as if they were packed."""
    batch = make_batch(0)
    hidden, weight = make_states(0, batch)
    with pytest.raises(ValueError, match="13 tokens"):
        batch_loss(hidden[:-1], weight, batch)
