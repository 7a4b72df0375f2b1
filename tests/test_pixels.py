"""Convolution with channels last, summed pixel by pixel whatever would be faster: forward and both ways back."""

import importlib
import math
from itertools import product

import naive
import numpy as np
import pytest
from cases import Conv, normal
from closeness import assert_close, assert_same

import cnnkit

pixels = pytest.importorskip("cnnkit.rooms.numba.pixels", reason="the CPU kernels need Numba")
room = importlib.import_module("cnnkit.rooms.numba.conv")

CASES = {  # x, weight, stride, padding, dilation, groups
    "padding": Conv((2, 5, 13, 17), (35, 5, 3, 3), 1, 1, 1, 1),
    "RGB, stride 2": Conv((1, 3, 31, 20), (64, 3, 3, 3), 2, (2, 1), 1, 1),
    "1x1 in place": Conv((3, 18, 9, 8), (71, 18, 1, 1), 1, 0, 1, 1),
    "patches": Conv((3, 3, 28, 32), (48, 3, 4, 4), 4, 0, 1, 1),
    "dilation, after alone": Conv((2, 20, 16, 15), (16, 20, 2, 3), (1, 2), ((0, 2), (0, 3)), (3, 2), 1),
    "groups": Conv((2, 36, 11, 12), (39, 12, 3, 3), 1, 1, 1, 3),
    "groups in place": Conv((2, 32, 12, 11), (48, 16, 2, 1), (2, 1), 0, 1, 2),
    "groups of 9, gradients in place": Conv((2, 60, 11, 12), (54, 10, 1, 1), 1, 0, 1, 6),
    "many small images": Conv((41, 10, 3, 2), (24, 10, 3, 3), 1, 1, 1, 1),
    "parts of a row": Conv((2, 6, 700), (16, 6, 5), 1, 2, 3, 1),
    "volume": Conv((2, 9, 5, 6, 7), (17, 9, 3, 2, 3), (2, 1, 1), (1, 0, 2), (1, 2, 1), 1),
    "planes apart": Conv((2, 8, 6, 7, 5), (14, 8, 2, 1, 2), (3, 1, 2), 0, 1, 1),
}
all_cases = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def channels_last(array):
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


@pytest.fixture(autouse=True)
def directly(monkeypatch):
    def forward_way(plan, *more):
        return pixels if pixels.forward_cycles(plan, *more) < math.inf else None

    monkeypatch.setattr(room, "forward_way", forward_way)
    monkeypatch.setattr(room, "gradient_way", lambda *_: room._along_gradients)
    with cnnkit.use_backend("numba"), cnnkit.options(algorithm="direct"):
        yield


@pytest.fixture
def used(monkeypatch):
    """How often each way was taken."""
    count = {"forward": 0, "weight_gradient": 0}
    for name in count:
        monkeypatch.setattr(pixels, name, counted(count, name, getattr(pixels, name)))
    return count


def counted(count, name, way):
    def run(*args):
        count[name] += 1
        way(*args)

    return run


def data(case, dtype):
    x, weight, bias = normal(case.x, dtype, 1), normal(case.weight, dtype, 2), normal(case.weight[:1], dtype, 3)
    return channels_last(x), weight, bias


def forward(case, *args, **more):
    return getattr(cnnkit, f"conv{case.count}d")(*args, *case.params, **more)


def backward(case, *args):
    return getattr(cnnkit, f"conv{case.count}d_backward")(*args, *case.params)


@both_dtypes
@all_cases
def test_it_is_the_definition(case, dtype, used):
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
    assert used["forward"] >= 1
    assert used["weight_gradient"] == (grad.size // len(weight) > 128)


@all_cases
def test_views_give_the_same_bits(case, used):
    """Pixels and rows apart, in any order; weights whose memory is in another order; results in a part of an array."""
    x, weight, bias = data(case, "float32")
    expected = forward(case, x, weight, bias)
    within = np.full((*x.shape[:1], *(2 * n for n in x.shape[2:]), x.shape[1] + 3), np.nan, np.float32)
    view = np.moveaxis(within, -1, 1)[:, 2:-1]
    view = view[(slice(None), slice(None), *(slice(n, None, -1) for n in (2 * n - 1 for n in x.shape[2:])))]
    view = view[(slice(None), slice(None), *(slice(None, None, 2) for _ in x.shape[2:]))]
    view[...] = x
    assert_same(forward(case, view, np.asfortranarray(weight), bias), expected)
    grad = channels_last(normal(expected.shape, "float32", 4))
    apart = np.moveaxis(np.full((*grad.shape[:1], *grad.shape[2:], grad.shape[1] + 5), np.nan, "f4"), -1, 1)[:, 5:]
    apart[...] = grad
    for found, wanted in zip(backward(case, apart, view, weight)[:2], backward(case, grad, x, weight)[:2], strict=True):
        assert_same(found, wanted)


@all_cases
def test_bands_are_brought_together_or_read_as_they_lie(case, monkeypatch):
    x, weight, _ = data(case, "float32")
    grad, results = channels_last(forward(case, x, weight, None)), []
    for given in (grad, grad[:, :, ::-1]):
        for panels in product((False, True), repeat=2):
            monkeypatch.setattr(pixels, "_panels", lambda sizes, *_, p=panels: (p[0] and pixels.one_tap(sizes), p[1]))
            results.append(backward(case, given, x, weight).weight)
    for n in (1, 2, 3):
        np.testing.assert_array_equal(results[n], results[0])
        np.testing.assert_array_equal(results[4 + n], results[4])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_bits_do_not_depend_on_threads(threads, monkeypatch):
    before = cnnkit.get_num_threads()
    monkeypatch.setattr("cnnkit.rooms.threads.GRAIN", 1)
    try:
        for case in CASES.values():
            x, weight, bias = data(case, "float32")
            cnnkit.set_num_threads(1)
            y = forward(case, x, weight, bias)
            grads = backward(case, y, x, weight)
            cnnkit.set_num_threads(threads)
            assert_same(forward(case, x, weight, bias), y)
            for found, wanted in zip(backward(case, y, x, weight), grads, strict=True):
                assert_same(found, wanted)
    finally:
        cnnkit.set_num_threads(before)


@all_cases
def test_an_activation_is_done_to_every_result_once(case):
    x, weight, bias = data(case, "float32")
    y = forward(case, x, weight, bias)
    assert_same(forward(case, x, weight, bias, activation="relu"), cnnkit.relu(y))
    assert_same(forward(case, x, weight, bias, activation="silu"), cnnkit.silu(y))


@all_cases
def test_a_nan_is_where_the_definition_has_it(case):
    x, weight, bias = data(case, "float32")
    middle = tuple(n // 2 for n in x.shape)
    x[middle] = np.nan
    assert_same(np.isnan(forward(case, x, weight, bias)), np.isnan(naive.conv(x, weight, bias, *case.solved)))


def test_a_nan_weight_reaches_the_padding_as_in_the_other_order():
    x, weight, bias = data(CASES["padding"], "float32")
    weight[3, 1, 0, 0] = np.nan
    y = forward(CASES["padding"], x, weight, bias)
    plain = forward(CASES["padding"], np.ascontiguousarray(x), weight, bias)
    assert_same(np.isnan(y), np.isnan(plain))
    assert np.isnan(y[:, 3]).all()


def test_weights_beyond_the_workspace_are_not_packed_here(used):
    x, weight, bias = data(CASES["padding"], "float32")
    with cnnkit.options(max_workspace=5000):
        y = forward(CASES["padding"], x, weight, bias)
    assert used["forward"] == 0
    magnitude = naive.conv(*map(np.abs, (x, weight, bias)), *CASES["padding"].solved)
    assert_close(y, naive.conv(x, weight, bias, *CASES["padding"].solved), magnitude, CASES["padding"].terms + 1)
