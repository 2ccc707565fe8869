"""The head's loss with its gradient against autograd over all logits."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from envecho.losses.head_loss import Head, summed_loss


def problem(seed: int, num: int, vocab: int, width: int = 5, dtype: torch.dtype = torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden, weight = (torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (num, vocab))
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (num,), generator=generator)
    factors = torch.randn(num, generator=generator, dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in (hidden, weight, bias)], targets, factors.to(dtype)


def loss_of(factors: torch.Tensor, entropy_factor: float):
    """A loss that is not linear in the log-probs, as a clipped ratio is not."""

    def of(logprobs: torch.Tensor, entropies: torch.Tensor, place: slice) -> torch.Tensor:
        loss = (factors[place].to(logprobs) * torch.exp(0.3 * logprobs)).sum()
        return loss - entropy_factor * entropies.sum() if entropy_factor else loss

    return of


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**20),
    num=st.integers(1, 9),
    vocab=st.integers(2, 12),
    chunk=st.integers(1, 11),
    softcap=st.sampled_from([None, 0.7, 30.0]),
    temperature=st.sampled_from([1.0, 0.6]),
    entropy=st.sampled_from([0.0, 0.4]),
    with_bias=st.booleans(),
)
def test_loss_and_gradients_are_those_of_all_logits(seed, num, vocab, chunk, softcap, temperature, entropy, with_bias):
    """Catches a wrong term of the gradient by hand, and a chunk's edge that loses a position."""
    (hidden, weight, bias), targets, factors = problem(seed, num, vocab)
    leaves = [hidden, weight, *([bias] if with_bias else [])]
    head = Head(weight=weight, bias=bias if with_bias else None, softcap=softcap, chunk_size=chunk)
    of = loss_of(factors, entropy)
    found = summed_loss(hidden, head, targets, of, temperature=temperature, with_entropies=bool(entropy))

    logits = hidden @ weight.T + (bias if with_bias else 0)
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    table = torch.log_softmax(logits / temperature, -1)
    logprobs = table.gather(-1, targets[:, None])[:, 0]
    expected = of(logprobs, -(table.exp() * table).sum(-1), slice(None))
    torch.testing.assert_close(found.loss, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found.logprobs, logprobs.detach(), rtol=1e-11, atol=1e-12)
    gradients = [torch.autograd.grad(3 * loss, leaves) for loss in (found.loss, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("chunk", [1, 3, 8, 100])
def test_no_chunk_size_changes_a_float64_gradient(chunk: int):
    """Catches sums that depend on where a chunk ends by more than the last bits."""
    (hidden, weight, _), targets, factors = problem(1, 50, 300, 16)
    found = []
    for size in (50, chunk):
        head = Head(weight=weight, bias=None, softcap=None, chunk_size=size)
        loss = summed_loss(hidden, head, targets, loss_of(factors, 0.2), temperature=0.7, with_entropies=True).loss
        found.append(torch.autograd.grad(loss, (hidden, weight)))
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) <= 1e-12 * float(other.norm())


def test_a_frozen_head_and_frozen_states_get_no_gradient():
    """Catches a gradient as large as the vocabulary that nobody asked for, and a graph that is cut."""
    (hidden, weight, _), targets, factors = problem(2, 6, 9)
    for frozen in (hidden, weight):
        for leaf in (hidden, weight):
            leaf.grad = None
            leaf.requires_grad_(leaf is not frozen)
        head = Head(weight=weight, bias=None, softcap=None, chunk_size=4)
        summed_loss(hidden, head, targets, loss_of(factors, 0.0), temperature=1.0).loss.backward()
        assert frozen.grad is None
        assert all(leaf.grad is not None for leaf in (hidden, weight) if leaf is not frozen)


def test_a_well_predicted_token_keeps_its_gradient_in_bfloat16():
    """Catches 1 - p computed from a p in bfloat16, which is 1 where the token is nearly certain: no gradient at all."""
    hidden = torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    weight = torch.tensor([[8.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=torch.bfloat16, requires_grad=True)
    head = Head(weight=weight, bias=None, softcap=None, chunk_size=4)
    summed_loss(hidden, head, torch.tensor([0]), lambda lp, ent, place: -lp.sum(), temperature=1.0).loss.backward()
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    (-torch.log_softmax(exact[0] @ exact[1].T, -1)[0, 0]).backward()
    for leaf, truth in zip((hidden, weight), exact, strict=True):
        assert truth.grad is not None
        torch.testing.assert_close(leaf.grad.double(), truth.grad, rtol=2e-2, atol=1e-5)


def test_without_gradients_nothing_is_kept():
    """Catches logging that costs a backward pass, or a loss that pretends to have a graph."""
    (hidden, weight, _), targets, factors = problem(3, 6, 9)
    head = Head(weight=weight, bias=None, softcap=None, chunk_size=4)
    with torch.no_grad():
        found = summed_loss(hidden, head, targets, loss_of(factors, 0.0), temperature=1.0)
    assert not found.loss.requires_grad
    assert found.entropies is None
    assert found.logprobs.shape == (6,)
