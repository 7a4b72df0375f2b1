"""Convolution with channels last, of layers that do not fill their lanes: every way that can do one, by itself."""

import importlib
import itertools
import math

import naive
import numpy as np
import pytest
from cases import Conv, normal
from closeness import assert_close, assert_same

import cnnkit
from cnnkit import geometry

pytest.importorskip("numba", reason="the CPU kernels need Numba")

room = importlib.import_module("cnnkit.rooms.numba.conv")

CASES = {
    "to 1": Conv((2, 20, 9, 17), (1, 20, 1, 1)),
    "3x3 to 3": Conv((2, 17, 9, 11), (3, 17, 3, 3), 1, 1),
    "5x5 to 1, dilation": Conv((1, 7, 12, 13), (1, 7, 5, 5), 1, (5, 3), (2, 1)),
    "3x3 to 2, stride 2": Conv((2, 5, 17, 20), (2, 5, 3, 3), 2, 1),
    "16 to 3, stride 2": Conv((2, 16, 12, 14), (3, 16, 3, 3), 2, 1),
    "7 to 20": Conv((2, 7, 9, 10), (20, 7, 3, 3), 1, 1),
    "to 5, stride over kernel": Conv((2, 3, 31, 32), (5, 3, 2, 1), (3, 2)),
    "7 to 7": Conv((2, 7, 9, 10), (7, 7, 3, 3), 1, 1),
    "1 to 17": Conv((1, 1, 13, 12), (17, 1, 3, 3), 1, ((2, 0), (0, 1))),
    "rows in parts": Conv((1, 3, 1500), (3, 3, 5), 1, 2, 3),
    "multiplier 2": Conv((2, 9, 7, 20), (18, 1, 3, 3), 1, 1, 1, 9),
    "multiplier 3, stride 2": Conv((2, 5, 19, 18), (15, 1, 3, 2), 2, ((1, 0), (2, 0)), 1, 5),
    "groups of 4": Conv((2, 20, 7, 12), (20, 4, 3, 3), 1, 1, 1, 5),
    "groups of 8": Conv((2, 24, 7, 12), (24, 8, 3, 3), 1, 1, 1, 3),
    "8 to 8": Conv((2, 8, 9, 13), (8, 8, 3, 3), 1, 1),
    "groups of 4, stride 2": Conv((1, 36, 9, 13), (36, 4, 3, 3), 2, 1, 1, 9),
    "groups of 2, stride 2": Conv((2, 74, 9, 21), (74, 2, 3, 4), 2, 1, 1, 37),
    "groups of 4, padding over kernel": Conv((1, 12, 6, 7), (12, 4, 2, 2), 1, 3, 1, 3),
    "groups of 3 to 2, dilation": Conv((2, 15, 13, 9), (10, 3, 3, 3), 1, 2, 2, 5),
    "groups of 1 to 4, 1d": Conv((2, 3, 140), (12, 1, 4), (3,), ((5, 1),), 2, 3),
    "volume": Conv((1, 6, 4, 5, 8), (4, 3, 2, 3, 2), (1, 2, 1), (1, 0, 1), 1, 2),
    "wide depthwise": Conv((1, 9, 7, 11), (9, 1, 5, 7), 1, (2, 3), 1, 9),
    "wide depthwise, stride 2": Conv((1, 8, 9, 13), (8, 1, 3, 7), 2, (1, 3), 1, 8),
}
WAYS = {
    "pixels": "_along_gradients", "few": "_along_x", "grouped": "_by_copies", "depthwise": "_by_groups",
    "depthwise_pixels": "_turned",
    "turning": "_turned",
}  # fmt: skip
SOME = ("to 1", "5x5 to 1, dilation", "3x3 to 2, stride 2", "multiplier 3, stride 2", "groups of 4", "wide depthwise")


def over(names):
    return pytest.mark.parametrize("case", [pytest.param(CASES[name], id=name) for name in names])


def channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def bands_of_3_rows(plan, dtype, solve=room.grouped._sizes):
    """Instead of as many rows as stay near."""
    sizes = solve(plan, dtype)
    rows = min(3, plan.output_size[1])
    fewer = (sizes.band - rows) * plan.stride[1]
    return sizes._replace(band=rows, high=sizes.high - fewer, bands=-(-plan.output_size[1] // rows))


def forced(monkeypatch, name):
    """Let this way do all that it can do; how often it did something."""
    used = []
    way = None if name == "turning" else importlib.import_module(f"cnnkit.rooms.numba.{name}")
    depthwise = importlib.import_module("cnnkit.rooms.numba.depthwise")

    def possible(plan, dtype):
        return name not in ("grouped", "depthwise", "depthwise_pixels") or way.cycles(plan, dtype) < math.inf

    def forward(plan, dtype, _):
        used.append("forward")
        return way if possible(plan, dtype) else None

    def gradient(plan, dtype):
        used.append("gradient")
        return getattr(room, WAYS[name] if possible(geometry.lift(plan), dtype) else "_turned")

    monkeypatch.setattr(room, "FEWEST", 0)
    monkeypatch.setattr(room, "forward_way", forward)
    monkeypatch.setattr(room, "gradient_way", gradient)
    monkeypatch.setattr(room, "_copies_pay", lambda *_: True)
    if name == "grouped":
        monkeypatch.setattr(room.grouped, "_sizes", bands_of_3_rows)
    else:
        for taken in ("takes", "takes_turned"):
            monkeypatch.setattr(depthwise, taken, lambda *_: False)
    return used


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    with cnnkit.use_backend("numba"), cnnkit.options(algorithm="direct"):
        yield forced(monkeypatch, request.param)


def forward(case, *args, **more):
    return getattr(cnnkit, f"conv{case.count}d")(*args, *case.params, **more)


def backward(case, *args):
    return getattr(cnnkit, f"conv{case.count}d_backward")(*args, *case.params)


def data(case, dtype):
    x, weight, bias = normal(case.x, dtype, 1), normal(case.weight, dtype, 2), normal(case.weight[:1], dtype, 3)
    return channels_last(x), weight, bias


@over(SOME[1:5])
def test_every_way_is_the_definition_in_float64(case, way):
    check(case, "float64")


@over(CASES)
def test_every_way_is_the_definition(case, way):
    check(case, "float32")


def check(case, dtype):
    x, weight, bias = data(case, dtype)
    y = forward(case, x, weight, bias)
    magnitude = naive.conv(*map(np.abs, (x, weight, bias)), *case.solved)
    assert_close(y, naive.conv(x, weight, bias, *case.solved), magnitude, case.terms + 1, dtype)
    grad = channels_last(normal(y.shape, dtype, 4))
    grads = backward(case, grad, x, weight)
    expected = naive.conv_backward(grad, x, weight, *case.solved)
    magnitudes = naive.conv_backward(*map(np.abs, (grad, x, weight)), *case.solved)
    assert_close(grads.x, expected[0], magnitudes[0], case.gradient_terms, dtype)
    assert_close(grads.weight, expected[1], magnitudes[1], grad.size // len(weight), dtype)


@over(SOME)
def test_views_give_the_same_bits(case, way):
    """A part of the channels of every second pixel, rows backwards; weights in another order."""
    x, weight, bias = data(case, "float32")
    expected = forward(case, x, weight, bias)
    within = np.full((*x.shape[:1], *(2 * n for n in x.shape[2:]), x.shape[1] + 3), np.nan, np.float32)
    view = np.moveaxis(within, -1, 1)[:, 2:-1]
    view = view[(slice(None), slice(None), *(slice(None, None, -2) for _ in x.shape[2:]))]
    view[...] = x
    assert_same(forward(case, view, np.asfortranarray(weight), bias), expected)
    grad = channels_last(normal(expected.shape, "float32", 4))
    apart = np.moveaxis(np.full((*grad.shape[:1], *grad.shape[2:], grad.shape[1] + 5), np.nan, "f4"), -1, 1)[:, 5:]
    apart[...] = grad
    for found, wanted in zip(backward(case, apart, view, weight)[:2], backward(case, grad, x, weight)[:2], strict=True):
        assert_same(found, wanted)


@over(SOME)
def test_an_activation_is_done_to_every_result_once(case, way):
    x, weight, bias = data(case, "float32")
    y = forward(case, x, weight, bias)
    assert_same(forward(case, x, weight, bias, activation="relu"), cnnkit.relu(y))
    assert_same(forward(case, x, weight, bias, activation="silu"), cnnkit.silu(y))


def test_bits_do_not_depend_on_threads(way, threads, monkeypatch):
    monkeypatch.setattr("cnnkit.rooms.threads.GRAIN", 1)
    for case, count in zip(CASES.values(), itertools.cycle((2, 3)), strict=False):
        x, weight, bias = data(case, "float32")
        threads(1)
        y = forward(case, x, weight, bias)
        grads = backward(case, y, x, weight)
        threads(count)
        assert_same(forward(case, x, weight, bias), y)
        for found, wanted in zip(backward(case, y, x, weight), grads, strict=True):
            assert_same(found, wanted)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_where_it_belongs(value, way):
    """In the gradient of weights, too, of which some never meet a corner of x."""
    for name in ("3x3 to 3", "3x3 to 2, stride 2", "groups of 4"):
        case = CASES[name]
        x, weight, bias = data(case, "float32")
        x[0, 0, 0, 0] = value
        expected = naive.conv(x, weight, bias, *case.solved)
        assert_same(np.isnan(forward(case, x, weight, bias)), np.isnan(expected))
        grad = channels_last(normal(expected.shape, "float32", 4))
        with np.errstate(invalid="ignore"):
            expected = naive.conv_backward(grad, x, weight, *case.solved)[1]
        assert_same(np.isfinite(backward(case, grad, x, weight).weight), np.isfinite(expected))


@pytest.mark.parametrize("channels", [1, 2, 3, 17, 63])
def test_the_gradient_of_a_bias(channels, dtype):
    grad = channels_last(normal((3, channels, 5, 12), dtype, 1))
    with cnnkit.use_backend("numba"):
        sums = cnnkit.conv2d_backward(grad, np.ones((3, 1, 5, 12), dtype), np.ones((channels, 1, 1, 1), dtype)).bias
    assert_close(sums, grad.sum((0, 2, 3), dtype="f8"), np.abs(grad).sum((0, 2, 3)), 180, dtype)


@pytest.mark.parametrize("order", [channels_last, np.ascontiguousarray])
def test_few_pixels_are_examples_of_a_dense_layer(order, monkeypatch):
    case, used, dense = Conv((2, 300, 3, 5), (91, 300, 1, 1)), [], room.dense
    monkeypatch.setattr(room, "dense", lambda *args: used.append(args) or dense(*args))
    monkeypatch.setattr(room, "_products_pay", lambda *args: True)  # whether they do depends on the processor
    x, weight, bias = data(case, "float32")
    with cnnkit.use_backend("numba"):
        y = forward(case, order(x), weight, bias, activation="relu")
        views = forward(case, order(x)[:, :, ::-1], weight, bias)
    assert len(used) == 1  # of views, rows are no examples
    expected = naive.conv(x, weight, bias, *case.solved)
    magnitude = naive.conv(*map(np.abs, (x, weight, bias)), *case.solved)
    assert y.strides == order(y).strides
    assert_close(y, np.maximum(expected, 0), magnitude, case.terms + 1)
    assert_close(views, expected[:, :, ::-1], magnitude[:, :, ::-1], case.terms + 1)


def test_taps_in_the_padding_are_left_out(monkeypatch):
    """Where many are, forward and on the way back to the input."""
    case = Conv((2, 17, 25, 22), (33, 17, 3, 3), 1, (9, 8), (9, 8), 1)
    monkeypatch.setattr(room, "CALL", 0)
    room._sections.cache_clear()
    try:
        with cnnkit.use_backend("numba"):
            for order in (channels_last, np.ascontiguousarray):
                x, weight, bias = data(case, "float32")
                x, grad = order(x), order(normal((2, 33, 25, 22), "float32", 4))
                assert len(room._sections(geometry.lift(geometry.conv(2, case.x, case.weight, *case.params)))) == 9
                y, back = forward(case, x, weight, bias), backward(case, grad, x, weight).x
                magnitude = naive.conv(*map(np.abs, (x, weight, bias)), *case.solved)
                assert_close(y, naive.conv(x, weight, bias, *case.solved), magnitude, case.terms + 1)
                expected, magnitude = (
                    naive.conv_backward(*three, *case.solved)[0]
                    for three in ((grad, x, weight), map(np.abs, (grad, x, weight)))
                )
                assert_close(back, expected, magnitude, case.gradient_terms)
    finally:
        room._sections.cache_clear()


def test_layers_take_the_way_that_fills_their_lanes():
    f4, plan = np.dtype("float32"), geometry.conv
    taken = {
        "few": plan(2, (2, 64, 128, 128), (1, 64, 1, 1), 1, 0, 1, 1),
        "grouped": plan(2, (4, 32, 56, 56), (64, 1, 3, 3), 1, 1, 1, 32),
        "depthwise_pixels": plan(2, (4, 128, 56, 56), (128, 4, 3, 3), 1, 1, 1, 32),
        "depthwise": plan(2, (4, 128, 56, 56), (128, 4, 3, 3), 1, 2, 2, 32),
        "pixels": plan(2, (8, 8, 64, 64), (8, 8, 3, 3), 1, 1, 1, 1),
    }
    for name, one in taken.items():
        assert room.forward_way(geometry.lift(one), f4, 1 << 26).__name__.endswith(name)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_no_image_has_gradients_of_zero(stride, groups):
    x = np.moveaxis(np.empty((0, 9, 8, 8), np.float32), -1, 1)
    weight = np.ones((16, 8 // groups, 3, 3), np.float32)
    grad = np.moveaxis(np.empty((0, *(-(-size // stride) for size in (9, 8)), 16), np.float32), -1, 1)
    grads = cnnkit.conv2d_backward(grad, x, weight, stride, 1, 1, groups)
    assert grads.x.shape == x.shape
    assert not grads.weight.any()
    assert not grads.bias.any()
