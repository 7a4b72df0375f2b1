"""Convolution against its definition, its adjoint and PyTorch."""

import naive
import numpy as np
import pytest
from cases import CONV, Conv, normal, over
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st

import cnnkit


def forward(case):
    return getattr(cnnkit, f"conv{case.count}d")


def backward(case):
    return getattr(cnnkit, f"conv{case.count}d_backward")


def data(case, dtype):
    """``(x, weight, bias)`` of a case."""
    return (normal(case.x, dtype, 1), normal(case.weight, dtype, 2), normal(case.weight[:1], dtype, 3))


def batched(array, case):
    """An unbatched array as a batch of one."""
    return array if array.ndim == case.count + 2 else array[None]


def truth(case, x, weight, bias):
    """The output and, for the tolerance, the same sum over absolute values."""
    x = batched(x, case)
    y = naive.conv(x, weight, bias, *case.solved)
    magnitude = naive.conv(np.abs(x), np.abs(weight), np.abs(bias), *case.solved)
    return (y, magnitude) if len(case.x) == case.count + 2 else (y[0], magnitude[0])


def true_gradients(case, grad, x, weight):
    """The three gradients and their magnitudes, as two tuples."""
    arrays = [batched(grad, case), batched(x, case), weight]
    grads = naive.conv_backward(*arrays, *case.solved)
    magnitudes = naive.conv_backward(*map(np.abs, arrays), *case.solved)
    if len(case.x) == case.count + 2:
        return grads, magnitudes
    return (grads[0][0], *grads[1:]), (magnitudes[0][0], *magnitudes[1:])


def check_forward(case, dtype):
    x, weight, bias = data(case, dtype)
    y = forward(case)(x, weight, bias, *case.params)
    assert_close(y, *truth(case, x, weight, bias), case.terms + 1, dtype)


def check_backward(case, dtype):
    x, weight, bias = data(case, dtype)
    grad = normal(truth(case, x, weight, bias)[0].shape, dtype, 4)
    grads = backward(case)(grad, x, weight, *case.params)
    expected, magnitudes = true_gradients(case, grad, x, weight)
    outputs = grad.size // len(weight)  # how many products one weight takes part in
    assert_close(grads.x, expected[0], magnitudes[0], case.gradient_terms, dtype)
    assert_close(grads.weight, expected[1], magnitudes[1], outputs, dtype)
    assert_close(grads.bias, expected[2], magnitudes[2], outputs, dtype)


@over(CONV)
def test_forward_is_the_definition(case, dtype, backend):
    check_forward(case, dtype)


@over(CONV)
def test_backward_is_the_definition(case, dtype, backend):
    check_backward(case, dtype)


@over(CONV)
def test_backward_is_the_adjoint_of_forward(case, backend):
    x, weight, _ = data(case, "float64")
    y = forward(case)(x, weight, None, *case.params)
    grad = normal(y.shape, "float64", 4)
    grads = backward(case)(grad, x, weight, *case.params)
    scale = np.linalg.norm(y) * np.linalg.norm(grad)
    assert abs(np.vdot(y, grad) - np.vdot(x, grads.x)) <= 1e-10 * scale
    assert abs(np.vdot(y, grad) - np.vdot(weight, grads.weight)) <= 1e-10 * scale


# --- random layers -------------------------------------------------------------------------------


@st.composite
def axis(draw):
    """``(size, kernel, stride, (before, after), dilation)`` such that at least one window fits."""
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    before, after = draw(st.integers(0, 4)), draw(st.integers(0, 4))
    least = max(1, dilation * (kernel - 1) + 1 - before - after)
    return draw(st.integers(least, least + 6)), kernel, draw(st.integers(1, 5)), (before, after), dilation


@st.composite
def layers(draw):
    """A small convolution with any parameters."""
    axes = draw(st.lists(axis(), min_size=1, max_size=3))
    size, kernel, stride, pads, dilation = zip(*axes, strict=True)
    groups, ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    padding = draw(st.sampled_from([pads, "same", "same_lower"]))
    x = (draw(st.integers(0, 2)), groups * ins, *size)
    return Conv(x, (groups * outs, ins, *kernel), stride, padding, dilation, groups)


@given(case=layers())
def test_any_layer_forward(case, dtype, backend):
    check_forward(case, dtype)


@given(case=layers())
def test_any_layer_backward(case, dtype, backend):
    check_backward(case, dtype)


# --- the other arguments -------------------------------------------------------------------------

SMALL = Conv((2, 4, 7, 6), (6, 2, 3, 3), 2, 1, 1, 2)


def test_without_a_bias_it_is_the_one_with_zeros(dtype, backend):
    x, weight, bias = data(SMALL, dtype)
    y = cnnkit.conv2d(x, weight, None, *SMALL.params)
    assert_same(y, cnnkit.conv2d(x, weight, np.zeros_like(bias), *SMALL.params))


def test_arguments_have_their_names(backend):
    x, weight, bias = data(SMALL, "float32")
    named = {"stride": 2, "padding": 1, "dilation": 1, "groups": 2}
    y = cnnkit.conv2d(x=x, weight=weight, bias=bias, **named)
    assert_same(y, cnnkit.conv2d(x, weight, bias, 2, 1, 1, 2))
    grads = cnnkit.conv2d_backward(grad_output=y, x=x, weight=weight, **named)
    for one, other in zip(grads, cnnkit.conv2d_backward(y, x, weight, 2, 1, 1, 2), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_parameters_may_be_numpy_integers_and_lists(count, backend):
    case = Conv((1, 2, *[9] * count), (3, 2, *[3] * count), 2, 1, 2)
    x, weight, bias = data(case, "float32")
    expected = forward(case)(x, weight, bias, 2, 1, 2)
    assert_same(forward(case)(x, weight, bias, *np.array([2, 1, 2])), expected)
    assert_same(forward(case)(x, weight, bias, [2] * count, [1] * count, [2] * count), expected)
    assert_same(forward(case)(x, weight, bias, 2, [[1, 1]] * count, 2), expected)


@over({name: CONV[name] for name in ("1d", "3x3", "1x1", "depthwise", "3d", "unbatched")})
def test_relu_in_the_same_pass(case, dtype, backend):
    x, weight, bias = data(case, dtype)
    y = forward(case)(x, weight, bias, *case.params, activation="relu")
    expected, magnitude = truth(case, x, weight, bias)
    assert (expected < 0).any()
    assert_close(y, np.maximum(expected, 0), magnitude, case.terms + 1, dtype)
    assert y.min() == 0


@pytest.mark.parametrize("layout", ["plain", "channels-last", "every other", "fortran"])
@pytest.mark.parametrize("activation", [None, "relu"])
def test_out_takes_the_result(layout, activation, dtype, backend):
    x, weight, bias = data(SMALL, dtype)
    y = cnnkit.conv2d(x, weight, bias, *SMALL.params, activation=activation)
    out = {
        "plain": np.full(y.shape, np.nan, dtype),
        "channels-last": np.full((2, 4, 3, 6), np.nan, dtype).transpose(0, 3, 1, 2),
        "every other": np.full([2 * n for n in y.shape], np.nan, dtype)[::2, ::2, ::2, ::2],
        "fortran": np.full(y.shape, np.nan, dtype, order="F"),
    }[layout]
    assert cnnkit.conv2d(x, weight, bias, *SMALL.params, activation=activation, out=out) is out
    np.testing.assert_allclose(out, y, rtol=0, atol=40 * np.finfo(dtype).eps)


def test_out_leaves_its_neighbours_alone(backend):
    x, weight, bias = data(SMALL, "float32")
    frame = np.full((4, 8, 6, 5), 7, np.float32)
    cnnkit.conv2d(x, weight, bias, *SMALL.params, out=frame[1:3, 1:7, 1:5, 1:4])
    frame[1:3, 1:7, 1:5, 1:4] = 7
    assert (frame == 7).all()


@pytest.mark.parametrize("needs", [("x",), ("weight",), ("bias",), ("x", "bias"), ("bias", "weight"), ()])
@over({name: CONV[name] for name in ("1d", "3x3", "depthwise", "3d")})
def test_what_is_not_needed_is_none(needs, case, backend):
    x, weight, bias = data(case, "float32")
    grad = forward(case)(x, weight, bias, *case.params)
    every = backward(case)(grad, x, weight, *case.params)
    some = backward(case)(grad, x, weight, *case.params, needs=needs)
    for name in ("x", "weight", "bias"):
        if name in needs:
            assert_same(getattr(some, name), getattr(every, name))
        else:
            assert getattr(some, name) is None


# --- what must not mix ---------------------------------------------------------------------------


@over({name: c for name, c in CONV.items() if "unbatched" not in name and c.x[0] > 0})
def test_a_nan_reaches_only_the_windows_that_see_it(case, backend):
    x, weight, _ = data(case, "float32")
    middle = tuple(n // 2 for n in x.shape)
    x[middle] = np.nan
    seen = np.isnan(naive.conv(x, weight, None, *case.solved))
    np.testing.assert_array_equal(np.isnan(forward(case)(x, weight, None, *case.params)), seen)


@over({name: c for name, c in CONV.items() if "unbatched" not in name and c.x[0] > 0})
def test_a_nan_reaches_only_the_gradients_of_weights_that_met_it(case, backend):
    x, weight, _ = data(case, "float32")
    grad = normal(naive.conv(x, weight, None, *case.solved).shape, "float32", 4)
    for place in (tuple(n // 2 for n in x.shape), tuple(n - 1 for n in x.shape)):
        spoiled = x.copy()
        spoiled[place] = np.nan
        grads = backward(case)(grad, spoiled, weight, *case.params)
        gw = naive.conv_backward(grad, spoiled, weight, *case.solved)[1]
        np.testing.assert_array_equal(np.isnan(grads.weight), np.isnan(gw))
        assert not np.isnan(grads.x).any()


@over({name: c for name, c in CONV.items() if "unbatched" not in name and c.x[0] > 0})
def test_a_nan_gradient_reaches_only_what_made_it(case, backend):
    x, weight, _ = data(case, "float32")
    grad = normal(naive.conv(x, weight, None, *case.solved).shape, "float32", 4)
    grad[tuple(n // 2 for n in grad.shape)] = np.nan
    grads = backward(case)(grad, x, weight, *case.params)
    gx, gw, gb = map(np.isnan, naive.conv_backward(grad, x, weight, *case.solved))
    np.testing.assert_array_equal(np.isnan(grads.x), gx)
    np.testing.assert_array_equal(np.isnan(grads.bias), gb)
    # a weight that met nothing but padding may be NaN: 0 times NaN
    stride, pads, dilation, groups = case.solved
    none = ((0, 0),) * case.count
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    at_most = np.isnan(naive.conv_backward(grad, padded, weight, stride, none, dilation, groups)[1])
    assert (gw <= np.isnan(grads.weight)).all()
    assert (np.isnan(grads.weight) <= at_most).all()


@over({name: CONV[name] for name in ("3x3", "1x1", "2 groups", "depthwise", "17 channels")})
def test_images_of_a_batch_do_not_depend_on_each_other(case, dtype, backend):
    x, weight, bias = data(case._replace(x=(5, *case.x[1:])), dtype)
    y = forward(case)(x, weight, bias, *case.params)
    for n in range(5):
        one, magnitude = truth(case, x[n : n + 1], weight, bias)
        assert_close(y[n : n + 1], one, magnitude, case.terms + 1, dtype)


def test_a_batch_larger_than_any_workspace_gives_what_its_images_give(backend):
    """About 90 MB; small integers, so that sums are exact in any order."""
    if backend == "numpy":
        pytest.skip("it takes no workspace")
    rng = np.random.default_rng(1)
    x = rng.integers(-4, 5, (36, 48, 114, 114)).astype(np.float32)
    weight, grad = (rng.integers(-4, 5, shape).astype(np.float32) for shape in [(2, 48, 3, 3), (36, 2, 112, 112)])
    y, grads = cnnkit.conv2d(x, weight), cnnkit.conv2d_backward(grad, x, weight)
    total = np.zeros_like(weight)
    for n in range(len(x)):
        assert_same(y[n], cnnkit.conv2d(x[n], weight))
        one = cnnkit.conv2d_backward(grad[n], x[n], weight)
        assert_same(grads.x[n], one.x)
        total += one.weight
    assert_same(grads.weight, total)


@over({name: CONV[name] for name in ("17 channels", "2 groups", "depthwise", "stride 2")})
@pytest.mark.parametrize("bytes_", [0, 1000])
def test_weights_that_the_workspace_does_not_hold_are_packed_in_parts(bytes_, case, dtype):
    x, weight, bias = data(case, dtype)
    with cnnkit.options(algorithm="direct"):
        y = forward(case)(x, weight, bias, *case.params)
        grads = backward(case)(y, x, weight, *case.params)
        with cnnkit.options(max_workspace=bytes_):
            assert_same(forward(case)(x, weight, bias, *case.params), y)
            for part, whole in zip(backward(case)(y, x, weight, *case.params), grads, strict=True):
                assert_same(part, whole)


def test_no_image_gives_zero_gradients(dtype, backend):
    x, weight, grad = np.ones((0, 3, 6, 6), dtype), np.ones((4, 3, 3, 3), dtype), np.ones((0, 4, 4, 4), dtype)
    grads = cnnkit.conv2d_backward(grad, x, weight)
    assert_same(grads.x, np.zeros((0, 3, 6, 6), dtype))
    assert_same(grads.weight, np.zeros((4, 3, 3, 3), dtype))
    assert_same(grads.bias, np.zeros(4, dtype))


@pytest.mark.parametrize("size", [(4, 0), (0, 4), (0, 0)])
@pytest.mark.parametrize("weight", [(8, 8, 3, 3), (8, 1, 3, 3), (16, 1, 5, 5)])
def test_of_images_of_nothing_but_padding_the_bias_is_left(weight, size, dtype, backend):
    x, w, bias = np.ones((2, 8, *size), dtype), np.ones(weight, dtype), np.arange(weight[0]).astype(dtype) - 3
    params = (1, weight[-1] - 1, 1, 8 // weight[1])
    for images in (x, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)):
        y = cnnkit.conv2d(images, w, bias, *params, activation="relu")
        assert (y == np.maximum(bias, 0)[:, None, None]).all()
        assert min(y.shape) > 0
        grads = cnnkit.conv2d_backward(y, images, w, *params)
        assert grads.x.shape == x.shape
        assert not grads.weight.any()


# --- real layers, against PyTorch ----------------------------------------------------------------

REAL = {
    "1d 64 to 64": Conv((2, 64, 301), (64, 64, 9), 2, 4),
    "3x3, 64 to 64": Conv((2, 64, 28, 28), (64, 64, 3, 3), 1, 1),
    "3x3, 48 to 96, stride 2": Conv((1, 48, 29, 31), (96, 48, 3, 3), 2, 1),
    "1x1, 128 to 200": Conv((1, 128, 28, 28), (200, 128, 1, 1)),
    "1x1, 67 to 131, 7x7": Conv((3, 67, 7, 7), (131, 67, 1, 1)),
    "stem": Conv((1, 3, 96, 100), (64, 3, 7, 7), 2, 3),
    "depthwise 37": Conv((2, 37, 20, 28), (37, 1, 3, 3), 1, 1, 1, 37),
    "depthwise 5x5, stride 2": Conv((1, 24, 28, 28), (24, 1, 5, 5), 2, 2, 1, 24),
    "dilation 4": Conv((1, 32, 33, 33), (32, 32, 3, 3), 1, 4, 4),
    "16 groups": Conv((1, 64, 14, 14), (64, 4, 3, 3), 1, 1, 1, 16),
    "digits": Conv((64, 1, 14, 14), (8, 1, 3, 3)),
    "3d 16 to 32": Conv((1, 16, 8, 14, 14), (32, 16, 3, 3, 3), 1, 1),
}


def torch_layer(torch, case, x, weight, bias, grad):
    """PyTorch's output and gradients in float64."""
    tensors = [torch.tensor(np.float64(a), requires_grad=True) for a in (x, weight, bias)]
    y = getattr(torch, f"conv{case.count}d")(*tensors, *case.params)
    y.backward(torch.tensor(np.float64(grad)))
    return [y.detach().numpy(), *(t.grad.numpy() for t in tensors)]


@over(REAL)
def test_pytorch_agrees_on_real_layers(case, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    x, weight, bias = data(case, dtype)
    y = forward(case)(x, weight, bias, *case.params)
    grad = normal(y.shape, dtype, 4)
    grads = backward(case)(grad, x, weight, *case.params)
    expected = torch_layer(torch, case, x, weight, bias, grad)
    magnitudes = torch_layer(torch, case, *map(np.abs, (x, weight, bias, grad)))
    outputs = grad.size // len(weight)
    terms = [case.terms + 1, case.gradient_terms, outputs, outputs]
    for got, want, magnitude, count in zip([y, *grads], expected, magnitudes, terms, strict=True):
        assert_close(got, want, magnitude, count, dtype)


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_gradient_of_many_small_images_and_many_channels(backend, groups):
    """Several bands of windows, more gradients than are near at a time, and more channels of x."""
    x, grads = normal((20, 24, 10, 10), "float32", 1), normal((20, 280, 8, 8), "float32", 2)
    windows = np.lib.stride_tricks.sliding_window_view(x.astype("float64"), (3, 3), (2, 3))
    windows = windows.reshape(20, groups, 24 // groups, 8, 8, 3, 3)
    by_group = grads.astype("float64").reshape(20, groups, 280 // groups, 8, 8)
    expected, magnitude = (
        np.einsum("ngohw,ngchwij->gocij", change(by_group), change(windows), optimize=True).reshape(280, -1, 3, 3)
        for change in (np.asarray, np.abs)
    )
    weight = np.zeros(expected.shape, "float32")
    with cnnkit.options(algorithm="direct"):
        found = cnnkit.conv2d_backward(grads, x, weight, groups=groups, needs=("weight",)).weight
    assert_close(found, expected, magnitude, 20 * 64, "float32")
