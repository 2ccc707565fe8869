"""`read_logprobs` against the plain log-softmax over all logits: values, gradients, and what it keeps in memory."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from envecho.losses import read_logprobs

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def slow_logprobs(hidden, head_weight, targets, *, temperatures, bias=None, softcap=None):
    """One position at a time, all logits, autograd throughout."""
    values, hits = [], []
    for state, target, temperature in zip(hidden, targets, temperatures, strict=True):
        logits = head_weight @ state
        if bias is not None:
            logits = logits + bias
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        values.append(torch.log_softmax(logits / temperature, dim=0)[target])
        hits.append(bool(logits.argmax() == target))
    return torch.stack(values), torch.tensor(hits)


def inputs(seed, num_positions, vocab, num_hidden, device="cpu", dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(num_positions, num_hidden, generator=generator, dtype=torch.float64)
    weight = torch.randn(vocab, num_hidden, generator=generator, dtype=torch.float64)
    bias = torch.randn(vocab, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocab, (num_positions,), generator=generator)
    temperatures = 0.3 + 1.5 * torch.rand(num_positions, generator=generator, dtype=torch.float64)
    moved = [x.to(device, dtype).requires_grad_() for x in (hidden, weight, bias)]
    return *moved, targets.to(device), temperatures.to(device)


@pytest.mark.parametrize("device", DEVICES)
@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    num_positions=st.integers(1, 9),
    vocab=st.integers(2, 12),
    chunk_size=st.integers(1, 11),
    softcap=st.sampled_from([None, 0.7, 30.0]),
    with_bias=st.booleans(),
)
def test_values_and_gradients_are_those_of_the_slow_loop(
    device, seed, num_positions, vocab, chunk_size, softcap, with_bias
):
    """Catches a wrong term in the hand-derived backward pass, and a chunk boundary that loses or repeats a position."""
    hidden, weight, bias, targets, temperatures = inputs(seed, num_positions, vocab, 4, device)
    leaves = [hidden, weight] + ([bias] if with_bias else [])
    head_bias = bias if with_bias else None
    upstream = torch.linspace(-1, 2, num_positions, dtype=torch.float64, device=device)

    read = read_logprobs(
        hidden, weight, targets, temperatures=temperatures, bias=head_bias, chunk_size=chunk_size, softcap=softcap
    )
    fast, fast_hits = read.logprobs, read.top1
    fast_grads = torch.autograd.grad(fast @ upstream, leaves)
    slow, slow_hits = slow_logprobs(hidden, weight, targets, temperatures=temperatures, bias=head_bias, softcap=softcap)
    slow_grads = torch.autograd.grad(slow @ upstream, leaves)

    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-12)
    assert torch.equal(fast_hits.cpu(), slow_hits)
    for one, other in zip(fast_grads, slow_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("softcap", [None, 1.3])
def test_the_gradient_is_that_of_finite_differences(softcap):
    """Catches a mistake that the slow loop and the fast function might share."""
    hidden, weight, bias, targets, temperatures = inputs(0, 5, 7, 3)

    def logprobs(h, w, b):
        return read_logprobs(h, w, targets, temperatures=temperatures, bias=b, chunk_size=2, softcap=softcap).logprobs

    assert torch.autograd.gradcheck(logprobs, (hidden, weight, bias))


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_an_input_that_needs_no_gradient_gets_none_and_changes_no_other(frozen):
    """Catches a frozen head (LoRA) that costs a vocab-sized gradient, or whose absence disturbs the others."""
    hidden, weight, bias, targets, temperatures = inputs(1, 6, 8, 4)
    leaves = {"hidden": hidden, "weight": weight, "bias": bias}

    def grads():
        logprobs = read_logprobs(hidden, weight, targets, temperatures=temperatures, bias=bias, chunk_size=4).logprobs
        wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
        return dict(zip(wanted, torch.autograd.grad(logprobs.sum(), list(wanted.values())), strict=True))

    everything = grads()
    leaves[frozen].requires_grad_(False)
    rest = grads()
    assert rest.keys() == everything.keys() - {frozen}
    assert all(torch.equal(rest[name], everything[name]) for name in rest)


class _LargestTensor(TorchDispatchMode):
    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.numel())
        return result


def test_no_tensor_of_all_logits_is_made_forward_or_backward():
    """Catches an implementation whose memory grows with positions times vocabulary, which is what chunks are for."""
    hidden, weight, _, targets, temperatures = inputs(2, 32, 500, 4)
    with _LargestTensor() as seen:
        logprobs = read_logprobs(hidden, weight, targets, temperatures=temperatures, chunk_size=8).logprobs
        logprobs.sum().backward()
    assert seen.largest <= 8 * 500


def test_bf16_hidden_states_get_a_float32_log_softmax_and_a_float32_head_gradient():
    """Catches a log-softmax rounded to bf16 (errors of 0.03 nats), and head gradients summed in bf16."""
    hidden, weight, _, targets, _ = inputs(3, 40, 300, 16, dtype=torch.float32)
    low = hidden.detach().bfloat16().requires_grad_()
    temperatures = torch.ones(40)
    logprobs = read_logprobs(low, weight, targets, temperatures=temperatures, chunk_size=16).logprobs
    expected = torch.log_softmax((low @ weight.bfloat16().T).float(), dim=-1)
    assert logprobs.dtype == torch.float32
    torch.testing.assert_close(logprobs, expected[torch.arange(40), targets], rtol=1e-6, atol=1e-5)
    logprobs.sum().backward()
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16
    exact, _ = slow_logprobs(hidden, weight, targets, temperatures=temperatures)
    (exact_grad,) = torch.autograd.grad(exact.sum(), [weight])
    assert torch.nn.functional.cosine_similarity(weight.grad.flatten(), exact_grad.flatten(), dim=0) > 0.999


def test_autocast_around_the_call_changes_nothing():
    """Catches a forward pass in autocast's dtype with a backward pass in another: gradients of another function."""
    hidden, weight, _, targets, temperatures = inputs(4, 6, 9, 4, dtype=torch.float32)

    def run():
        logprobs = read_logprobs(hidden, weight, targets, temperatures=temperatures).logprobs
        return logprobs, *torch.autograd.grad(logprobs.sum(), [hidden, weight])

    plain = run()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = run()
    assert all(torch.equal(one, other) for one, other in zip(plain, inside, strict=True))


def test_no_position_at_all_gives_empty_results_and_zero_gradients():
    """Catches a crash in a micro-batch without a token of a term."""
    hidden, weight, _, _, _ = inputs(5, 3, 6, 4)
    none = torch.zeros(0, dtype=torch.int64)
    read = read_logprobs(hidden[:0], weight, none, temperatures=torch.ones(0))
    logprobs, hits = read.logprobs, read.top1
    assert logprobs.shape == hits.shape == (0,)
    grads = torch.autograd.grad(logprobs.sum(), [hidden, weight])
    assert all(not grad.any() for grad in grads)


def test_extreme_logits_stay_finite():
    """Catches an exp that overflows: logits of 1e4 are far beyond what exp can take."""
    hidden = torch.tensor([[1e4], [-1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.5]], requires_grad=True)
    logprobs = read_logprobs(hidden, weight, torch.tensor([0, 0]), temperatures=torch.ones(2)).logprobs
    grads = torch.autograd.grad(logprobs.sum(), [hidden, weight])
    assert logprobs.tolist() == [0.0, -2e4]
    assert all(torch.isfinite(grad).all() for grad in grads)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chunk_size": 0}, "chunk_size"),
        ({"softcap": 0.0}, "softcap"),
        ({"temperatures": torch.tensor([1.0, 0.0])}, "positive"),
    ],
)
def test_impossible_options_are_refused_by_name(change, message):
    """Catches a temperature of 0 (greedy sampling) that turns into infinities three modules later."""
    hidden, weight, _, targets, temperatures = inputs(6, 2, 5, 3)
    options = {"temperatures": temperatures} | change
    with pytest.raises(ValueError, match=message):
        read_logprobs(hidden, weight, targets, **options)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**20),
    num_positions=st.integers(1, 7),
    chunk_size=st.integers(1, 8),
    softcap=st.sampled_from([None, 1.3]),
    with_bias=st.booleans(),
)
def test_entropies_and_their_gradients_are_those_of_the_slow_distribution(
    seed, num_positions, chunk_size, softcap, with_bias
):
    """Catches an entropy at the wrong temperature, and a wrong sign or a missing term in its hand-derived gradient."""
    hidden, weight, bias, targets, temperatures = inputs(seed, num_positions, 9, 4, "cpu")
    leaves = [hidden, weight] + ([bias] if with_bias else [])
    head_bias = bias if with_bias else None
    upstream = torch.linspace(-1, 2, num_positions, dtype=torch.float64)
    options = {"temperatures": temperatures, "bias": head_bias, "softcap": softcap}
    read = read_logprobs(hidden, weight, targets, chunk_size=chunk_size, with_entropies=True, **options)
    logits = hidden @ weight.T + (0 if head_bias is None else head_bias)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    slow = torch.distributions.Categorical(logits=logits / temperatures[:, None])
    torch.testing.assert_close(read.entropies, slow.entropy(), rtol=1e-9, atol=1e-11)
    both = (read.entropies @ upstream) + 0.3 * (read.logprobs @ upstream)
    slow_both = (slow.entropy() @ upstream) + 0.3 * (slow.log_prob(targets) @ upstream)
    for one, other in zip(
        torch.autograd.grad(both, leaves, retain_graph=True), torch.autograd.grad(slow_both, leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
    plain = read_logprobs(hidden, weight, targets, chunk_size=chunk_size, **options)
    assert plain.entropies is None
    assert torch.equal(plain.logprobs, read.logprobs)


def test_the_entropy_of_a_distribution_with_impossible_tokens_is_finite():
    """Catches 0 * log 0: a token of probability 0 would turn the entropy and its gradient into NaN."""
    hidden = torch.tensor([[1.0]], requires_grad=True)
    weight = torch.tensor([[500.0], [0.0], [-500.0]], requires_grad=True)
    read = read_logprobs(hidden, weight, torch.tensor([0]), temperatures=torch.ones(1), with_entropies=True)
    assert read.entropies.item() == 0
    grads = torch.autograd.grad(read.entropies.sum(), [hidden, weight])
    assert all(torch.isfinite(grad).all() for grad in grads)


def test_a_token_that_a_bias_forbids_leaves_every_gradient_finite():
    """Catches 0 * inf in the backward pass: log p is -inf there, and an entropy weight above 1 overflowed its bound."""
    hidden = torch.tensor([[0.5], [-1.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [0.2], [-0.7]], requires_grad=True)
    bias = torch.tensor([0.0, -torch.inf, 0.0])
    read = read_logprobs(
        hidden, weight, torch.tensor([0, 2]), temperatures=torch.tensor([0.5, 1.0]), bias=bias, with_entropies=True
    )
    found = torch.autograd.grad(3 * read.entropies.sum() + read.logprobs.sum(), [hidden, weight])
    allowed = torch.log_softmax(hidden @ weight[[0, 2]].T / torch.tensor([[0.5], [1.0]]), dim=-1)
    slow = -3 * (allowed.exp() * allowed).sum() + allowed[0, 0] + allowed[1, 1]
    for one, other in zip(found, torch.autograd.grad(slow, [hidden, weight]), strict=True):
        torch.testing.assert_close(one, other)
