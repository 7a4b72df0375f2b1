"""Pooling against its definition, its gradients and PyTorch."""

import itertools

import naive
import numpy as np
import pytest
from cases import MAX_POOL, POOL, Pool, normal, over
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st

import cnnkit
from cnnkit import geometry

RULES = [(True, None), (False, None), (True, 7), (False, 3)]  # count_include_pad, divisor_override
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]


def op(name, case, suffix=""):
    return getattr(cnnkit, f"{name}_pool{case.count}d{suffix}")


def batched(array, case):
    """An unbatched array as a batch of one."""
    return array if array.ndim == case.count + 2 else array[None]


def like(array, case):
    """What `batched` did, undone."""
    return array if len(case.x) == case.count + 2 else array[0]


def max_pool(case, x, return_indices=True):
    return op("max", case)(x, case.kernel, case.stride, case.padding, case.dilation, case.ceil_mode, return_indices)


def true_max(case, x):
    """``(y, indices)`` by definition."""
    y, indices = naive.max_pool(batched(x, case), *case.solved, case.dilation, case.ceil_mode)
    return like(y, case), like(indices, case)


def avg_pool(case, x, rule=(True, None)):
    return op("avg", case)(x, case.kernel, case.stride, case.padding, case.ceil_mode, *rule)


def avg_pool_backward(case, grad, rule=(True, None)):
    params = case.kernel, case.stride, case.padding, case.ceil_mode, *rule
    return op("avg", case, "_backward")(grad, case.x, *params)


def true_avg(case, x, rule):
    return like(naive.avg_pool(batched(x, case), *case.solved, case.ceil_mode, *rule), case)


def true_avg_backward(case, grad, rule):
    shape = case.x if len(case.x) == case.count + 2 else (1, *case.x)
    gx = naive.avg_pool_backward(batched(grad, case), shape, *case.solved, case.ceil_mode, *rule)
    return like(gx, case)


# --- max pooling ---------------------------------------------------------------------------------


def check_max(case, x):
    y, indices = max_pool(case, x)
    expected, places = true_max(case, x)
    assert_same(y, expected)
    assert_same(indices, places)
    assert_same(max_pool(case, x, return_indices=False), expected)


def check_max_backward(case, x):
    _, indices = true_max(case, x)
    grad = normal(indices.shape, x.dtype, 2)
    gx = op("max", case, "_backward")(grad, indices, x.shape)
    true = [
        naive.max_pool_backward(batched(g, case), batched(indices, case), batched(x, case).shape)
        for g in (grad, np.abs(grad))
    ]
    assert_close(gx, like(true[0], case), like(true[1], case), case.terms, x.dtype)


@over(MAX_POOL)
def test_max_is_the_definition(case, dtype, backend):
    check_max(case, normal(case.x, dtype, 1))


@over(MAX_POOL)
def test_max_of_ties_is_the_first(case, dtype, backend):
    check_max(case, np.random.default_rng(1).integers(-1, 2, case.x).astype(dtype))


@over(MAX_POOL)
def test_max_with_nans_and_infinities(case, dtype, backend):
    odd = np.array([np.nan, np.inf, -np.inf, 1.0])
    check_max(case, np.random.default_rng(1).choice(odd, case.x, p=[0.1, 0.1, 0.6, 0.2]).astype(dtype))


@over(MAX_POOL)
def test_max_of_nothing_but_minus_infinity(case, dtype, backend):
    check_max(case, np.full(case.x, -np.inf, dtype))


@pytest.mark.parametrize("kind", INTEGERS)
@over({n: MAX_POOL[n] for n in ("1d", "3x3 stride 2", "ceil, padded", "dilation 2", "3d ceil")})
def test_max_of_integers(kind, case, backend):
    info = np.iinfo(kind)
    x = np.random.default_rng(1).integers(info.min, info.max, case.x, kind, endpoint=True)
    check_max(case, x)
    check_max(case, np.full(case.x, info.min, kind))


@over(MAX_POOL)
def test_max_backward_is_the_definition(case, dtype, backend):
    check_max_backward(case, normal(case.x, dtype, 1))


@over(MAX_POOL)
def test_max_backward_where_few_inputs_win_many_windows(case, dtype, backend):
    check_max_backward(case, np.random.default_rng(1).integers(0, 2, case.x).astype(dtype))


def test_max_backward_sends_a_nan_to_its_winner_alone(backend):
    x = np.array([[[[1.0, 5, 2, 3], [0, 0, 9, 0]]]])
    _, indices = cnnkit.max_pool2d(x, 2, return_indices=True)
    np.testing.assert_array_equal(indices, [[[[1, 6]]]])
    gx = cnnkit.max_pool2d_backward(np.array([[[[np.nan, 2.0]]]]), indices, x.shape)
    np.testing.assert_array_equal(gx, [[[[0, np.nan, 0, 0], [0, 0, 2, 0]]]])


def slope(f, x, place, step):
    """The central difference of a scalar function along one coordinate."""
    ends = []
    for sign in (1, -1):
        moved = x.copy()
        moved[place] += sign * step
        ends.append(f(moved))
    return (ends[0] - ends[1]) / (2 * step)


@over({n: c for n, c in MAX_POOL.items() if np.prod(c.x) <= 130})
def test_max_gradient_is_the_numerical_one(case, backend):
    # distinct values at least 1 apart: a step of 1/4 changes no winner, and the slope is exact
    x = np.random.default_rng(1).permutation(float(np.prod(case.x)) - np.arange(np.prod(case.x)))
    x = x.reshape(case.x)
    y, indices = max_pool(case, x)
    grad = np.random.default_rng(2).integers(-8, 9, y.shape).astype(float)
    gx = op("max", case, "_backward")(grad, indices, x.shape)
    for place in np.ndindex(*case.x):
        want = slope(lambda x: np.vdot(max_pool(case, x, False), grad), x, place, 0.25)
        assert gx[place] == want, place


# --- average pooling -----------------------------------------------------------------------------


def check_avg(case, dtype, rule):
    x = normal(case.x, dtype, 1)
    magnitude = true_avg(case, np.abs(x), rule)
    assert_close(avg_pool(case, x, rule), true_avg(case, x, rule), magnitude, case.terms, dtype)


def check_avg_backward(case, dtype, rule):
    grad = normal(true_avg(case, np.ones(case.x), rule).shape, dtype, 2)
    gx, magnitude = (true_avg_backward(case, g, rule) for g in (grad, np.abs(grad)))
    assert_close(avg_pool_backward(case, grad, rule), gx, magnitude, case.terms, dtype)


@pytest.mark.parametrize("rule", RULES)
@over(POOL)
def test_avg_is_the_definition(case, rule, dtype, backend):
    check_avg(case, dtype, rule)


@pytest.mark.parametrize("rule", RULES)
@over(POOL)
def test_avg_backward_is_the_definition(case, rule, dtype, backend):
    check_avg_backward(case, dtype, rule)


@pytest.mark.parametrize("rule", RULES)
@over(POOL)
def test_avg_backward_is_the_adjoint_of_forward(case, rule, backend):
    x = normal(case.x, "float64", 1)
    y = avg_pool(case, x, rule)
    grad = normal(y.shape, "float64", 2)
    scale = np.linalg.norm(y) * np.linalg.norm(grad)
    difference = np.vdot(y, grad) - np.vdot(x, avg_pool_backward(case, grad, rule))
    assert abs(difference) <= 1e-10 * scale


def test_avg_lets_a_nan_reach_only_its_windows(backend):
    x = np.ones((1, 2, 6, 7), np.float32)
    x[0, 0, 2, 3] = np.nan
    expected = np.isnan(naive.avg_pool(x, 3, 1, ((1, 1), (1, 1))))
    assert expected.sum() == 9
    np.testing.assert_array_equal(np.isnan(cnnkit.avg_pool2d(x, 3, 1, 1)), expected)


@over({n: c for n, c in POOL.items() if np.prod(c.x) <= 130})
def test_avg_gradient_is_the_numerical_one(case, backend):
    x = np.random.default_rng(1).integers(-8, 9, case.x).astype(float)
    grad = normal(avg_pool(case, x).shape, "float64", 2)
    gx = avg_pool_backward(case, grad)
    for place in np.ndindex(*case.x):
        want = slope(lambda x: np.vdot(avg_pool(case, x), grad), x, place, 1.0)
        assert abs(gx[place] - want) < 1e-12, place


# --- random windows ------------------------------------------------------------------------------


@st.composite
def axis(draw):
    """``(size, kernel, stride, (before, after), dilation)`` whose every window meets the input."""
    kernel, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 2))
    half = kernel // 2
    before, after = draw(st.integers(0, half)), draw(st.integers(0, half))
    least = dilation * (kernel - 1) + 1
    size = draw(st.integers(least, least + 4))
    return size, kernel, draw(st.integers(1, 6)), (before, after), dilation


@st.composite
def pools(draw):
    """A small pooling with any parameters."""
    axes = draw(st.lists(axis(), min_size=1, max_size=3))
    size, kernel, stride, pads, dilation = zip(*axes, strict=True)
    x = (draw(st.integers(0, 2)), draw(st.integers(1, 3)), *size)
    return Pool(x, kernel, stride, pads, dilation, draw(st.booleans()), len(size))


@given(case=pools(), seed=st.integers(0, 9))
def test_any_max_pool(case, seed, dtype, backend):
    x = np.random.default_rng(seed).integers(-3, 4, case.x).astype(dtype)
    check_max(case, x)
    check_max_backward(case, x)


@given(case=pools(), rule=st.sampled_from(RULES))
def test_any_avg_pool(case, rule, dtype, backend):
    case = case._replace(dilation=1)
    check_avg(case, dtype, rule)
    check_avg_backward(case, dtype, rule)


# --- the other arguments -------------------------------------------------------------------------


def test_stride_none_is_the_kernel_size(backend):
    x = normal((1, 2, 9, 8), "float32", 1)
    assert_same(cnnkit.max_pool2d(x, (3, 2)), cnnkit.max_pool2d(x, (3, 2), (3, 2)))
    assert_same(cnnkit.avg_pool2d(x, (3, 2)), cnnkit.avg_pool2d(x, (3, 2), (3, 2)))


def test_arguments_have_their_names(backend):
    x = normal((1, 2, 9, 8), "float32", 1)
    shared = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    y, indices = cnnkit.max_pool2d(x=x, dilation=1, return_indices=True, **shared)
    assert_same(y, cnnkit.max_pool2d(x, 3, 2, 1, 1, True))
    assert_same(
        cnnkit.max_pool2d_backward(grad_output=y, indices=indices, input_shape=x.shape),
        cnnkit.max_pool2d_backward(y, indices, x.shape),
    )
    divide = {"count_include_pad": False, "divisor_override": 5}
    assert_same(cnnkit.avg_pool2d(x=x, **shared, **divide), cnnkit.avg_pool2d(x, 3, 2, 1, True, False, 5))
    assert_same(
        cnnkit.avg_pool2d_backward(grad_output=y, input_shape=x.shape, **shared, **divide),
        cnnkit.avg_pool2d_backward(y, x.shape, 3, 2, 1, True, False, 5),
    )


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_out_takes_the_result(name, dtype, backend):
    pool = getattr(cnnkit, name)
    for shape in ((2, 3, 9, 8), (3, 9, 8), (0, 3, 9, 8)):
        x = normal(shape, dtype, 1)
        y = pool(x, 3, 2, 1)
        frame = np.full((*shape[:-2], 7, 12), 7, dtype)
        for out in (np.empty_like(y), np.empty(y.shape[::-1], dtype).T, frame[..., 1:6, 3:11:2]):
            assert pool(x, 3, 2, 1, out=out) is out
            assert_same(out, y)
        assert (frame == 7).sum() == frame.size - y.size
    if name == "max_pool2d":
        x = np.random.default_rng(1).integers(0, 9, (1, 2, 6, 6))
        out = np.empty((1, 2, 3, 3), x.dtype)
        y, indices = pool(x, 2, return_indices=True, out=out)
        assert y is out
        assert_same(indices, naive.max_pool(x, 2, 2, ((0, 0), (0, 0)))[1])


@pytest.mark.parametrize("channels", [1, 20])
def test_global_pooling_of_planes_around_whole_vectors(channels, dtype, backend):
    """Planes of 1 to 140 elements, with the maximum anywhere, and zeros of both signs."""
    for pixels in [*range(1, 20), 31, 32, 33, *range(62, 67), *range(126, 141)]:
        x = np.random.default_rng(pixels).choice(ODD, (2, channels, pixels)).astype(dtype)
        for each in (
            x,
            np.where(np.isfinite(x), np.copysign(0, x), -1).astype(dtype),
            np.repeat(x, 2, axis=-1)[..., ::2],
        ):
            check_max(Pool(x.shape, pixels, count=1), each)
        case = Pool((2, channels, pixels), pixels, count=1)
        check_avg(case, dtype, (False, None))
        check_avg(case, dtype, (True, 7))
        check_avg_backward(case, dtype, (False, None))


def test_of_zeros_the_first_is_the_global_maximum(dtype, backend):
    """Wherever they lie: one of each sign, the rest smaller. Each by itself, as what is in doubt is done again."""
    for minus, plus in itertools.product(range(0, 160, 7), range(0, 160, 9)):
        x = np.full((1, 160), -1, dtype)
        x[0, minus], x[0, plus] = -0.0, 0.0
        assert np.signbit(cnnkit.max_pool1d(x, 160)) == (minus < plus), (minus, plus)


def test_no_image_gives_an_empty_gradient(dtype, backend):
    grad, indices = np.ones((0, 3, 2, 2), dtype), np.ones((0, 3, 2, 2), np.int64)
    empty = np.ones((0, 3, 4, 4), dtype)
    assert_same(cnnkit.max_pool2d_backward(grad, indices, (0, 3, 4, 4)), empty)
    assert_same(cnnkit.avg_pool2d_backward(grad, (0, 3, 4, 4), 2), empty)


# --- vectors: every width, every memory order ----------------------------------------------------

WINDOWS = [(1, 1, 0), (2, 1, 1), (2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 3, 0), (4, 4, 0), (5, 5, 2), (2, 3, 0), (7, 2, 3)]
ODD = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, 2.0])


@pytest.mark.parametrize(("kernel", "stride", "pad"), WINDOWS)
def test_rows_of_any_width(kernel, stride, pad, dtype, backend):
    """Around multiples of a vector's lanes, with all that is not a number at the borders of windows."""
    for width in range(max(1, kernel - 2 * pad), 41):
        for shape, window in (((2, 3, 5, width), (min(3, kernel), kernel)), ((1, 2, width), kernel)):
            ndim = len(shape) - 2
            pads = pad if ndim == 1 else (min(pad, min(3, kernel) // 2), pad)
            case = Pool(shape, window, stride, pads, count=ndim)
            rng = np.random.default_rng(width)
            check_max(case, rng.choice(ODD, shape).astype(dtype))
            check_max_backward(case, normal(shape, dtype, 1))
            check_avg(case, dtype, (False, None))
            check_avg_backward(case, dtype, (False, None))


@pytest.mark.parametrize(("kernel", "stride", "pad"), WINDOWS)
def test_means_of_what_is_not_a_number(kernel, stride, pad, dtype, backend):
    """A NaN or an infinity reaches its windows and, backward, what its window holds, and nothing else."""
    for width in range(max(1, kernel - 2 * pad), 36):
        case = Pool((1, 2, width), kernel, stride, pad, count=1)
        x = np.random.default_rng(width).choice([np.nan, np.inf, -np.inf, 1.0], case.x, p=[0.05, 0.1, 0.05, 0.8])
        with np.errstate(invalid="ignore"):
            y = true_avg(case, x, (True, None))
            np.testing.assert_array_equal(kinds(avg_pool(case, x.astype(dtype))), kinds(y))
            grad = np.random.default_rng(width).choice(
                [np.nan, np.inf, -np.inf, 1.0], y.shape, p=[0.05, 0.1, 0.05, 0.8]
            )
            expected = true_avg_backward(case, grad, (True, None))
            np.testing.assert_array_equal(kinds(avg_pool_backward(case, grad.astype(dtype))), kinds(expected))


def kinds(x):
    """NaN, the infinities, and 0 for every other number."""
    return np.where(np.isfinite(x), 0, x)


def test_of_zeros_the_first_is_the_maximum(dtype, backend):
    """Bit by bit, whichever row and column 0.0 and -0.0 stand in."""
    x = np.random.default_rng(1).choice([0.0, -0.0, -1.0], (2, 3, 12, 37)).astype(dtype)
    for case in (Pool(x.shape, 3, 2, 1), Pool(x.shape, 2), Pool(x.shape, (4, 1), 1, (2, 0))):
        check_max(case, x)
    sure = np.ones((3, 5, 12, 37), dtype)  # planes in doubt among others, which are done once
    for n, c in ((0, 4), (2, 1), (2, 3)):
        sure[n, c] = x[0, 0]
    check_max(Pool(sure.shape, 3, 2, 1), sure)
    check_max(Pool(sure.shape, (12, 37)), sure)


LAYOUTS = {
    "channels last": lambda x: np.ascontiguousarray(np.moveaxis(x, 1, -1)),
    "Fortran": np.asfortranarray,
    "width backward": lambda x: x[..., ::-1].copy()[..., ::-1],
    "height backward": lambda x: x[:, :, ::-1].copy()[:, :, ::-1],
    "every other column": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "every other channel": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "one plane for all": lambda x: x,
}


def laid_out(x, layout):
    """The same numbers, in another order in memory."""
    y = LAYOUTS[layout](x)
    if layout == "channels last":
        y = np.moveaxis(y, -1, 1)
    if layout == "one plane for all":
        y = np.broadcast_to(x[:1, :1], x.shape)
    assert y.shape == x.shape
    return y


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 3, 16, 35])
def test_pooling_in_any_memory_order(channels, layout, dtype, backend):
    x = np.random.default_rng(1).choice(ODD, (2, channels, 9, 21)).astype(dtype)
    for case in (Pool(x.shape, 3, 2, 1), Pool(x.shape, (9, 21)), Pool(x.shape, (2, 3), 1, 1, (3, 1))):
        arranged = laid_out(x, layout)
        check_max(case, arranged)
        finite = laid_out(normal(x.shape, dtype, 2), layout)
        y, indices = max_pool(case, finite)
        grad = laid_out(normal(y.shape, dtype, 3), layout)
        gx = cnnkit.max_pool2d_backward(grad, indices, x.shape)
        np.testing.assert_allclose(gx, naive.max_pool_backward(grad, indices, x.shape), rtol=1e-5, atol=1e-5)
        if case.dilation == 1:
            magnitude = true_avg(case, np.abs(finite), (False, None))
            expected = true_avg(case, finite, (False, None))
            assert_close(avg_pool(case, finite, (False, None)), expected, magnitude, case.terms, dtype)
            gx, size = (true_avg_backward(case, g, (False, None)) for g in (grad, np.abs(grad)))
            assert_close(avg_pool_backward(case, grad, (False, None)), gx, size, case.terms, dtype)


@over({n: MAX_POOL[n] for n in ("3x3 stride 2", "ceil, padded", "3d mixed", "dilation 2")})
def test_a_room_fills_results_of_any_strides(case, dtype):
    """The contract says nothing of how results lie in memory."""
    room = pytest.importorskip("cnnkit.rooms.numba")
    x = np.random.default_rng(1).choice(ODD, case.x).astype(dtype)
    ndim = case.count
    plan = geometry.pool(
        "max_pool", ndim, x.shape, case.kernel, case.stride, case.padding, case.dilation, case.ceil_mode
    )
    y, indices = (np.zeros((*plan.output_shape[::-1], 2), kind).T[0] for kind in (dtype, np.int64))
    room.max_pool(x, plan, y, indices)
    expected, places = true_max(case, x)
    assert_same(y, expected)
    assert_same(indices, places)
    gx = np.zeros((*x.shape[::-1], 2), dtype).T[0]
    room.max_pool_backward(np.ones(y.shape, dtype), indices, gx)
    assert_same(gx, naive.max_pool_backward(np.ones(y.shape), places, x.shape).astype(dtype))


@over({n: MAX_POOL[n] for n in ("3x3 stride 2", "3d mixed", "dilation 2", "70 wide")})
def test_planes_too_large_for_small_integers(case, dtype, monkeypatch):
    """Places in planes of 2**31 elements are 64-bit integers on the way too; here they are so in small planes."""
    pool = pytest.importorskip("cnnkit.rooms.numba.pool")
    pool._way.cache_clear()
    monkeypatch.setattr(pool.geometry, "volume", lambda size: 1 << 31)
    plan = geometry.pool("max_pool", case.count, case.x, case.kernel, case.stride, case.padding, case.dilation, False)
    assert pool._way(plan, dtype, None).nowhere.dtype == np.int64
    with cnnkit.use_backend("numba"):
        check_max(case, np.random.default_rng(1).choice(ODD, case.x).astype(dtype))
    pool._way.cache_clear()


def test_results_do_not_depend_on_threads(threads):
    x = normal((3, 35, 60, 61), "float32", 1)
    for arranged in (x, laid_out(x, "channels last")):
        results = []
        for count in (1, 2, 5):
            threads(count)
            y, indices = cnnkit.max_pool2d(arranged, 3, 2, 1, return_indices=True)
            mean = cnnkit.avg_pool2d(arranged, 3, 2, 1)
            back = cnnkit.max_pool2d_backward(y, indices, x.shape)
            results.append((y, indices, mean, back, cnnkit.avg_pool2d_backward(mean, x.shape, 3, 2, 1)))
        for other in results[1:]:
            for one, same in zip(results[0], other, strict=True):
                assert_same(one, same)


# --- PyTorch, at the sizes of real layers --------------------------------------------------------

REAL = {
    "1d": Pool((2, 16, 1000), 3, 2, 1, count=1),
    "2x2": Pool((2, 16, 56, 56), 2),
    "3x3 stride 2": Pool((1, 16, 55, 57), 3, 2, 1),
    "3x3 stride 2, ceil": Pool((1, 16, 54, 57), 3, 2, 0, 1, True),
    "5x5 stride 1": Pool((1, 32, 14, 14), 5, 1, 2),
    "global": Pool((2, 100, 7, 7), 7),
    "3d": Pool((1, 8, 8, 28, 28), 2, count=3),
}


@over(REAL)
def test_pytorch_agrees_on_max_pooling(case, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    t = torch.tensor(normal(case.x, dtype, 1), requires_grad=True)
    y, indices = getattr(torch.nn.functional, f"max_pool{case.count}d")(
        t, case.kernel, case.stride, case.padding, 1, case.ceil_mode, return_indices=True
    )
    got, places = max_pool(case, t.detach().numpy())
    assert_same(got, y.detach().numpy())
    assert_same(places, indices.numpy())
    grad = np.random.default_rng(2).integers(-8, 9, y.shape).astype(dtype)  # sums are exact
    y.backward(torch.tensor(grad))
    assert_same(op("max", case, "_backward")(grad, places, case.x), t.grad.numpy() + 0)


@over(REAL)
@pytest.mark.parametrize("include", [True, False])
def test_pytorch_agrees_on_average_pooling(case, include, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    pool = getattr(torch.nn.functional, f"avg_pool{case.count}d")
    x = normal(case.x, dtype, 1)
    params = case.kernel, case.stride, case.padding, case.ceil_mode, include
    t = torch.tensor(np.float64(x), requires_grad=True)
    y = pool(t, *params)
    magnitude = pool(t.detach().abs(), *params).numpy()
    assert_close(avg_pool(case, x, (include, None)), y.detach(), magnitude, case.terms, dtype)
    grad = np.random.default_rng(2).random(y.shape).astype(dtype)  # positive: its own magnitude
    y.backward(torch.tensor(np.float64(grad)))
    gx = avg_pool_backward(case, grad, (include, None))
    assert_close(gx, t.grad, t.grad, case.terms, dtype)
