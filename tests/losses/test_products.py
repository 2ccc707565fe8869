"""Products by oneDNN, where this processor gets them, are the products of torch."""

from __future__ import annotations

import pytest
import torch

from envecho.losses import products


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("sizes", [(1, 3, 5), (70, 33, 129), (128, 64, 2)])
def test_products_of_any_strides_are_those_of_float64(sizes: tuple[int, int, int]):
    """Catches a view whose strides the library takes for others."""
    m, k, n = sizes
    wide, tall = torch.randn(m, k + 3), torch.randn(k + 2, n + 1)
    lefts = [
        torch.randn(m, k),
        torch.randn(k, m).t(),
        wide[:, :k],
        torch.randn(m, k, 2)[..., 1],
        torch.randn(k, m + 4).t()[:m],
    ]
    rights = [torch.randn(k, n), torch.randn(n, k).t(), tall[1 : k + 1, :n], torch.randn(k, 2, n)[:, 0]]
    for left in lefts:
        for right in rights:
            assert relative(products.matmul(left, right), left.double() @ right.double()) < 1e-6


def test_a_linear_layer_has_the_values_and_gradients_of_torch():
    """Catches a gradient that lands on the wrong operand, a lost bias, and batches that are not unfolded."""
    values = torch.randn(2, 7, 12, requires_grad=True)
    weight, bias = torch.randn(9, 12, requires_grad=True), torch.randn(9, requires_grad=True)
    upstream = torch.randn(2, 7, 9)
    found = products.linear(values, weight, bias)
    expected = torch.nn.functional.linear(values.double(), weight.double(), bias.double())
    assert relative(found, expected) < 1e-6
    pairs = [torch.autograd.grad(out, (values, weight, bias), upstream.to(out)) for out in (found, expected)]
    for one, other in zip(*pairs, strict=True):
        assert one.shape == other.shape
        assert relative(one, other) < 1e-6


def test_frozen_weights_cost_no_gradient_and_keep_no_input():
    """Catches activations that a frozen layer keeps for a gradient that nobody reads."""
    values, weight = torch.randn(4, 6, requires_grad=True), torch.randn(5, 6)
    out = products.linear(values, weight)
    out.sum().backward()
    assert relative(values.grad, weight.sum(0).expand(4, 6)) < 1e-6
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_product_is_added_block_by_block(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch):
    """Catches a last block that is left out, and a sum that is rounded to the dtype of its factors."""
    monkeypatch.setattr(products, "_BLOCK_ELEMENTS", 40)
    left, right = torch.randn(17, 23, dtype=dtype).t(), torch.randn(17, 8, dtype=dtype)
    total = torch.full((23, 8), 1000.0, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
    products.add_product(total, left, right)
    expected = 1000 + left.double() @ right.double()
    torch.testing.assert_close(total.double(), expected, rtol=1e-4 if dtype == torch.bfloat16 else 1e-6, atol=2e-2)


def test_where_the_operator_is_missing_or_another_torch_computes_by_itself(monkeypatch: pytest.MonkeyPatch):
    """Catches an error on processors and versions that do not have it."""
    monkeypatch.setattr(products, "_CPU_INFO", products.Path("/nonexistent"))
    products._prefers_onednn.cache_clear()
    try:
        left, right = torch.randn(3, 4), torch.randn(4, 5)
        assert not products.goes_to_onednn(left)
        assert torch.equal(products.matmul(left, right), left @ right)
    finally:
        products._prefers_onednn.cache_clear()
