"""A kernel library computes log-probs only where it is as exact as our own way; stand-ins play the library here."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from envecho.losses.head_loss import Head
from envecho.losses.kernel_check import Kernel, Setting, refusal
from envecho.losses.kernels import CheckedKernel, installed_kernel, summed_loss_at_one, summed_loss_by
from envecho.losses.logprobs import read_logprobs

FLAWS = {
    "drops small gradients": "head_weight",
    "ignores the soft cap": "logprobs",
    "forgets the soft cap's slope": "hidden",
    "ignores the bias": "logprobs",
    "one upstream gradient for all": "hidden",
    "zero upstream gradients count": "hidden",
    "negative upstream gradients count as zero": "hidden",
    "rounds to bfloat16": "logprobs",
    "reads the token before": "logprobs",
    "no number": "logprobs",
}
"""What a stand-in does wrong, and the first error that must give it away, in float32 with soft cap and bias."""


class _Fused(torch.autograd.Function):
    """All logits at once and a hand-derived gradient, as a fused kernel has it, with one flaw or none."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu")
    def forward(ctx: Any, *args: Any) -> Tensor:
        hidden, weight, targets, bias, softcap, flaw = args
        if flaw == "rounds to bfloat16":
            hidden, weight = hidden.bfloat16().float(), weight.bfloat16().float()
        raw = (hidden @ weight.T).float()
        if bias is not None and flaw != "ignores the bias":
            raw = raw + bias
        squashed = None if softcap is None or flaw == "ignores the soft cap" else torch.tanh(raw / softcap)
        logprobs = (raw if squashed is None else softcap * squashed).log_softmax(dim=-1)
        ctx.save_for_backward(hidden, weight, targets, logprobs, squashed)
        ctx.flaw, ctx.bias_dtype = flaw, None if bias is None else bias.dtype
        if flaw == "reads the token before":
            targets = targets - 1
        chosen = logprobs.gather(-1, targets.clamp(min=0)[:, None]).squeeze(-1)
        return chosen * torch.nan if flaw == "no number" else chosen

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        hidden, weight, targets, logprobs, squashed = ctx.saved_tensors
        (upstream,) = grad_outputs
        if ctx.flaw == "one upstream gradient for all":
            upstream = upstream[1].expand_as(upstream)
        if ctx.flaw == "zero upstream gradients count":
            upstream = torch.where(upstream == 0, 1e-6, upstream)
        if ctx.flaw == "negative upstream gradients count as zero":
            upstream = upstream.clamp(min=0)
        grad = torch.nn.functional.one_hot(targets, weight.shape[0]) - logprobs.exp()
        if ctx.flaw == "drops small gradients":
            # The threshold that cut-cross-entropy takes by itself, on the gradient before its upstream factor.
            grad = torch.where(grad.abs() < torch.finfo(hidden.dtype).eps / 32, 0.0, grad)
        grad = grad * upstream[:, None]
        if squashed is not None and ctx.flaw != "forgets the soft cap's slope":
            grad = grad * (1 - squashed.square())
        by_bias = None if ctx.bias_dtype is None else grad.sum(dim=0).to(ctx.bias_dtype)
        grad = grad.to(hidden.dtype)
        return grad @ weight, grad.T @ hidden, None, by_bias, None, None


def stand_in(flaw: str | None = None) -> Kernel:
    return lambda hidden, weight, targets, bias, softcap: _Fused.apply(hidden, weight, targets, bias, softcap, flaw)


class _Counted:
    """A kernel that counts its calls by the number of positions."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.calls: list[int] = []

    def __call__(self, *args: Any) -> Tensor:
        self.calls.append(len(args[2]))
        return self.kernel(*args)


def problem(num: int = 7, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(3)
    made = {
        "hidden": torch.randn(num, 16, generator=rng),
        "head_weight": torch.randn(90, 16, generator=rng),
        "bias": torch.randn(90, generator=rng),
    }
    inputs = {name: value.to(dtype).to(device).requires_grad_() for name, value in made.items()}
    return {**inputs, "targets": torch.randint(90, (num,), generator=rng).to(device)}


def read(
    inputs: dict[str, Tensor], *, softcap: float | None, by: CheckedKernel | None = None, at_one: bool = False
) -> list[Tensor]:
    """Return log-probs, a loss with weights of all signs, and its three gradients."""
    head = Head(weight=inputs["head_weight"], bias=inputs["bias"], softcap=softcap, chunk_size=3)
    weights = torch.linspace(-1, 1, len(inputs["targets"])).to(inputs["hidden"].device)

    def loss_of(logprobs: Tensor, entropies: Tensor, place: slice) -> Tensor:
        return (logprobs * weights[place].to(logprobs)).sum()

    arguments = (inputs["hidden"], head, inputs["targets"], loss_of)
    found = summed_loss_at_one(*arguments) if at_one else summed_loss_by(by, *arguments)
    leaves = [inputs[name] for name in ("hidden", "head_weight", "bias")]
    gradients = torch.autograd.grad(found.loss, leaves) if found.loss.requires_grad else ()
    return [found.logprobs, found.loss.detach(), *gradients]


def setting(dtype: torch.dtype = torch.float32, **changed: Any) -> Setting:
    usual = {"has_softcap": True, "has_bias": True, "hidden_size": 32, "vocab_size": 500}
    return Setting(device="cpu", dtype=dtype, **{**usual, **changed})


def own(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None, softcap: float | None) -> Tensor:
    ones = torch.ones(len(targets))
    return read_logprobs(hidden, weight, targets, temperatures=ones, bias=bias, softcap=softcap, chunk_size=16).logprobs


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_without_a_device_for_it_the_library_is_not_asked(softcap: float | None, dtype: torch.dtype):
    """Catches other numbers on a CPU than those of summed_loss, in values or gradients."""
    inputs = problem(dtype=dtype)
    found, expected = read(inputs, softcap=softcap, at_one=True), read(inputs, softcap=softcap)
    assert len(found) == 5
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    ones = torch.ones(7, dtype=torch.float64)
    logprobs = read_logprobs(**inputs, temperatures=ones, softcap=softcap, chunk_size=3).logprobs
    torch.testing.assert_close(found[0], logprobs.detach())


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("has_softcap", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocab_size", [500, 70_000])
def test_an_exact_kernel_is_accepted(dtype: torch.dtype, has_softcap: bool, has_bias: bool, vocab_size: int):
    """Catches a check that nothing passes: other rounding than ours must be let in."""
    asked = setting(dtype, has_softcap=has_softcap, has_bias=has_bias, vocab_size=vocab_size)
    assert refusal(stand_in(), own, asked) is None


@pytest.mark.parametrize(("flaw", "name"), FLAWS.items())
def test_a_kernel_that_is_not_exact_is_refused(flaw: str, name: str):
    """Catches a check by the norm of a whole gradient, in which what is dropped for many tokens does not show."""
    reason = refusal(stand_in(flaw), own, setting())
    assert reason is not None
    assert reason.startswith(f"the typical error of {name} is ")


def test_a_kernel_is_refused_in_bfloat16_for_what_rounding_does_not_explain():
    """Catches a tolerance for bfloat16 so wide that filtered gradients pass."""
    for flaw in ("drops small gradients", "one upstream gradient for all", "negative upstream gradients count as zero"):
        assert refusal(stand_in(flaw), own, setting(torch.bfloat16, vocab_size=5_000)) is not None


def test_a_kernel_that_raises_or_answers_in_another_shape_is_refused_with_the_reason():
    """Catches a failed compilation that ends a training run, and a wrong shape that broadcasts."""

    def broken(*_args: Any) -> Tensor:
        raise RuntimeError("no compiler")

    assert refusal(broken, own, setting()) == "it raised RuntimeError: no compiler"
    assert refusal(lambda *args: stand_in()(*args)[:, None], own, setting()) is not None
    assert refusal(lambda *args: stand_in()(*args).detach(), own, setting()) is not None


def test_the_kernel_computes_where_it_is_exact_and_is_checked_once_per_setting():
    """Catches a check in every micro-batch, a check that stands for another setting, and an unused kernel."""
    counted = _Counted(stand_in())
    kernel = CheckedKernel(counted, name="stand-in")
    for softcap in (None, 5.0, 5.0, None):
        inputs = problem()
        for a, b in zip(read(inputs, softcap=softcap, by=kernel), read(inputs, softcap=softcap), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    num_checked = 24
    assert counted.calls == [num_checked, 7, num_checked, 7, 7, 7]
    read(problem(dtype=torch.bfloat16), softcap=None, by=kernel)
    assert counted.calls[-2:] == [num_checked, 7]


def test_a_refused_kernel_is_said_once_and_the_reference_computes():
    """Catches a silent fallback, a warning per micro-batch, and a refused kernel that is used all the same."""
    kernel = CheckedKernel(stand_in("ignores the soft cap"), name="stand-in")
    inputs = problem()
    with pytest.warns(
        UserWarning, match=r"stand-in is not used, our own way is: the typical error of logprobs is .*cpu"
    ):
        found = read(inputs, softcap=5.0, by=kernel)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read(inputs, softcap=5.0, by=kernel)
        # Without a soft cap it does nothing wrong.
        read(inputs, softcap=None, by=kernel)
    for values in zip(found, again, read(inputs, softcap=5.0), strict=True):
        assert torch.equal(values[0], values[2])
        assert torch.equal(values[1], values[2])


def test_what_the_kernel_was_not_checked_for_it_does_not_get():
    """Catches float64 proofs computed in float32, mixed dtypes that a kernel reads as one, and an empty call."""
    counted = _Counted(stand_in())
    kernel = CheckedKernel(counted, name="stand-in")
    mixed = problem() | {"head_weight": problem(dtype=torch.bfloat16)["head_weight"]}
    for inputs in (problem(dtype=torch.float64), mixed, problem(0)):
        found, expected = read(inputs, softcap=None, by=kernel), read(inputs, softcap=None)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert counted.calls == []


def test_the_check_leaves_no_trace():
    """Catches a check that moves the random state of a run, or fails where no gradient is recorded."""
    state = torch.get_rng_state()
    inputs = problem()
    leaves = {name: value.detach() for name, value in inputs.items()}
    expected = read(inputs, softcap=None)
    for guard in (torch.no_grad, torch.inference_mode):
        kernel = CheckedKernel(stand_in(), name="stand-in")
        with guard():
            found = read(leaves, softcap=None, by=kernel)
        for a, b in zip(found, expected, strict=False):
            torch.testing.assert_close(a, b)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(value.grad is None for value in inputs.values())


def test_under_autocast_the_kernel_computes_in_the_dtype_that_it_was_checked_in():
    """Catches a kernel that passes in float32 and then multiplies in bfloat16."""
    kernel = CheckedKernel(stand_in(), name="stand-in")
    inputs = problem()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = read(inputs, softcap=None, by=kernel)
    for a, b in zip(found, read(inputs, softcap=None), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and Liger-Kernel is for CUDA")
@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_cuda_the_library_gives_what_the_reference_gives(dtype: torch.dtype, softcap: float | None):
    """Catches a release of the library that fails its check, and one that passes and errs in other numbers."""
    if installed_kernel() is None:
        pytest.skip("liger-kernel is not installed")
    inputs = problem(300, dtype=dtype, device="cuda")
    found, expected = read(inputs, softcap=softcap, at_one=True), read(inputs, softcap=softcap)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for a, b in zip(found, expected, strict=True):
        assert float((a.double() - b.double()).norm() / b.double().norm()) < tolerance
