"""Lp pooling against its definition, its gradients and PyTorch."""

import math

import naive
import numpy as np
import pytest
from cases import FLOATS, LAYOUTS, MAX_POOL, Pool, in_memory, normal, over
from closeness import assert_close, assert_same
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnkit


def op(case, suffix=""):
    return getattr(cnnkit, f"lp_pool{case.count}d{suffix}")


def window(case):
    return case.kernel, case.stride, case.padding, case.dilation, case.ceil_mode


def numbers(case, p, dtype):
    """Random numbers; positive ones where powers of others, or roots of their sums, are not defined."""
    x = normal(case.x, dtype, 1)
    return x if p % 2 == 0 else np.abs(x) + dtype.type(0.01)


def check(case, p, x, grad):
    """Sums of powers are of positive numbers: they round like their terms, and powers and roots by a few units more."""
    batch = x.shape if x.ndim == case.count + 2 else (1, *x.shape)
    solved = *case.solved, case.dilation, case.ceil_mode
    y = naive.lp_pool(x.reshape(batch), p, *solved)
    extra = case.terms + 16 * math.ceil(p)
    assert_close(op(case)(x, p, *window(case)), y.reshape(grad.shape), y.reshape(grad.shape), extra, x.dtype)
    true = [
        naive.lp_pool_backward(g.reshape(y.shape), a.reshape(batch), p, *solved).reshape(x.shape)
        for g, a in ((grad, x), (np.abs(grad), np.abs(x)))
    ]
    gx = op(case, "_backward")(grad, x, p, *window(case))
    assert_close(gx, true[0], np.abs(true[1]), 2 * extra + case.terms**2, x.dtype)


@over(MAX_POOL)
def test_euclidean_is_the_definition(case, dtype, backend):
    x = numbers(case, 2, dtype)
    check(case, 2, x, normal(op(case)(x, 2, *window(case)).shape, dtype, 2))


@pytest.mark.parametrize("p", [1, 3, 8, 2.5, 0.5])
@over({n: MAX_POOL[n] for n in ("1d", "ceil, two over the end", "pairs", "dilation, ceil", "3d mixed", "no image")})
def test_lp_is_the_definition(case, p, dtype, backend):
    x = numbers(case, p, dtype)
    check(case, p, x, normal(op(case)(x, p, *window(case)).shape, dtype, 2))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("p", [2, 3])
def test_any_memory_order(p, layout, dtype, backend):
    for case in (Pool((2, 19, 9, 21), 3, 2, 1), Pool((2, 5, 9, 11), 2, 1, 1, 2)):
        x = numbers(case, p, dtype)
        y = op(case)(in_memory(x, layout), p, *window(case))
        check(case, p, in_memory(x, layout), in_memory(normal(y.shape, dtype, 2), layout))
        if layout == "channels last":
            assert y.transpose(0, 2, 3, 1).flags.c_contiguous


def test_of_infinite_power_is_max_pooling(dtype, backend):
    x, grad = normal((2, 3, 7, 8), dtype, 1), normal((2, 3, 4, 4), dtype, 2)
    y, indices = cnnkit.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert_same(cnnkit.lp_pool2d(x, math.inf, 3, 2, 1), y)
    expected = cnnkit.max_pool2d_backward(grad, indices, x.shape)
    assert_same(cnnkit.lp_pool2d_backward(grad, x, math.inf, 3, 2, 1), expected)


def test_answers_typed_by_hand(backend):
    assert cnnkit.lp_pool1d(np.array([[3.0, -4.0, 0.0]]), 2, 2, 1).tolist() == [[5, 4]]
    assert cnnkit.lp_pool1d(np.array([[3.0, -4.0]]), 1, 2).tolist() == [[-1]]  # the plain sum
    assert cnnkit.lp_pool1d(np.array([[2.0, -1.0]]), 3, 2).tolist() == [[7 ** (1 / 3)]]  # 8 - 1
    assert cnnkit.lp_pool1d_backward(np.array([[10.0]]), np.array([[3.0, -4.0]]), 2, 2).tolist() == [[6, -8]]
    padded = np.array([[3.0, 4.0, 12.0]])
    assert cnnkit.lp_pool1d(padded, 2, 3, 3, 1).tolist() == [[5]]  # a padding zero adds nothing, and scales nothing
    # a window that hangs over the end counts as if its mean were that of all its taps, as in PyTorch
    assert cnnkit.lp_pool1d(padded, 2, 2, 2, 0, 1, True).tolist() == [[5, 288**0.5]]


def test_powers_and_roots_that_are_not_defined_are_nan(backend):
    with np.errstate(invalid="ignore"):
        assert np.isnan(cnnkit.lp_pool1d(np.array([[1.0, -2.0]]), 3, 2)).all()  # the root of -7
        assert np.isnan(cnnkit.lp_pool1d(np.array([[1.0, -2.0]]), 1.5, 2)).all()


@pytest.mark.parametrize("p", [1, 2, 3, 4])
def test_a_sum_of_zero_has_no_gradient(p, dtype, backend):
    """As in PyTorch, whose formula has a ReLU: not where powers cancel, nor with p = 1, where there would be one."""
    x = np.array([[0.0, 0.0, 1.0, -1.0 if p % 2 else 0.0, 2.0, 0.0]], dtype)
    gx = cnnkit.lp_pool1d_backward(np.array([[np.inf, 1, 1]], dtype), x, p, 2)
    assert (gx[0, :2] == 0).all()
    assert (gx[0, 2:4] == 0).all() == (p % 2 == 1)
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    t = torch.tensor(x.copy(), requires_grad=True)
    torch.nn.functional.lp_pool1d(t, p, 2).sum().backward()
    np.testing.assert_allclose(cnnkit.lp_pool1d_backward(np.ones((1, 3), dtype), x, p, 2), t.grad, rtol=1e-6)


@pytest.mark.parametrize("layout", ["C", "channels last"])
def test_planes_are_taken_some_at_a_time(layout, monkeypatch):
    room = pytest.importorskip("cnnkit.rooms.numba.lp_pool")
    x, grad = (in_memory(normal(shape, "float32", 1), layout) for shape in ((5, 7, 9, 8), (5, 7, 4, 4)))
    with cnnkit.use_backend("numba"):
        y, gx = cnnkit.lp_pool2d(x, 2, 2), cnnkit.lp_pool2d_backward(grad, x, 2, 2)
        for planes in (1, 3, 8, 20):
            monkeypatch.setattr(room, "NEAR", planes * 9 * 8 * 4)
            assert_same(cnnkit.lp_pool2d(x, 2, 2), y)
            assert_same(cnnkit.lp_pool2d_backward(grad, x, 2, 2), gx)


def test_results_do_not_depend_on_threads(threads):
    x = normal((3, 35, 61, 59), "float32", 1)
    results = []
    for count in (1, 2, 5):
        threads(count)
        y = cnnkit.lp_pool2d(x, 2, 3, 2)
        results.append((y, cnnkit.lp_pool2d_backward(y, x, 2, 3, 2)))
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert_same(one, same)


@st.composite
def pools(draw):
    """What PyTorch's Lp pooling takes: no padding, no dilation."""
    axes = draw(st.lists(st.tuples(*[st.integers(1, 4)] * 3), min_size=1, max_size=3))
    kernel, stride = tuple(k for k, _, _ in axes), tuple(s for _, s, _ in axes)
    lead = draw(st.sampled_from([(3,), (2, 3), (1, 2)]))
    shape = (*lead, *(k + more - 1 for k, _, more in axes))
    return Pool(shape, kernel, draw(st.sampled_from([stride, None])), 0, 1, draw(st.booleans()), len(axes))


@settings(max_examples=200)
@given(
    case=pools(),
    p=st.sampled_from([1, 2, 3, 4, 1.5]),
    layout=st.sampled_from(LAYOUTS),
    dtype=FLOATS,
    seed=st.integers(0, 9),
)
def test_pytorch_agrees(case, p, layout, dtype, seed, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    x = np.random.default_rng(seed).integers(1 if p % 2 else -3, 4, case.x).astype(dtype)
    x = in_memory(x, layout)
    t = torch.tensor(np.float64(x).copy(), requires_grad=True)
    kernel, stride = (v[0] if v and case.count == 1 else v for v in (case.kernel, case.stride))  # 1d takes ints
    y = getattr(torch.nn.functional, f"lp_pool{case.count}d")(t, float(p), kernel, stride, case.ceil_mode)
    got = op(case)(x, p, *window(case))
    assert_close(got, y.detach().numpy(), y.detach().numpy(), case.terms + 64, dtype)
    grad = in_memory(np.random.default_rng(seed).integers(0, 8, y.shape).astype(dtype), layout)
    expected = torch.autograd.grad(y, t, torch.tensor(np.float64(grad).copy()))[0].numpy()
    gx = op(case, "_backward")(grad, x, p, *window(case))
    assert_close(gx, expected, np.abs(expected), 3 * case.terms + 128, dtype)
