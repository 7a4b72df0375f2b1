"""Activations against their definitions, in units in the last place, and against PyTorch."""

import math
import os
import subprocess
import sys

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cnnkit

SHAPES = [(), (1,), (7,), (0,), (3, 0), (33, 17), (2, 3, 5), (1, 4, 3, 2), (2, 1, 3, 2, 2)]
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-38, -1e-38, 3.0, -3.0]
NAMES = [*naive.ACTIVATIONS]
PARAMETERS = {"leaky_relu": (0.01,), "elu": (1.0,)}


def call(name, x, *parameters):
    return cnnkit.gelu(x, "tanh") if name == "gelu_tanh" else getattr(cnnkit, name)(x, *parameters)


def call_backward(name, grad, x, *parameters):
    if name == "gelu_tanh":
        return cnnkit.gelu_backward(grad, x, "tanh")
    return getattr(cnnkit, f"{name}_backward")(grad, x, *parameters)


def exponent(name, x):
    """The size of what the exponential is given: its rounding is a relative error of the result."""
    a = np.abs(np.float64(x))
    return {"gelu": a * a / 2, "gelu_tanh": 1.6 * a + 0.08 * a**3}.get(name, a)


def check(name, x, *parameters):
    y = naive.activate(name, x, *parameters)
    assert_close(call(name, x, *parameters), y, np.abs(y) * (1 + exponent(name, x)), 4, x.dtype)


def check_backward(name, grad, x, *parameters):
    """The slope's terms may cancel: ``s + x * s'`` is of the size of its terms."""
    slope = np.abs(naive.activate_backward(name, np.ones(x.shape), x, *parameters))
    if name in ("gelu", "gelu_tanh", "silu"):
        slope = np.abs(slope) + np.minimum(1, np.exp(-exponent(name, x)) * (1 + exponent(name, x)) * 2)
    expected = naive.activate_backward(name, np.float64(grad), x, *parameters)
    bound = np.abs(np.float64(grad)) * slope * (1 + exponent(name, x))
    assert_close(call_backward(name, grad, x, *parameters), expected, bound, 4, x.dtype)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_definition(name, dtype, backend):
    for shape in SHAPES:
        x, grad = normal(shape, dtype, 1), normal(shape, dtype, 2)
        for scale in (1, 10):
            scaled = np.asarray(scale * x, dtype)
            check(name, scaled, *PARAMETERS.get(name, ()))
            check_backward(name, grad, scaled, *PARAMETERS.get(name, ()))


@pytest.mark.parametrize("name", NAMES)
def test_any_count_and_place_of_numbers(name, backend):
    """Around multiples of a vector's lanes, and wherever in a vector an array begins."""
    x, grad = normal(200, "float32", 1), normal(200, "float32", 2)
    y, gx = call(name, x), call_backward(name, grad, x)
    for count in range(1, 70):
        some = slice(count % 17, count % 17 + count)
        assert_same(call(name, x[some]), y[some])
        assert_same(call_backward(name, grad[some], x[some]), gx[some])


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_pytorch_unless_told(name, backend):
    x, grad = normal((3, 4), "float64", 1), normal((3, 4), "float64", 2)
    assert_same(call(name, x), call(name, x, *PARAMETERS.get(name, ())))
    assert_same(call_backward(name, grad, x), call_backward(name, grad, x, *PARAMETERS.get(name, ())))


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_is_the_numerical_one(name, backend):
    x, step = np.linspace(-4, 4, 40), 1e-6  # none of them 0, where some have a corner
    numerical = (call(name, x + step) - call(name, x - step)) / (2 * step)
    np.testing.assert_allclose(call_backward(name, np.ones(40), x), numerical, rtol=0, atol=1e-8)


# --- what is not finite, or very small or large --------------------------------------------------

LIMITS = {  # at -inf and inf: the function, and its slope
    "leaky_relu": ([-np.inf, np.inf], [0.01, 1]),
    "elu": ([-1, np.inf], [0, 1]),
    "gelu": ([0, np.inf], [0, 1]),
    "gelu_tanh": ([0, np.inf], [0, 1]),
    "silu": ([0, np.inf], [0, 1]),
    "sigmoid": ([0, 1], [0, 0]),
    "tanh": ([-1, 1], [0, 0]),
}


@pytest.mark.parametrize("name", NAMES)
def test_limits(name, dtype, backend):
    """PyTorch has NaN for GELU and SiLU of minus infinity, where they are 0, and for their slopes at both ends."""
    y, slope = (np.array(each, dtype) for each in LIMITS[name])
    infinite = np.array([-np.inf, np.inf], dtype)
    np.testing.assert_array_equal(call(name, infinite), y)
    np.testing.assert_array_equal(call_backward(name, np.ones(2, dtype), infinite), slope)
    huge = np.array([-1, 1], dtype) * np.finfo(dtype).max
    y[np.isinf(y)] = huge[np.isinf(y)] * (dtype.type(0.01) if name == "leaky_relu" else 1)
    y[1] = huge[1] if name not in ("sigmoid", "tanh") else y[1]
    np.testing.assert_array_equal(call(name, huge), y)
    np.testing.assert_array_equal(call_backward(name, np.ones(2, dtype), huge), slope)


@pytest.mark.parametrize("name", NAMES)
def test_nan_stays_and_stays_alone(name, dtype, backend):
    x = np.ones(37, dtype)
    x[[3, 7, 36]] = np.nan
    x.view(f"u{x.itemsize}")[7] += 5  # a NaN may have bits of its own, which functions of bits must not count with
    nan = np.isnan(x)
    np.testing.assert_array_equal(np.isnan(call(name, x)), nan)
    np.testing.assert_array_equal(np.isnan(call_backward(name, x, np.ones_like(x))), nan)
    slopes = call_backward(name, np.ones_like(x), x)
    assert np.isfinite(slopes[~nan]).all()
    if name != "leaky_relu":  # whose slope at NaN is that of a negative number, as PyTorch's
        assert np.isnan(slopes[nan]).all()


@pytest.mark.parametrize("name", NAMES)
def test_small_numbers_keep_their_precision(name, dtype, backend):
    """All of these have a slope at 0, from the right and (but for the leaky one) from the left; sigmoid is 1/2."""
    info = np.finfo(dtype)
    x = np.array([info.smallest_subnormal, info.tiny, 1e-30, 1e-12], dtype)
    first = {"gelu": 0.5, "gelu_tanh": 0.5, "silu": 0.5}.get(name, 1)
    expected = np.full(4, 0.5) if name == "sigmoid" else first * np.float64(x)
    for sign in (1, -1):
        slope = 0.01 if name == "leaky_relu" and sign < 0 else 1
        y = np.float64(call(name, (sign * x).astype(dtype)))
        size = 1 if name == "sigmoid" else sign * slope
        np.testing.assert_allclose(y, size * expected, rtol=1e-6, atol=info.smallest_subnormal)
    zero = call(name, np.array([0.0, -0.0], dtype))
    np.testing.assert_array_equal(zero, [0.5, 0.5] if name == "sigmoid" else [0, 0])


# --- in units in the last place ------------------------------------------------------------------


def true_gelu(x):
    """In float64 there are no more digits of erfc: its argument's rounding is put right."""
    root = np.sqrt(np.longdouble(2))
    z = np.float64(-x / root)
    left = np.longdouble(-x) / root - z
    tail = np.array([math.erfc(v) for v in z], np.longdouble)
    slope = 2 / np.sqrt(np.longdouble(math.pi)) * np.exp(-(np.longdouble(z) ** 2))
    return np.longdouble(x) / 2 * (tail - slope * left)


TRUE = {
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": true_gelu,
}
UNITS = {"elu": 2, "sigmoid": 4, "silu": 5, "tanh": 4, "gelu": 7}


@pytest.mark.parametrize("name", TRUE)
def test_it_is_within_a_few_units_in_the_last_place(name, dtype):
    """Where the result is a normal number, of the numba room; PyTorch's GELU is off by all of it at -6."""
    pytest.importorskip("numba")
    deep = {"gelu": (-13.1, -37)}.get(name, (-80, -690))[dtype == np.float64]
    rng, count = np.random.default_rng(1), 5_000 if name == "gelu" else 50_000
    spread = np.exp(rng.uniform(-60, 3, count)) * rng.choice([-1, 1], count)
    x = np.concatenate([rng.uniform(deep, 20, count), rng.uniform(-3, 3, count), spread]).astype(dtype)
    x = x[x > deep]
    with cnnkit.use_backend("numba"):
        y = call(name, x)
    true = TRUE[name](np.longdouble(x))
    unit = np.spacing(np.abs(true).astype(dtype)).astype(np.longdouble)
    assert (np.abs(y - true) <= UNITS[name] * unit).all()


@pytest.mark.parametrize("function", ["exp", "expm1"])
def test_exponentials_are_within_two_units_in_the_last_place(function, dtype):
    numba = pytest.importorskip("numba")
    functions = pytest.importorskip("cnnkit.rooms.numba.functions")
    vectors = pytest.importorskip("cnnkit.rooms.numba.vectors")
    load, store, lanes, of = vectors.load, vectors.store, vectors.lanes, getattr(functions, function)

    @numba.njit
    def all_of(x, y, zero):
        for at in range(0, x.size, lanes(zero)):
            e = of(load(x.ctypes.data + at * x.itemsize, x.size - at, zero))
            store(y.ctypes.data + at * x.itemsize, e, x.size - at)

    deepest = -104.5 if dtype == np.float32 else -746.0
    rng = np.random.default_rng(1)
    parts = rng.uniform(deepest, 0, 200_000), -np.exp(rng.uniform(-40, 0, 50_000)), np.linspace(deepest, 0, 50_001)
    x = np.concatenate([*parts, [0.0, -0.0]]).astype(dtype)
    y = np.empty_like(x)
    all_of(x, y, dtype.type(0))
    true = getattr(np, function)(x.astype(np.longdouble))
    unit = np.spacing(np.abs(true.astype(dtype))).astype(np.longdouble)
    assert (np.abs(y - true) <= 2 * unit).all()
    special = np.array([-np.inf, np.nan, 2 * deepest, -1e30, 0.0], dtype)
    y = np.empty_like(special)
    all_of(special, y, dtype.type(0))
    np.testing.assert_array_equal(y, getattr(np, function)(np.array([-np.inf, np.nan, -np.inf, -np.inf, 0], dtype)))


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


# --- kernels on disk ------------------------------------------------------------------------------


def test_a_loop_from_the_disk_is_its_own(tmp_path):
    """Loops have one source text: the linker must not take one that was just compiled for one that was read."""
    pytest.importorskip("numba")
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    for names in (["tanh"], ["sigmoid", "tanh"]):
        calls = [f"cnnkit.{name}(numpy.float32([1, 2]))" for name in names]
        code = f"import cnnkit, numpy; print(*[float(y) for y in ({', '.join(calls)},)[-1]])"
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        np.testing.assert_allclose([float(y) for y in done.stdout.split()], np.tanh([1, 2]), rtol=1e-6)


# --- PyTorch -------------------------------------------------------------------------------------


def viewed(array, form):
    """The same numbers in memory that is not contiguous."""
    if form == "turned":
        return np.ascontiguousarray(array.T).T
    if form == "every other":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]), array.dtype)
        wide[..., ::-2] = array
        return wide[..., ::-2]
    return array


@pytest.mark.parametrize("name", ["relu", *NAMES])
@settings(max_examples=200)
@given(
    shape=arrays.array_shapes(max_dims=4, max_side=7),
    kind=st.sampled_from(["float32", "float64"]),
    scale=st.sampled_from([1e-3, 1.0, 5.0]),
    parameter=st.floats(-2, 2, width=32, allow_subnormal=False),
    form=st.sampled_from(["plain", "turned", "every other"]),
    seed=st.integers(0, 9),
)
def test_pytorch_agrees(name, shape, kind, scale, parameter, form, seed, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    given_ = (abs(parameter) if name == "elu" else parameter,) if name in PARAMETERS else ()  # whose alpha is positive
    x = viewed((scale * normal(shape, "float64", seed)).astype(kind), form)
    grad = viewed(normal(shape, kind, seed + 10), form)
    t = torch.tensor(np.array(x, np.float64, order="C"), requires_grad=True)
    functional = torch.nn.functional
    y = {
        "gelu_tanh": lambda: functional.gelu(t, approximate="tanh"),
        "sigmoid": lambda: torch.sigmoid(t),
        "tanh": lambda: torch.tanh(t),
    }.get(name, lambda: getattr(functional, name)(t, *given_))()
    y.backward(torch.tensor(np.array(grad, np.float64, order="C")))
    rounding = 1 + exponent(name, x)
    own = np.abs(x if name.startswith("gelu") else y.detach().numpy())  # PyTorch's GELU adds 1 to something near -1
    assert_close(call(name, x, *given_), y.detach(), own * rounding, 4, x.dtype)
    size = np.abs(np.float64(grad)) * 2 * (1 + np.abs(x)) * rounding
    assert_close(call_backward(name, grad, x, *given_), t.grad, size, 4, x.dtype)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_pytorch_has_nan_where_the_limit_is_zero(name):
    """Why `test_limits` does not ask PyTorch: minus infinity times 0."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    t = torch.full((1,), -torch.inf, requires_grad=True)
    y = getattr(torch.nn.functional, name)(t)
    y.backward(torch.ones(1))
    assert y.isnan().all()
    assert t.grad.isnan().all()
