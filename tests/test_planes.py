"""Ways that convolutions of planes (NCHW) have of their own: depthwise, windows that are few, taps in the padding."""

import importlib
import itertools

import numpy as np
import pytest
from closeness import assert_same

import cnnkit
from cnnkit import geometry

pytest.importorskip("numba", reason="the CPU kernels need Numba")

from cnnkit.rooms import threads
from cnnkit.rooms.numba import depthwise_planes, lines, overlap
from cnnkit.rooms.numba.straight import straight

_conv = importlib.import_module("cnnkit.rooms.numba.conv")


@pytest.fixture(autouse=True)
def _numba():
    with cnnkit.use_backend("numba"):
        yield


def whole_numbers(shape, dtype="float32", seed=0):
    """Small integers, whose sums have no roundings."""
    return np.random.default_rng([seed, *shape]).integers(-3, 4, shape).astype(dtype)


def layers(size, params, x, weight, bias, grad=None):
    """Result and gradients of a layer, by the kernels and by NumPy."""
    d = len(size)
    f, b = getattr(cnnkit, f"conv{d}d"), getattr(cnnkit, f"conv{d}d_backward")
    found = []
    for backend in ("numba", "numpy"):
        with cnnkit.use_backend(backend):
            y = f(x, weight, bias, **params)
            grad = whole_numbers(y.shape, x.dtype) if grad is None else grad
            found.append((y, *b(grad, x, weight, **params)))
    return found


@pytest.fixture
def taken(monkeypatch):
    """How often each of the ways was gone."""
    times = {}

    def count(module, name):
        run = getattr(module, name)

        def counted(*args):
            times[name] = times.get(name, 0) + 1
            return run(*args)

        monkeypatch.setattr(module, name, counted)

    for module, name in (
        (depthwise_planes, "forward"),
        (depthwise_planes, "weight_gradient"),
        (depthwise_planes, "strided_input_gradient"),
        (overlap, "input_gradient"),
    ):
        count(module, name)
    return times


# ---------------------------------------------------------------- depthwise

SIZES = [(1, 17), (2, 33), (3, 16), (11, 11), (12, 32), (9, 49), (31, 130), (40, 5)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("taps", [3, 5, 7])
def test_depthwise_planes(taps, dtype, taken):
    """Rows and columns that fill vectors or do not, or are fewer than taps; any padding; outputs for each input."""
    calls = 0
    for i, size in enumerate(SIZES):
        for pads in itertools.product(((taps // 2,) * 2, (taps - 1, 0), (0, taps - 1)), repeat=2):
            each = 1 + (i % 2)
            x, weight = whole_numbers((2, 9, *size), dtype), whole_numbers((9 * each, 1, taps, taps), dtype)
            params = {"padding": pads, "groups": 9, "stride": 1 + (i + calls) % 2}
            ours, theirs = layers(size, params, x, weight, whole_numbers((9 * each,), dtype))
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_array_equal(a, b)
            calls += 1
    assert taken["forward"] >= calls
    assert taken["weight_gradient"] == calls
    assert taken["strided_input_gradient"] > calls // 5  # with a stride, and one output for each input


def test_depthwise_planes_of_volumes_and_views(taken):
    x, weight = whole_numbers((2, 8, 3, 12, 19)), whole_numbers((8, 1, 1, 3, 3))
    params = {"padding": (0, 1, 2), "groups": 8}
    for given in (x, x[:, ::-1, ::-1, ::-1], np.broadcast_to(x[:1], x.shape), x[:, :, :, :, 2:15]):
        for a, b in zip(*layers((1,) * 3, params, given, weight[:, :, :, ::-1, ::-1], None), strict=True):
            np.testing.assert_array_equal(a, b)
    assert taken["forward"] == 8


@pytest.mark.parametrize("width", [18, 8, 5, 1])
@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
def test_depthwise_planes_leave_their_neighbours_alone(activation, width, taken):
    """Neither around a view is anything written, nor behind an array without gaps."""
    x, weight, bias = whole_numbers((2, 9, 13, width)), whole_numbers((9, 1, 3, 3)), whole_numbers((9,))
    y = cnnkit.conv2d(x, weight, bias, padding=1, groups=9)
    around, behind = np.full((2, 11, 17, width + 5), 7, "float32"), np.full(y.size + 16, 7, "float32")
    for out in (around[:, 1:-1, 2:-2, 2:-3], behind[: y.size].reshape(y.shape)):
        cnnkit.conv2d(x, weight, bias, padding=1, groups=9, activation=activation, out=out)
        assert_same(out, y if activation is None else getattr(cnnkit, activation)(y))
        out[...] = 7
    assert (around == 7).all()
    assert (behind == 7).all()
    assert taken["forward"] == 3


def test_a_strided_way_back_leaves_its_neighbours_alone():
    for size, before in itertools.product([(13, 18), (12, 31), (2, 3), (33, 64)], [(0, 0), (1, 2), (2, 1)]):
        weight, params = (
            whole_numbers((9, 1, 3, 3)),
            {"stride": 2, "padding": tuple((n, 2) for n in before), "groups": 9},
        )
        x, around = whole_numbers((2, 9, *size)), np.full((2, 11, size[0] + 4, size[1] + 5), 7, "float32")
        grad = whole_numbers(cnnkit.conv2d(x, weight, **params).shape)
        plan = geometry.lift(geometry.conv(2, x.shape, weight.shape, 2, params["padding"], 1, 9))
        depthwise_planes.strided_input_gradient(grad, weight, None, plan, around[:, 1:-1, 2:-2, 2:-3])
        with cnnkit.use_backend("numpy"):
            expected = cnnkit.conv2d_backward(grad, x, weight, **params, needs=("x",)).x
        np.testing.assert_array_equal(around[:, 1:-1, 2:-2, 2:-3], expected)
        around[:, 1:-1, 2:-2, 2:-3] = 7
        assert (around == 7).all()


def test_transposed_depthwise_planes_have_a_bias():
    x, weight, bias = whole_numbers((2, 9, 11, 17)), whole_numbers((9, 1, 5, 5)), whole_numbers((9,))
    found = []
    for backend in ("numba", "numpy"):
        with cnnkit.use_backend(backend):
            found.append(cnnkit.conv_transpose2d(x, weight, bias, 2, 1, (1, 0), groups=9))
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("taps", [3, 5])
def test_a_nan_of_a_plane_reaches_what_met_it(taps, stride):
    size = (14, 20)
    x, weight = whole_numbers((1, 8, *size)), 1 + whole_numbers((8, 1, taps, taps)) ** 2
    for pads, place in itertools.product(
        (0, taps // 2, taps - 1), ((0, 0), (0, 19), (13, 0), (13, 19), (6, 16), (7, 15))
    ):
        ill, params = x.copy(), {"padding": pads, "groups": 8, "stride": stride}
        ill[0, 3, *place] = np.nan
        ours, theirs = layers(size, params, ill, weight, None)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(np.isnan(a), np.isnan(b))


@pytest.mark.parametrize(("stride", "each"), [(1, 2), (2, 1)])
def test_bits_of_depthwise_planes_do_not_depend_on_threads(monkeypatch, stride, each):
    monkeypatch.setattr(threads, "GRAIN", 1)
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(shape).astype("float32") for shape in ((3, 10, 12, 20), (10 * each, 1, 3, 3)))
    before, found = cnnkit.get_num_threads(), []
    for n in (1, 3, 7):
        cnnkit.set_num_threads(n)
        y = cnnkit.conv2d(x, weight, None, stride, 1, groups=10)
        found.append((y, *cnnkit.conv2d_backward(y, x, weight, stride, 1, groups=10)))
    cnnkit.set_num_threads(before)
    for one in found[1:]:
        for a, b in zip(one, found[0], strict=True):
            assert_same(a, b)


# ---------------------------------------------------------------- few windows

FEW = [
    ((3, 5, 8, 8), (32, 5, 7, 7), {}),
    ((2, 3, 9, 20), (64, 3, 8, 17), {}),
    ((2, 3, 9, 21), (64, 3, 8, 17), {"stride": (1, 2), "padding": ((0, 1), (1, 0))}),
    ((2, 4, 12, 9), (48, 4, 5, 8), {"dilation": (2, 1)}),
    ((2, 3, 4, 5, 7), (40, 3, 3, 5, 5), {}),
    ((3, 7, 12), (33, 7, 11), {}),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layer", FEW)
def test_the_input_gradient_of_few_windows(layer, dtype, taken):
    shape, weight_shape, params = layer
    x, weight = whole_numbers(shape, dtype), whole_numbers(weight_shape, dtype)
    for a, b in zip(*layers(shape[2:], params, x, weight, None), strict=True):
        np.testing.assert_array_equal(a, b)
    assert taken == {"input_gradient": 1}


def test_a_transposed_convolution_of_few_windows_has_its_bias(taken):
    x, weight, bias = whole_numbers((3, 33, 2, 2)), whole_numbers((33, 5, 6, 7)), whole_numbers((5,))
    y = cnnkit.conv_transpose2d(x, weight, bias)
    with cnnkit.use_backend("numpy"):
        np.testing.assert_array_equal(y, cnnkit.conv_transpose2d(x, weight, bias))
    assert taken == {"input_gradient": 1}


def test_few_windows_come_in_parts_that_fit_the_workspace(taken):
    x, weight = whole_numbers((5, 4, 8, 8)), whole_numbers((32, 4, 7, 7))
    grad = whole_numbers((5, 32, 2, 2))
    expected = cnnkit.conv2d_backward(grad, x, weight).x
    with cnnkit.options(max_workspace=2 * 4 * 4 * 49 * 4):
        np.testing.assert_array_equal(cnnkit.conv2d_backward(grad, x, weight).x, expected)
    assert taken == {"input_gradient": 2}
    with cnnkit.options(max_workspace=100):
        np.testing.assert_array_equal(cnnkit.conv2d_backward(grad, x, weight).x, expected)
    assert taken == {"input_gradient": 2}


# ---------------------------------------------------------------- few pixels under 1x1 kernels


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_gradient_of_weights_that_see_few_pixels(dtype, monkeypatch):
    products = []
    multiply = _conv.multiply
    monkeypatch.setattr(_conv, "multiply", lambda *args: (products.append(args[1].shape), multiply(*args)))
    monkeypatch.setattr(_conv, "_multiplying_pays", lambda *args: True)  # whether it does depends on the processor
    x, weight = whole_numbers((3, 70, 2, 5), dtype), whole_numbers((45, 70, 1, 1), dtype)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    for given in (x, last, x[:, ::-1, :, ::-1], np.broadcast_to(x[:1], x.shape)):
        for a, b in zip(*layers((2, 5), {}, given, weight, None), strict=True):
            np.testing.assert_array_equal(a, b)
    assert products == [(30, 70)] * 4
    for params in ({"stride": 2}, {"padding": 1}, {"groups": 5}):
        x, weight = whole_numbers((3, 70, 2, 5), dtype), whole_numbers((45, 70 // params.get("groups", 1), 1, 1), dtype)
        for a, b in zip(*layers((2, 5), params, x, weight, None), strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(products) == 4


# ---------------------------------------------------------------- taps in the padding, and strides

WIDE = [
    ((1, 5, 33, 30), (7, 5, 3, 3), {"padding": 12, "dilation": 12}),
    ((1, 5, 9, 70), (7, 5, 5, 3), {"padding": ((9, 2), (0, 3)), "dilation": (3, 1)}),
    ((1, 5, 9, 70), (7, 5, 5, 3), {"padding": ((1, 11), (1, 1)), "stride": (2, 1)}),
    ((2, 3, 4, 9, 17), (7, 3, 3, 3, 3), {"padding": (1, 1, 1)}),
    ((2, 3, 6, 19, 17), (7, 3, 3, 3, 3), {"padding": (2, 1, 1), "stride": 2}),
    ((3, 300, 10, 13), (6, 300, 3, 3), {"padding": 6, "dilation": 6}),  # images together
    ((1, 6, 3, 200), (4, 3, 2, 3), {"padding": (5, 1), "groups": 2}),
    ((1, 3, 500), (8, 3, 3), {"padding": 200, "dilation": 200}),
]


@pytest.mark.parametrize("layer", WIDE)
def test_taps_that_are_padding_for_whole_tiles(layer):
    shape, weight_shape, params = layer
    x, weight, bias = whole_numbers(shape), whole_numbers(weight_shape), whole_numbers(weight_shape[:1])
    for a, b in zip(*layers(shape[2:], params, x, weight, bias), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("stride", [5, 6, 16, 17])
def test_positions_that_are_far_apart_are_turned_into_lines(stride):
    """Rows of a patch lie side by side in memory, more and fewer of them than the stride, and in the padding."""
    for kernel, padding in ((stride, 0), (3, 0), (stride + 2, 0), (7, (0, 1)), ((2, stride), (1, 0))):
        for size in ((stride + 4, 3 * stride + 5), (2 * stride + 5, 19 * stride)):
            taps = kernel if isinstance(kernel, tuple) else (kernel, kernel)
            x, weight = whole_numbers((2, 3, *size)), whole_numbers((5, 3, *taps))
            for given in (x, x[:, ::-1, ::-1]):
                params = {"stride": stride, "padding": padding}
                for a, b in zip(*layers(size, params, given, weight, None), strict=True):
                    np.testing.assert_array_equal(a, b)


def test_neighbouring_phases_are_found():
    plan = geometry.lift(geometry.conv(2, (1, 3, 32, 32), (4, 3, 16, 16), 16, 0, 1, 1))
    solved = lines.solve(lines.forward(plan), False)
    found = np.empty(17, np.int64)
    straight(_neighbours)(0, 17, found.ctypes.data, solved.at, solved.phases)
    assert found[[0, 1, 15, 16]].tolist() == [16, 15, 1, 16]


def _neighbours(start, stop, found, table, phases):
    for phase in range(start, stop):
        found[phase] = lines._neighbours(table, phase, phases, 2)
