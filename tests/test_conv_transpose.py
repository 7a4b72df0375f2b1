"""Transposed convolution against its definition, its adjoint, answers typed by hand and PyTorch."""

import re
from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from cases import normal, over
from closeness import assert_close, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from test_arrays import backwards, channels_last, every_other, is_channels_last

import cnnkit
from cnnkit import geometry, nn


class ConvTranspose(NamedTuple):
    """One transposed convolution; the number of spatial axes is the kernel's."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: Any = 1
    padding: Any = 0
    output_padding: Any = 0
    groups: int = 1
    dilation: Any = 1

    @property
    def count(self):
        """The number of spatial axes."""
        return len(self.weight) - 2

    @property
    def params(self):
        """The arguments after the bias."""
        return self.stride, self.padding, self.output_padding, self.groups, self.dilation

    @property
    def channels(self):
        """Channels of the result."""
        return self.weight[1] * self.groups

    @property
    def solved(self):
        """``(stride, pads, output_padding, groups, dilation)`` for `naive`.

        By the definition of "same" as the way back of the convolution of an array ``size * stride`` long.
        """
        size, kernel, count = self.x[-self.count :], self.weight[2:], self.count
        stride = naive.each_axis(self.stride, count)
        longest = tuple(n * s for n, s in zip(size, stride, strict=True))
        pads = naive.pairs(self.padding, kernel, stride, self.dilation, longest)
        more = self.output_padding
        if self.padding in ("same", "same_lower"):
            covered = naive.transposed_size(size, kernel, stride, pads, 0, self.dilation)
            more = tuple(n - c for n, c in zip(longest, covered, strict=True))
        return stride, pads, more, self.groups, self.dilation

    @property
    def terms(self):
        """Products in one output, at most."""
        return int(np.prod(self.weight[2:])) * self.weight[0] // self.groups

    @property
    def gradient_terms(self):
        """Products in the gradient of one input."""
        return int(np.prod(self.weight[1:]))


CASES = {
    # one dimension
    "1d": ConvTranspose((2, 3, 7), (3, 4, 3)),
    "1d stride 2": ConvTranspose((2, 3, 7), (3, 4, 4), 2, 1),
    "1d stride over kernel": ConvTranspose((1, 2, 4), (2, 3, 2), 5, 0, 4),
    "1d one pixel": ConvTranspose((2, 3, 1), (3, 4, 1)),
    "1d one pixel, spread": ConvTranspose((1, 3, 1), (3, 4, 5), 3, 1, 2),
    "1d long kernel": ConvTranspose((1, 2, 20), (2, 3, 33), 1, 16),
    "1d unbatched": ConvTranspose((3, 6), (3, 2, 3), 2),
    "1d all but one cut off": ConvTranspose((1, 2, 3), (2, 2, 3), 1, 2),
    # the layers of decoders
    "unet": ConvTranspose((1, 18, 7, 6), (18, 9, 2, 2), 2),
    "dcgan": ConvTranspose((2, 5, 4, 4), (5, 17, 4, 4), 2, 1),
    "3x3, twice as large": ConvTranspose((2, 3, 5, 6), (3, 4, 3, 3), 2, 1, 1),
    "5x5, twice as large": ConvTranspose((1, 3, 5, 6), (3, 4, 5, 5), 2, 2, 1),
    "7x7 of one pixel": ConvTranspose((3, 9, 1, 1), (9, 4, 7, 7)),
    # two dimensions
    "3x3": ConvTranspose((2, 3, 5, 7), (3, 4, 3, 3), 1, 1),
    "3x3, 33 to 17 channels": ConvTranspose((1, 33, 6, 5), (33, 17, 3, 3), 1, 1),
    "1x1": ConvTranspose((2, 5, 4, 3), (5, 7, 1, 1)),
    "1x1 stride 2": ConvTranspose((2, 5, 4, 3), (5, 7, 1, 1), 2, 0, 1),
    "unequal": ConvTranspose((1, 2, 4, 5), (2, 3, 2, 5), (1, 3), (0, 2), (0, 1), 1, (2, 1)),
    "stride over kernel": ConvTranspose((1, 2, 4, 3), (2, 3, 2, 3), (4, 5), 1, (3, 0)),
    "dilation 2": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 3), 1, 2, 0, 1, 2),
    "dilation 2, one longer at stride 1": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 2), 1, 1, 1, 1, 2),
    "one tap, rows one longer": ConvTranspose((1, 2, 4, 19), (2, 3, 3, 1), 1, 0, (0, 1), 1, (1, 2)),
    "dilation 3, stride 2, two longer": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 2), 2, 1, 2, 1, 3),
    "dilation 4, stride 2": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 3), 2, 3, 3, 1, 4),
    "asymmetric": ConvTranspose((2, 3, 4, 5), (3, 2, 3, 3), 2, ((0, 2), (3, 1)), 1),
    "padding over kernel": ConvTranspose((1, 2, 9, 8), (2, 3, 3, 3), 1, 4),
    "valid": ConvTranspose((1, 2, 4, 3), (2, 3, 3, 2), 2, "valid", 1),
    "same": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 4), 2, "same"),
    "same_lower": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 4), 2, "same_lower"),
    "same, stride 1": ConvTranspose((1, 2, 4, 5), (2, 3, 4, 3), 1, "same"),
    "same, stride over kernel": ConvTranspose((1, 2, 4, 5), (2, 3, 2, 1), 3, "same"),
    "same, dilation": ConvTranspose((1, 2, 4, 5), (2, 3, 3, 2), (2, 3), "same_lower", 0, 1, (2, 4)),
    "2 groups": ConvTranspose((2, 6, 4, 5), (6, 4, 3, 3), 2, 1, 1, 2),
    "3 groups, 1 channel to 2": ConvTranspose((2, 3, 4, 5), (3, 2, 2, 3), 2, 0, 0, 3),
    "depthwise": ConvTranspose((2, 9, 5, 4), (9, 1, 3, 3), 2, 1, 1, 9),
    "depthwise, stride 1": ConvTranspose((2, 17, 5, 4), (17, 1, 3, 3), 1, 1, 0, 17),
    "no image": ConvTranspose((0, 3, 4, 5), (3, 2, 3, 3), 2),
    "unbatched": ConvTranspose((3, 4, 5), (3, 2, 3, 3), 2, 1, 1),
    # three dimensions
    "3d": ConvTranspose((2, 2, 3, 4, 2), (2, 3, 3, 2, 3), 1, (1, 0, 1)),
    "3d stride 2": ConvTranspose((1, 2, 2, 3, 4), (2, 3, 2, 2, 2), 2),
    "3d mixed": ConvTranspose((1, 4, 2, 3, 2), (4, 3, 2, 3, 1), (1, 2, 3), ((1, 0), (0, 1), (0, 0)), (0, 1, 2), 2),
    "3d same": ConvTranspose((1, 2, 2, 3, 2), (2, 3, 3, 2, 4), 2, "same"),
    "3d unbatched": ConvTranspose((2, 2, 3, 2), (2, 3, 3, 3, 3), 2, 1, 1),
}


@pytest.fixture
def torch():
    """PyTorch on one thread: there is little to share, and its threads wait for each other without a pause."""
    module = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    before = module.get_num_threads()
    module.set_num_threads(1)
    yield module
    module.set_num_threads(before)


def forward(case):
    return getattr(cnnkit, f"conv_transpose{case.count}d")


def backward(case):
    return getattr(cnnkit, f"conv_transpose{case.count}d_backward")


def data(case, dtype):
    """``(x, weight, bias)`` of a case."""
    return normal(case.x, dtype, 1), normal(case.weight, dtype, 2), normal((case.channels,), dtype, 3)


def truth(case, x, weight, bias):
    """The result in float64, batched or not as x is."""
    batch = x.reshape(-1, *x.shape[-case.count - 1 :])
    y = naive.conv_transpose(batch, weight, bias, *case.solved)
    return y.reshape(*x.shape[: -case.count - 1], *y.shape[1:])


def true_gradients(case, grad, x, weight):
    """The gradients in float64, the first batched or not as x is."""
    one, other = (a.reshape(-1, *a.shape[-case.count - 1 :]) for a in (grad, x))
    gx, gw, gb = naive.conv_transpose_backward(one, other, weight, *case.solved)
    return gx.reshape(x.shape), gw, gb


def all_terms(case, grad):
    """How many products make an element of the result and of the gradients: of x, the weight and the bias."""
    places = int(np.prod(case.x)) // case.weight[0]
    return [case.terms + 1, case.gradient_terms, places, grad.size // case.channels]


def check_forward(case, x, weight, bias):
    y = forward(case)(x, weight, bias, *case.params)
    magnitude = truth(case, *map(np.abs, (x, weight, bias)))
    assert_close(y, truth(case, x, weight, bias), magnitude, case.terms + 1, x.dtype)


def check_backward(case, grad, x, weight):
    grads = backward(case)(grad, x, weight, *case.params)
    expected, magnitudes = (true_gradients(case, *each) for each in [(grad, x, weight), map(np.abs, (grad, x, weight))])
    for got, want, magnitude, count in zip(grads, expected, magnitudes, all_terms(case, grad)[1:], strict=True):
        assert_close(got, want, magnitude, count, x.dtype)


@over(CASES)
def test_forward_is_the_definition(case, dtype, backend):
    check_forward(case, *data(case, dtype))


@over(CASES)
def test_backward_is_the_definition(case, dtype, backend):
    x, weight, bias = data(case, dtype)
    check_backward(case, normal(truth(case, x, weight, bias).shape, dtype, 4), x, weight)


def windows_are_its_inputs(case):
    """Whether the convolution with the same arguments has as many windows: what is longer by a stride has more."""
    more, stride = (naive.each_axis(value, case.count) for value in (case.output_padding, case.stride))
    return all(m < s for m, s in zip(more, stride, strict=True))


@over({name: case for name, case in CASES.items() if windows_are_its_inputs(case)})
def test_it_is_the_adjoint_of_the_convolution_with_its_arguments(case, backend):
    """``<conv(y), x> = <y, conv_transpose(x)>``, and the same for the gradients of both factors."""
    x, weight, _ = data(case, "float64")
    y = forward(case)(x, weight, None, *case.params)
    grad = normal(y.shape, "float64", 4)
    stride, padding, _, groups, dilation = case.params
    conv = getattr(cnnkit, f"conv{case.count}d")(grad, weight, None, stride, padding, dilation, groups)
    assert conv.shape == x.shape
    grads = backward(case)(grad, x, weight, *case.params)
    scale = np.linalg.norm(y) * np.linalg.norm(grad)
    for product in (np.vdot(conv, x), np.vdot(grads.x, x), np.vdot(grads.weight, weight)):
        assert abs(product - np.vdot(grad, y)) <= 1e-10 * scale


@st.composite
def padded(draw):
    """A layer with pairs of padding, which PyTorch does not know, or with one of the names."""
    axes = []
    for _ in range(draw(st.integers(1, 2))):
        kernel, stride, dilation, size = (draw(st.integers(1, 4)) for _ in range(4))
        room = (size - 1) * stride + dilation * (kernel - 1)
        before = draw(st.integers(0, room))
        axes.append((size, kernel, stride, (before, draw(st.integers(0, room - before))), dilation))
    size, kernel, stride, pads, dilation = zip(*axes, strict=True)
    padding, groups = draw(st.sampled_from([pads, pads, "same", "same_lower"])), draw(st.integers(1, 2))
    return ConvTranspose((2, 2 * groups, *size), (2 * groups, 3, *kernel), stride, padding, 0, groups, dilation)


@given(case=padded())
def test_any_padding_is_the_definition(case, backend):
    x, weight, bias = data(case, "float64")
    check_forward(case, x, weight, bias)
    check_backward(case, normal(truth(case, x, weight, bias).shape, "float64", 4), x, weight)


# --- answers typed by hand -----------------------------------------------------------------------


def along(x, weight, *window):
    """The result of one channel along one axis, as a list."""
    y = cnnkit.conv_transpose1d(np.array([x], float), np.array([[weight]], float), None, *window)
    return y[0].tolist()


def test_kernels_are_put_down_and_added_up(backend):
    x, weight = [1, 2, 3], [1, 10, 100]
    assert along(x, weight) == [1, 12, 123, 230, 300]
    assert along(x, weight, 2) == [1, 10, 102, 20, 203, 30, 300]
    assert along(x, weight, 3) == [1, 10, 100, 2, 20, 200, 3, 30, 300]
    assert along(x, weight, 4) == [1, 10, 100, 0, 2, 20, 200, 0, 3, 30, 300]
    assert along(x, weight, 1, 0, 0, 1, 2) == [1, 2, 13, 20, 130, 200, 300]
    assert along(x, weight, 2, 1) == [10, 102, 20, 203, 30]
    assert along(x, weight, 2, ((2, 1),)) == [102, 20, 203, 30]


def test_an_output_padding_uncovers_what_padding_cut_off_and_then_adds_bare_bias(backend):
    x, weight = [1, 2], [1, 10, 100]
    assert along(x, weight, 2, 1) == [10, 102, 20]
    assert along(x, weight, 2, 1, 1) == [10, 102, 20, 200]
    assert along(x, weight, 4, 0, 3) == [1, 10, 100, 0, 2, 20, 200, 0, 0, 0]
    bias = np.array([0.5])
    y = cnnkit.conv_transpose1d(np.ones((1, 1)), np.ones((1, 1, 1)), bias, 3, 0, 2)
    assert y.tolist() == [[1.5, 0.5, 0.5]]


def test_same_is_stride_times_as_long(backend):
    x = [1, 2]
    assert along(x, [1, 10], 2, "same") == [1, 10, 2, 20]
    assert along(x, [1, 10, 100], 2, "same") == [1, 10, 102, 20]  # Keras: one cut off, after
    assert along(x, [1, 10, 100], 2, "same_lower") == [10, 102, 20, 200]
    assert along(x, [1, 10, 100, 1000], 2, "same") == [10, 102, 1020, 200]
    assert along(x, [1, 10, 100], 1, "same") == [12, 120]  # of 1 12 120 200
    assert along(x, [1], 3, "same") == [1, 0, 0, 2, 0, 0]


def test_groups_see_their_own_channels(backend):
    x, weight = np.array([[1.0], [2], [3], [4]]), np.array([[[1.0], [10]], [[100], [1000]]] * 2)
    y = cnnkit.conv_transpose1d(x, weight.reshape(4, 2, 1), groups=2)
    np.testing.assert_array_equal(y, [[201], [2010], [403], [4030]])


@pytest.mark.parametrize(
    ("x", "weight", "window", "shape"),
    [
        ((4, 128, 28, 28), (128, 64, 2, 2), (2,), (4, 64, 56, 56)),
        ((16, 256, 8, 8), (256, 128, 4, 4), (2, 1), (16, 128, 16, 16)),
        ((1, 64, 14, 14), (64, 32, 3, 3), (2, 1, 1), (1, 32, 28, 28)),
        ((2, 6, 10, 7), (6, 2, 3, 2), ((3, 2), (1, 0), (2, 1), 2, (2, 1)), (2, 4, 32, 15)),
        ((2, 4, 10, 7), (4, 4, 4, 4), (3, "same"), (2, 4, 30, 21)),
        ((2, 4, 10, 7), (4, 4, 4, 4), (1, ((3, 0), (0, 1))), (2, 4, 10, 9)),
        ((0, 4, 1), (4, 5, 10), (), (0, 5, 10)),
        ((3, 2, 3, 4), (3, 5, 3, 3, 3), (2, 1, 1), (5, 4, 6, 8)),
    ],
)
def test_shapes(x, weight, window, shape):
    given = dict(zip(["stride", "padding", "output_padding", "groups", "dilation"], window, strict=False))
    window = {"stride": 1, "padding": 0, "output_padding": 0, "groups": 1, "dilation": 1} | given
    plan = geometry.conv_transpose(len(weight) - 2, x, weight, **window)
    assert plan.output_size == x[-len(weight) + 2 :]
    assert (plan.in_channels, *plan.input_size) == shape[-len(weight) + 1 :]
    assert plan is geometry.conv_transpose(len(weight) - 2, x, weight, **window)


# --- the other arguments -------------------------------------------------------------------------

SMALL = ConvTranspose((2, 4, 5, 4), (4, 3, 3, 3), 2, 1, 1, 2)


def test_without_a_bias_it_is_the_one_with_zeros(dtype, backend):
    for case in (SMALL, CASES["stride over kernel"], CASES["1x1 stride 2"]):
        x, weight, bias = data(case, dtype)
        y = forward(case)(x, weight, None, *case.params)
        np.testing.assert_array_equal(y, forward(case)(x, weight, np.zeros_like(bias), *case.params))


def test_arguments_have_their_names(backend):
    x, weight, bias = data(SMALL, "float32")
    named = {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2, "dilation": 1}
    y = cnnkit.conv_transpose2d(x=x, weight=weight, bias=bias, **named)
    assert_same(y, cnnkit.conv_transpose2d(x, weight, bias, 2, 1, 1, 2, 1))
    grads = cnnkit.conv_transpose2d_backward(grad_output=y, x=x, weight=weight, **named)
    for one, other in zip(grads, cnnkit.conv_transpose2d_backward(y, x, weight, 2, 1, 1, 2, 1), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parameters_may_be_numpy_integers_and_lists(count, backend):
    case = ConvTranspose((1, 2, *[4] * count), (2, 3, *[3] * count), 2, 1, 1, 1, 2)
    x, weight, bias = data(case, "float32")
    expected = forward(case)(x, weight, bias, *case.params)
    assert_same(forward(case)(x, weight, bias, *np.array(case.params)), expected)
    assert_same(forward(case)(x, weight, bias, [2] * count, [[1, 1]] * count, [1] * count, 1, [2] * count), expected)


@pytest.mark.parametrize("needs", [("x",), ("weight",), ("bias",), ("x", "bias"), ["bias", "weight"], ()])
def test_what_is_not_needed_is_none(needs, backend):
    x, weight, bias = data(SMALL, "float32")
    grad = forward(SMALL)(x, weight, bias, *SMALL.params)
    every = backward(SMALL)(grad, x, weight, *SMALL.params)
    some = backward(SMALL)(grad, x, weight, *SMALL.params, needs=needs)
    for name in ("x", "weight", "bias"):
        if name in needs:
            assert_same(getattr(some, name), getattr(every, name))
        else:
            assert getattr(some, name) is None


def test_no_image_gives_zero_gradients(dtype, backend):
    x, weight, grad = np.ones((0, 3, 4, 4), dtype), np.ones((3, 2, 3, 3), dtype), np.ones((0, 2, 6, 6), dtype)
    grads = cnnkit.conv_transpose2d_backward(grad, x, weight)
    assert_same(grads.x, np.zeros((0, 3, 4, 4), dtype))
    assert_same(grads.weight, np.zeros((3, 2, 3, 3), dtype))
    assert_same(grads.bias, np.zeros(2, dtype))


@over(
    {name: CASES[name] for name in ("unet", "dcgan", "dilation 4, stride 2", "same, stride over kernel", "depthwise")}
)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")  # NumPy says so of infinities
def test_what_is_not_finite_reaches_only_what_it_is_part_of(bad, case, backend):
    x, weight, bias = data(case, "float32")
    grad = normal(truth(case, x, weight, bias).shape, "float32", 4)
    spoiled = x.copy()
    spoiled[tuple(n // 2 for n in x.shape)] = bad
    y, expected = forward(case)(spoiled, weight, bias, *case.params), truth(case, spoiled, weight, bias)
    np.testing.assert_array_equal(np.isfinite(y), np.isfinite(expected))
    spoiled = grad.copy()
    spoiled[tuple(n // 2 for n in grad.shape)] = bad
    grads = backward(case)(spoiled, x, weight, *case.params)
    for got, want in zip(grads, true_gradients(case, spoiled, x, weight), strict=True):
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))


# --- memory, and threads -------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_channels_last_input_gives_channels_last_results(count, backend):
    case = ConvTranspose((2, 3, *[4] * count), (3, 5, *[3] * count), 2, 1, 1)
    x, weight, bias = data(case, "float32")
    y = forward(case)(channels_last(x), weight, bias, *case.params)
    grad = channels_last(normal(y.shape, "float32", 4))
    gx = backward(case)(grad, channels_last(x), weight, *case.params).x
    assert is_channels_last(y)
    assert is_channels_last(gx)
    assert forward(case)(x, weight, bias, *case.params).flags.c_contiguous
    assert backward(case)(grad, x, weight, *case.params).x.flags.c_contiguous


LARGE = {  # enough for several threads
    "4x4, stride 2": ConvTranspose((2, 40, 17, 16), (40, 36, 4, 4), 2, 1),
    "3x3": ConvTranspose((2, 64, 28, 28), (64, 64, 3, 3), 1, 1),
    "depthwise": ConvTranspose((2, 70, 31, 30), (70, 1, 3, 3), 2, 1, 1, 70),
}


@pytest.mark.parametrize("memory", [np.copy, channels_last])
@over(LARGE)
def test_bits_do_not_depend_on_the_threads(case, memory, threads):
    x, weight, bias = data(case, "float32")
    x = memory(x)

    def results():
        y = forward(case)(x, weight, bias, *case.params)
        return [y, *backward(case)(y, x, weight, *case.params)]

    threads(1)
    alone = results()
    for count in (2, 3, 7):
        threads(count)
        for some, one in zip(results(), alone, strict=True):
            assert_same(some, one)


@over({name: CASES[name] for name in ("unet", "dcgan", "3 groups, 1 channel to 2")})
def test_weights_that_the_workspace_does_not_hold_are_packed_in_parts(case, dtype):
    x, weight, bias = data(case, dtype)
    with cnnkit.options(algorithm="direct"):
        y = forward(case)(x, weight, bias, *case.params)
        with cnnkit.options(max_workspace=0):
            assert_same(forward(case)(x, weight, bias, *case.params), y)


# --- layers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("window", "terms"),  # products that make an output which any tap reaches
    [
        ({"kernel_size": 2, "stride": 2}, 32),
        ({"kernel_size": 4, "stride": 2}, 32 * 4),
        ({"kernel_size": 3, "stride": 2}, 32 * 9 / 4),
        ({"kernel_size": 3}, 32 * 9),
        ({"kernel_size": (3, 2), "stride": 4}, 32),
        ({"kernel_size": 3, "stride": 2, "dilation": 2}, 32 * 9),
        ({"kernel_size": 6, "stride": 4, "dilation": 6, "groups": 2}, 16 * 9),
    ],
)
def test_first_weights_have_the_variance_for_what_makes_an_output(window, terms):
    """He initialisation: variance 2 / fan_in, within five standard errors; the fan-in is counted out."""
    layer = nn.ConvTranspose2d(32, 64, bias=False, rng=0, **window)
    counted = layer.weight.shape[0] // layer.groups
    kernel, stride, dilation = (naive.each_axis(v, 2) for v in (layer.kernel_size, layer.stride, layer.dilation))
    for k, s, d in zip(kernel, stride, dilation, strict=True):
        met = naive.conv_transpose(np.ones((1, 1, 150)), np.ones((1, 1, k)), None, s, ((0, 0),), 0, 1, d)[0, 0, 60:108]
        counted *= met[met > 0].mean()
    assert counted == terms
    count, variance = layer.weight.size, 2 / terms
    assert abs(layer.weight.mean()) < 5 * (variance / count) ** 0.5
    assert abs(layer.weight.var() - variance) < 5 * variance * (2 / count) ** 0.5


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"groups": 3}, ValueError, "in_channels is 4, which groups=3 does not divide"),
        ({"groups": 4}, ValueError, "out_channels is 6, which groups=4 does not divide"),
        ({"output_padding": -1}, ValueError, "output_padding is -1, but must be at least 0"),
        ({"padding": "full"}, ValueError, "padding is 'full', but the known names are 'valid', 'same', 'same_lower'"),
        ({"bias": 1}, TypeError, "bias is 1, but True or False is needed"),
    ],
)
def test_a_layer_is_refused_when_it_is_made(arguments, error, sentence):
    with pytest.raises(error, match=f"^{re.escape(sentence)}$"):
        nn.ConvTranspose2d(4, 6, 3, **arguments)


def test_a_decoder_of_pytorch_with_the_same_weights(torch):
    arguments = {"first": (6, 4, 4, 2, 1, 0, 2), "second": (4, 3, (3, 2), 2, (1, 0), (1, 0), 1, False)}
    model = nn.Sequential(*(nn.ConvTranspose2d(*each, dtype="float64", rng=1) for each in arguments.values()))
    peer = torch.nn.Sequential(*(torch.nn.ConvTranspose2d(*each) for each in arguments.values())).double()
    peer.load_state_dict({name: torch.tensor(array) for name, array in model.state_dict().items()})  # its names too
    x = normal((2, 6, 3, 4), "float64", 1)
    x_tensor = torch.tensor(x, requires_grad=True)
    y_tensor = peer(x_tensor)
    y, pullback = model.forward(x)
    np.testing.assert_allclose(y, y_tensor.detach().numpy(), rtol=1e-12, atol=1e-12)
    y_tensor.sum().backward()
    grad_x, grads = pullback(np.ones_like(y))
    np.testing.assert_allclose(grad_x, x_tensor.grad.numpy(), rtol=1e-12, atol=1e-12)
    for name, parameter in peer.named_parameters():
        np.testing.assert_allclose(grads[name], parameter.grad.numpy(), rtol=1e-12, atol=1e-12)


# --- PyTorch -------------------------------------------------------------------------------------

MEMORY = [np.copy, np.asfortranarray, channels_last, every_other, backwards]


@st.composite
def axis(draw):
    """``(size, kernel, stride, padding, output padding, dilation)`` with at least one number of result."""
    kernel, stride, dilation = (draw(st.integers(1, 4)) for _ in range(3))
    more, size = draw(st.integers(0, max(stride, dilation) - 1)), draw(st.integers(1, 5))
    covered = (size - 1) * stride + dilation * (kernel - 1) + 1 + more
    return size, kernel, stride, draw(st.integers(0, min((covered - 1) // 2, 5))), more, dilation


@st.composite
def layers(draw, count):
    """A small layer as PyTorch takes it, over so many axes, batched or not, in any memory."""
    size, kernel, stride, padding, more, dilation = zip(*[draw(axis()) for _ in range(count)], strict=True)
    groups, ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    batch = draw(st.sampled_from([(), (1,), (2,)]))
    weight = (groups * ins, outs, *kernel)
    case = ConvTranspose((*batch, groups * ins, *size), weight, stride, padding, more, groups, dilation)
    return case, draw(st.sampled_from(["float32", "float64"])), [draw(st.sampled_from(MEMORY)) for _ in range(3)]


def torch_layer(torch, case, x, weight, bias, grad):
    """PyTorch's result and gradients in float64."""
    tensors = [torch.tensor(np.float64(a), requires_grad=True) for a in (x, weight, bias)]
    y = getattr(torch.nn.functional, f"conv_transpose{case.count}d")(*tensors, *case.params)
    y.backward(torch.tensor(np.float64(grad)))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("way", ["forward", "backward"])
@given(drawn=st.data())
@settings(max_examples=200)
def test_pytorch_agrees_on_any_layer(way, count, backend, torch, drawn):
    case, dtype, memory = drawn.draw(layers(count))
    x, weight, bias = data(case, dtype)
    size = naive.transposed_size(x.shape[-count:], weight.shape[2:], *case.solved[:3], case.dilation)
    grad = normal((*x.shape[: -count - 1], case.channels, *size), dtype, 4)
    expected = torch_layer(torch, case, x, weight, bias, grad)
    magnitudes = torch_layer(torch, case, *map(np.abs, (x, weight, bias, grad)))
    x, weight, grad = (form(a) for form, a in zip(memory, (x, weight, grad), strict=True))
    if way == "forward":
        got, which = [forward(case)(x, weight, bias, *case.params)], slice(0, 1)
    else:
        got, which = backward(case)(grad, x, weight, *case.params), slice(1, 4)
    for one, want, magnitude, terms in zip(
        got, expected[which], magnitudes[which], all_terms(case, grad)[which], strict=True
    ):
        assert_close(one, want, magnitude, terms, dtype)


@over(LARGE | {"3d": ConvTranspose((1, 16, 4, 7, 7), (16, 24, 3, 3, 3), 2, 1, 1)})
def test_pytorch_agrees_on_real_layers(case, dtype, backend, torch):
    x, weight, bias = data(case, dtype)
    y = forward(case)(x, weight, bias, *case.params)
    grad = normal(y.shape, dtype, 4)
    grads = backward(case)(grad, x, weight, *case.params)
    expected = torch_layer(torch, case, x, weight, bias, grad)
    magnitudes = torch_layer(torch, case, *map(np.abs, (x, weight, bias, grad)))
    for got, want, magnitude, count in zip([y, *grads], expected, magnitudes, all_terms(case, grad), strict=True):
        assert_close(got, want, magnitude, count, dtype)


@pytest.mark.parametrize("more", [1, 2, 3])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 3)])
def test_pytorch_refuses_the_same_output_paddings(more, stride, dilation, torch):
    """PyTorch's rule is "smaller than either stride or dilation": one of them is enough."""
    x, weight = np.ones((1, 1, 3, 3)), np.ones((1, 1, 2, 2))
    window = (stride, 0, more, 1, dilation)
    if more < max(stride, dilation):
        theirs = torch.nn.functional.conv_transpose2d(torch.tensor(x), torch.tensor(weight), None, *window)
        assert_same(cnnkit.conv_transpose2d(x, weight, None, *window), theirs.numpy())
        return
    with pytest.raises(RuntimeError, match="output padding must be smaller than either stride or dilation"):
        torch.nn.functional.conv_transpose2d(torch.tensor(x), torch.tensor(weight), None, *window)
    with pytest.raises(
        ValueError, match=re.escape(f"but must be smaller than the stride, {stride}, or the dilation, ")
    ):
        cnnkit.conv_transpose2d(x, weight, None, *window)
