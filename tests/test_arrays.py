"""Any NumPy array gives the right answer, whatever its memory looks like, and is never written.

The inputs are small integers, so that every sum is exact in any order: what a plain array gives by
definition must come out to the last bit.
"""

import naive
import numpy as np
import pytest
from cases import CONV as CONV_CASES
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st

import cnnkit

SHAPE = (2, 4, 6, 8)


def whole(shape, dtype, seed):
    """Small integers as floats."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(dtype)


# --- memory of every kind ------------------------------------------------------------------------


def every_other(a):
    """A view of each second element of a larger array."""
    larger = np.full([2 * n + 1 for n in a.shape], 77, a.dtype)
    view = larger[tuple(slice(1, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def backwards(a):
    """Negative steps along all axes."""
    return np.flip(np.flip(a).copy())


def channels_last(a):
    return np.moveaxis(np.moveaxis(a, 1, -1).copy(), -1, 1) if a.ndim > 2 else a


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def unaligned(a):
    """One byte beside where it should begin."""
    memory = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = memory.view(a.dtype).reshape(a.shape)
    view[...] = a
    assert not view.flags.aligned or a.size == 0
    return view


def byte_swapped(a):
    return a.astype(a.dtype.newbyteorder("S"))


def broadcast(a):
    """One row of the last axis, seen again and again: steps of zero."""
    return np.broadcast_to(a[..., :1, :], a.shape) if a.ndim > 1 else np.broadcast_to(a[:1], a.shape)


def one_number(a):
    """A single element seen everywhere: every step is zero."""
    return np.broadcast_to(a.ravel()[:1].reshape((1,) * a.ndim), a.shape)


def field_of_records(a):
    """Elements 5 or 9 bytes apart: a step that is no multiple of their size."""
    records = np.zeros(a.shape, [("value", a.dtype), ("tag", "i1")])
    records["value"] = a
    return records["value"]


def odd_steps(a):
    """Axes of one element may have any step, also one that leads nowhere."""
    steps = [step if n > 1 else 10**9 for n, step in zip(a.shape, a.strides, strict=True)]
    return np.lib.stride_tricks.as_strided(a.copy(), strides=steps)


def noted(a):
    """A dtype that is its equal, and not the same object."""
    return a.astype(np.dtype(a.dtype, metadata={"unit": "V"}))


class Tagged(np.ndarray):
    """A subclass, as np.memmap is one."""


FORMS = {
    "plain": np.copy,
    "fortran": np.asfortranarray,
    "negative steps": backwards,
    "every other": every_other,
    "channels-last": channels_last,
    "channels-last, backwards": lambda a: channels_last(backwards(a)),
    "rows swapped with columns": lambda a: a.swapaxes(-1, -2).copy().swapaxes(-1, -2) if a.ndim > 1 else a,
    "read-only": read_only,
    "unaligned": unaligned,
    "unaligned, fortran": lambda a: unaligned(a.T).T,
    "byte-swapped": byte_swapped,
    "byte-swapped, every other": lambda a: every_other(byte_swapped(a)),
    "broadcast": broadcast,
    "one number": one_number,
    "field of records": field_of_records,
    "axes of one element": odd_steps,
    "dtype with a note": noted,
    "subclass": lambda a: a.copy().view(Tagged),
}
in_any_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


# --- the functions, with what they are by definition ---------------------------------------------

PADS = ((1, 1), (0, 2))
CONV = (2, PADS, 1, 2)  # stride, padding, dilation, groups
POOL = (2, 2, ((1, 0), (0, 1)))  # kernel, stride, padding; sums over 4 are exact
AVG = (*POOL, False, True, None)
WEIGHT, OUT = (6, 2, 3, 3), (2, 6, 3, 4)
MAX_OUT = (2, 4, 3, 4)
INDICES = naive.max_pool(whole(SHAPE, float, 1), *POOL)[1]


def max_indices(x):
    return cnnkit.max_pool2d(x, *POOL, return_indices=True)


FUNCTIONS = {  # name: (shapes of the arrays, the call, the definition)
    "conv2d": (
        [SHAPE, WEIGHT, WEIGHT[:1]],
        lambda x, w, b: cnnkit.conv2d(x, w, b, *CONV),
        lambda x, w, b: naive.conv(x, w, b, *CONV),
    ),
    "conv2d depthwise": (
        [SHAPE, (4, 1, 3, 3)],
        lambda x, w: cnnkit.conv2d(x, w, None, 1, 1, 1, 4),
        lambda x, w: naive.conv(x, w, None, 1, ((1, 1), (1, 1)), 1, 4),
    ),
    "conv2d 1x1": (
        [SHAPE, (5, 4, 1, 1)],
        lambda x, w: cnnkit.conv2d(x, w),
        lambda x, w: naive.conv(x, w, None, 1, ((0, 0), (0, 0)), 1, 1),
    ),
    "conv2d_backward": (
        [OUT, SHAPE, WEIGHT],
        lambda g, x, w: cnnkit.conv2d_backward(g, x, w, *CONV),
        lambda g, x, w: naive.conv_backward(g, x, w, *CONV),
    ),
    "conv2d_backward depthwise": (
        [SHAPE, SHAPE, (4, 1, 3, 3)],
        lambda g, x, w: cnnkit.conv2d_backward(g, x, w, 1, 1, 1, 4),
        lambda g, x, w: naive.conv_backward(g, x, w, 1, ((1, 1), (1, 1)), 1, 4),
    ),
    "conv2d_backward 1x1": (
        [(2, 5, 6, 8), SHAPE, (5, 4, 1, 1)],
        lambda g, x, w: cnnkit.conv2d_backward(g, x, w),
        lambda g, x, w: naive.conv_backward(g, x, w, 1, ((0, 0), (0, 0)), 1, 1),
    ),
    "conv_transpose2d": (
        [SHAPE, (4, 3, 3, 2), (6,)],
        lambda x, w, b: cnnkit.conv_transpose2d(x, w, b, 2, PADS, 1, 2),
        lambda x, w, b: naive.conv_transpose(x, w, b, 2, PADS, 1, 2, 1),
    ),
    "conv_transpose2d_backward": (
        [(2, 6, 12, 15), SHAPE, (4, 3, 3, 2)],
        lambda g, x, w: cnnkit.conv_transpose2d_backward(g, x, w, 2, PADS, 1, 2),
        lambda g, x, w: naive.conv_transpose_backward(g, x, w, 2, PADS, 1, 2, 1),
    ),
    "max_pool2d": ([SHAPE], max_indices, lambda x: naive.max_pool(x, *POOL)),
    "max_pool2d_backward": (
        [MAX_OUT],
        lambda g: cnnkit.max_pool2d_backward(g, INDICES, SHAPE),
        lambda g: naive.max_pool_backward(g, INDICES, SHAPE),
    ),
    "avg_pool2d": ([SHAPE], lambda x: cnnkit.avg_pool2d(x, *AVG), lambda x: naive.avg_pool(x, *AVG)),
    "avg_pool2d_backward": (
        [MAX_OUT],
        lambda g: cnnkit.avg_pool2d_backward(g, SHAPE, *AVG),
        lambda g: naive.avg_pool_backward(g, SHAPE, *AVG),
    ),
    "adaptive_max_pool2d": (
        [SHAPE],
        lambda x: cnnkit.adaptive_max_pool2d(x, (4, 3), return_indices=True),
        lambda x: naive.adaptive_max_pool(x, (4, 3)),
    ),
    "adaptive_avg_pool2d": (
        [SHAPE],
        lambda x: cnnkit.adaptive_avg_pool2d(x, (4, None)),  # windows of two
        lambda x: naive.adaptive_avg_pool(x, (4, 8)),
    ),
    "adaptive_avg_pool2d global": (
        [(3, 5, 4, 8)],
        lambda x: cnnkit.adaptive_avg_pool2d(x, 1),
        lambda x: naive.adaptive_avg_pool(x, (1, 1)),
    ),
    "adaptive_avg_pool2d_backward": (
        [(2, 4, 4, 8)],
        lambda g: cnnkit.adaptive_avg_pool2d_backward(g, SHAPE),
        lambda g: naive.adaptive_avg_pool_backward(g, SHAPE),
    ),
    "adaptive_avg_pool2d_backward global": (
        [(3, 5, 1, 1)],
        lambda g: cnnkit.adaptive_avg_pool2d_backward(g, (3, 5, 4, 8)),
        lambda g: naive.adaptive_avg_pool_backward(g, (3, 5, 4, 8)),
    ),
    "max_unpool2d": (
        [MAX_OUT],
        lambda x: cnnkit.max_unpool2d(x, INDICES, *POOL, SHAPE),
        lambda x: naive.max_unpool(x, INDICES, SHAPE),
    ),
    "max_unpool2d_backward": (
        [SHAPE],
        lambda g: cnnkit.max_unpool2d_backward(g, INDICES),
        lambda g: naive.max_unpool_backward(g, INDICES),
    ),
    "lp_pool2d": ([SHAPE], lambda x: cnnkit.lp_pool2d(x, 1, *POOL), lambda x: naive.lp_pool(x, 1, *POOL)),
    "lp_pool2d_backward": (
        [MAX_OUT, SHAPE],
        lambda g, x: cnnkit.lp_pool2d_backward(g, x, 1, *POOL),
        lambda g, x: naive.lp_pool_backward(g, x, 1, *POOL),
    ),
    "dense": ([(3, 5, 17), (9, 17), (9,)], lambda *a: cnnkit.dense(*a), naive.dense),
    "dense_backward": ([(3, 5, 9), (3, 5, 17), (9, 17)], lambda *a: cnnkit.dense_backward(*a), naive.dense_backward),
    "relu": ([SHAPE], lambda x: cnnkit.relu(x), naive.relu),
    "relu_backward": ([SHAPE, SHAPE], lambda g, x: cnnkit.relu_backward(g, x), naive.relu_backward),
}
ALONG = {  # these round: the definition is met within a bound
    "softmax": ([SHAPE], lambda x: cnnkit.softmax(x, 1), lambda x: naive.softmax(x, 1)),
    "softmax_backward": (
        [SHAPE, SHAPE],
        lambda g, x: cnnkit.softmax_backward(g, x, 1),
        lambda g, x: naive.softmax_backward(g, x, 1),
    ),
    "log_softmax": ([SHAPE], lambda x: cnnkit.log_softmax(x, 1), lambda x: naive.log_softmax(x, 1)),
    "log_softmax_backward": (
        [SHAPE, SHAPE],
        lambda g, x: cnnkit.log_softmax_backward(g, x, 1),
        lambda g, x: naive.log_softmax_backward(g, x, 1),
    ),
    "silu": ([SHAPE], lambda x: cnnkit.silu(x), lambda x: naive.activate("silu", x)),
    "silu_backward": (
        [SHAPE, SHAPE],
        lambda g, x: cnnkit.silu_backward(g, x),
        lambda g, x: naive.activate_backward("silu", g, x),
    ),
    "mse_loss": (
        [SHAPE, SHAPE],
        lambda y, t: cnnkit.mse_loss(y, t, reduction="none"),
        lambda y, t: naive.mse_loss(y, t, "none"),
    ),
    "mse_loss_backward": (
        [SHAPE, SHAPE],
        lambda y, t: cnnkit.mse_loss_backward(1.0, y, t),
        lambda y, t: naive.mse_loss_backward(1.0, y, t),
    ),
    "dropout_backward": (
        [SHAPE],
        lambda g: cnnkit.dropout_backward(g, KEPT, 0.25),
        lambda g: np.where(KEPT, g / 0.75, 0),
    ),
    "batch_norm": (
        [SHAPE],
        lambda x: cnnkit.batch_norm(x, None, None, None, None, training=True),
        lambda x: naive.normalise(x, 1, 0, *naive.moments(x, (0, 2, 3)), 1e-5),
    ),
    "batch_norm_backward": (
        [SHAPE, SHAPE],
        lambda g, x: cnnkit.batch_norm_backward(g, x, None, None, None, training=True, needs=("x",)).x,
        lambda g, x: naive.normalise_backward(g, x, 1, (0, 2, 3), 1e-5),
    ),
    "cross_entropy": (
        [SHAPE],
        lambda x: cnnkit.cross_entropy(x, LABELS, reduction="none"),
        lambda x: naive.cross_entropy(x, LABELS, reduction="none"),
    ),
    "cross_entropy_backward": (
        [SHAPE],
        lambda x: cnnkit.cross_entropy_backward(1.0, x, LABELS),
        lambda x: naive.cross_entropy_backward(1.0, x, LABELS),
    ),
}
LABELS = np.random.default_rng(3).integers(0, SHAPE[1], (2, 6, 8))
KEPT = np.random.default_rng(4).random(SHAPE) < 0.75
EVERY = FUNCTIONS | ALONG


def as_list(result):
    return list(result) if isinstance(result, tuple) else [result]


def native(a):
    """The same values as a plain array."""
    return np.array(a, a.dtype.newbyteorder("="), order="C", subok=False)


def formed(shapes, form, dtype):
    return [form(whole(shape, dtype, seed)) for seed, shape in enumerate(shapes)]


@in_any_form
@pytest.mark.parametrize("name", FUNCTIONS)
def test_any_memory_gives_the_right_answer(name, form, dtype, backend):
    shapes, call, definition = FUNCTIONS[name]
    arrays = formed(shapes, form, dtype)
    expected = as_list(definition(*map(native, arrays)))
    for got, want in zip(as_list(call(*arrays)), expected, strict=True):
        assert type(got) is np.ndarray
        assert got.dtype == (np.int64 if want.dtype == np.int64 else dtype)
        np.testing.assert_array_equal(got, want)


@in_any_form
@pytest.mark.parametrize("name", [name for name, (shapes, *_) in FUNCTIONS.items() if len(shapes) > 1])
def test_any_memory_beside_plain_arrays_gives_the_right_answer(name, form, backend):
    shapes, call, definition = FUNCTIONS[name]
    for which in range(len(shapes)):
        arrays = formed(shapes, np.copy, np.dtype("float32"))
        arrays[which] = form(arrays[which])
        expected = as_list(definition(*map(native, arrays)))
        for got, want in zip(as_list(call(*arrays)), expected, strict=True):
            np.testing.assert_array_equal(got, want)


@in_any_form
@pytest.mark.parametrize("name", ALONG)
def test_any_memory_gives_the_right_softmax(name, form, dtype, backend):
    shapes, call, definition = ALONG[name]
    arrays = formed(shapes, form, dtype)
    # logits of -4 to 4: no size in these formulas exceeds 4 gradients of 4 times a drop of 8
    assert_close(call(*arrays), definition(*map(native, arrays)), 4 * 4 * 8, 4, dtype)


@in_any_form
@pytest.mark.parametrize("name", EVERY)
def test_inputs_are_never_written(name, form, backend):
    shapes, call, _ = EVERY[name]
    arrays = formed(shapes, form, np.dtype("float32"))
    before = [a.copy() for a in arrays]
    call(*arrays)
    for array, copy in zip(arrays, before, strict=True):
        assert_same(array, copy)


@pytest.mark.parametrize("name", EVERY)
def test_results_are_new_arrays(name, backend):
    shapes, call, _ = EVERY[name]
    arrays = formed(shapes, np.abs, np.dtype("float32"))  # relu of these is the identity
    for result in as_list(call(*arrays)):
        assert result.flags.writeable
        assert not any(np.may_share_memory(result, a) for a in arrays)


@in_any_form
def test_indices_and_labels_may_lie_anyhow(form, backend):
    grad, logits = whole(MAX_OUT, "float64", 1), whole(SHAPE, "float64", 2)
    indices, labels = form(INDICES), form(LABELS)
    gx = cnnkit.max_pool2d_backward(grad, indices, SHAPE)
    np.testing.assert_array_equal(gx, naive.max_pool_backward(grad, native(indices), SHAPE))
    loss = cnnkit.cross_entropy(logits, labels)
    assert_close(loss, naive.cross_entropy(logits, native(labels)), 20, LABELS.size)
    gx = cnnkit.cross_entropy_backward(2.0, logits, labels)
    assert_close(gx, naive.cross_entropy_backward(2.0, logits, native(labels)), 20, 4)


@in_any_form
def test_integers_may_lie_anyhow(form, backend):
    x = form(whole(SHAPE, "int32", 1))
    for got, want in zip(max_indices(x), naive.max_pool(native(x), *POOL), strict=True):
        assert_same(got, want)


@given(
    layer=st.sampled_from([CONV_CASES[name] for name in CONV_CASES if CONV_CASES[name].x[0] > 0]),
    forms=st.tuples(*[st.sampled_from(list(FORMS.values()))] * 3),
    out_form=st.sampled_from([None, np.copy, channels_last, every_other, backwards]),
    count=st.integers(1, 4),
)
def test_any_layer_in_any_memory_on_any_number_of_threads(layer, forms, out_form, count, dtype, backend, threads):
    threads(count)
    x, weight = forms[0](whole(layer.x, dtype, 1)), forms[1](whole(layer.weight, dtype, 2))
    conv, backward = (getattr(cnnkit, f"conv{layer.count}d{suffix}") for suffix in ("", "_backward"))
    unbatched = len(layer.x) == layer.count + 1
    batch = native(x)[None] if unbatched else native(x)
    expected = naive.conv(batch, native(weight), None, *layer.solved)
    shape = expected.shape[1:] if unbatched else expected.shape
    out = None if out_form is None else out_form(np.full(shape, np.nan, dtype))
    y = conv(x, weight, None, *layer.params, activation="relu", out=out)
    np.testing.assert_array_equal(y, np.maximum(expected, 0).reshape(shape))
    grad = forms[2](whole(shape, dtype, 3))
    grads = backward(grad, x, weight, *layer.params)
    batch_of_grads = native(grad).reshape(expected.shape)
    expected = naive.conv_backward(batch_of_grads, batch, native(weight), *layer.solved)
    for got, want in zip(grads, expected, strict=True):
        np.testing.assert_array_equal(got, want.reshape(got.shape))


def test_a_memory_map_is_an_array(tmp_path, backend):
    np.save(tmp_path / "x.npy", whole(SHAPE, "float32", 1))
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert_same(cnnkit.relu(x), naive.relu(np.array(x)))


def test_one_array_may_be_several_arguments(backend):
    x = whole((4, 4, 3, 3), "float64", 1)
    np.testing.assert_array_equal(cnnkit.conv2d(x, x, None, 1, 1), naive.conv(x, x, None, 1, ((1, 1), (1, 1)), 1, 1))
    square = whole((5, 5), "float64", 2)
    np.testing.assert_array_equal(cnnkit.dense(square, square), naive.dense(square, square))
    np.testing.assert_array_equal(cnnkit.relu_backward(square, square), naive.relu(square))


# --- memory order follows x ----------------------------------------------------------------------


def is_channels_last(a):
    return np.moveaxis(a, 1, -1).flags.c_contiguous and not a.flags.c_contiguous


def last(shape, seed):
    a = channels_last(whole(shape, "float32", seed))
    assert is_channels_last(a)
    return a


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_channels_last_input_gives_a_channels_last_result(count, backend):
    x, weight = last((2, 4, *[6] * count), 1), whole((5, 4, *[3] * count), "float32", 2)
    conv, max_pool, avg_pool = (getattr(cnnkit, f"{name}{count}d") for name in ("conv", "max_pool", "avg_pool"))
    y, indices = max_pool(x, 2, return_indices=True)
    every = {
        "conv": conv(x, weight),
        "conv stride 2": conv(x, weight, None, 2, 1),
        "1x1": conv(x, whole((5, 4, *[1] * count), "float32", 3)),
        "depthwise": conv(x, weight[:4, :1], None, 1, 1, 1, 4),
        "max_pool": y,
        "indices": indices,
        "avg_pool": avg_pool(x, 2),
        "relu": cnnkit.relu(x),
        "dropout": cnnkit.dropout(x, 0.5, rng=np.random.default_rng(0))[0],
        "mse_loss": cnnkit.mse_loss(x, x, reduction="none"),
        "softmax": cnnkit.softmax(x, 1),
    }
    assert [name for name, a in every.items() if not is_channels_last(a)] == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_channels_last_input_gives_a_channels_last_gradient(count, backend):
    x, weight = last((2, 4, *[6] * count), 1), whole((5, 4, *[3] * count), "float32", 2)
    pooled, grad = last((2, 4, *[3] * count), 3), last((2, 5, *[4] * count), 4)
    conv, max_pool, avg_pool = (
        getattr(cnnkit, f"{name}{count}d_backward") for name in ("conv", "max_pool", "avg_pool")
    )
    every = {
        "conv": conv(grad, x, weight).x,
        "max_pool": max_pool(pooled, np.zeros(pooled.shape, int), x.shape),
        "avg_pool": avg_pool(pooled, x.shape, 2),
        "relu": cnnkit.relu_backward(x, x),
        "mse_loss": cnnkit.mse_loss_backward(1.0, x, x),
        "softmax": cnnkit.softmax_backward(x, x, 1),
    }
    assert [name for name, a in every.items() if not is_channels_last(a)] == []


def test_a_plain_input_gives_a_plain_result(backend):
    x, weight = whole((2, 4, 6, 6), "float32", 1), last((5, 4, 3, 3), 2)
    y = cnnkit.conv2d(x, weight)
    assert y.flags.c_contiguous
    assert cnnkit.conv2d_backward(channels_last(y), x, weight).x.flags.c_contiguous
    assert cnnkit.max_pool2d(x, 2).flags.c_contiguous


def test_out_may_lie_between_the_inputs(backend):
    """A dense block's way: every layer reads the first channels of a buffer and writes the next ones."""
    buffer = np.zeros((2, 4, 5, 5))
    buffer[:, :2] = 1
    y = cnnkit.conv2d(buffer[:, :2], np.ones((2, 2, 1, 1)), out=buffer[:, 2:])
    assert (buffer[:, 2:] == 2).all()
    assert y.base is buffer
    with pytest.raises(ValueError, match="out shares memory with an input"):
        cnnkit.conv2d(buffer[:, :2], np.ones((2, 2, 1, 1)), out=buffer[:, 1:3])


def test_out_in_the_other_byte_order_is_refused(dtype, backend):
    x, out = np.ones((2, 3), dtype), byte_swapped(np.full((2, 4), 7, dtype))
    with pytest.raises(TypeError, match=f"^out is {out.dtype}, but the result is {dtype}$"):
        cnnkit.dense(x, np.ones((4, 3), dtype), out=out)
    assert (out == 7).all()


def test_an_array_of_no_axes_is_an_array(dtype, backend):
    x = np.array(-2, dtype)
    for number in (x, byte_swapped(x), read_only(x)):
        assert_same(cnnkit.relu(number), np.array(0, dtype))
        assert_same(cnnkit.relu_backward(number, np.array(2, dtype)), x)


def test_an_unbatched_channels_last_image_gives_one(backend):
    x = np.ones((6, 7, 3)).transpose(2, 0, 1)
    y = cnnkit.conv2d(x, np.ones((4, 3, 3, 3)), padding=1)
    assert y.shape == (4, 6, 7)
    assert y.transpose(1, 2, 0).flags.c_contiguous
    pooled = cnnkit.max_pool2d(x, 2)
    assert pooled.transpose(1, 2, 0).flags.c_contiguous
    assert cnnkit.conv2d(np.ones((3, 6, 7)), np.ones((4, 3, 3, 3))).flags.c_contiguous


def test_of_an_array_larger_than_memory_only_what_windows_see_is_read(backend):
    """Four numbers of a million million: the rest is not copied, padded or laid out."""
    if backend in ("cuda", "cupy"):
        pytest.skip("such a view can be made of NumPy's memory alone")
    x = np.broadcast_to(np.float32(1), (1, 1, 1 << 20, 1 << 20))
    grad, weight, step = np.ones((1, 1, 2, 2), "float32"), np.ones((1, 1, 3, 3), "float32"), 1 << 19
    assert_same(cnnkit.conv2d(x, weight, None, step), 9 * grad)
    gradients = cnnkit.conv2d_backward(grad, x, weight, step, needs=("weight", "bias"))
    assert_same(gradients.weight, 4 * weight)
    assert_same(cnnkit.avg_pool2d(x, 2, step), grad)
    assert_same(cnnkit.max_pool2d(x, 2, step), grad)


def test_denormals_are_kept(dtype, backend):
    """No result is flushed to zero, by this library or another that changed how the processor rounds."""
    least = np.finfo(dtype).smallest_subnormal
    x = least * whole(SHAPE, dtype, 1)
    one, weight = np.eye(4, dtype=dtype).reshape(4, 4, 1, 1), np.eye(8, dtype=dtype)
    assert_same(cnnkit.conv2d(x, one), x)
    assert_same(cnnkit.conv2d_backward(x, x, one).x, x)
    assert_same(cnnkit.conv2d_backward(x, np.ones_like(x), one).bias, x.sum((0, 2, 3)))
    assert_same(cnnkit.dense(x, weight), x)
    assert_same(cnnkit.relu(x), np.maximum(x, 0))
    assert_same(cnnkit.relu_backward(x, np.ones_like(x)), x)
    assert_same(cnnkit.max_pool2d(x, 1), x)
    assert_same(cnnkit.avg_pool2d(4 * x, 1, divisor_override=4), x)
