"""Activations and softmax against their definitions and PyTorch."""

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cnnkit

SHAPES = [(), (1,), (7,), (0,), (3, 0), (33, 17), (2, 3, 5), (1, 4, 3, 2), (2, 1, 3, 2, 2)]
LINES = [(1,), (5,), (3, 4), (4, 1), (2, 3, 5), (2, 1000), (70, 3), (1, 10, 3, 2)]  # for softmax
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-38, -1e-38, 3.0, -3.0]


# --- relu ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_relu_is_the_definition(shape, dtype, backend):
    x, grad = normal(shape, dtype, 1), normal(shape, dtype, 2)
    assert_same(cnnkit.relu(x), naive.relu(x))
    assert_same(cnnkit.relu_backward(grad, x), naive.relu_backward(grad, x))


@given(data=st.data())
def test_relu_of_anything(data, dtype, backend):
    width = 8 * dtype.itemsize
    elements = st.one_of(st.sampled_from(SPECIAL[:5]), st.floats(width=width))
    shape = data.draw(arrays.array_shapes(max_dims=3, max_side=20))
    x = data.draw(arrays.arrays(dtype, shape, elements=elements))
    grad = normal(x.shape, dtype, 1)
    y, gx = cnnkit.relu(x), cnnkit.relu_backward(grad, x)
    np.testing.assert_array_equal(y, naive.relu(x))  # the sign of zero is free
    np.testing.assert_array_equal(gx, naive.relu_backward(grad, x))
    assert y.dtype == gx.dtype == dtype


def test_relu_keeps_nan_and_infinity(dtype, backend):
    x, grad = np.array(SPECIAL, dtype), np.arange(1, 10, dtype=dtype)
    zero, tiny = [0, 0], dtype.type(1e-38)
    np.testing.assert_array_equal(cnnkit.relu(x), [np.nan, np.inf, 0, *zero, tiny, 0, 3, 0])
    np.testing.assert_array_equal(cnnkit.relu_backward(grad, x), [1, 2, 0, *zero, 6, 0, 8, 0])


def test_relu_stops_a_nan_gradient_where_it_is_flat(dtype, backend):
    gx = cnnkit.relu_backward(np.full(2, np.nan, dtype), np.array([-1, 1], dtype))
    np.testing.assert_array_equal(gx, [0, np.nan])


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


# --- the exponential in vectors ------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.dtype("float32"), np.dtype("float64")], ids=str)
def test_exp_is_within_two_units_in_the_last_place(dtype):
    numba = pytest.importorskip("numba")
    elementwise = pytest.importorskip("cnnkit.rooms.numba.elementwise")
    vectors = pytest.importorskip("cnnkit.rooms.numba.vectors")
    load, store, lanes, exp = vectors.load, vectors.store, vectors.lanes, elementwise.exp

    @numba.njit
    def exps(x, y, zero):
        for at in range(0, x.size, lanes(zero)):
            e = exp(load(x.ctypes.data + at * x.itemsize, x.size - at, zero))
            store(y.ctypes.data + at * x.itemsize, e, x.size - at)

    deepest = -104.5 if dtype == np.float32 else -746.0
    rng = np.random.default_rng(1)
    parts = rng.uniform(deepest, 0, 200_000), -np.exp(rng.uniform(-40, 0, 50_000)), np.linspace(deepest, 0, 50_001)
    x = np.concatenate([*parts, [0.0, -0.0]]).astype(dtype)
    y = np.empty_like(x)
    exps(x, y, dtype.type(0))
    true = np.exp(x.astype(np.longdouble))
    unit = np.spacing(np.maximum(true.astype(dtype), 0)).astype(np.longdouble)
    assert (np.abs(y - true) <= 2 * unit).all()
    special = np.array([-np.inf, np.nan, 2 * deepest, -1e30, 0.0], dtype)
    y = np.empty_like(special)
    exps(special, y, dtype.type(0))
    np.testing.assert_array_equal(y, np.array([0, np.nan, 0, 0, 1], dtype))


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
            x = np.random.default_rng(length).choice(SPECIAL[:4], shape, p=[0.01, 0.02, 0.27, 0.7]).astype(dtype)
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


@pytest.mark.parametrize("name", ["relu", "softmax", "log_softmax"])
def test_pytorch_agrees(name, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    more = () if name == "relu" else (1,)
    x, grad = normal((64, 100, 3), dtype, 1), normal((64, 100, 3), dtype, 2)
    t = torch.tensor(np.float64(x), requires_grad=True)
    y = getattr(torch, name)(t, *more)
    y.backward(torch.tensor(np.float64(grad)))
    got = getattr(cnnkit, name)(x, *more)
    gx = getattr(cnnkit, f"{name}_backward")(grad, x, *more)
    # inputs below 5 in size and lines of 100: magnitudes of at most 10, and of 100 in the sums
    assert_close(got, y.detach(), 10, 1, dtype)
    assert_close(gx, t.grad, 10, 100, dtype)
