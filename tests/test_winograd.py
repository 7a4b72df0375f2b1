"""Winograd convolution: right on every shape, within its bound, NaN where the direct sum has it; and who chooses it."""

import asyncio
import importlib
import itertools
import os
import subprocess
import sys
import threading

import naive
import numpy as np
import pytest
from closeness import assert_close, assert_same, eps

import cnnkit
from cnnkit import geometry, settings

pytest.importorskip("numba", reason="the CPU kernels need Numba")

from cnnkit.rooms import threads
from cnnkit.rooms.numba import patches, winograd

DTYPE = np.dtype("float32")
POINTS = {1: 1.0, 6: 13.2445, 8: 39.6001}  # the largest sum over them of |T'| |F| |S|, for one tap of a filter
KERNELS = [(5, 5), (1, 7), (3, 1), (3, 5), (7, 1), (4, 4), (1, 3), (5, 1), (2, 1), (1, 11), (5, 4), (1, 15)]


@pytest.fixture(autouse=True)
def _numba():
    with cnnkit.use_backend("numba"):
        yield


@pytest.fixture
def calls(monkeypatch):
    """The plans that were computed by Winograd's algorithm."""
    plans, forward = [], winograd.forward

    def spy(x, weight, bias, plan, relu, out):
        plans.append(plan)
        return forward(x, weight, bias, plan, relu, out)

    monkeypatch.setattr(winograd, "forward", spy)
    return plans


def make(x, weight, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(DTYPE) for shape in (x, weight, weight[:1])]


def conv(x, weight, *args, algorithm="winograd", **kwargs):
    with cnnkit.options(algorithm=algorithm):
        return getattr(cnnkit, f"conv{x.ndim - 2}d")(x, weight, *args, **kwargs)


def amplified(form):
    return POINTS[form.down.points] * POINTS[form.across.points]


def bound(x, weight, bias, pads, groups, plan):
    """Per output, what `cnnkit.options` promises: terms, and the largest input near the tile, of all channels."""
    form = winograd._sizes(plan).form
    taps = weight.ndim - 4
    blocks = winograd.cut(plan, form)[1]
    terms = weight.shape[1] * int(np.prod(blocks))
    apart = winograd.dilation(plan)
    outs = [axis.outputs * d for axis, d in zip(form, apart, strict=True)]  # a knot's, of a row and a column of tiles
    sees = [((n - 1) * axis.taps + axis.points) * d for n, axis, d in zip(blocks[1:], form, apart, strict=True)]
    padded = np.pad(np.abs(np.float64(x)), ((0, 0), (0, 0), *pads))
    padded = padded.reshape(len(x), groups, -1, *padded.shape[2:]).max(axis=2)
    spans = zip(weight.shape[2:], plan.dilation[-len(padded.shape[2:]) :], strict=True)
    out = [n - d * (k - 1) for n, (k, d) in zip(padded.shape[2:], spans, strict=True)]
    largest = np.zeros((len(x), groups, *out))
    for corner in itertools.product(*(range(0, n, step) for n, step in zip(out[-2:], outs, strict=True))):
        near = (..., *(slice(c, c + size) for c, size in zip(corner, sees, strict=True)))
        tile = (..., *(slice(c, c + size) for c, size in zip(corner, outs, strict=True)))
        most = padded[near].max(axis=(-1, -2), keepdims=True)
        for d in range(out[0]) if taps else ():
            largest[:, :, d : d + 1][tile] = most[:, :, d : d + weight.shape[2]].max(axis=2, keepdims=True)
        if not taps:
            largest[tile] = most
    size = np.abs(np.float64(weight)).reshape(len(weight), -1).sum(axis=1).reshape(groups, -1)
    products = largest[:, :, None] * size[None, :, :, *(None,) * (x.ndim - 2)]
    products = products.reshape(len(x), len(weight), *out)
    shift = 0 if bias is None else np.abs(np.float64(bias)).reshape(-1, *(1,) * (x.ndim - 2))
    return (terms + 26) * eps(DTYPE) / 2 * amplified(form) * products + eps(DTYPE) * shift + 1e-30


def assert_within_bound(actual, x, weight, bias, pads, groups, relu, plan):
    expected = naive.conv(x, weight, bias, 1, pads, plan.dilation[-len(pads) :], groups)
    expected = np.maximum(expected, 0) if relu else expected
    assert actual.shape == expected.shape
    assert actual.dtype == DTYPE
    error, most = np.abs(actual - expected), bound(x, weight, bias, pads, groups, plan)
    assert (error <= most).all(), (error / most).max()
    # the bound is for the worst case: errors that are no accident are far larger than a hundredth of it
    assert np.sqrt(np.mean(error**2)) <= np.sqrt(np.mean(most**2)) / 100


# ---------------------------------------------------------------- right, on every shape


def any_case(seed):
    rng = np.random.default_rng(seed)
    pads = [[int(p) for p in rng.integers(0, 4, 2)] for _ in range(2)]
    kernel = KERNELS[seed // 2 % len(KERNELS)] if seed % 2 else (3, 3)
    sizes = zip(kernel, rng.integers(1, 21, 2), pads, strict=True)
    size = [int(max(taps - sum(pair), n, 1)) for taps, n, pair in sizes]
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, per_group = (int(n) for n in rng.choice([1, 3, 17, 64], 2))
    x = (int(rng.integers(1, 6)), groups * channels, *size)
    return (
        x,
        (groups * per_group, channels, *kernel),
        tuple(map(tuple, pads)),
        groups,
        bool(seed // 2 % 2),
        seed % 3 > 0,
    )


@pytest.mark.parametrize("seed", range(60))
def test_any_shape(seed, calls):
    shape, weight_shape, pads, groups, relu, with_bias = any_case(seed)
    x, weight, bias = make(shape, weight_shape, seed)
    bias = bias if with_bias else None
    y = conv(x, weight, bias, padding=pads, groups=groups, activation="relu" if relu else None)
    assert len(calls) == 1
    assert_within_bound(y, x, weight, bias, pads, groups, relu, calls[0])


@pytest.mark.parametrize("size", [*itertools.product((1, 2, 4, 5, 9), (3, 6, 7, 13, 29, 33, 66))])
def test_any_size(size, calls):
    x, weight, bias = make((2, 5, *size), (18, 5, 3, 3))
    y = conv(x, weight, bias, padding=1)
    assert calls
    assert_within_bound(y, x, weight, bias, ((1, 1), (1, 1)), 1, False, calls[0])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [(1, 33), (35, 1), (17, 17)])
def test_any_kernel(kernel, size, calls):
    """Rows and columns of one pixel, and images whose last tiles are not whole."""
    pads = tuple((taps // 2, (taps - 1) // 2) for taps in kernel)
    x, weight, bias = make((2, 18, *size), (20, 18, *kernel))
    y = conv(x, weight, bias, padding=pads)
    assert calls
    assert_within_bound(y, x, weight, bias, pads, 1, False, calls[0])


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (3, 1), (4, 5), (1, 7)])
@pytest.mark.parametrize("dilation", [(2, 2), (1, 3), (5, 1), (3, 9)])
def test_any_dilation(kernel, dilation, calls):
    """Forward and back; knots that are not whole, and one that is longer than the rows that are gathered together."""
    number = sum(kernel) + sum(dilation)
    pads = ((3, 9), (12, 0)) if number % 2 else ((0, 0), (0, 0))
    x, weight, bias = make((2, 18, 19, 59), (20, 18, *kernel))
    x = VIEWS["channels last" if number % 4 < 2 else "every other"](x) if number % 3 else x
    y = conv(x, weight, bias, padding=pads, dilation=dilation)
    assert len(calls) == 1
    assert_within_bound(y, x, weight, bias, pads, 1, False, calls[0])
    with cnnkit.options(algorithm="winograd"):
        grads = cnnkit.conv2d_backward(y, x, weight, padding=pads, dilation=dilation)
    assert len(calls) == 2
    gx, gw, _ = naive.conv_backward(y, x, weight, 1, pads, dilation, 1)
    for actual, expected in ((grads.x, gx), (grads.weight, gw)):
        assert np.sqrt(np.mean((actual - expected) ** 2)) < 20 * eps(DTYPE) * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("points", patches.POINTS)
def test_a_form_computes_a_convolution(points):
    """T' [(F g) * (S d)], to the last digit: output i is the sum of tap r times input i + r."""
    for taps in range(2, points):
        s, f, t = patches.matrices(axis := patches.Axis(taps, points + 1 - taps))
        products = np.einsum("ki,kr,kn->irn", t, f, s)
        expected = [[[n == i + r for n in range(points)] for r in range(taps)] for i in range(axis.outputs)]
        np.testing.assert_allclose(products, np.float64(expected), atol=1e-12)
        sums = np.einsum("ki,kr,kn->ir", *map(np.abs, (t, f, s)))
        assert sums.max() <= POINTS[points]
        assert all((np.float32(m) == m).all() for m in (s, t))  # only filters are multiplied by rounded numbers


def test_lines_and_volumes(calls):
    """One axis of three has taps, or a line has but one."""
    for shape, weight_shape, dilation in [
        ((3, 20, 50), (18, 20, 5), (4,)),
        ((2, 20, 3, 6, 9), (18, 20, 2, 1, 7), (1, 1, 1)),
        ((2, 20, 7, 9, 9), (18, 20, 3, 3, 3), (2, 1, 3)),
    ]:
        x, weight, bias = make(shape, weight_shape)
        y = conv(x, weight, bias, dilation=dilation)
        assert calls
        expected = naive.conv(x, weight, bias, 1, ((0, 0),) * (x.ndim - 2), dilation, 1)
        assert np.sqrt(np.mean((y - expected) ** 2)) < 20 * eps(DTYPE) * np.sqrt(np.mean(expected**2))
        calls.clear()


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
@pytest.mark.parametrize("pads", [((0, 0),) * 3, ((1, 1),) * 3, ((0, 2), (2, 1), (0, 3))])
def test_three_dimensions(depth, pads, calls):
    x, weight, bias = make((2, 34, 5, 6, 9), (20, 17, depth, 3, 3))
    y = conv(x, weight, bias, padding=pads, groups=2)
    assert calls
    assert_within_bound(y, x, weight, bias, pads, 2, False, calls[0])


@pytest.mark.parametrize("channels", [64, 65, 130, 200])
def test_more_channels_than_are_done_together(channels, calls):
    x, weight, bias = make((3, channels, 15, 14), (70, channels, 3, 3))
    y = conv(x, weight, bias, padding=1)
    assert calls
    assert_within_bound(y, x, weight, bias, ((1, 1), (1, 1)), 1, False, calls[0])


VIEWS = {
    "channels last": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "reversed": lambda x: x[:, :, ::-1, ::-1].copy()[:, :, ::-1, ::-1],
    "channels reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "every other": lambda x: np.repeat(x, 2, axis=3)[:, :, :, ::2],
    "Fortran": np.asfortranarray,
    "one for all": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("kernel", [(3, 3), (1, 3), (3, 1)])
@pytest.mark.parametrize("view", VIEWS)
def test_views_give_the_same_bits(view, kernel, calls):
    x, weight, bias = make((3, 20, 9, 14), (24, 20, *kernel))
    pads = tuple(taps // 2 for taps in kernel)
    seen, filters = VIEWS[view](x), VIEWS[view](weight)
    out = VIEWS[view](np.zeros((3, 24, 9, 14), DTYPE)) if view != "one for all" else np.zeros((3, 24, 9, 14), DTYPE)
    seen.flags.writeable = filters.flags.writeable = False
    expected = conv(np.ascontiguousarray(seen), np.ascontiguousarray(filters), bias, padding=pads)
    assert_same(conv(seen, filters, bias, padding=pads), expected)
    assert_same(conv(seen, filters, bias, padding=pads, out=out), expected)
    assert len(calls) == 3


def test_what_lies_around_a_result_is_not_written(calls):
    x, weight, bias = make((2, 17, 7, 9), (19, 17, 3, 3))
    around = np.full((2, 21, 9, 13), 7, DTYPE)
    out = around[:, 1:-1, 1:-1, 2:-2]
    conv(x, weight, bias, padding=1, out=out)
    assert calls
    assert_same(out, conv(x, weight, bias, padding=1))
    out[...] = 7
    assert (around == 7).all()


@pytest.mark.skipif(sys.platform != "linux", reason="pages are protected by calls of Linux's libc")
def test_nothing_behind_the_inputs_is_read():
    """Inputs and weights end where a page ends, and the next one may not be touched: reading it kills the process."""
    code = (
        "import ctypes, mmap, numpy as np, cnnkit\n"
        "libc = ctypes.CDLL(None)\n"
        "libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)\n"
        "def at_the_end(shape):\n"
        "    size = 4 * int(np.prod(shape))\n"
        "    pages = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE\n"
        "    memory = mmap.mmap(-1, pages + mmap.PAGESIZE)\n"
        "    array = np.frombuffer(memory, np.float32, size // 4, pages - size).reshape(shape)\n"
        "    address = array.ctypes.data + size\n"
        "    assert libc.mprotect(address, mmap.PAGESIZE, 0) == 0\n"
        "    array[...] = 1\n"
        "    return array\n"
        "x, out = (at_the_end((2, channels, 9, 7)) for channels in (17, 19))\n"
        "for kernel in ((5, 5), (1, 7), (11, 1), (3, 3)):\n"
        "    weight, pads = at_the_end((19, 17, *kernel)), [taps // 2 for taps in kernel]\n"
        "    with cnnkit.options(algorithm='winograd'):\n"
        "        cnnkit.conv2d(x, weight, padding=pads, out=out)\n"
        "        cnnkit.conv2d_backward(out, x, weight, padding=pads)\n"
        "print(round(float(out[1, 18, 4, 4]), 3), flush=True)\n"
        "import os; os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "153.0\n"), done.stderr


# ---------------------------------------------------------------- the way back


@pytest.mark.parametrize("pads", [((1, 1), (1, 1)), ((0, 0), (0, 0)), ((0, 2), (3, 1))])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 4), (1, 7), (5, 1)])
def test_the_input_gradient(pads, groups, kernel, calls):
    x, weight, _ = make((2, 34, 10, 7), (40, 34 // groups, *kernel))
    stride, dilation = 1, 1
    size = naive.out_size(x.shape[2:], kernel, stride, pads, dilation)
    grad = np.random.default_rng(1).standard_normal((2, 40, *size)).astype(DTYPE)
    with cnnkit.options(algorithm="winograd"):
        grads = cnnkit.conv2d_backward(grad, x, weight, padding=pads, groups=groups)
    assert len(calls) == 1
    gx, gw, _ = naive.conv_backward(grad, x, weight, stride, pads, dilation, groups)
    magnitude = np.abs(grad).max() * np.abs(np.float64(weight)).sum(axis=(0, 2, 3)).max()
    error = np.abs(grads.x - gx)
    form = winograd._sizes(calls[0]).form
    assert error.max() <= (2 * 40 // groups + 26) * eps(DTYPE) / 2 * amplified(form) * magnitude
    assert np.sqrt(np.mean(error**2)) <= 4 * eps(DTYPE) * np.sqrt(np.mean(gx**2)) * 4
    assert_close(grads.weight, gw, np.abs(gw).max() + 100 * grad.size, 1000)


# ---------------------------------------------------------------- accuracy


@pytest.mark.parametrize("channels", [64, 256, 512])
def test_errors_are_about_twice_those_of_the_direct_sum(channels):
    x, weight, _ = make((1, channels, 20, 20), (16, channels, 3, 3))
    expected = naive.conv(x, weight, None, 1, ((1, 1), (1, 1)), 1, 1)
    size = {
        name: np.sqrt(np.mean((conv(x, weight, None, padding=1, algorithm=name) - expected) ** 2))
        for name in ("winograd", "direct")
    }
    assert size["winograd"] < 2.5 * size["direct"]
    # roundings of a sum of n numbers walk at random: the square root of n, in units of the result
    assert size["winograd"] < np.sqrt(channels) * eps(DTYPE) * np.sqrt(np.mean(expected**2))


@pytest.mark.parametrize("kernel", [(5, 5), (4, 4), (3, 5), (1, 7), (5, 1), (1, 3), (2, 1), (1, 15)])
def test_errors_of_other_kernels_are_those_of_3x3(kernel):
    """In units of the result; beside the direct sum they are 1.2 to 2.5 times its."""
    x, weight, _ = make((1, 64, 20, 20), (16, 64, *kernel))
    expected = naive.conv(x, weight, None, 1, ((0, 0), (0, 0)), 1, 1)
    size = {
        name: np.sqrt(np.mean((conv(x, weight, None, algorithm=name) - expected) ** 2))
        for name in ("winograd", "direct")
    }
    assert size["winograd"] < 2.8 * size["direct"]
    assert size["winograd"] < np.sqrt(64) * eps(DTYPE) * np.sqrt(np.mean(expected**2))


def test_float64_is_summed_directly():
    x, weight, bias = (a.astype(np.float64) for a in make((1, 64, 28, 28), (64, 64, 3, 3)))
    assert_same(conv(x, weight, bias), conv(x, weight, bias, algorithm="direct"))
    assert_same(conv(x, weight, bias, algorithm="auto"), conv(x, weight, bias, algorithm="direct"))


# ---------------------------------------------------------------- NaN and infinity


@pytest.fixture
def repair(monkeypatch):
    """However many tiles are not finite, each is summed directly by itself."""
    monkeypatch.setattr(winograd, "SLOWER", 1)


def kinds(y):
    return np.select([np.isnan(y), y == np.inf, y == -np.inf], [1, 2, 3], 0)


def assert_same_kinds(x, weight, bias, activation, calls, padding=1, dilation=1):
    params = {"padding": padding, "dilation": dilation, "activation": activation}
    direct = conv(x, weight, bias, algorithm="direct", **params)
    before = len(calls)
    y = conv(x, weight, bias, **params)
    assert len(calls) == before + 1
    np.testing.assert_array_equal(kinds(y), kinds(direct))
    finite = np.isfinite(direct)
    scale = np.abs(np.where(finite, direct, 0)).max()
    np.testing.assert_allclose(y[finite], direct[finite], rtol=1e-3, atol=1e-4 * scale)
    return direct


@pytest.mark.usefixtures("repair")
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_travels_as_in_the_direct_sum(value, activation, calls):
    x, weight, bias = make((2, 3, 6, 11), (20, 3, 3, 3))
    for h, w in itertools.product(range(6), range(11)):
        for c in (0, 2):
            ill = x.copy()
            ill[1, c, h, w] = value
            direct = assert_same_kinds(ill, weight, bias, activation, calls)
            assert not np.isfinite(direct).all() or (activation and value != np.nan)


@pytest.mark.usefixtures("repair")
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel", [(5, 5), (1, 7), (11, 1)])
def test_what_is_not_finite_in_other_kernels(kernel, dilation, value, calls):
    """Blocks of taps reach beyond the kernel, and patches beyond what it sees: that counts for nothing."""
    pads = tuple(dilation * (taps // 2) for taps in kernel)
    x, weight, bias = make((2, 3, 6, 13), (20, 3, *kernel))
    for h, w, c in ((0, 0, 0), (5, 12, 2), (3, 7, 1), (2, 4, 0), (0, 9, 2)):
        ill, sick = x.copy(), weight.copy()
        ill[1, c, h, w] = value
        sick[7 + c, c, h % kernel[0], w % kernel[1]] = value
        for given in ((ill, weight), (x, sick)):
            direct = assert_same_kinds(*given, bias, None, calls, pads, dilation)
            assert not np.isfinite(direct).all()
            assert np.isfinite(direct).any()


@pytest.mark.usefixtures("repair")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value, calls):
    x, weight, bias = make((1, 18, 9, 6), (20, 18, 3, 3))
    for o, c, tap in itertools.product((0, 17), (0, 17), np.ndindex(3, 3)):
        ill = weight.copy()
        ill[o, c, *tap] = value
        direct = assert_same_kinds(x, ill, bias, None, calls)
        assert np.isfinite(direct[:, 1:17]).all()
    bias[3] = value
    assert_same_kinds(x, weight, bias, None, calls)


@pytest.mark.usefixtures("repair")
def test_infinities_of_both_signs_and_zero_weights(calls):
    x, weight, bias = make((1, 4, 10, 10), (17, 4, 3, 3))
    x[0, 1, 2, 2], x[0, 2, 2, 4], x[0, 0, 7, 7] = np.inf, -np.inf, np.inf
    weight[3], weight[5, 0] = 0, 0
    assert_same_kinds(x, weight, bias, None, calls)


@pytest.mark.usefixtures("repair")
@pytest.mark.parametrize("scale", [1e36, 1e37, 3e37, 1e38, 3e38])
def test_numbers_that_overflow_between_only(scale, calls):
    """Differences of neighbouring inputs, times up to 7, overflow where the sum of the products does not."""
    rng = np.random.default_rng(0)
    x = (rng.choice([-1, 1], (1, 4, 9, 9)) * scale).astype(DTYPE)
    weight = (rng.random((18, 4, 3, 3)) / 36).astype(DTYPE)
    direct = assert_same_kinds(x, weight, None, None, calls)
    assert np.isfinite(direct).all()


@pytest.mark.usefixtures("repair")
def test_a_sum_that_overflows_is_infinite(calls):
    x, weight, bias = make((1, 16, 8, 8), (16, 16, 3, 3))
    x[...], weight[...] = 1e38, 1
    weight[::2] = -1
    direct = assert_same_kinds(x, weight, bias, None, calls)
    assert np.isinf(direct).all()


@pytest.mark.usefixtures("repair")
def test_an_infinity_stays_in_its_image_and_its_group(calls):
    x, weight, bias = make((3, 8, 7, 7), (8, 4, 3, 3))
    x[1, 2, 3, 3] = np.inf
    y = conv(x, weight, bias, padding=1, groups=2)
    assert calls
    assert np.isfinite(y[[0, 2]]).all()
    assert np.isfinite(y[1, 4:]).all()
    assert (~np.isfinite(y[1, :4])).sum() == 4 * 9


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_where_nothing_is_finite_all_is_summed_directly(value, calls):
    x, weight, bias = make((2, 32, 40, 40), (48, 32, 3, 3))
    x[:, 5] = value
    assert_same(conv(x, weight, bias, padding=1), conv(x, weight, bias, padding=1, algorithm="direct"))
    assert len(calls) == 1


@pytest.mark.usefixtures("repair")
def test_the_input_gradient_of_what_is_not_finite(calls):
    x, weight, _ = make((1, 18, 8, 8), (17, 18, 3, 3))
    grad = np.ones((1, 17, 8, 8), DTYPE)
    grad[0, 16, 5, 2] = np.nan
    masks = []
    for algorithm in ("winograd", "direct"):
        with cnnkit.options(algorithm=algorithm):
            masks.append(np.isnan(cnnkit.conv2d_backward(grad, x, weight, padding=1, needs=("x",)).x))
    assert len(calls) == 1
    np.testing.assert_array_equal(*masks)
    assert masks[0].sum() == 18 * 9


@pytest.mark.usefixtures("repair")
@pytest.mark.parametrize("kernel", [(3, 3), (1, 7), (11, 1)])
def test_the_input_gradient_of_weights_that_are_not_finite(kernel, calls):
    """The taps are flipped: the direct sum over a tile must read them so too."""
    x, weight, _ = make((1, 3, 8, 8), (5, 3, *kernel))
    weight[2, 1, 0, -1] = np.inf
    pads = tuple(taps // 2 for taps in kernel)
    grad = np.random.default_rng(3).standard_normal((1, 5, 8, 8)).astype(DTYPE)
    found = []
    for algorithm in ("winograd", "direct"):
        with cnnkit.options(algorithm=algorithm):
            found.append(cnnkit.conv2d_backward(grad, x, weight, padding=pads, needs=("x",)).x)
    assert len(calls) == 1
    np.testing.assert_array_equal(kinds(found[0]), kinds(found[1]))
    finite = np.isfinite(found[1])
    assert 0 < finite.sum() < finite.size
    np.testing.assert_allclose(found[0][finite], found[1][finite], rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- threads and memory


@pytest.fixture
def _threads(monkeypatch):
    before = cnnkit.get_num_threads()
    monkeypatch.setattr(threads, "GRAIN", 1)  # all work is split
    yield
    cnnkit.set_num_threads(before)


LAYERS = {
    "one band": ((1, 70, 24, 24), (150, 70, 3, 3)),
    "one tile": ((1, 17, 4, 4), (17, 17, 3, 3)),
    "many bands": ((2, 20, 61, 60), (40, 20, 3, 3)),
    "groups": ((2, 40, 30, 30), (80, 20, 3, 3)),
    "5x5": ((2, 20, 33, 30), (40, 20, 5, 5)),
    "blocks": ((2, 70, 61, 30), (40, 70, 11, 1)),
    "dilated": ((2, 20, 33, 30), (40, 20, 3, 3), 4),
}


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("layer", LAYERS)
def test_bits_do_not_depend_on_the_number_of_threads(layer, calls):
    shape, weight_shape, *dilation = LAYERS[layer]
    x, weight, bias = make(shape, weight_shape)
    params = {"padding": 1, "dilation": dilation[0] if dilation else 1, "groups": shape[1] // weight_shape[1]}
    results = []
    for n in (1, 2, 3, 7):
        cnnkit.set_num_threads(n)
        results.append(conv(x, weight, bias, activation="relu", **params))
    assert len(calls) == 4
    for one in results[1:]:
        assert_same(one, results[0])


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("ill", [1, 2, 4, 8, 16, 40, 400])
def test_bits_do_not_depend_on_the_number_of_threads_where_not_all_is_finite(ill):
    """With few tiles that are not finite those are summed directly, with many all are: by their number alone."""
    x, weight, bias = make((2, 20, 61, 60), (40, 20, 3, 3))
    x.ravel()[np.random.default_rng(0).choice(x.size, ill)] = np.inf
    results = []
    for n in (1, 2, 3, 7):
        cnnkit.set_num_threads(n)
        results.append(conv(x, weight, bias, padding=1))
    for one in results[1:]:
        assert_same(one, results[0])


@pytest.mark.parametrize("layer", LAYERS)
def test_bits_do_not_depend_on_the_workspace(layer, calls):
    shape, weight_shape, *dilation = LAYERS[layer]
    x, weight, bias = make(shape, weight_shape)
    params = {"padding": 1, "dilation": dilation[0] if dilation else 1, "groups": shape[1] // weight_shape[1]}
    expected = conv(x, weight, bias, **params)
    cuts, workspace = set(), 1 << 26
    while workspace > 1000:
        with cnnkit.options(max_workspace=workspace):
            before = len(calls)
            y = conv(x, weight, bias, **params)
            if len(calls) == before:
                break
            cuts.add(winograd._sizes(calls[-1])[3:7])
        assert_same(y, expected)
        workspace = workspace * 3 // 4
    assert len(cuts) > 1 or layer == "one tile"
    assert_same(y, conv(x, weight, bias, algorithm="direct", **params))


def plan_of(x, weight, dilation=1, groups=1):
    return geometry.lift(geometry.conv(len(x) - 2, x, weight, 1, 1, dilation, groups))


@pytest.mark.parametrize("workers", [1, 2, 7, 64])
@pytest.mark.parametrize("workspace", [1 << 16, 1 << 20, 1 << 22, 1 << 24, 1 << 26])
def test_the_workspace_is_never_exceeded(workspace, workers):
    more = ((4, 512, 7, 7), (512, 512, 3, 3)), ((1, 64, 224, 224), (64, 64, 3, 3))
    for x, weight, *dilation in [*LAYERS.values(), *more]:
        plan = plan_of(x, weight, *dilation, groups=x[1] // weight[1])
        sizes = winograd._solve(plan, workspace, workers)
        assert sizes is None or winograd._workspace(plan, sizes, sizes.workers) <= workspace
        assert sizes is None or sizes.workers <= workers


@pytest.mark.parametrize("workspace", [1 << 16, 1 << 19, 1 << 20, 1 << 22, 1 << 26])
def test_who_computes_it_does_not_depend_on_the_number_of_threads(workspace):
    more = ((1, 64, 8, 8), (64, 64, 3, 3)), ((1, 16, 28, 28), (32, 16, 3, 3))
    for x, weight, *dilation in [*LAYERS.values(), *more]:
        plan = plan_of(x, weight, *dilation, groups=x[1] // weight[1])
        answers = [winograd._solve(plan, workspace, workers) for workers in (1, 2, 3, 7, 64)]
        assert len({one and one.pays for one in answers}) == 1


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="only Linux tells the peak of a while")
@pytest.mark.parametrize("workspace", [1 << 22, 1 << 23, 1 << 26])
def test_no_more_memory_is_touched_than_the_workspace(workspace):
    """The process's peak, in a process by itself: the first call compiles, the second is measured."""
    code = (
        "import pathlib, numpy as np, cnnkit\n"
        "from cnnkit.rooms.numba import winograd\n"
        "def peak(): return int(pathlib.Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) << 10\n"
        "def conv(n, out):\n"
        "    x = np.ones((1, 160, n, n), 'f')\n"
        "    pathlib.Path('/proc/self/clear_refs').write_text('5')\n"
        "    before = peak()\n"
        f"    with cnnkit.options(algorithm='winograd', max_workspace={workspace}):\n"
        "        cnnkit.conv2d(x, weight, padding=1, out=out)\n"
        "    return peak() - before\n"
        "weight = np.ones((160, 160, 3, 3), 'f')\n"
        "conv(60, np.ones((1, 160, 60, 60), 'f'))\n"
        "print(conv(100, np.ones((1, 160, 100, 100), 'f')), winograd._solve.cache_info().misses)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    peak, solved = map(int, done.stdout.split())
    assert peak <= workspace + (1 << 19)  # half a MiB for Python
    assert solved == 2


# ---------------------------------------------------------------- who chooses


DIRECT = {
    "stride": ((1, 64, 28, 28), (64, 64, 3, 3), {"stride": 2}),
    "7x7": ((1, 64, 28, 28), (64, 64, 7, 7), {}),
    "2x2": ((1, 64, 28, 28), (64, 64, 2, 2), {}),
    "1x1": ((1, 64, 28, 28), (64, 64, 1, 1), {}),
    "1d, stride": ((1, 64, 28), (64, 64, 3), {"stride": 2}),
}


@pytest.mark.parametrize("layer", DIRECT)
def test_layers_without_a_winograd_form_are_summed_directly(layer, calls):
    shape, weight_shape, params = DIRECT[layer]
    x, weight, bias = make(shape, weight_shape)
    assert_same(conv(x, weight, bias, **params), conv(x, weight, bias, algorithm="direct", **params))
    assert not calls


def test_no_image_gives_no_result(calls):
    assert conv(*make((0, 4, 9, 9), (5, 4, 3, 3))).shape == (0, 5, 7, 7)


def test_auto_takes_it_where_it_is_clearly_faster(calls):
    wide = make((1, 64, 56, 56), (64, 64, 3, 3))
    few = make((8, 3, 56, 56), (64, 3, 3, 3))
    tiny = make((1, 1, 8, 8), (1, 1, 3, 3))
    depthwise = make((1, 64, 28, 28), (64, 1, 3, 3))
    for x, weight, bias in (few, tiny):
        conv(x, weight, bias, algorithm="auto")
    conv(*depthwise, groups=64, algorithm="auto")
    assert not calls
    conv(*wide, algorithm="auto")
    assert len(calls) == 1
    for kernel in ((5, 5), (1, 7), (3, 1)):
        conv(*make((1, 64, 56, 56), (64, 64, *kernel)), algorithm="auto")
    assert len(calls) == 4
    for kernel in ((5, 5), (1, 7), (3, 1)):
        conv(*make((8, 3, 56, 56), (64, 3, *kernel)), algorithm="auto")
        with cnnkit.options(max_workspace=0):
            conv(*make((1, 64, 56, 56), (64, 64, *kernel)), algorithm="auto")
    assert len(calls) == 4


def test_other_backends_have_one_algorithm():
    x, weight, bias = make((1, 64, 8, 8), (64, 64, 3, 3))
    with cnnkit.use_backend("numpy"):
        assert_same(conv(x, weight, bias), conv(x, weight, bias, algorithm="direct"))


# ---------------------------------------------------------------- the option


def test_options_nest_and_end_with_their_block():
    default = settings.current()
    assert default == ("auto", 64 << 20, False)
    with cnnkit.options(algorithm="winograd"):
        assert settings.current()[:2] == ("winograd", 64 << 20)
        with cnnkit.options(max_workspace=5):
            assert settings.current()[:2] == ("winograd", 5)
            with cnnkit.options(algorithm="direct", max_workspace=0):
                assert settings.current()[:2] == ("direct", 0)
            assert settings.current()[:2] == ("winograd", 5)
        assert settings.current()[:2] == ("winograd", 64 << 20)
        with pytest.raises(RuntimeError), cnnkit.options(algorithm="direct"):
            raise RuntimeError
        assert settings.current().algorithm == "winograd"
    assert settings.current() == default


def test_options_hold_for_their_thread():
    seen = []
    with cnnkit.options(algorithm="winograd"):
        other = threading.Thread(target=lambda: seen.append(settings.current().algorithm))
        other.start()
        other.join()
    assert seen == ["auto"]


def test_options_hold_for_their_task():
    async def task(algorithm):
        with cnnkit.options(algorithm=algorithm):
            await asyncio.sleep(0)
            return settings.current().algorithm

    async def both():
        return await asyncio.gather(task("direct"), task("winograd"))

    assert asyncio.run(both()) == ["direct", "winograd"]


MISTAKES = [
    ({"algorithm": "fft"}, ValueError, "algorithm is 'fft', but the algorithms are 'auto', 'direct', 'winograd'"),
    ({"algorithm": 3}, ValueError, "algorithm is 3, but the algorithms are 'auto', 'direct', 'winograd'"),
    ({"max_workspace": -1}, ValueError, "max_workspace is -1, but must be at least 0"),
    ({"max_workspace": 1.5}, TypeError, "max_workspace is 1.5, but an int is needed"),
    ({"max_workspace": True}, TypeError, "max_workspace is True, but an int is needed"),
]


@pytest.mark.parametrize(("given", "error", "sentence"), MISTAKES)
def test_mistakes_are_told_in_one_sentence(given, error, sentence):
    before = settings.current()
    with pytest.raises(error) as caught, cnnkit.options(**given):
        pass
    assert str(caught.value) == sentence
    assert settings.current() == before


# ---------------------------------------------------------------- other processors


@pytest.mark.parametrize("processor", ["x86-64", "haswell", "skylake-avx512"])
def test_other_vector_units(processor, tmp_path):
    """The same kernels for 4, 8 and 16 lanes, where this processor can run them."""
    import llvmlite.binding as llvm

    able = llvm.get_host_cpu_features()
    needs = {"x86-64": "sse2", "haswell": "avx2", "skylake-avx512": "avx512f"}[processor]
    if not able.get(needs):
        pytest.skip(f"this processor has no {needs}")
    features = {"x86-64": "+sse2", "haswell": "+avx,+avx2,+fma", "skylake-avx512": "+avx512f,+avx512vl,+avx2,+fma"}
    code = (
        "import numpy as np, cnnkit\n"
        "from cnnkit.rooms.numba import winograd\n"
        "rng = np.random.default_rng(0)\n"
        "print(winograd.PRODUCTS[0].lanes)\n"
        "for kernel, dilation in (((3, 3), 1), ((4, 5), (1, 3)), ((1, 5), 1)):\n"
        "    x, w = (rng.standard_normal(s).astype('f') for s in ((2, 37, 9, 18), (35, 37, *kernel)))\n"
        "    x[1, 3, 4, 4] = np.nan\n"
        "    with cnnkit.options(algorithm='winograd'): y = cnnkit.conv2d(x, w, None, 1, 'same', dilation)\n"
        "    with cnnkit.use_backend('numpy'):\n"
        "        z = cnnkit.conv2d(x.astype('d'), w.astype('d'), None, 1, 'same', dilation)\n"
        "    assert (np.isnan(y) == np.isnan(z)).all()\n"
        "    print(np.nanmax(abs(y - z)))\n"
    )
    environment = os.environ | {
        "NUMBA_CPU_NAME": processor, "NUMBA_CPU_FEATURES": features[processor], "NUMBA_CACHE_DIR": str(tmp_path),
    }  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    lanes, *errors = done.stdout.split()
    assert int(lanes) == {"x86-64": 4, "haswell": 8, "skylake-avx512": 16}[processor]
    assert len(errors) == 3
    assert max(map(float, errors)) < 1e-3


def test_the_room_knows_the_module():
    assert importlib.import_module("cnnkit.rooms.numba.winograd") is winograd
