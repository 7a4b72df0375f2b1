"""The gradient of weights by Winograd's algorithm: right on every shape, within its bound, and who chooses it."""

import itertools

import naive
import numpy as np
import pytest
from closeness import assert_same, eps

import cnnkit
from cnnkit import geometry

pytest.importorskip("numba", reason="the CPU kernels need Numba")

from cnnkit.rooms import threads
from cnnkit.rooms.numba import winograd_weights

DTYPE = np.dtype("float32")
POINTS = {1: 1.0, 6: 13.2445, 8: 39.6001}  # the largest sum over them of |T'| |F| |S|, for one tap of a filter
KERNELS = [(5, 5), (1, 7), (3, 1), (3, 5), (5, 1), (1, 11), (4, 3), (2, 1)]


@pytest.fixture(autouse=True)
def _numba():
    with cnnkit.use_backend("numba"):
        yield


@pytest.fixture
def answers(monkeypatch):
    """Of every gradient that was computed by Winograd's algorithm, whether all of it was finite."""
    given, weight_gradient = [], winograd_weights.weight_gradient

    def spy(*args):
        given.append(weight_gradient(*args))
        return given[-1]

    monkeypatch.setattr(winograd_weights, "weight_gradient", spy)
    return given


def make(x, weight, pads, seed=0):
    rng = np.random.default_rng(seed)
    size = naive.out_size(x[2:], weight[2:], 1, pads, 1)
    shapes = (x[0], weight[0], *size), x, weight
    return [rng.standard_normal(shape).astype(DTYPE) for shape in shapes]


def gradient(grad, x, weight, pads, groups=1, algorithm="winograd"):
    with cnnkit.options(algorithm=algorithm):
        backward = getattr(cnnkit, f"conv{x.ndim - 2}d_backward")
        return backward(grad, x, weight, padding=pads, groups=groups, needs=("weight",)).weight


def assert_within_bound(actual, grad, x, weight, pads, groups):
    """What `cnnkit.options` promises: so many terms, the largest input, and the sum of absolute output gradients."""
    _, expected, _ = naive.conv_backward(grad, x, weight, 1, pads, 1, groups)
    assert actual.shape == expected.shape
    assert actual.dtype == DTYPE
    plan = geometry.lift(geometry.conv(x.ndim - 2, x.shape, weight.shape, 1, pads, 1, groups))
    sizes = winograd_weights._sizes(plan, 1 << 26)
    tiles = len(x) * int(np.prod(sizes.tiles))
    terms = sizes.band + -(-tiles // sizes.band)
    amplified = np.prod([POINTS[axis.points] for axis in sizes.form])
    sums = np.abs(np.float64(grad)).sum(axis=(0, *range(2, grad.ndim)))
    largest = np.abs(x).reshape(len(x), groups, x.shape[1] // groups, -1).max(axis=(0, 3))
    per_group = len(weight) // groups
    products = np.concatenate([np.outer(sums[g * per_group : (g + 1) * per_group], largest[g]) for g in range(groups)])
    most = (terms + 26) * eps(DTYPE) / 2 * amplified * products + 1e-30
    most = np.broadcast_to(most.reshape(*most.shape, *(1,) * (x.ndim - 2)), expected.shape)
    error = np.abs(actual - expected)
    assert (error <= most).all(), (error / most).max()
    assert np.sqrt(np.mean(error**2)) <= np.sqrt(np.mean(most**2)) / 100


def any_case(seed):
    rng = np.random.default_rng(seed)
    pads = [[int(p) for p in rng.integers(0, 4, 2)] for _ in range(2)]
    kernel = KERNELS[seed // 2 % len(KERNELS)] if seed % 2 else (3, 3)
    sizes = zip(kernel, rng.integers(1, 21, 2), pads, strict=True)
    size = [int(max(taps + 1 - sum(pair), n, 1)) for taps, n, pair in sizes]
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, per_group = (int(n) for n in rng.choice([2, 3, 17, 40], 2))
    x = (int(rng.integers(1, 6)), groups * channels, *size)
    return x, (groups * per_group, channels, *kernel), tuple(map(tuple, pads)), groups


@pytest.mark.parametrize("seed", range(32))
def test_any_shape(seed, answers):
    x_shape, weight_shape, pads, groups = any_case(seed)
    grad, x, weight = make(x_shape, weight_shape, pads, seed)
    assert_within_bound(gradient(grad, x, weight, pads, groups), grad, x, weight, pads, groups)
    assert answers == [True]


@pytest.mark.parametrize("depth", [1, 3])
@pytest.mark.parametrize("pads", [((0, 0),) * 3, ((0, 2), (2, 1), (0, 3))])
def test_three_dimensions(depth, pads, answers):
    grad, x, weight = make((2, 34, 4, 6, 9), (20, 17, depth, 3, 3), pads)
    assert_within_bound(gradient(grad, x, weight, pads, 2), grad, x, weight, pads, 2)
    assert answers == [True]


@pytest.mark.parametrize("channels", [16, 50])
def test_channels_of_which_not_all_are_summed_at_a_time(channels, answers, monkeypatch):
    """The sums of one vector of channels alone are more than are kept near; of one band of tiles, and of more."""
    monkeypatch.setattr(winograd_weights, "NEAR", 1)
    monkeypatch.setattr(winograd_weights, "FAR", 1)
    winograd_weights._sizes.cache_clear()
    for size in (12, 40):
        grad, x, weight = make((1, channels, size, size), (70, channels, 3, 3), ((1, 1), (1, 1)))
        assert_within_bound(gradient(grad, x, weight, 1), grad, x, weight, ((1, 1), (1, 1)), 1)
    winograd_weights._sizes.cache_clear()
    assert answers == [True, True]


VIEWS = {
    "channels last": lambda x: x.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2),
    "reversed": lambda x: x[:, ::-1, ::-1, ::-1].copy()[:, ::-1, ::-1, ::-1],
    "Fortran": np.asfortranarray,
    "one for all": lambda x: np.broadcast_to(x[:1], x.shape),
}


@pytest.mark.parametrize("view", VIEWS)
def test_views_give_the_same_bits(view, answers):
    grad, x, weight = make((3, 20, 9, 14), (24, 20, 3, 3), ((1, 1), (1, 1)))
    seen, grads = VIEWS[view](x), VIEWS[view](grad)
    seen.flags.writeable = grads.flags.writeable = False
    expected = gradient(np.ascontiguousarray(grads), np.ascontiguousarray(seen), weight, 1)
    assert_same(gradient(grads, seen, weight, 1), expected)
    assert answers == [True, True]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["x", "grad"])
@pytest.mark.parametrize("kernel", [(3, 3), (1, 7)])
def test_what_is_not_finite_travels_as_in_the_direct_sum(where, value, kernel, answers):
    pads = tuple((taps // 2,) * 2 for taps in kernel)
    grad, x, weight = make((2, 18, 7, 6), (20, 18, *kernel), pads)
    for h, w in itertools.product((0, 3, 6), (0, 4, 5)):
        ill = {"x": x.copy(), "grad": grad.copy()}
        ill[where][1, 17 if h else 0, h, w] = value  # of the channels that are finished first and last
        direct = gradient(ill["grad"], ill["x"], weight, pads, algorithm="direct")
        assert not np.isfinite(direct).all()
        assert_same(gradient(ill["grad"], ill["x"], weight, pads), direct)
    assert answers == [False] * 9


def test_numbers_that_overflow_between_only(answers):
    grad, x, weight = make((1, 16, 8, 8), (16, 16, 3, 3), ((1, 1), (1, 1)))
    x = (np.sign(x) * 1e38).astype(DTYPE)
    grad *= DTYPE.type(1e-3)
    direct = gradient(grad, x, weight, 1, algorithm="direct")
    assert np.isfinite(direct).all()
    assert_same(gradient(grad, x, weight, 1), direct)
    assert answers == [False]


@pytest.mark.parametrize(
    "layer",
    [
        ((2, 40, 33, 20), (80, 20, 3, 3)),
        ((1, 70, 9, 9), (33, 70, 3, 3)),
        ((2, 40, 33, 20), (80, 20, 5, 5)),
        ((1, 70, 20, 9), (33, 70, 11, 1)),
    ],
)
def test_bits_do_not_depend_on_threads_and_workspace(layer, answers, monkeypatch):
    monkeypatch.setattr(threads, "GRAIN", 1)  # all work is split
    before, groups = cnnkit.get_num_threads(), layer[0][1] // layer[1][1]
    grad, x, weight = make(*layer, ((1, 1), (1, 1)))
    results = []
    for n, workspace in ((1, 1 << 26), (2, 1 << 26), (3, 1 << 26), (7, 1 << 26), (7, 1 << 24), (1, 1 << 23)):
        cnnkit.set_num_threads(n)
        with cnnkit.options(max_workspace=workspace):
            results.append(gradient(grad, x, weight, 1, groups))
    cnnkit.set_num_threads(before)
    assert answers == [True] * 6
    for one in results[1:]:
        assert_same(one, results[0])


def test_who_chooses_it():
    def pays(x, weight, padding=1, groups=1, workspace=1 << 26):
        plan = geometry.lift(geometry.conv(2, x, weight, 1, padding, 1, groups))
        sizes = winograd_weights._sizes(plan, workspace)
        return sizes.workers > 0 and sizes.pays

    assert pays((4, 64, 56, 56), (64, 64, 3, 3))
    assert pays((1, 64, 56, 56), (64, 64, 3, 3))
    assert pays((4, 512, 7, 7), (512, 512, 3, 3))
    assert pays((1, 64, 56, 56), (64, 64, 5, 5))
    assert pays((1, 64, 56, 56), (64, 64, 1, 7))
    assert not pays((4, 3, 56, 56), (64, 3, 1, 7))
    assert not pays((4, 3, 224, 224), (64, 3, 3, 3))
    assert not pays((4, 64, 56, 56), (3, 64, 3, 3))
    assert not pays((1, 64, 3, 3), (64, 64, 3, 3), padding=0)
    assert not pays((4, 64, 56, 56), (64, 64, 3, 3), workspace=1 << 20)


def test_float64_is_summed_directly(answers):
    grad, x, weight = (a.astype(np.float64) for a in make((1, 64, 28, 28), (64, 64, 3, 3), ((1, 1), (1, 1))))
    gradient(grad, x, weight, 1)
    assert not answers


def test_no_image_gives_zero(answers):
    grad, x, weight = make((0, 64, 28, 28), (64, 64, 3, 3), ((1, 1), (1, 1)))
    assert not gradient(grad, x, weight, 1).any()
    assert not answers


def test_errors_are_those_of_the_forward(answers):
    """Sums over 48 tiles or 48 times as many: a band is summed by itself, so that errors hardly grow."""
    for size in (28, 112):
        grad, x, weight = make((1, 16, size, size), (16, 16, 3, 3), ((1, 1), (1, 1)))
        _, expected, _ = naive.conv_backward(grad, x, weight, 1, ((1, 1), (1, 1)), 1, 1)
        error = gradient(grad, x, weight, 1) - expected
        assert np.sqrt(np.mean(error**2)) < 16 * eps(DTYPE) * np.sqrt(np.mean(expected**2))
    assert answers == [True, True]
