"""Depthwise convolution of channels-last arrays, which has kernels of its own."""

import importlib
import sys

import naive
import numpy as np
import pytest
from cases import Conv, normal, over
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st
from test_kernels import run_apart

import cnnkit
from cnnkit import geometry

pytest.importorskip("numba", reason="the CPU kernels need Numba")

from cnnkit.rooms import threads as pool

room = importlib.import_module("cnnkit.rooms.numba.conv")
depthwise = importlib.import_module("cnnkit.rooms.numba.depthwise")


def layer(channels, size, kernel, stride=1, padding=0, dilation=1, batch=2):
    return Conv((batch, channels, *size), (channels, 1, *kernel), stride, padding, dilation, channels)


CASES = {
    "16 channels": layer(16, (6, 7), (3, 3), 1, 1),
    "8 channels": layer(8, (6, 7), (3, 3), 1, 1),
    "15 channels": layer(15, (5, 9), (3, 3), 1, 1),
    "17 channels": layer(17, (5, 9), (3, 3), 1, 1),
    "144 channels": layer(144, (7, 19), (3, 3), 1, 1),
    "145 channels, stride 2": layer(145, (7, 19), (3, 3), 2, 1),
    "more windows than a stretch": layer(9, (3, 150), (3, 3), 1, 1),
    "more windows than a stretch, stride 2": layer(9, (3, 290), (2, 3), 2, 1),
    "stride 3": layer(20, (11, 13), (3, 3), 3, 1),
    "stride 2, dilation 2": layer(20, (11, 13), (3, 3), 2, 2, 2),
    "stride 2, dilation 3": layer(20, (13, 15), (3, 3), 2, 3, 3),
    "stride 4, dilation 2": layer(20, (19, 40), (3, 3), 4, 2, 2),
    "stride over kernel": layer(20, (13, 11), (2, 1), (3, 4), 0),
    "stride over image": layer(20, (3, 4), (3, 3), 7, 1),
    "dilation 2": layer(33, (9, 10), (3, 3), 1, 2, 2),
    "dilation over image": layer(20, (4, 5), (3, 3), 1, 9, 9),
    "asymmetric": layer(20, (7, 8), (3, 3), 1, ((0, 2), (3, 1))),
    "asymmetric, stride 2": layer(20, (8, 9), (3, 3), 2, ((2, 0), (0, 3))),
    "padding over kernel": layer(20, (4, 5), (3, 3), 1, 5),
    "kernel over image": layer(20, (2, 3), (7, 7), 1, 3),
    "even kernel": layer(20, (9, 11), (4, 2), 2, 1),
    "5x5": layer(24, (12, 13), (5, 5), 1, 2),
    "5x5, stride 2": layer(24, (12, 13), (5, 5), 2, 2),
    "5x5, stride 2, long rows": layer(20, (7, 25), (5, 5), 2, 2),
    "5x5, stride 2, dilation 2": layer(20, (11, 29), (5, 5), 2, 4, 2),
    "7x7": layer(40, (9, 14), (7, 7), 1, 3),
    "1x1": layer(40, (5, 6), (1, 1)),
    "one pixel": layer(40, (1, 1), (3, 3), 1, 1),
    "1d": layer(35, (23,), (3,), 1, 1),
    "1d causal": layer(16, (140,), (4,), 1, ((6, 0),), 2),
    "3d": layer(18, (4, 5, 6), (3, 3, 3), 1, 1),
    "3d mixed": layer(18, (6, 7, 8), (2, 3, 2), (1, 2, 3), (1, 0, 2), (2, 1, 3)),
}


def channels_last(array):
    order = (0, *range(2, array.ndim), 1)
    return np.moveaxis(np.ascontiguousarray(array.transpose(order)), -1, 1)


def data(case, dtype):
    x, weight, bias = normal(case.x, dtype, 1), normal(case.weight, dtype, 2), normal(case.weight[:1], dtype, 3)
    return channels_last(x), weight, bias


def forward(case):
    return getattr(cnnkit, f"conv{case.count}d")


def backward(case):
    return getattr(cnnkit, f"conv{case.count}d_backward")


@pytest.fixture
def numba_room(monkeypatch):
    """The Numba room without the general way: nothing but the depthwise kernels may compute."""
    monkeypatch.setattr(room, "convolve", None)
    monkeypatch.setattr(room, "correlate", None)
    with cnnkit.use_backend("numba"):
        yield


def check(case, dtype, laid_out=channels_last):
    x, weight, bias = data(case, dtype)
    x = laid_out(x)
    y = forward(case)(x, weight, bias, *case.params)
    magnitude = naive.conv(np.abs(x), np.abs(weight), np.abs(bias), *case.solved)
    assert_close(y, naive.conv(x, weight, bias, *case.solved), magnitude, case.terms + 1, dtype)
    grad = laid_out(normal(y.shape, dtype, 4))
    grads = backward(case)(grad, x, weight, *case.params)
    expected = naive.conv_backward(grad, x, weight, *case.solved)
    magnitudes = naive.conv_backward(*map(np.abs, (grad, x, weight)), *case.solved)
    assert_close(grads.x, expected[0], magnitudes[0], case.gradient_terms, dtype)
    assert_close(grads.weight, expected[1], magnitudes[1], grad.size // len(weight), dtype)


@over(CASES)
def test_it_is_the_definition(case, dtype, numba_room):
    check(case, dtype)


def windows(case):
    return geometry.volume(geometry.conv(case.count, case.x, case.weight, *case.params).output_size)


FEW = {name: case for name, case in CASES.items() if windows(case) <= room.FEW}


@over(FEW)
def test_few_windows_are_turned(case, dtype, numba_room):
    check(case, dtype, np.ascontiguousarray)


def test_few_windows_of_any_arrays():
    """Views, results with gaps, arrays of different orders, and no memory to turn them."""
    rng = np.random.default_rng(0)
    x, weight = (
        rng.integers(-3, 4, (2, 20, 12, 9)).astype("float32"),
        rng.integers(-3, 4, (20, 1, 3, 3)).astype("float32"),
    )
    for array in (x, x[:, :, ::-2], x[:, ::-1], np.asfortranarray(x), np.broadcast_to(x[:1], x.shape)):
        with cnnkit.use_backend("numpy"):
            expected = cnnkit.conv2d(array, weight, None, 2, 1, 1, 20)
            grads = cnnkit.conv2d_backward(expected, array, weight, 2, 1, 1, 20)
        for bytes_ in (64 << 20, 0):
            with cnnkit.use_backend("numba"), cnnkit.options(max_workspace=bytes_):
                out = np.zeros((*expected.shape, 2), "float32")[..., 0]
                assert (cnnkit.conv2d(array, weight, None, 2, 1, 1, 20, out=out) == expected).all()
                for grad in (expected, channels_last(expected)):
                    found = cnnkit.conv2d_backward(grad, array, weight, 2, 1, 1, 20)
                    assert all((a == b).all() for a, b in zip(found, grads, strict=True))


def test_no_image_gives_zero_gradients(dtype):
    with cnnkit.use_backend("numba"):
        check(layer(20, (6, 6), (3, 3), 1, 1, batch=0), dtype)


@st.composite
def layers(draw):
    axes = draw(st.lists(axis(), min_size=1, max_size=3))
    size, kernel, stride, pads, dilation = zip(*axes, strict=True)
    return layer(draw(st.integers(8, 40)), size, kernel, stride, pads, dilation, draw(st.integers(1, 2)))


@st.composite
def axis(draw):
    """``(size, kernel, stride, (before, after), dilation)`` such that at least one window fits."""
    kernel, dilation = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    before, after = draw(st.integers(0, 5)), draw(st.integers(0, 5))
    least = max(1, dilation * (kernel - 1) + 1 - before - after)
    return draw(st.integers(least, least + 9)), kernel, draw(st.integers(1, 4)), (before, after), dilation


@given(case=layers())
def test_any_layer_is_the_definition(case, dtype):
    with cnnkit.use_backend("numba"):
        check(case, dtype)


def test_other_layers_are_not_taken():
    """Few channels, a multiplier, two channels in a group, channels that do not lie together."""
    last, plain = channels_last(np.ones((1, 8, 5, 5))), np.ones((1, 8, 19, 19))
    for x, weight, groups in (
        (last[:, :4], (4, 1, 3, 3), 4),
        (last, (16, 1, 3, 3), 8),
        (last, (8, 2, 3, 3), 4),
        (plain, (8, 1, 3, 3), 8),
    ):
        assert not depthwise.takes(geometry.conv(2, x.shape, weight, 1, 0, 1, groups), x)


@pytest.mark.parametrize("count", [2, 3, 7])
@over({name: CASES[name] for name in ("145 channels, stride 2", "more windows than a stretch", "1d", "3d mixed")})
def test_bits_do_not_depend_on_the_threads(case, count, dtype, threads, numba_room, monkeypatch):
    monkeypatch.setattr(pool, "GRAIN", 1)
    x, weight, bias = data(case, dtype)

    def results():
        y = forward(case)(x, weight, bias, *case.params)
        return y, *backward(case)(y, x, weight, *case.params, needs=("x", "weight"))[:2]

    threads(1)
    one = results()
    threads(count)
    for alone, together in zip(one, results(), strict=True):
        assert_same(together, alone)


@over({name: CASES[name] for name in ("17 channels", "145 channels, stride 2", "5x5")})
def test_relu_in_the_same_pass(case, dtype, numba_room):
    x, weight, bias = data(case, dtype)
    y = forward(case)(x, weight, bias, *case.params)
    x[0, 3] = np.nan
    clipped = forward(case)(x, weight, bias, *case.params, activation="relu")
    assert np.isnan(clipped[0, 3]).all()
    others = np.arange(y.shape[1]) != 3
    assert y.min() < 0
    assert_same(clipped[:, others], np.maximum(y[:, others], 0))


@over({name: case for name, case in CASES.items() if name != "7x7"})
def test_a_nan_reaches_only_what_meets_it(case, numba_room):
    x, weight, _ = data(case, "float32")
    grad = channels_last(normal(forward(case)(x, weight, None, *case.params).shape, "float32", 4))
    for spoiled in (x, weight, grad):
        place = tuple(n // 2 for n in spoiled.shape)
        kept, spoiled[place] = spoiled[place], np.nan
        y = forward(case)(x, weight, None, *case.params)
        np.testing.assert_array_equal(np.isnan(y), np.isnan(naive.conv(x, weight, None, *case.solved)))
        grads = backward(case)(grad, x, weight, *case.params)
        expected = naive.conv_backward(grad, x, weight, *case.solved)
        np.testing.assert_array_equal(np.isnan(grads.x), np.isnan(expected[0]))
        np.testing.assert_array_equal(np.isnan(grads.weight), np.isnan(expected[1]))
        spoiled[place] = kept


def test_a_weight_that_meets_only_padding_does_not_matter(dtype, numba_room):
    weight = np.full((9, 1, 3, 3), np.nan, dtype)
    weight[:, :, 1, 1] = 2
    y = cnnkit.conv2d(channels_last(np.full((1, 9, 1, 1), 3, dtype)), weight, padding=1, groups=9)
    assert_same(y, np.full((1, 9, 1, 1), 6, dtype))


@pytest.mark.parametrize("stride", [1, 2])
def test_neighbours_are_neither_read_nor_written(stride, dtype, numba_room):
    """Arrays are parts of larger ones, their rows backwards."""
    frame = np.full((2, 9, 12, 31), np.nan, dtype)
    x = frame.transpose(0, 3, 1, 2)[:, 5:24, 7:1:-1, 10:1:-1]
    x[:] = normal(x.shape, dtype, 1)
    weight = normal((19, 1, 3, 3), dtype, 2)
    y = cnnkit.conv2d(channels_last(x), weight, None, stride, 1, 1, 19)
    around = np.full((2, *(n + 2 for n in y.shape[2:]), 30), 7, dtype)
    out = around.transpose(0, 3, 1, 2)[:, 4:23, 1:-1, 1:-1]
    cnnkit.conv2d(x, weight, None, stride, 1, 1, 19, out=out)
    assert_same(out, y)
    grads = cnnkit.conv2d_backward(out, x, weight, stride, 1, 1, 19)
    expected = cnnkit.conv2d_backward(y, channels_last(x), weight, stride, 1, 1, 19)
    assert_same(grads.x, expected.x)
    assert_same(grads.weight, expected.weight)
    out[:] = 7
    assert (around == 7).all()


def test_many_windows_are_added_up_in_parts(dtype, numba_room):
    """The error grows with the windows of a stretch and the rows of an image, not with all windows."""
    check_sum(layer(8, (40, 60), (1, 1), batch=30), 60 + 40, dtype)


def test_images_are_added_up_in_float64(numba_room):
    check_sum(layer(8, (1, 1), (1, 1), batch=5000), 1, "float32")


def check_sum(case, terms, dtype):
    x, grad = (channels_last(np.random.default_rng(n).random(case.x).astype(dtype)) for n in (1, 2))
    got = cnnkit.conv2d_backward(grad, x, np.ones(case.weight, dtype), groups=8, needs=("weight",)).weight
    truth = np.einsum("nchw,nchw->c", np.float64(x), np.float64(grad)).reshape(case.weight)
    assert_close(got, truth, truth, terms, dtype)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it asks Linux for a page that may not be read")
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("behind", [True, False])
def test_nothing_beside_an_array_is_read(behind, stride, dtype):
    """The array ends (or begins) where a page may not be touched."""
    code = f"""
import ctypes, mmap, numpy as np, cnnkit
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 14 * page)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
for at in (0, 13 * page):
    ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + at), ctypes.c_size_t(page), 0)
def beside(shape):
    n, c, h, w = shape
    start = 13 * page - n * c * h * w * np.dtype("{dtype}").itemsize if {behind} else page
    array = np.frombuffer(memory, "{dtype}", n * c * h * w, offset=start).reshape(n, h, w, c).transpose(0, 3, 1, 2)
    array[...] = 1
    return array
def last(shape):
    n, c, h, w = shape
    return np.ones((n, h, w, c), "{dtype}").transpose(0, 3, 1, 2)
total = 0
with cnnkit.use_backend("numba"):
    for shape in ((1, 8, 3, 5), (2, 17, 5, 7), (1, 16, 3, 20), (1, 31, 2, 3)):
        for padding in (0, 1, 3):
            if shape[2] + 2 * padding < 3:
                continue
            weight, params = np.ones((shape[1], 1, 3, 3), "{dtype}"), ({stride}, padding, 1, shape[1])
            y = cnnkit.conv2d(beside(shape), weight, None, *params)
            total += y.sum() + cnnkit.conv2d_backward(last(y.shape), beside(shape), weight, *params).weight.sum()
            total += cnnkit.conv2d_backward(beside(y.shape), last(shape), weight, *params).x.sum()
            cnnkit.conv2d(last(shape), weight, None, *params, out=beside(y.shape))
print(total > 0)
"""
    assert run_apart(code) == "True"


def test_pytorch_agrees(dtype, numba_room):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    case = layer(144, (28, 30), (3, 3), 2, 1)
    x, weight, bias = data(case, dtype)
    y = forward(case)(x, weight, bias, *case.params)
    tensors = [torch.tensor(np.float64(a)) for a in (x, weight, bias)]
    magnitude = torch.conv2d(*(a.abs() for a in tensors), *case.params).numpy()
    assert_close(y, torch.conv2d(*tensors, *case.params).numpy(), magnitude, case.terms + 1, dtype)


@pytest.mark.parametrize("channels", [9, 32, 77])
def test_a_strided_way_back_has_its_bias_and_leaves_its_neighbours_alone(channels, numba_room):
    """By the kernel of short vectors whatever the processor's: whole vectors, four together, and parts of one."""
    pixels = importlib.import_module("cnnkit.rooms.numba.depthwise_pixels")
    rng = np.random.default_rng(channels)
    for size, stride, before in (((9, 12), 2, (1, 0)), ((8, 7), (3, 2), (0, 2)), ((4, 5), (1, 4), (2, 1))):
        shapes = (2, channels, *size), (channels, 1, 3, 3), (channels,)
        x, weight, bias = (rng.integers(-3, 4, shape).astype("float32") for shape in shapes)
        params = {"stride": stride, "padding": tuple((n, 1) for n in before), "groups": channels}
        y = cnnkit.conv2d(x, weight, **params)
        grad = np.moveaxis(rng.integers(-3, 4, (2, *y.shape[2:], channels)).astype("float32"), -1, 1)
        around = np.full((2, size[0] + 2, size[1] + 3, channels + 5), 7, "float32")
        grad_x = np.moveaxis(around[:, 1:-1, 2:-1, 3:-2], -1, 1)
        plan = geometry.lift(geometry.conv(2, x.shape, weight.shape, stride, params["padding"], 1, channels))
        pixels.strided_input_gradient(grad, weight, bias, plan, grad_x)
        with cnnkit.use_backend("numpy"):
            expected = cnnkit.conv2d_backward(grad, x, weight, **params, needs=("x",)).x
        np.testing.assert_array_equal(grad_x, expected + bias[:, None, None])
        grad_x[...] = 7
        assert (around == 7).all()
