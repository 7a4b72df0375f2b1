"""Normalisation against its definition, PyTorch, and itself on any number of threads."""

import math
from typing import Any, NamedTuple

import naive
import numpy as np
import pytest
from cases import normal, over
from closeness import assert_close, assert_same
from closeness import eps as unit
from hypothesis import given, settings
from hypothesis import strategies as st

import cnnkit

EPS = 1e-5


class Norm(NamedTuple):
    """One normalisation: ``kind`` is "batch", the number of groups, or the tuple that is a layer's shape."""

    x: tuple[int, ...]
    kind: Any = "batch"

    @property
    def axes(self):
        """Of x, or of `grouped` x: those that statistics are taken over."""
        if self.kind == "batch":
            return (0, *range(2, len(self.x)))
        count = len(self.x)
        return (
            tuple(range(count - len(self.kind), count)) if isinstance(self.kind, tuple) else tuple(range(2, count + 1))
        )

    @property
    def channels(self):
        """The shape of gamma and beta."""
        return self.kind if isinstance(self.kind, tuple) else self.x[1:2]

    @property
    def count(self):
        """Numbers in a set."""
        return int(np.prod([self.seen[axis] for axis in self.axes]))

    @property
    def seen(self):
        """The shape of x with an axis for the groups."""
        if isinstance(self.kind, int):
            return self.x[0], self.kind, self.x[1] // self.kind, *self.x[2:]
        return self.x

    def spread(self, numbers):
        """Gamma or beta as they broadcast to `seen`."""
        if isinstance(self.kind, tuple):
            return numbers
        ones = (1,) * (len(self.x) - 2)
        return numbers.reshape(self.seen[1:3] + ones if isinstance(self.kind, int) else (-1, *ones))

    def forward(self, x, gamma, beta, eps=EPS):
        if self.kind == "batch":
            return cnnkit.batch_norm(x, gamma, beta, None, None, training=True, eps=eps)
        name = "layer_norm" if isinstance(self.kind, tuple) else "group_norm"
        return getattr(cnnkit, name)(x, self.kind, gamma, beta, eps)

    def backward(self, grad, x, gamma, eps=EPS, **more):
        if self.kind == "batch":
            return cnnkit.batch_norm_backward(grad, x, gamma, None, None, training=True, eps=eps, **more)
        name = "layer_norm_backward" if isinstance(self.kind, tuple) else "group_norm_backward"
        return getattr(cnnkit, name)(grad, x, self.kind, gamma, eps, **more)

    def total(self, array):
        """The sum over all that shares a channel."""
        array = array.reshape(self.x)
        kept = range(len(self.x) - len(self.kind), len(self.x)) if isinstance(self.kind, tuple) else (1,)
        return array.sum(tuple(axis for axis in range(len(self.x)) if axis not in kept))


CASES = {
    "batch rows": Norm((5, 7)),
    "batch many rows": Norm((1100, 3)),
    "batch 1d": Norm((3, 4, 9)),
    "batch 2d": Norm((2, 3, 5, 7)),
    "batch 49 pixels": Norm((3, 17, 7, 7)),
    "batch 1x1 pixels": Norm((4, 5, 1, 1)),
    "batch one image": Norm((1, 3, 2, 3)),
    "batch one channel": Norm((3, 1, 4, 5)),
    "batch long planes": Norm((2, 2, 65, 67)),
    "batch 40 channels": Norm((2, 40, 23, 3)),
    "batch 70 images": Norm((70, 2, 3, 5)),
    "batch 3d": Norm((2, 3, 2, 3, 4)),
    "groups": Norm((2, 6, 5, 4), 2),
    "groups of planes beyond a block": Norm((2, 12, 20, 21), 2),
    "groups of one": Norm((2, 3, 4, 5), 3),
    "one group": Norm((3, 4, 3, 3), 1),
    "groups of rows": Norm((37, 12), 3),
    "groups of 40 channels": Norm((2, 40, 5, 7), 4),
    "groups 1d": Norm((2, 4, 70), 2),
    "groups of one value": Norm((2, 3), 3),
    "layer": Norm((70, 33), (33,)),
    "layer of one": Norm((5, 1), (1,)),
    "layer one row": Norm((7,), (7,)),
    "layer long": Norm((3, 2500), (2500,)),
    "layer many rows": Norm((1100, 5), (5,)),
    "layer images": Norm((2, 3, 4, 5), (3, 4, 5)),
    "layer lines": Norm((2, 3, 4, 17), (17,)),
}
# shift, deviation
NUMBERS = pytest.mark.parametrize("scale", [(0, 1), (1e4, 1), (-3, 1e-3)], ids=["around 0", "around 10000", "close"])


def data(case, dtype, scale=(0, 1)):
    """``(x, gamma, beta, grad_output)``."""
    shift, deviation = scale
    x = (deviation * normal(case.x, "float64", 1) + shift).astype(dtype)
    return x, normal(case.channels, dtype, 2), normal(case.channels, dtype, 3), normal(case.x, dtype, 4)


def lose(case, x, mean, r):
    """What the mean has cost already: a float64 mean is rounded, a float32 one is not."""
    return np.abs(mean) * r if x.dtype.itemsize == 8 else 0 * r


def check(case, x, gamma, beta, grad, eps=EPS):
    """The errors of a mean are of the deviations' size: with u = (x - mean) r, u is off by a few units of |u| + 1."""
    seen, dtype, n = x.reshape(case.seen), x.dtype.newbyteorder("="), case.count
    mean, variance = naive.moments(seen, case.axes)
    r = 1 / np.sqrt(variance + eps)
    scale, shift, slope = case.spread(gamma), case.spread(beta), grad.reshape(case.seen)
    u = (np.float64(seen) - mean) * r
    size = np.abs(u) + 1 + lose(case, x, mean, r)

    y, magnitude = naive.normalise(seen, scale, shift, mean, variance, eps), size * np.abs(scale) + np.abs(shift)
    got = case.forward(x, gamma, beta, eps)
    assert_close(got, y.reshape(x.shape), magnitude.reshape(x.shape), n, dtype)

    got = case.backward(grad, x, gamma, eps)
    gx = naive.normalise_backward(slope, seen, scale, case.axes, eps)
    h = np.abs(slope * scale)
    magnitude = r * (h + h.mean(case.axes, keepdims=True) + size * (h * size).mean(case.axes, keepdims=True))
    assert_close(got.x, gx.reshape(x.shape), magnitude.reshape(x.shape), 3 * n, dtype)
    terms = n + x.size // got.gamma.size
    assert_close(got.gamma, case.total(slope * u), case.total(np.abs(slope) * size), terms, dtype)
    assert_close(got.beta, case.total(grad), case.total(np.abs(grad)), terms, dtype)


@NUMBERS
@over(CASES)
def test_the_definition(case, scale, dtype, backend):
    check(case, *data(case, dtype, scale))


@over({name: case for name, case in CASES.items() if len(case.x) > 2})
def test_the_definition_with_channels_last(case, dtype, backend):
    x, gamma, beta, grad = data(case, dtype, (100, 1))
    last = [np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 1, -1)), -1, 1) for a in (x, grad)]
    check(case, last[0], gamma, beta, last[1])
    y = case.forward(last[0], gamma, beta)
    assert np.moveaxis(y, 1, -1).flags.c_contiguous
    assert np.moveaxis(case.backward(last[1], last[0], gamma).x, 1, -1).flags.c_contiguous


def views(array):
    """The same numbers, laid out in awkward ways."""
    wide = np.zeros([2 * n + 1 for n in array.shape], array.dtype)
    wide[tuple(slice(1, None, 2) for _ in array.shape)] = array
    yield "every other", wide[tuple(slice(1, None, 2) for _ in array.shape)]
    flipped = np.ascontiguousarray(array[(slice(None, None, -1),) * array.ndim])
    yield "backwards", flipped[(slice(None, None, -1),) * array.ndim]
    yield "Fortran", np.asfortranarray(array)
    yield "swapped", array.astype(array.dtype.newbyteorder())
    memory = np.zeros(array.nbytes + 1, np.uint8)[1:].view(array.dtype).reshape(array.shape)
    memory[...] = array
    yield "unaligned", memory
    more = np.zeros((array.shape[0] + 1, array.shape[1] + 3, *array.shape[2:]), array.dtype)
    more[1:, 2:-1] = array
    yield "some channels", more[1:, 2:-1]
    read_only = array.copy()
    read_only.flags.writeable = False
    yield "read-only", read_only


@pytest.mark.parametrize("name", ["batch 2d", "batch rows", "groups of 40 channels", "layer images", "groups of rows"])
def test_views_of_any_strides(name, dtype, backend):
    case = CASES[name]
    x, gamma, beta, grad = data(case, dtype)
    for (how, x_view), (_, grad_view) in zip(views(x), views(grad), strict=True):
        before = x_view.copy(), grad_view.copy()
        check(case, x_view, gamma[::-1].copy()[::-1], beta, grad), how
        check(case, x, gamma, beta, grad_view), how
        assert_same(x_view, before[0])
        assert_same(grad_view, before[1])


@pytest.mark.parametrize("name", ["batch 2d", "groups", "layer"])
def test_a_broadcast_gradient_is_read_as_it_is(name, dtype, backend):
    case = CASES[name]
    x, gamma, beta, _ = data(case, dtype)
    check(case, x, gamma, beta, np.broadcast_to(dtype.type(0.5), case.x))


@pytest.mark.parametrize("name", ["batch 49 pixels", "groups", "layer", "groups of rows"])
def test_without_gamma_and_beta(name, dtype, backend):
    case = CASES[name]
    x, gamma, beta, grad = data(case, dtype)
    one, zero = np.ones_like(gamma), np.zeros_like(beta)
    assert_same(case.forward(x, None, None), case.forward(x, one, zero))
    assert_same(case.forward(x, gamma, None), case.forward(x, gamma, zero))
    for got, expected in zip(case.backward(grad, x, None), case.backward(grad, x, one), strict=True):
        assert_same(got, expected)


@pytest.mark.parametrize("name", ["batch 49 pixels", "batch many rows", "groups", "layer"])
@pytest.mark.parametrize("needs", [("x",), ("gamma",), ("beta", "gamma"), ("x", "beta"), ()])
def test_what_is_not_needed_is_none(name, needs, backend):
    case = CASES[name]
    x, gamma, _, grad = data(case, "float32")
    every, some = case.backward(grad, x, gamma), case.backward(grad, x, gamma, needs=needs)
    for which in ("x", "gamma", "beta"):
        if which in needs:
            assert_same(getattr(some, which), getattr(every, which))
        else:
            assert getattr(some, which) is None


# --- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
def test_a_first_number_far_from_all_others_costs_nothing(last, backend):
    """Sums are about the first number: its distance must not be lost in them."""
    case = Norm((4, 3, 20, 21))
    x, *others = data(case, "float32")
    x[0, :, 0, 0] = 3000
    check(case, np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) if last else x, *others)


@pytest.mark.parametrize("case", [Norm((60, 2, 12, 12)), Norm((3, 80, 8, 8), 2), Norm((5, 60000), (60000,))])
def test_first_numbers_far_from_all_others_cost_no_digits_of_the_variance(case, backend):
    """Numbers are summed about the mean of the first ones, unless that turns out to be far from the mean of all."""
    x, gamma, beta, _ = data(case, "float32")
    few = {"batch": np.s_[:1], 2: np.s_[:, ::40], (60000,): np.s_[:, :2048]}[case.kind]
    x[few] += 1e4
    seen = x.reshape(case.seen)
    mean, variance = naive.moments(seen, case.axes)
    u = (np.float64(seen) - mean) / np.sqrt(variance + EPS)
    got = case.forward(x, np.ones_like(gamma), np.zeros_like(beta)).reshape(case.seen)
    assert np.abs(got - u).max() <= 4 * unit("float32") * np.abs(u).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_of_a_row_do_not_depend_on_its_neighbours(dtype, backend):
    """Not even on one whose first numbers lie far from all others, so that it is measured once more."""
    x, grad = normal((6, 3000), dtype, 1), normal((6, 3000), dtype, 2)
    x[2, :32] += 1e4
    gamma, beta = normal((3000,), dtype, 3), normal((3000,), dtype, 4)
    y, back = cnnkit.layer_norm(x, 3000, gamma, beta), cnnkit.layer_norm_backward(grad, x, 3000, gamma).x
    for n in range(len(x)):
        row = slice(n, n + 1)
        assert_same(cnnkit.layer_norm(x[row], 3000, gamma, beta), y[row])
        assert_same(cnnkit.layer_norm_backward(grad[row], x[row], 3000, gamma).x, back[row])


def test_a_mean_of_1e4_costs_no_digits_of_the_variance(backend):
    """With the naive ``E[x^2] - E[x]^2`` in float32 nothing would be left of it: 1e8 has a spacing of 8."""
    x = normal((8, 2, 50, 50), "float32", 1) + np.float32(1e4)
    mean, variance = np.zeros(2, "float32"), np.zeros(2, "float32")
    cnnkit.batch_norm(x, None, None, mean, variance, training=True, momentum=1.0)
    true = np.float64(x)
    np.testing.assert_allclose(mean, true.mean((0, 2, 3)), rtol=unit("float32"))
    np.testing.assert_allclose(variance, true.var((0, 2, 3), ddof=1), rtol=4 * unit("float32"))


def test_running_statistics_by_hand(dtype, backend):
    x = np.array([[1, 10], [3, 10], [8, 10]], dtype)  # means 4 and 10, unbiased variances 13 and 0
    mean, variance = np.array([2, 0], dtype), np.array([1, 2], dtype)
    cnnkit.batch_norm(x, None, None, mean, variance, training=True, momentum=0.25)
    np.testing.assert_array_equal(mean, np.array([2.5, 2.5], dtype))
    np.testing.assert_allclose(variance, np.array([4, 1.5], dtype), rtol=unit(dtype))


def test_running_statistics_are_the_callers_own_arrays(backend):
    """Views, byte-swapped and unaligned ones too; one of them may be missing."""
    x = normal((4, 3, 5), "float32", 1)
    expected = np.zeros(3, "float32"), np.ones(3, "float32")
    cnnkit.batch_norm(x, None, None, *expected, training=True)
    memory = np.zeros(13, np.uint8)[1:].view("float32")
    for mean in (np.zeros(6, "float32")[::-2], np.zeros(3, ">f4"), memory):
        variance = np.ones(3, "float32")
        cnnkit.batch_norm(x, None, None, mean, variance, training=True)
        np.testing.assert_array_equal(mean, expected[0])
        np.testing.assert_array_equal(variance, expected[1])
    variance = np.ones(3, "float32")
    cnnkit.batch_norm(x, None, None, None, variance, training=True)
    np.testing.assert_array_equal(variance, expected[1])


def test_inference_changes_nothing(dtype, backend):
    x, mean, variance = normal((4, 3, 5), dtype, 1), normal(3, dtype, 2), np.abs(normal(3, dtype, 3))
    given = [x, mean, variance]
    before = [array.copy() for array in given]
    for array in given:
        array.flags.writeable = False
    cnnkit.batch_norm(x, None, None, mean, variance, training=False)
    cnnkit.batch_norm_backward(x, x, None, mean, variance, training=False)
    for array, was in zip(given, before, strict=True):
        assert_same(array, was)


def test_backward_in_training_changes_no_statistics(backend):
    x, mean, variance = normal((4, 3, 5), "float32", 1), np.zeros(3, "float32"), np.ones(3, "float32")
    cnnkit.batch_norm_backward(x, x, None, mean, variance, training=True)
    assert not mean.any()
    assert (variance == 1).all()


@pytest.mark.parametrize("last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5, 7), (3, 17, 7, 7)])
def test_inference_is_the_definition(shape, last, dtype, backend):
    x, grad, numbers = 5 + normal(shape, dtype, 1), normal(shape, dtype, 2), normal((4, shape[1]), dtype, 3)
    if last and len(shape) > 2:
        x, grad = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, grad))
    gamma, beta, mean, variance = numbers[0], numbers[1], 5 + numbers[2], numbers[3] ** 2
    case = Norm(shape)
    each = [case.spread(np.float64(a)) for a in (gamma, beta, mean, variance)]
    y = naive.normalise(x, *each, EPS)
    r = 1 / np.sqrt(each[3] + EPS)
    u = (np.float64(x) - each[2]) * r
    got = cnnkit.batch_norm(x, gamma, beta, mean, variance, training=False)
    size = np.abs(u) + r * unit(dtype) * np.abs(each[2])
    assert_close(got, y, size * np.abs(each[0]) + np.abs(each[1]), 4, dtype)
    grads = cnnkit.batch_norm_backward(grad, x, gamma, mean, variance, training=False)
    assert_close(grads.x, grad * r * each[0], np.abs(grad * r * each[0]), 1, dtype)
    # the sum is taken about the first number, and moved to the mean
    size = np.abs(u) + np.abs(np.float64(x) - x[:1, :, *(slice(1),) * (x.ndim - 2)]) * r
    terms = x.size // shape[1]
    assert_close(grads.gamma, case.total(grad * u), case.total(np.abs(grad) * (size + 1)), terms, dtype)
    assert_close(grads.beta, case.total(grad), case.total(np.abs(grad)), terms, dtype)


# --- what is not usual ---------------------------------------------------------------------------


@over({name: CASES[name] for name in ("batch 2d", "batch many rows", "groups", "groups of rows", "layer")})
def test_constant_numbers_become_beta(case, dtype, backend):
    x, gamma, beta, grad = data(case, dtype)
    x[...] = 1000.1
    y = case.forward(x, gamma, beta)
    assert_same(y.reshape(case.seen), np.broadcast_to(case.spread(beta), case.seen))
    assert np.isfinite(case.backward(grad, x, gamma).x).all()


@over({name: CASES[name] for name in ("batch 2d", "batch rows", "groups", "groups of rows", "layer")})
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_set(case, value, dtype, backend):
    x, gamma, beta, grad = data(case, dtype)
    x[(1, *(0,) * (x.ndim - 1))] = value
    with np.errstate(invalid="ignore"):
        expected = np.isnan(naive.moments(x.reshape(case.seen), case.axes)[1] * np.ones(case.seen)).reshape(x.shape)
        y, grads = case.forward(x, gamma, beta), case.backward(grad, x, gamma)
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(np.isnan(y), expected)
    np.testing.assert_array_equal(np.isnan(grads.x), expected)
    assert not np.isnan(grads.beta).any()


def test_a_nan_in_x_moves_no_gradient_of_inference(dtype, backend):
    """As in PyTorch: only grad_gamma looks at x."""
    for shape in ((4, 3), (2, 3, 4, 5)):
        x, grad, one = np.full(shape, np.nan, dtype), normal(shape, dtype, 1), np.ones(3, dtype)
        grads = cnnkit.batch_norm_backward(grad, x, one, one, one, training=False)
        np.testing.assert_allclose(grads.x, grad / np.sqrt(1 + EPS), rtol=4 * unit(dtype))
        assert np.isnan(grads.gamma).all()


@pytest.mark.parametrize("case", [Norm((0, 4, 3), 2), Norm((2, 4, 0), 2), Norm((0, 5), (5,)), Norm((2, 0, 5), (5,))])
def test_nothing_at_all(case, dtype, backend):
    x, gamma, beta, grad = data(case, dtype)
    assert_same(case.forward(x, gamma, beta), x)
    grads = case.backward(grad, x, gamma)
    assert_same(grads.x, x)
    assert_same(grads.gamma, np.zeros_like(gamma))
    assert_same(grads.beta, np.zeros_like(beta))


def test_inference_of_nothing(dtype, backend):
    x, one = np.zeros((0, 3, 4), dtype), np.ones(3, dtype)
    assert_same(cnnkit.batch_norm(x, one, one, one, one, training=False), x)
    assert_same(cnnkit.batch_norm_backward(x, x, one, one, one, training=False).gamma, np.zeros(3, dtype))


def test_infinities_beyond_the_squares_of_the_dtype_are_none(backend):
    """A mean near the largest number overflows nothing."""
    x = np.float32(3e38) * np.float32([[1, 1], [0.999999, 1], [1, 1]])
    y = cnnkit.layer_norm(x.T.copy(), 3)
    assert np.isfinite(y[1]).all()


@pytest.mark.parametrize(
    ("case", "last"),
    [
        (Norm((5, 23, 31, 33)), False),
        (Norm((5, 23, 31, 33)), True),
        (Norm((9000, 19)), False),
        (Norm((5, 24, 31, 33), 6), False),
        (Norm((5, 24, 31, 33), 6), True),
        (Norm((900, 301), (301,)), False),
    ],
    ids=str,
)
def test_bits_do_not_depend_on_the_number_of_threads(case, last, threads):
    x, gamma, beta, grad = data(case, "float32")
    if last:
        x, grad = (np.ascontiguousarray(a.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2) for a in (x, grad))
    one = np.ones(case.x[1], "float32")

    def everything():
        yield case.forward(x, gamma, beta)
        yield from case.backward(grad, x, gamma)
        if case.kind == "batch":
            yield cnnkit.batch_norm(x, gamma, beta, one, one, training=False)
            yield from cnnkit.batch_norm_backward(grad, x, gamma, one, one, training=False)

    with cnnkit.use_backend("numba"):
        threads(1)
        expected = list(everything())
        for n in (2, 3, 7):
            threads(n)
            for got, want in zip(everything(), expected, strict=True):
                assert_same(got, want)


def test_arguments_have_their_names(backend):
    x, gamma, beta, grad = data(CASES["groups"], "float32")
    running = np.zeros(6, "float32"), np.ones(6, "float32")
    names = {"gamma": gamma, "running_mean": running[0], "running_var": running[1], "training": False, "eps": 0.1}
    assert_same(
        cnnkit.batch_norm(x=x, beta=beta, momentum=0.2, **names),
        cnnkit.batch_norm(x, gamma, beta, *running, training=False, eps=0.1),
    )
    assert cnnkit.batch_norm_backward(grad_output=grad, x=x, needs=(), **names) == (None, None, None)
    assert_same(
        cnnkit.layer_norm(x=x, normalized_shape=4, gamma=None, beta=None, eps=0.1), cnnkit.layer_norm(x, (4,), eps=0.1)
    )
    cnnkit.layer_norm_backward(grad_output=grad, x=x, normalized_shape=4, gamma=None, eps=0.1, needs=())
    assert_same(
        cnnkit.group_norm(x=x, num_groups=3, gamma=gamma, beta=beta, eps=0.1),
        cnnkit.group_norm(x, 3, gamma, beta, 0.1),
    )
    cnnkit.group_norm_backward(grad_output=grad, x=x, num_groups=3, gamma=gamma, eps=0.1, needs=())


def test_instance_norm_is_a_group_for_each_channel(dtype, backend):
    x = normal((2, 3, 4, 5), dtype, 1)
    each = [cnnkit.layer_norm(x[n, c], (4, 5)) for n in range(2) for c in range(3)]
    np.testing.assert_allclose(cnnkit.group_norm(x, 3).reshape(6, 4, 5), each, rtol=0, atol=20 * unit(dtype))


# --- PyTorch -------------------------------------------------------------------------------------


def laid_out(draw, array):
    """The array in some memory order."""
    how = draw(st.sampled_from(["C", "channels last", "Fortran", "backwards", "every other"]))
    if how == "channels last" and array.ndim > 2:
        return np.moveaxis(np.ascontiguousarray(np.moveaxis(array, 1, -1)), -1, 1)
    if how == "Fortran":
        return np.asfortranarray(array)
    if how == "backwards":
        return np.ascontiguousarray(array[..., ::-1])[..., ::-1]
    if how == "every other":
        return np.repeat(array, 2, -1)[..., ::2]
    return array


def check_against_pytorch(draw, case, dtype, peer, forward, backward, measured=True):
    """`peer` is PyTorch's function of (x, gamma, beta), tensors of float64."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    scale = draw(st.sampled_from([(0, 1), (-50, 3), (1e3, 1), (0.1, 1e-3)]))
    affine = draw(st.booleans())
    x, gamma, beta, grad = data(case, dtype, scale)
    x, grad = laid_out(draw, x), laid_out(draw, grad)
    if not affine:
        gamma, beta = np.ones_like(gamma), np.zeros_like(beta)
    tensors = [torch.tensor(a.astype("float64", "C"), requires_grad=True) for a in (x, gamma, beta)]
    y = peer(*tensors)
    y.backward(torch.tensor(grad.astype("float64", "C")))
    given = (gamma, beta) if affine else (None, None)

    seen = np.float64(x).reshape(case.seen)
    mean, variance = seen.mean(case.axes, keepdims=True), seen.var(case.axes, keepdims=True)
    r = 1 / np.sqrt(variance + EPS)
    if not measured:  # statistics are 0 and 1, and sums are taken about the first number
        r, mean = np.ones_like(r), np.zeros_like(mean)
    u = (seen - mean) * r
    size = np.abs(u) + 1 + 2 * np.abs(seen.mean() * r) * (dtype == np.float64 or not measured)
    if not measured:
        size = size + np.abs(u).max()
    scale, shift = np.abs(case.spread(gamma)), np.abs(case.spread(beta))
    terms = case.count + 4
    assert_close(forward(x, *given), y.detach(), (size * scale + shift).reshape(x.shape), terms, dtype)
    got = backward(grad, x, given[0])
    slope = np.abs(grad.reshape(case.seen))
    h = slope * scale
    magnitude = r * (h + h.mean(case.axes, keepdims=True) + size * (h * size).mean(case.axes, keepdims=True))
    assert_close(got.x, tensors[0].grad, magnitude.reshape(x.shape), 3 * terms, dtype)
    terms += x.size // got.gamma.size
    assert_close(got.gamma, tensors[1].grad, case.total(slope * size), terms, dtype)
    assert_close(got.beta, tensors[2].grad, case.total(slope), terms, dtype)


SIDES = st.integers(1, 6)


@settings(max_examples=200)
@given(draw=st.data())
def test_batch_norm_as_in_pytorch(draw, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    draw = draw.draw
    shape = (draw(SIDES), draw(st.sampled_from([1, 2, 3, 17, 33])), *draw(st.lists(SIDES, max_size=3)))
    training = draw(st.booleans()) and math.prod(shape) > shape[1]
    momentum = draw(st.sampled_from([0.0, 0.1, 0.75, 1.0]))
    kept = np.zeros(shape[1], dtype), np.ones(shape[1], dtype)
    running = [torch.zeros(shape[1], dtype=torch.float64), torch.ones(shape[1], dtype=torch.float64)]

    def peer(x, gamma, beta):
        return torch.nn.functional.batch_norm(x, *running, gamma, beta, training, momentum, EPS)

    def forward(x, gamma, beta):
        return cnnkit.batch_norm(x, gamma, beta, *kept, training=training, momentum=momentum)

    def backward(grad, x, gamma):
        return cnnkit.batch_norm_backward(grad, x, gamma, *kept, training=training)

    check_against_pytorch(draw, Norm(shape), dtype, peer, forward, backward, training)
    terms = math.prod(shape) // shape[1]
    running = [each.numpy() for each in running]
    assert_close(kept[0], running[0], np.abs(running[0]) + 4, terms, dtype)  # deviations of 3 at most
    assert_close(kept[1], running[1], np.abs(running[1]) + 0.001 * 1e3**2 * unit(dtype), 2 * terms, dtype)


@settings(max_examples=200)
@given(draw=st.data())
def test_group_norm_as_in_pytorch(draw, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    draw = draw.draw
    groups, each = draw(st.integers(1, 4)), draw(st.sampled_from([1, 2, 3, 9, 17]))
    shape = (draw(SIDES), groups * each, *draw(st.lists(SIDES, max_size=3)))
    if math.prod(shape) == groups:
        return  # PyTorch refuses it: see the docstring
    case = Norm(shape, groups)

    def peer(x, gamma, beta):
        return torch.nn.functional.group_norm(x, groups, gamma, beta, EPS)

    check_against_pytorch(draw, case, dtype, peer, case.forward, case.backward)


@settings(max_examples=200)
@given(draw=st.data())
def test_layer_norm_as_in_pytorch(draw, dtype, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    draw = draw.draw
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 5, 17, 35]), min_size=1, max_size=3)))
    case = Norm(shape, shape[-draw(st.integers(1, len(shape))) :])

    def peer(x, gamma, beta):
        return torch.nn.functional.layer_norm(x, case.kind, gamma, beta, EPS)

    check_against_pytorch(draw, case, dtype, peer, case.forward, case.backward)


def test_pytorch_refuses_one_value_per_channel_too(backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    x = np.ones((1, 3), "float32")
    with pytest.raises(ValueError, match="1 values per channel"):
        cnnkit.batch_norm(x, None, None, None, None, training=True)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        torch.nn.functional.batch_norm(torch.from_numpy(x), None, None, training=True)
