"""Adaptive pooling against its definition, its gradients and PyTorch."""

import naive
import numpy as np
import pytest
from cases import FLOATS, LAYOUTS, in_memory, normal, over
from closeness import assert_close, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnkit

SIZES = {  # x, output_size
    "13 to 7": ((2, 3, 13, 13), 7),
    "global": ((2, 3, 6, 7), 1),
    "divides": ((2, 3, 6, 8), (3, 4)),
    "divides along one axis": ((1, 2, 6, 9), (3, 4)),
    "divides along the other": ((1, 2, 7, 9), (4, 3)),
    "as the input": ((1, 2, 5, 4), (None, None)),
    "as the input along one axis": ((1, 2, 5, 9), (None, 2)),
    "larger than the input": ((1, 2, 3, 4), (5, 7)),
    "one larger, one smaller": ((1, 2, 3, 40), (4, 3)),
    "windows longer than a vector": ((1, 2, 5, 100), (2, 3)),
    "many short windows": ((1, 2, 4, 70), (3, 33)),
    "unbatched": ((3, 7, 5), (2, 3)),
    "no image": ((0, 3, 7, 5), (2, 3)),
    "17 channels": ((1, 17, 5, 5), 3),
    "1d": ((2, 3, 11), 4),
    "1d unbatched": ((3, 11), (4,)),
    "1d global": ((2, 3, 11), 1),
    "3d": ((1, 2, 5, 6, 7), (2, 4, 3)),
    "3d larger": ((1, 2, 2, 3, 4), (3, None, 5)),
    "3d global": ((2, 2, 3, 4, 5), 1),
}
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, 2.0])


def solved(case):
    """``(shape of the batch, output size)``"""
    shape, size = case
    ndim = len(size) if isinstance(size, tuple) else len(shape) - 2
    size = naive.each_axis(size, ndim)
    spatial = shape[-ndim:]
    batched = shape if len(shape) == ndim + 2 else (1, *shape)
    return batched, tuple(n if m is None else m for n, m in zip(spatial, size, strict=True))


def op(kind, case, suffix=""):
    return getattr(cnnkit, f"adaptive_{kind}_pool{len(solved(case)[1])}d{suffix}")


def alike(array, case):
    """Without the batch axis if the case has none."""
    return array.reshape(array.shape[-len(case[0]) :])


def check_max(case, x):
    batch, size = solved(case)
    y, places = naive.adaptive_max_pool(x.reshape(batch), size)
    got, indices = op("max", case)(x, case[1], return_indices=True)
    assert_same(got, alike(y, case))
    assert_same(indices, alike(places, case))
    assert_same(op("max", case)(x, case[1]), alike(y, case))
    grad = normal(got.shape, "float32", 3)
    gx = op("max", case, "_backward")(grad, indices, case[0])
    true = [naive.max_pool_backward(g.reshape(y.shape), places, batch) for g in (grad, np.abs(grad))]
    assert_close(gx, alike(true[0], case), alike(true[1], case), grad.size, "float32")


def check_avg(case, x, grad):
    batch, size = solved(case)
    terms = int(np.prod([-(-n // m) + 1 for n, m in zip(batch[2:], size, strict=True)]))
    y, magnitude = (alike(naive.adaptive_avg_pool(a.reshape(batch), size), case) for a in (x, np.abs(x)))
    assert_close(op("avg", case)(x, case[1]), y, magnitude, terms, x.dtype)
    grads = [g.reshape(*batch[:2], *size) for g in (grad, np.abs(grad))]
    gx, magnitude = (alike(naive.adaptive_avg_pool_backward(g, batch), case) for g in grads)
    terms = int(np.prod([-(-m // n) + 1 for n, m in zip(batch[2:], size, strict=True)]))
    assert_close(op("avg", case, "_backward")(grad, case[0]), gx, magnitude, terms + 2, x.dtype)


def output_shape(case):
    _, size = solved(case)
    return (*case[0][: -len(size)], *size)


@over(SIZES)
def test_max_is_the_definition(case, dtype, backend):
    rng = np.random.default_rng(1)
    check_max(case, normal(case[0], dtype, 1))
    check_max(case, rng.integers(-1, 2, case[0]).astype(dtype))
    check_max(case, rng.choice(ODD, case[0]).astype(dtype))
    check_max(case, np.full(case[0], -np.inf, dtype))


@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "uint64"])
def test_max_of_integers(kind, backend):
    info, case = np.iinfo(kind), ((2, 3, 7, 5), (3, 2))
    check_max(case, np.random.default_rng(1).integers(info.min, info.max, case[0], kind, endpoint=True))
    check_max(case, np.full(case[0], info.min, kind))


@over(SIZES)
def test_avg_is_the_definition(case, dtype, backend):
    check_avg(case, normal(case[0], dtype, 1), normal(output_shape(case), dtype, 2))


@over(SIZES)
def test_avg_backward_is_the_adjoint_of_forward(case, backend):
    x, grad = normal(case[0], "float64", 1), normal(output_shape(case), "float64", 2)
    y = op("avg", case)(x, case[1])
    difference = np.vdot(y, grad) - np.vdot(x, op("avg", case, "_backward")(grad, case[0]))
    assert abs(difference) <= 1e-12 * (1 + np.linalg.norm(y) * np.linalg.norm(grad))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(1, 1), (4, 3), (3, 7), (11, 5)])
def test_any_memory_order(size, layout, dtype, backend):
    case = ((2, 19, 9, 21), size)
    x = in_memory(normal(case[0], dtype, 1), layout)
    check_max(case, x)
    check_avg(case, x, in_memory(normal(output_shape(case), dtype, 2), layout))


def test_zero_strides(backend):
    for shape, steps in (((2, 3, 7, 9), (0, 0, 36, 4)), ((2, 3, 7, 9), (12, 4, 0, 0))):
        x = np.lib.stride_tricks.as_strided(normal((63,), "float32", 1), shape, steps)
        check_max((shape, 4), x)
        check_avg((shape, 4), x, np.broadcast_to(np.float32(0.1), (2, 3, 4, 4)))


def test_answers_typed_by_hand(backend):
    x = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    assert cnnkit.adaptive_avg_pool1d(x, 3).tolist() == [[0.5, 2.0, 3.5]]  # windows 0-1, 1-3, 3-4
    assert cnnkit.adaptive_avg_pool1d_backward(np.array([[2.0, 3.0, 4.0]]), (1, 5)).tolist() == [[1, 2, 1, 3, 2]]
    assert cnnkit.adaptive_avg_pool1d(x[:, :2], 3).tolist() == [[0.0, 0.5, 1.0]]
    y, indices = cnnkit.adaptive_max_pool1d(x, 3, return_indices=True)
    assert (y.tolist(), indices.tolist()) == ([[1, 3, 4]], [[1, 3, 4]])


def test_a_nan_reaches_only_its_windows(dtype, backend):
    x = np.ones((1, 2, 7, 9), dtype)
    x[0, 1, 2, 4] = np.nan
    expected = np.isnan(naive.adaptive_avg_pool(x, (3, 4)))
    assert expected.sum() == 4  # two windows along each axis
    np.testing.assert_array_equal(np.isnan(cnnkit.adaptive_avg_pool2d(x, (3, 4))), expected)
    np.testing.assert_array_equal(np.isnan(cnnkit.adaptive_max_pool2d(x, (3, 4))), expected)
    grad = np.ones((1, 2, 3, 4), dtype)
    grad[0, 1, 1, 1] = np.inf
    np.testing.assert_array_equal(
        np.isinf(cnnkit.adaptive_avg_pool2d_backward(grad, x.shape)),
        np.isinf(naive.adaptive_avg_pool_backward(grad, x.shape)),
    )


def test_results_do_not_depend_on_threads(threads):
    x = normal((3, 35, 61, 59), "float32", 1)
    for arranged in (x, in_memory(x, "channels last")):
        results = []
        for count in (1, 2, 5):
            threads(count)
            y, indices = cnnkit.adaptive_max_pool2d(arranged, 23, return_indices=True)
            mean = cnnkit.adaptive_avg_pool2d(arranged, 23)
            results.append((y, indices, mean, cnnkit.adaptive_avg_pool2d_backward(mean, x.shape)))
        for other in results[1:]:
            for one, same in zip(results[0], other, strict=True):
                assert_same(one, same)


@st.composite
def adaptive(draw):
    """``(shape, output_size)`` over one to three axes, batched or not."""
    sizes = draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 7)), min_size=1, max_size=3))
    lead = draw(st.sampled_from([(1,), (3,), (2, 3), (1, 2), (0, 2)]))
    return (*lead, *(n for n, _ in sizes)), tuple(m for _, m in sizes)


@settings(max_examples=200)
@given(case=adaptive(), layout=st.sampled_from(LAYOUTS), dtype=FLOATS, seed=st.integers(0, 9))
def test_pytorch_agrees(case, layout, dtype, seed, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    x = in_memory(np.random.default_rng(seed).integers(-3, 4, case[0]).astype(dtype), layout)
    t, name = torch.tensor(x.copy(), requires_grad=True), f"pool{len(case[1])}d"
    y, places = getattr(torch.nn.functional, f"adaptive_max_{name}")(t, case[1], return_indices=True)
    got, indices = op("max", case)(x, case[1], return_indices=True)
    assert_same(got, y.detach().numpy())
    assert_same(indices, places.numpy())
    grad = in_memory(np.random.default_rng(seed).integers(-8, 9, y.shape).astype(dtype), layout)  # sums are exact
    assert_same(op("max", case, "_backward")(grad, indices, case[0]), gradient(torch, y, t, grad))
    y = getattr(torch.nn.functional, f"adaptive_avg_{name}")(t, case[1])
    terms = 10**3
    assert_close(op("avg", case)(x, case[1]), y.detach().numpy(), 3, terms, dtype)
    gx = op("avg", case, "_backward")(grad, case[0])
    assert_close(gx, gradient(torch, y, t, grad), 8 * 3 ** len(case[1]), terms, dtype)


def gradient(torch, y, t, grad):
    return torch.autograd.grad(y, t, torch.tensor(grad.copy()))[0].numpy() + 0
