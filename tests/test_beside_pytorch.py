"""Every function beside PyTorch's, forward and backward, on 200 random calls each.

A row of `OPS` is all that a function needs: how its calls are drawn, ours with its way back, PyTorch's, and how large
the numbers are that are rounded on the way. PyTorch computes in float64, by its own gradients.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from closeness import assert_close
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cnnkit

torch = pytest.importorskip("torch", reason="PyTorch is the second opinion; it is optional")
F = torch.nn.functional


class Call(NamedTuple):
    """The shapes of the arrays that have gradients, in order; the parameters; the additions in y and each gradient."""

    shapes: dict[str, tuple[int, ...]]
    params: dict[str, Any]
    terms: tuple[int, ...]


class Op(NamedTuple):
    """A function: `sizes` gives the magnitudes of y and of the gradients (see `closeness.tolerance`)."""

    calls: st.SearchStrategy  # of Call
    ours: Callable  # (*arrays, **params) -> y, pullback; pullback(grad) -> the arrays' gradients
    theirs: Callable  # (*tensors, **params) -> tensor
    sizes: Callable  # (op, arrays, grad, params) -> magnitudes


OPS: dict[str, Op] = {}


def beside(op, arrays, grad, params):
    """PyTorch's y and gradients, in float64."""
    tensors = [torch.tensor(np.array(array, np.float64, order="C"), requires_grad=True) for array in arrays]
    y = op.theirs(*tensors, **params)
    y.backward(torch.tensor(np.array(grad, np.float64, order="C")))
    return [y.detach().numpy(), *(tensor.grad.numpy() for tensor in tensors)]


def linear(op, arrays, grad, params):
    """The sums over absolute values: of a function that is linear in each of its arrays."""
    return beside(op, [np.abs(array) for array in arrays], np.abs(grad), params)


def piecewise(op, arrays, grad, params):
    """Of a function that chooses: its results are exact, its gradients sums of the output's."""
    return [np.abs(one) for one in beside(op, arrays, np.abs(grad), params)]


# --- data ----------------------------------------------------------------------------------------

SEEDS = st.integers(0, 2**16)


def drawn(rng, shape):
    """Normal numbers, or few different ones: ties and zeros, where a maximum and a ReLU have their kinks."""
    return np.asarray(rng.standard_normal(shape) if rng.random() < 0.7 else rng.integers(-1, 2, shape), float)


def every_other(array):
    wide = np.full([2 * n for n in array.shape], np.nan, array.dtype)
    view = wide[(slice(None, None, 2),) * array.ndim]
    view[...] = array
    return view


def channels_last(array):
    if array.ndim < 3:
        return array
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)


def backwards(array):
    turned = (slice(None, None, -1),) * array.ndim
    return array[turned].copy()[turned]


LAYOUTS = {
    "contiguous": lambda array: array,
    "fortran": np.asfortranarray,
    "channels last": channels_last,
    "every other": every_other,
    "backwards": backwards,
}


def laid_out(array, layout):
    return LAYOUTS[layout](array) if array.ndim else array


sizes = st.integers(1, 5)


def shape(least, most, side=6):
    return st.lists(st.integers(1, side), min_size=least, max_size=most).map(tuple)


def maybe_batched(draw, channels, size, least=0):
    """``(N, C, *size)``, or ``(C, *size)``."""
    batch = draw(st.sampled_from([None, *range(least, 4)]))
    return (channels, *size) if batch is None else (batch, channels, *size)


# --- convolution ---------------------------------------------------------------------------------


@st.composite
def conv_calls(draw, n):
    kernel, dilation, stride = (draw(st.tuples(*[st.integers(1, most)] * n)) for most in (3, 3, 3))
    padding = draw(st.sampled_from(["int", "each", "pairs", "valid", "same", "same_lower"]))
    if padding == "int":
        padding = draw(st.integers(0, 3))
    elif padding == "each":
        padding = draw(st.tuples(*[st.integers(0, 3)] * n))
    elif padding == "pairs":
        padding = draw(st.tuples(*[st.tuples(st.integers(0, 3), st.integers(0, 3))] * n))
    least = [max(1, d * (k - 1) + 1 - (0 if isinstance(padding, str) else added(padding, a)))
             for a, (d, k) in enumerate(zip(dilation, kernel, strict=True))]  # fmt: skip
    size = tuple(draw(st.integers(one, one + 4)) for one in least)
    groups, ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    x = maybe_batched(draw, groups * ins, size)
    weight = (groups * outs, ins, *kernel)
    taps = math.prod(kernel)
    windows = (x[0] if len(x) == n + 2 else 1) * math.prod(size) * 49  # more than there can be
    shapes, terms = {"x": x, "weight": weight}, (ins * taps + 1, outs * taps, windows)
    if draw(st.booleans()):
        shapes, terms = shapes | {"bias": weight[:1]}, (*terms, windows)
    params = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    return Call(shapes, params, terms)


def added(padding, axis):
    one = padding if isinstance(padding, int) else padding[axis]
    return 2 * one if isinstance(one, int) else sum(one)


def conv(n):
    forward, backward = getattr(cnnkit, f"conv{n}d"), getattr(cnnkit, f"conv{n}d_backward")

    def ours(x, weight, bias=None, **params):
        needs = ("x", "weight") if bias is None else ("x", "weight", "bias")

        def pullback(grad):
            grads = backward(grad, x, weight, **params, needs=needs)
            return [getattr(grads, name) for name in needs]

        return forward(x, weight, bias, **params), pullback

    return ours


def torch_conv(n):
    def theirs(x, weight, bias=None, *, stride, padding, dilation, groups):
        """PyTorch pads both sides of an axis alike, and by a name at stride 1 alone: the rest is padded before."""
        own = padding == "valid" or (padding == "same" and set(stride) == {1}) or type(padding) is int
        if not own:
            pads = naive.pairs(padding, weight.shape[2:], stride, dilation, x.shape[-n:])
            x, padding = F.pad(x, [int(one) for pair in reversed(pads) for one in pair]), 0
        return getattr(F, f"conv{n}d")(x, weight, bias, stride, padding, dilation, groups)

    return theirs


for n in (1, 2, 3):
    OPS[f"conv{n}d"] = Op(conv_calls(n), conv(n), torch_conv(n), linear)


# --- dense ---------------------------------------------------------------------------------------


@st.composite
def dense_calls(draw):
    leading, ins, outs = draw(st.lists(st.integers(0, 4), max_size=3)), draw(sizes), draw(sizes)
    shapes, examples = {"x": (*leading, ins), "weight": (outs, ins)}, math.prod(leading)
    terms = (ins + 1, outs, examples)
    if draw(st.booleans()):
        shapes, terms = shapes | {"bias": (outs,)}, (*terms, examples)
    return Call(shapes, {}, terms)


def dense(x, weight, bias=None):
    needs = ("x", "weight") if bias is None else ("x", "weight", "bias")

    def pullback(grad):
        grads = cnnkit.dense_backward(grad, x, weight, needs=needs)
        return [getattr(grads, name) for name in needs]

    return cnnkit.dense(x, weight, bias), pullback


OPS["dense"] = Op(dense_calls(), dense, F.linear, linear)


# --- pooling -------------------------------------------------------------------------------------


@st.composite
def pool_calls(draw, n, kind):
    """Padding is at most half a window, as PyTorch has it."""
    kernel = draw(st.tuples(*[st.integers(1, 4)] * n))
    stride = draw(st.none() | st.tuples(*[st.integers(1, 4)] * n))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    params = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": draw(st.booleans())}
    dilation = (1,) * n
    if kind == "max":
        params["dilation"] = dilation = draw(st.tuples(*[st.integers(1, 2)] * n))
    else:
        params["count_include_pad"] = draw(st.booleans())
        params["divisor_override"] = draw(st.none() | st.integers(1, 9))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    if kind == "avg" and n == 3:  # PyTorch's refuses a window that is larger than the image, padded or not
        least = kernel
    size = tuple(draw(st.integers(one, one + 5)) for one in least)
    return Call({"x": maybe_batched(draw, draw(sizes), size, 1)}, params, (math.prod(kernel), math.prod(kernel)))


def max_pool(n):
    forward, backward = getattr(cnnkit, f"max_pool{n}d"), getattr(cnnkit, f"max_pool{n}d_backward")

    def ours(x, **params):
        try:
            y, indices = forward(x, **params, return_indices=True)
        except ValueError as error:  # of a window that dilation leads past all of x PyTorch makes -inf
            assume(max(params["dilation"]) == 1 or "meets nothing of x" not in str(error))
            raise
        return y, lambda grad: [backward(grad, indices, x.shape)]

    return ours


def avg_pool(n):
    forward, backward = getattr(cnnkit, f"avg_pool{n}d"), getattr(cnnkit, f"avg_pool{n}d_backward")

    def ours(x, **params):
        return forward(x, **params), lambda grad: [backward(grad, x.shape, **params)]

    return ours


def torch_avg_pool1d(x, *, divisor_override, **params):
    """PyTorch's own takes no other divisor: it is that over two axes, of which one has size 1."""
    if divisor_override is None:
        return F.avg_pool1d(x, **params)
    for name, rest in (("kernel_size", 1), ("stride", 1), ("padding", 0)):
        params[name] = params[name] and (*params[name], rest)
    return F.avg_pool2d(x[..., None], **params, divisor_override=divisor_override)[..., 0]


for n in (1, 2, 3):
    OPS[f"max_pool{n}d"] = Op(pool_calls(n, "max"), max_pool(n), getattr(F, f"max_pool{n}d"), piecewise)
    theirs = torch_avg_pool1d if n == 1 else getattr(F, f"avg_pool{n}d")
    OPS[f"avg_pool{n}d"] = Op(pool_calls(n, "avg"), avg_pool(n), theirs, linear)


# --- elementwise ---------------------------------------------------------------------------------


def elementwise(name):
    """``f(x, **params)`` and ``f_backward(grad_output, x, **params)``."""

    def ours(x, **params):
        return getattr(cnnkit, name)(x, **params), lambda grad: [getattr(cnnkit, f"{name}_backward")(grad, x, **params)]

    return ours


@st.composite
def elementwise_calls(draw, **params):
    return Call({"x": draw(shape(0, 4))}, {name: draw(one) for name, one in params.items()}, (1, 1))


OPS["relu"] = Op(elementwise_calls(), elementwise("relu"), F.relu, piecewise)


@st.composite
def softmax_calls(draw):
    x = draw(shape(1, 4))
    axis = draw(st.integers(-len(x), len(x) - 1))
    return Call({"x": x}, {"axis": axis}, (x[axis], 3 * x[axis]))


def softmax_sizes(op, arrays, grad, params):
    """`exp` turns the rounding of its argument, of the size of `drop`, into a relative error."""
    (x,), axis, size = arrays, params["axis"], np.abs(np.float64(grad))
    drop = np.float64(x).max(axis, keepdims=True) - np.float64(x)
    p = naive.softmax(x, axis)
    worst = p * (1 + drop + drop.max(axis, keepdims=True))  # of the two factors p of a product
    if op is OPS["softmax"]:
        return p * (1 + drop), worst * (size + (size * p).sum(axis, keepdims=True))
    return 1 + drop + np.abs(naive.log_softmax(x, axis)), size + worst * size.sum(axis, keepdims=True)


for name in ("softmax", "log_softmax"):
    function = getattr(F, name)
    OPS[name] = Op(
        softmax_calls(), elementwise(name), lambda x, axis, function=function: function(x, axis), softmax_sizes
    )


# --- losses --------------------------------------------------------------------------------------


@st.composite
def cross_entropy_calls(draw):
    logits = draw(shape(2, 4))
    labels = np.random.default_rng(draw(SEEDS)).integers(0, logits[1], (logits[0], *logits[2:]))
    params = {
        "labels": labels,
        "label_smoothing": draw(st.sampled_from([0.0, 0.1, 1.0]) | st.floats(0, 1, allow_subnormal=False)),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    added_up = 0 if params["reduction"] == "none" else labels.size
    return Call({"logits": logits}, params, (logits[1] + added_up, logits[1]))


def cross_entropy(logits, **params):
    return cnnkit.cross_entropy(logits, **params), lambda grad: [cnnkit.cross_entropy_backward(grad, logits, **params)]


def torch_cross_entropy(logits, labels, **params):
    return F.cross_entropy(logits, torch.tensor(labels), **params)


def cross_entropy_sizes(op, arrays, grad, params):
    (logits,), labels, reduction = arrays, params["labels"], params["reduction"]
    drop = np.float64(logits).max(axis=1, keepdims=True) - np.float64(logits)
    each = (1 + drop + np.abs(naive.log_softmax(logits, 1))).max(axis=1)
    share = labels.size if reduction == "mean" else 1
    weight = np.broadcast_to(np.abs(np.float64(grad)), labels.shape)[:, None] / share
    loss = each if reduction == "none" else each.sum() / share
    return loss, weight * (2 + naive.softmax(logits, 1) * drop.max(axis=1, keepdims=True))


OPS["cross_entropy"] = Op(cross_entropy_calls(), cross_entropy, torch_cross_entropy, cross_entropy_sizes)


# --- the test ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """PyTorch's threads wait for each other longer than such small arrays take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # PyTorch's, of a copy
@pytest.mark.parametrize("name", OPS)
@settings(max_examples=200)
@given(data=st.data())
def test_pytorch_agrees(name, data, backend):
    op = OPS[name]
    call, dtype, seed = data.draw(op.calls), data.draw(st.sampled_from(["float32", "float64"])), data.draw(SEEDS)
    layouts = data.draw(st.tuples(*[st.sampled_from(list(LAYOUTS))] * 4))  # of up to three arrays and of the gradient
    rng = np.random.default_rng(seed)
    arrays = [
        laid_out(drawn(rng, shape).astype(dtype), layout)
        for layout, shape in zip(layouts, call.shapes.values(), strict=False)
    ]
    before = [array.copy() for array in arrays]

    y, pullback = op.ours(*arrays, **call.params)
    grad = laid_out(np.asarray(rng.standard_normal(y.shape), dtype), layouts[-1])
    found = [y, *pullback(grad)]
    expected = beside(op, arrays, grad, call.params)
    magnitudes = op.sizes(op, arrays, grad, call.params)
    for got, want, size, terms in zip(found, expected, magnitudes, call.terms, strict=True):
        assert_close(got, want, size, terms, dtype)
    for array, one in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, one)
