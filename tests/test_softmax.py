"""Softmax and its logarithm against their definitions and PyTorch."""

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cnnkit

LINES = [(1,), (5,), (3, 4), (4, 1), (2, 3, 5), (2, 1000), (70, 3), (1, 10, 3, 2)]  # for softmax
SPECIAL = [np.nan, np.inf, -np.inf, 0.0]


# --- softmax -------------------------------------------------------------------------------------


def along(shape):
    return range(-len(shape), len(shape))


def lines(x, axis):
    """``(x - max, 1)``: how far each entry lies below its line's largest; its size is rounded."""
    return np.abs(np.float64(x) - np.float64(x).max(axis, keepdims=True))


def check_softmax(x, axis):
    """``exp`` turns the rounding of its argument, of size `drop`, into a relative error."""
    p, drop, terms = naive.softmax(x, axis), lines(x, axis), x.shape[axis]
    assert_close(cnnkit.softmax(x, axis=axis), p, p * (1 + drop), terms, x.dtype)
    log_p = naive.log_softmax(x, axis)
    size = 1 + drop + np.abs(log_p)
    assert_close(cnnkit.log_softmax(x, axis=axis), log_p, size, terms, x.dtype)


def check_softmax_backward(grad, x, axis):
    p, drop, terms = naive.softmax(x, axis), lines(x, axis), x.shape[axis]
    worst = 1 + drop + drop.max(axis, keepdims=True)  # of the two factors p of a product
    size = np.abs(grad)
    total = (size * p).sum(axis, keepdims=True)
    expected = naive.softmax_backward(grad, x, axis)
    got = cnnkit.softmax_backward(grad, x, axis=axis)
    assert_close(got, expected, p * worst * (size + total), 3 * terms, x.dtype)
    expected = naive.log_softmax_backward(grad, x, axis)
    got = cnnkit.log_softmax_backward(grad, x, axis=axis)
    magnitude = size + p * worst * size.sum(axis, keepdims=True)
    assert_close(got, expected, magnitude, 3 * terms, x.dtype)


@pytest.mark.parametrize(("shape", "axis"), [(s, a) for s in LINES for a in along(s)])
def test_softmax_is_the_definition(shape, axis, dtype, backend):
    x, grad = 4 * normal(shape, dtype, 1), normal(shape, dtype, 2)
    check_softmax(x, axis)
    check_softmax_backward(grad, x, axis)


@given(
    shape=arrays.array_shapes(max_dims=4, max_side=6),
    scale=st.sampled_from([1e-3, 1, 30, 1e4]),
    shift=st.sampled_from([0, -1e4, 1e6]),
    data=st.data(),
)
def test_softmax_of_anything(shape, scale, shift, data, dtype, backend):
    axis = data.draw(st.sampled_from(along(shape)))
    x = (scale * normal(shape, "float64", 1) + shift).astype(dtype)
    check_softmax(x, axis)
    check_softmax_backward(normal(shape, dtype, 2), x, axis)


def test_a_weight_does_not_depend_on_whether_another_is_tiny(dtype, backend):
    """What is too small a number takes another path, for a whole vector."""
    x = np.zeros((2, 67, 2), dtype)
    x[..., 0] = np.linspace(-60, 0, 67)
    x[..., 1] = np.array([[-86 if dtype == "float32" else -700], [-10000]])  # none of them counts in the sum
    low, lower = cnnkit.softmax(x.reshape(2, 134))
    assert_same(lower[::2], low[::2])


def test_softmax_is_along_the_last_axis_unless_told(backend):
    x, grad = normal((3, 4), "float32", 1), normal((3, 4), "float32", 2)
    for name in ("softmax", "log_softmax"):
        f, f_backward = getattr(cnnkit, name), getattr(cnnkit, f"{name}_backward")
        assert_same(f(x), f(x, axis=1))
        assert_same(f_backward(grad, x), f_backward(grad, x, axis=1))


def test_softmax_neither_overflows_nor_underflows(dtype, backend):
    x = np.array([[1e30, -1e30, 1e30], [-1e30, -1e30, -1e30]], dtype)
    third = np.float64(dtype.type(1) / dtype.type(3))
    np.testing.assert_allclose(cnnkit.softmax(x), [[0.5, 0, 0.5], [third] * 3], rtol=1e-6)
    log_p = cnnkit.log_softmax(x)
    np.testing.assert_allclose(log_p[1], -np.log([3, 3, 3]), rtol=1e-6)
    np.testing.assert_allclose(log_p[0], [-np.log(2), -2e30, -np.log(2)], rtol=1e-6)


def test_softmax_gives_minus_infinity_no_weight(dtype, backend):
    x = np.array([0, -np.inf, np.log(3.0)], dtype)  # a masked entry of an attention layer
    np.testing.assert_allclose(cnnkit.softmax(x), [0.25, 0, 0.75], rtol=1e-6)
    np.testing.assert_allclose(
        cnnkit.log_softmax(x), np.log([0.25, 0, 0.75], where=[1, 0, 1], out=np.full(3, -np.inf)), rtol=1e-6
    )


def test_softmax_keeps_a_nan_in_its_line(dtype, backend):
    x = np.zeros((3, 4), dtype)
    x[1, 2] = np.nan
    for name in ("softmax", "log_softmax"):
        wrong = np.isnan(getattr(cnnkit, name)(x, axis=1))
        np.testing.assert_array_equal(wrong, [[0] * 4, [1] * 4, [0] * 4])


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (2, 0, 4)])
def test_softmax_of_nothing(shape, dtype, backend):
    x = np.zeros(shape, dtype)
    for name in ("softmax", "log_softmax"):
        for axis in along(shape):
            assert_same(getattr(cnnkit, name)(x, axis=axis), x)
            assert_same(getattr(cnnkit, f"{name}_backward")(x, x, axis=axis), x)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_gradient_is_the_numerical_one(name, backend):
    x, grad, step = normal((2, 5), "float64", 1), normal((2, 5), "float64", 2), 1e-6
    gx = getattr(cnnkit, f"{name}_backward")(grad, x)
    for place in np.ndindex(*x.shape):
        moved = [x.copy(), x.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        high, low = (np.vdot(getattr(cnnkit, name)(m), grad) for m in moved)
        assert abs((high - low) / (2 * step) - gx[place]) < 1e-8


def test_softmax_has_subnormal_weights(dtype, backend):
    x = np.array([0, -95 if dtype == np.float32 else -730, -200 if dtype == np.float32 else -800], dtype)
    p = cnnkit.softmax(x)
    np.testing.assert_allclose(p[1], np.exp(np.float64(x[1])), rtol=1e-2)
    np.testing.assert_array_equal(p[[0, 2]], [1, 0])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_lines_of_any_length_along_any_axis(name, dtype, backend):
    """Around multiples of a vector's lanes; what is infinite or not a number stays in its line."""
    for length in range(1, 41):
        for shape, axis in (((3, length), 1), ((length, 3), 0), ((2, 3, length), 1), ((2, length, 17), 1)):
            x = normal(shape, dtype, length)
            check_softmax(x, axis)
            check_softmax_backward(normal(shape, dtype, 2), x, axis)
            x = np.random.default_rng(length).choice(SPECIAL, shape, p=[0.01, 0.02, 0.27, 0.7]).astype(dtype)
            with np.errstate(invalid="ignore", divide="ignore"):
                expected = getattr(naive, name)(x, axis)
                got = getattr(cnnkit, name)(x, axis=axis)
            np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
            np.testing.assert_allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("axis", range(4))
def test_softmax_in_any_memory_order(axis, dtype, backend):
    x, grad = normal((3, 5, 4, 18), dtype, 1), normal((3, 5, 4, 18), dtype, 2)
    for order in ((0, 2, 3, 1), (3, 2, 1, 0), (1, 0, 3, 2)):
        y, g = (np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order)) for a in (x, grad))
        check_softmax(y, axis)
        check_softmax_backward(grad, y, axis)
        check_softmax_backward(g[:, ::-1], y[:, ::-1], axis)


# --- PyTorch -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_pytorch_agrees(name, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    x, grad = normal((64, 100, 3), dtype, 1), normal((64, 100, 3), dtype, 2)
    t = torch.tensor(np.float64(x), requires_grad=True)
    y = getattr(torch, name)(t, 1)
    y.backward(torch.tensor(np.float64(grad)))
    got = getattr(cnnkit, name)(x, 1)
    gx = getattr(cnnkit, f"{name}_backward")(grad, x, 1)
    # inputs below 5 in size and lines of 100: magnitudes of at most 10, and of 100 in the sums
    assert_close(got, y.detach(), 10, 1, dtype)
    assert_close(gx, t.grad, 10, 100, dtype)
