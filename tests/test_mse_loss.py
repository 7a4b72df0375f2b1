"""Squared error against its definition and PyTorch."""

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cnnkit

REDUCTIONS = ["none", "sum", "mean"]


def check(y, target, reduction):
    size = {"none": 1, "sum": y.size, "mean": y.size}[reduction]
    expected = naive.mse_loss(y, target, reduction)
    got = cnnkit.mse_loss(y, target, reduction=reduction)
    assert_close(got, expected, np.abs(expected), 2 + size, y.dtype)
    grad = np.asarray(normal(y.shape if reduction == "none" else (), y.dtype, 3))
    expected = naive.mse_loss_backward(grad, y, target, reduction)
    got = cnnkit.mse_loss_backward(grad, y, target, reduction=reduction)
    assert_close(got, expected, np.abs(expected), 4, y.dtype)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@settings(max_examples=200)
@given(
    shape=arrays.array_shapes(min_dims=1, max_dims=4, max_side=7),
    kind=st.sampled_from(["float32", "float64"]),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    turned=st.booleans(),
    seed=st.integers(0, 9),
)
def test_it_is_the_definition_and_what_pytorch_says(reduction, shape, kind, scale, turned, seed, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    y, target = (scale * normal(shape, kind, seed)).astype(kind), normal(shape, kind, seed + 10)
    if turned:
        y, target = np.ascontiguousarray(y.T).T, target[..., ::-1]
    check(y, target, reduction)
    t = torch.tensor(np.array(y, order="C"), requires_grad=True)
    loss = torch.nn.functional.mse_loss(t, torch.tensor(np.array(target, order="C")), reduction=reduction)
    grad = normal(loss.shape, kind, 3)
    loss.backward(torch.tensor(grad))
    got = cnnkit.mse_loss_backward(np.asarray(grad), y, target, reduction=reduction)
    assert_close(got, t.grad, np.abs(t.grad.numpy()), 4, kind)


@pytest.mark.parametrize("shape", [(), (1,), (0,), (70, 33)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_any_shape(shape, reduction, dtype, backend):
    y, target = np.asarray(normal(shape, dtype, 1)), np.asarray(normal(shape, dtype, 2))
    if y.size or reduction != "mean":
        check(y, target, reduction)


def test_by_hand(dtype, backend):
    y, target = np.array([1, np.nan, np.inf, 5], dtype), np.array([3, 0, 0, 5], dtype)
    np.testing.assert_array_equal(cnnkit.mse_loss(y, target, reduction="none"), [4, np.nan, np.inf, 0])
    gradient = cnnkit.mse_loss_backward(2.0, y, target, reduction="sum")
    np.testing.assert_array_equal(gradient, [-8, np.nan, np.inf, 0])
    assert cnnkit.mse_loss(y[:1], target[:1]) == 4
    assert_same(cnnkit.mse_loss_backward(1, y[:1], target[:1]), np.array([-4], dtype))
