"""Dense layers against their definition, their adjoint and PyTorch."""

import importlib

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st

import cnnkit

SHAPES = {  # x (..., in), out features
    "small": ((3, 4), 2),
    "one sample": ((7,), 5),
    "one feature": ((4, 1), 3),
    "one output": ((5, 17), 1),
    "one of all": ((1, 1), 1),
    "a sequence": ((2, 3, 5), 4),
    "four axes": ((2, 1, 3, 6), 7),
    "no sample": ((0, 4), 3),
    "no step": ((2, 0, 4), 3),
    "around 16": ((17, 15), 16),
    "around 48": ((49, 47), 50),
    "long": ((2, 1000), 3),
    "wide": ((2, 3), 301),
    "many": ((331, 43), 70),  # summed another way
    "some and long": ((101, 1301), 19),  # in parts
    "a few, very long": ((13, 4700), 21),
}
CASES = pytest.mark.parametrize(("shape", "outs"), SHAPES.values(), ids=SHAPES.keys())


def data(shape, outs, dtype):
    """``(x, weight, bias, grad_output)``."""
    shapes = [shape, (outs, shape[-1]), (outs,), (*shape[:-1], outs)]
    return [normal(s, dtype, seed) for seed, s in enumerate(shapes)]


def check_forward(shape, outs, dtype):
    x, weight, bias, _ = data(shape, outs, dtype)
    magnitude = naive.dense(*map(np.abs, (x, weight, bias)))
    expected = naive.dense(x, weight, bias)
    assert_close(cnnkit.dense(x, weight, bias), expected, magnitude, shape[-1] + 1, dtype)


def check_backward(shape, outs, dtype):
    x, weight, _, grad = data(shape, outs, dtype)
    expected = naive.dense_backward(grad, x, weight)
    magnitudes = naive.dense_backward(*map(np.abs, (grad, x, weight)))
    rows = grad.size // outs
    grads = cnnkit.dense_backward(grad, x, weight)
    for got, want, magnitude, terms in zip(
        (grads.x, grads.weight, grads.bias), expected, magnitudes, (outs, rows, rows), strict=True
    ):
        assert_close(got, want, magnitude, terms, dtype)


@CASES
def test_forward_is_the_definition(shape, outs, dtype, backend):
    check_forward(shape, outs, dtype)


@CASES
def test_backward_is_the_definition(shape, outs, dtype, backend):
    check_backward(shape, outs, dtype)


@CASES
@pytest.mark.parametrize("small", [0, 1 << 40])
def test_any_layer_goes_back_in_one_kernel_or_by_convolutions(shape, outs, small, dtype, monkeypatch):
    pytest.importorskip("numba", reason="the CPU kernels need Numba")
    room = importlib.import_module("cnnkit.rooms.numba.dense")
    monkeypatch.setattr(room, "SMALL", small)
    with cnnkit.use_backend("numba"):
        check_backward(shape, outs, dtype)


@pytest.mark.parametrize("examples", [599, 768])
def test_long_sums_are_added_up_part_by_part(examples, dtype, monkeypatch):
    room = pytest.importorskip("cnnkit.rooms.numba.dense", reason="the CPU kernels need Numba")
    monkeypatch.setattr(room, "SUMMED", 256)
    rng = np.random.default_rng(examples)
    grad, x, weight = (rng.integers(-3, 4, shape).astype(dtype) for shape in ((examples, 5), (examples, 70), (5, 70)))
    with cnnkit.use_backend("numba"):
        grads = cnnkit.dense_backward(grad, x, weight)
    assert_same(grads.weight, (grad.astype(int).T @ x.astype(int)).astype(dtype))  # whole numbers: no rounding
    assert_same(grads.x, grad @ weight)


@CASES
def test_backward_is_the_adjoint_of_forward(shape, outs, backend):
    x, weight, _, grad = data(shape, outs, "float64")
    y, grads = cnnkit.dense(x, weight), cnnkit.dense_backward(grad, x, weight)
    scale = np.linalg.norm(y) * np.linalg.norm(grad)
    assert abs(np.vdot(y, grad) - np.vdot(x, grads.x)) <= 1e-10 * scale
    assert abs(np.vdot(y, grad) - np.vdot(weight, grads.weight)) <= 1e-10 * scale


@given(shape=st.lists(st.integers(0, 5), max_size=2), ins=st.integers(1, 40), outs=st.integers(1, 40))
def test_any_layer(shape, ins, outs, dtype, backend):
    check_forward((*shape, ins), outs, dtype)
    check_backward((*shape, ins), outs, dtype)


def test_without_a_bias_it_is_the_one_with_zeros(dtype, backend):
    x, weight, bias, _ = data((5, 6), 7, dtype)
    assert_same(cnnkit.dense(x, weight), cnnkit.dense(x, weight, np.zeros_like(bias)))


def test_relu_in_the_same_pass(dtype, backend):
    x, weight, bias, _ = data((9, 20), 33, dtype)
    expected = naive.dense(x, weight, bias)
    assert (expected < 0).any()
    y = cnnkit.dense(x, weight, bias, activation="relu")
    magnitude = naive.dense(*map(np.abs, (x, weight, bias)))
    assert_close(y, np.maximum(expected, 0), magnitude, 21, dtype)
    assert y.min() == 0


@pytest.mark.parametrize("layout", ["plain", "every other", "fortran", "backwards"])
@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6), (6,)])
def test_out_takes_the_result(layout, shape, dtype, backend):
    x, weight, bias, _ = data(shape, 7, dtype)
    y = cnnkit.dense(x, weight, bias)
    out = {
        "plain": np.full(y.shape, np.nan, dtype),
        "every other": np.full([2 * n for n in y.shape], np.nan, dtype)[(slice(None, None, 2),) * y.ndim],
        "fortran": np.full(y.shape, np.nan, dtype, order="F"),
        "backwards": np.full(y.shape, np.nan, dtype)[..., ::-1],
    }[layout]
    assert cnnkit.dense(x, weight, bias, out=out) is out
    np.testing.assert_allclose(out, y, rtol=0, atol=20 * np.finfo(dtype).eps)


def test_arguments_have_their_names(backend):
    x, weight, bias, grad = data((5, 6), 7, "float32")
    assert_same(cnnkit.dense(x=x, weight=weight, bias=bias), cnnkit.dense(x, weight, bias))
    named = cnnkit.dense_backward(grad_output=grad, x=x, weight=weight)
    for one, other in zip(named, cnnkit.dense_backward(grad, x, weight), strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("needs", [("x",), ("weight",), ("bias",), ("x", "bias"), ("bias", "weight"), ()])
def test_what_is_not_needed_is_none(needs, backend):
    x, weight, _, grad = data((5, 6), 7, "float32")
    every = cnnkit.dense_backward(grad, x, weight)
    some = cnnkit.dense_backward(grad, x, weight, needs=needs)
    for name in ("x", "weight", "bias"):
        if name in needs:
            assert_same(getattr(some, name), getattr(every, name))
        else:
            assert getattr(some, name) is None


def test_a_nan_stays_in_its_row(dtype, backend):
    x, weight, bias, grad = data((20, 19), 18, dtype)
    x[7, 5] = np.nan
    np.testing.assert_array_equal(np.isnan(cnnkit.dense(x, weight, bias)).any(axis=1).nonzero(), [[7]])
    grads = cnnkit.dense_backward(grad, x, weight)
    np.testing.assert_array_equal(np.isnan(grads.weight).any(axis=0).nonzero(), [[5]])
    assert not np.isnan(grads.x).any()


@pytest.mark.parametrize(("rows", "ins", "outs"), [(64, 784, 100), (1, 512, 1000), (33, 129, 257)])
def test_pytorch_agrees_on_real_layers(rows, ins, outs, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")

    def layer(x, weight, bias, grad):
        tensors = [torch.tensor(np.float64(a), requires_grad=True) for a in (x, weight, bias)]
        y = torch.nn.functional.linear(*tensors)
        y.backward(torch.tensor(np.float64(grad)))
        return [y.detach(), *(t.grad for t in tensors)]

    arrays = data((rows, ins), outs, dtype)
    x, weight, bias, grad = arrays
    got = [cnnkit.dense(x, weight, bias), *cnnkit.dense_backward(grad, x, weight)]
    expected, magnitudes = layer(*arrays), layer(*map(np.abs, arrays))
    for one, want, magnitude, terms in zip(got, expected, magnitudes, (ins + 1, outs, rows, rows), strict=True):
        assert_close(one, want, magnitude, terms, dtype)


@pytest.mark.parametrize("features", [4096, 4097, 9000])
def test_more_features_than_are_summed_at_a_time(features, backend):
    """And more examples and outputs than are near then; small integers have no roundings."""
    rng = np.random.default_rng(features)
    x, weight = (rng.integers(-3, 4, (n, features)).astype("float32") for n in (35, 26))
    np.testing.assert_array_equal(cnnkit.dense(x, weight), x @ weight.T)
