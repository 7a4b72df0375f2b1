"""`naive` itself, against answers typed by hand and against PyTorch where that is installed."""

import naive
import numpy as np
import pytest
from cases import CONV, MAX_POOL, POOL, normal, over

NAN = float("nan")


def image(*rows):
    """One image of one channel."""
    return np.array([[rows]], np.float64)


def torch_or_skip():
    return pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")


# --- answers typed by hand -----------------------------------------------------------------------


def test_a_window_slides_over_a_5x5_image():
    x = image([1, 0, 2, 1, 0], [0, 1, 0, 2, 1], [1, 2, 1, 0, 0], [0, 1, 0, 1, 2], [2, 0, 1, 1, 0])
    weight = image([1, 0, -1], [2, 0, -2], [1, 0, -1])
    y = naive.conv(x, weight, [0.5], 1, ((0, 0), (0, 0)), 1, 1)
    # left minus right columns, row by row: -1 -1 2, 0 -1 -1, 0 2 1, 0 0 -2, 1 -1 1; then 1, 2, 1
    np.testing.assert_array_equal(y[0, 0], [[-0.5, -0.5, 1.5], [0.5, 3.5, -0.5], [1.5, 1.5, -1.5]])


def test_strides_dilation_and_uneven_padding_in_one_dimension():
    x, weight = np.array([[[1.0, 2, 3, 4, 5]]]), np.array([[[1.0, 10]]])
    y = naive.conv(x, weight, None, 2, ((1, 2),), 2, 1)
    # padded: 0 1 2 3 4 5 0 0; windows at 0, 2, 4 read (0, 2), (2, 4), (4, 0)
    np.testing.assert_array_equal(y, [[[20, 42, 4]]])


def test_groups_see_their_own_channels():
    x, weight = np.array([[[1.0], [2], [3], [4]]]), np.array([[[1.0], [10]], [[100], [1000]]])
    y = naive.conv(x, weight, None, 1, ((0, 0),), 1, 2)
    np.testing.assert_array_equal(y, [[[21], [4300]]])


def test_the_gradients_of_two_overlapping_windows():
    x, weight = np.array([[[1.0, 2, 3]]]), np.array([[[4.0, 5]]])
    gx, gw, gb = naive.conv_backward(np.array([[[10.0, 100]]]), x, weight, 1, ((0, 0),), 1, 1)
    np.testing.assert_array_equal(gx, [[[40, 50 + 400, 500]]])
    np.testing.assert_array_equal(gw, [[[10 + 200, 20 + 300]]])
    np.testing.assert_array_equal(gb, [110])


@pytest.mark.parametrize(
    ("padding", "kernel", "stride", "dilation", "size", "expected"),
    [
        (1, (3, 3), 1, 1, (5, 5), ((1, 1), (1, 1))),
        ((1, 2), (3, 3), 1, 1, (5, 5), ((1, 1), (2, 2))),
        (((1, 0), (2, 3)), (3, 3), 1, 1, (5, 5), ((1, 0), (2, 3))),
        ("valid", (3, 3), 1, 1, (5, 5), ((0, 0), (0, 0))),
        ("same", 2, 1, 1, (7, 7), ((0, 1), (0, 1))),
        ("same_lower", 2, 1, 1, (7, 7), ((1, 0), (1, 0))),
        ("same", 3, 2, 1, (7, 8), ((1, 1), (0, 1))),  # outputs of 4 and 4
        ("same", (1, 4), 3, 2, (9, 10), ((0, 0), (3, 3))),  # outputs of 3 and 4
    ],
)
def test_padding_in_every_spelling(padding, kernel, stride, dilation, size, expected):
    assert naive.pairs(padding, kernel, stride, dilation, size) == expected


def test_the_first_of_equal_values_wins_and_the_padding_never_does():
    y, indices = naive.max_pool(-image([7, 7, 9], [8, 7, 7]), 2, 1, ((1, 0), (1, 0)))
    np.testing.assert_array_equal(y[0, 0], [[-7, -7, -7], [-7, -7, -7]])
    np.testing.assert_array_equal(indices[0, 0], [[0, 0, 1], [0, 0, 1]])


def test_nan_wins_a_maximum_and_the_last_nan_wins_them_all():
    y, indices = naive.max_pool(np.array([[[9.0, NAN, 3, NAN, 5]]]), 3, 1, ((0, 0),))
    assert np.isnan(y).all()
    np.testing.assert_array_equal(indices, [[[1, 3, 3]]])


def test_a_maximum_keeps_the_largest_integer_exact():
    x = np.array([[[2**53, 2**53 + 1, -(2**62)]]])
    np.testing.assert_array_equal(naive.max_pool(x, 2, 1, ((0, 0),))[0], [[[2**53 + 1] * 2]])


def test_an_input_that_wins_two_windows_gets_both_gradients():
    gx = naive.max_pool_backward(image([1, 2, 4]), image([0, 3, 3]).astype(int), (1, 1, 2, 3))
    np.testing.assert_array_equal(gx[0, 0], [[1, 0, 0], [6, 0, 0]])


def test_what_an_average_is_divided_by():
    ones, pads = np.ones((1, 1, 6)), ((1, 1),)
    # windows of 3 at -1, 1, 3, 5: the last hangs one over the end of the padding
    y = naive.avg_pool(ones, 3, 2, pads, ceil_mode=True)
    np.testing.assert_array_equal(y, [[[2 / 3, 1, 1, 1 / 2]]])
    y = naive.avg_pool(ones, 3, 2, pads, True, count_include_pad=False)
    np.testing.assert_array_equal(y, [[[1, 1, 1, 1]]])
    y = naive.avg_pool(ones, 3, 2, pads, True, divisor_override=4)
    np.testing.assert_array_equal(y, [[[2 / 4, 3 / 4, 3 / 4, 1 / 4]]])


def test_a_last_window_must_begin_before_the_end():
    assert naive.out_size((6,), 2, 3, ((1, 1),), 1, ceil_mode=True) == (3,)
    assert naive.out_size((5,), 2, 3, ((1, 1),), 1, ceil_mode=True) == (2,)


def test_dense_is_a_matrix_product():
    x, weight = np.array([[1.0, 2], [3, 4]]), np.array([[1.0, 10], [100, 1000], [0, 1]])
    np.testing.assert_array_equal(naive.dense(x, weight, [0, 0, 5]), [[21, 2100, 7], [43, 4300, 9]])
    gx, gw, gb = naive.dense_backward(np.array([[1.0, 0, 2], [0, 1, 0]]), x, weight)
    np.testing.assert_array_equal(gx, [[1, 12], [100, 1000]])
    np.testing.assert_array_equal(gw, [[1, 2], [3, 4], [2, 4]])
    np.testing.assert_array_equal(gb, [1, 1, 2])


def test_relu_by_hand():
    x = np.array([-1.0, 0, 2, NAN, np.inf, -np.inf])
    np.testing.assert_array_equal(naive.relu(x), [0, 0, 2, NAN, np.inf, 0])
    np.testing.assert_array_equal(naive.relu_backward(np.arange(1.0, 7), x), [0, 0, 3, 4, 5, 0])


def test_softmax_by_hand():
    x = np.log(np.array([[1.0, 2, 5], [4, 4, 8]]))
    np.testing.assert_allclose(naive.softmax(x, 1), [[1 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, 1 / 2]])
    np.testing.assert_allclose(naive.log_softmax(x, -1)[1], np.log([1 / 4, 1 / 4, 1 / 2]))
    np.testing.assert_allclose(naive.softmax(x, 0)[:, 0], [1 / 5, 4 / 5])
    gx = naive.softmax_backward(np.array([[1.0, 0, 0], [0, 0, 0]]), x, 1)
    np.testing.assert_allclose(gx[0], [1 / 8 * 7 / 8, -1 / 8 * 2 / 8, -1 / 8 * 5 / 8])
    gx = naive.log_softmax_backward(np.array([[1.0, 0, 0], [0, 0, 0]]), x, 1)
    np.testing.assert_allclose(gx[0], [7 / 8, -2 / 8, -5 / 8])


def test_cross_entropy_by_hand():
    logits, labels = np.log(np.array([[1.0, 2, 5], [4, 4, 8]])), np.array([0, 2])
    losses = np.log([8, 2])
    np.testing.assert_allclose(naive.cross_entropy(logits, labels, reduction="none"), losses)
    np.testing.assert_allclose(naive.cross_entropy(logits, labels), losses.mean())
    smooth = naive.cross_entropy(logits[1:], labels[1:], label_smoothing=0.3, reduction="sum")
    np.testing.assert_allclose(smooth, 0.1 * np.log(4) + 0.1 * np.log(4) + 0.8 * np.log(2))
    gx = naive.cross_entropy_backward(2.0, logits, labels)
    np.testing.assert_allclose(gx, [[-7 / 8, 2 / 8, 5 / 8], [1 / 4, 1 / 4, -1 / 2]])


# --- PyTorch agrees ------------------------------------------------------------------------------


def padded(x, pads, value=0.0):
    """`x` with its padding written out, since PyTorch knows no uneven padding."""
    return np.pad(x, [(0, 0)] * (x.ndim - len(pads)) + list(pads), constant_values=value)


def with_gradient(torch, *arrays):
    return [torch.tensor(a, requires_grad=True) for a in arrays]


@over({name: c for name, c in CONV.items() if "unbatched" not in name})
def test_pytorch_agrees_on_convolution(case):
    torch = torch_or_skip()
    x, weight = normal(case.x, "float64", 1), normal(case.weight, "float64", 2)
    bias = normal(case.weight[:1], "float64", 3)
    _, pads, _, _ = case.solved
    t, w, b = with_gradient(torch, padded(x, pads), weight, bias)
    expected = getattr(torch, f"conv{case.count}d")(t, w, b, case.stride, 0, case.dilation, case.groups)
    np.testing.assert_allclose(naive.conv(x, weight, bias, *case.solved), expected.detach(), rtol=1e-12, atol=1e-12)
    grad = normal(expected.shape, "float64", 4)
    expected.backward(torch.tensor(grad))
    inside = tuple(slice(p, p + n) for (p, _), n in zip(pads, x.shape[2:], strict=True))
    wanted = (t.grad[(..., *inside)], w.grad, b.grad)
    for got, want in zip(naive.conv_backward(grad, x, weight, *case.solved), wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-11)


def even(case):
    """Whether PyTorch knows this case's padding, and as an int per axis which."""
    _, _, pads = case.solved
    return all(p == q for p, q in pads), [p for p, _ in pads]


def poolable(table):
    return {n: c for n, c in table.items() if even(c)[0] and len(c.x) == c.count + 2}


@over(poolable(MAX_POOL))
@pytest.mark.parametrize("kind", ["plain", "ties", "nan"])
def test_pytorch_agrees_on_max_pooling(case, kind):
    torch = torch_or_skip()
    x = normal(case.x, "float64", 1)
    if kind != "plain":
        x = np.round(x)
    if kind == "nan":
        x[x > 0.9] = np.nan
    kernel, stride, pads = case.solved
    (t,) = with_gradient(torch, x)
    y, indices = getattr(torch.nn.functional, f"max_pool{case.count}d")(
        t, kernel, stride, even(case)[1], case.dilation, case.ceil_mode, return_indices=True
    )
    got = naive.max_pool(x, kernel, stride, pads, case.dilation, case.ceil_mode)
    np.testing.assert_array_equal(got[0], y.detach())
    np.testing.assert_array_equal(got[1], indices)
    grad = normal(y.shape, "float64", 2)
    y.backward(torch.tensor(grad))
    np.testing.assert_allclose(naive.max_pool_backward(grad, got[1], x.shape), t.grad, rtol=1e-13)


@over(poolable(POOL))
@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("override", [None, 7])
def test_pytorch_agrees_on_average_pooling(case, include, override):
    torch = torch_or_skip()
    x = normal(case.x, "float64", 1)
    kernel, stride, pads = case.solved
    rule = (case.ceil_mode, include, override)
    (t,) = with_gradient(torch, x)
    kernel, stride = (naive.each_axis(v, case.count) for v in (kernel, stride))
    if case.count == 1:  # avg_pool1d has no divisor_override: pool rows of height 1
        y = torch.nn.functional.avg_pool2d(t[:, :, None], (1, *kernel), (1, *stride), (0, *even(case)[1]), *rule)[
            :, :, 0
        ]
    else:
        pool = getattr(torch.nn.functional, f"avg_pool{case.count}d")
        y = pool(t, kernel, stride, even(case)[1], *rule)
    np.testing.assert_allclose(naive.avg_pool(x, kernel, stride, pads, *rule), y.detach(), rtol=1e-12, atol=1e-13)
    grad = normal(y.shape, "float64", 2)
    y.backward(torch.tensor(grad))
    np.testing.assert_allclose(
        naive.avg_pool_backward(grad, x.shape, kernel, stride, pads, *rule), t.grad, rtol=1e-12, atol=1e-13
    )


@pytest.mark.parametrize("name", ["relu", "softmax", "log_softmax"])
def test_pytorch_agrees_on_elementwise_functions(name):
    torch = torch_or_skip()
    x, grad = normal((3, 4, 5), "float64", 1), normal((3, 4, 5), "float64", 2)
    for axis in (None,) if name == "relu" else (0, 1, -1):
        more = () if axis is None else (axis,)
        (t,) = with_gradient(torch, x)
        y = getattr(torch, name)(t, *more)
        y.backward(torch.tensor(grad))
        np.testing.assert_allclose(getattr(naive, name)(x, *more), y.detach(), rtol=1e-12)
        backward = getattr(naive, f"{name}_backward")
        np.testing.assert_allclose(backward(grad, x, *more), t.grad, rtol=1e-11, atol=1e-14)


def test_pytorch_agrees_on_relu_at_nan_and_zero():
    torch = torch_or_skip()
    x, grad = np.array([NAN, 0.0, -0.0, -1.0, 1.0]), np.arange(1.0, 6)
    (t,) = with_gradient(torch, x)
    torch.relu(t).backward(torch.tensor(grad))
    np.testing.assert_array_equal(naive.relu(x), torch.relu(t).detach())
    np.testing.assert_array_equal(naive.relu_backward(grad, x), t.grad)


@pytest.mark.parametrize("shape", [(4, 5), (1, 2), (3, 4, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_pytorch_agrees_on_cross_entropy(shape, smoothing, reduction):
    torch = torch_or_skip()
    logits = 3 * normal(shape, "float64", 1)
    labels = np.random.default_rng(2).integers(0, shape[1], (shape[0], *shape[2:]))
    (t,) = with_gradient(torch, logits)
    loss = torch.nn.functional.cross_entropy(t, torch.tensor(labels), label_smoothing=smoothing, reduction=reduction)
    rule = (smoothing, reduction)
    np.testing.assert_allclose(naive.cross_entropy(logits, labels, *rule), loss.detach(), rtol=1e-12)
    grad = normal(loss.shape, "float64", 3)
    loss.backward(torch.tensor(grad))
    got = naive.cross_entropy_backward(grad, logits, labels, *rule)
    np.testing.assert_allclose(got, t.grad, rtol=1e-11, atol=1e-14)
