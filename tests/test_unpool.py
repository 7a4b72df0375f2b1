"""Max unpooling against its definition and PyTorch."""

import naive
import numpy as np
import pytest
from cases import FLOATS, LAYOUTS, in_memory, normal
from closeness import assert_same
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import cnnkit

SHAPES = [  # x, the size of the result
    ((2, 3, 4, 5), (8, 10)),
    ((1, 17, 3, 3), (7, 6)),
    ((2, 1, 1, 1), (2, 2)),
    ((0, 3, 2, 2), (4, 4)),
    ((2, 3, 6), (12,)),
    ((1, 2, 2, 3, 2), (4, 6, 5)),
]


def op(ndim, suffix=""):
    return getattr(cnnkit, f"max_unpool{ndim}d{suffix}")


def given_places(shape, size, seed=1):
    return np.random.default_rng(seed).integers(0, np.prod(size), shape)


@pytest.mark.parametrize(("shape", "size"), SHAPES)
def test_unpooling_is_the_definition(shape, size, dtype, backend):
    """With places that several values share, and -0.0, infinities and NaN among these."""
    x = np.random.default_rng(2).choice([-0.0, np.nan, np.inf, 1.0, 2.0], shape).astype(dtype)
    indices, ndim = given_places(shape, size), len(size)
    assert_same(op(ndim)(x, indices, 2, output_size=size), naive.max_unpool(x, indices, (*shape[:2], *size)))
    grad = normal((*shape[:2], *size), dtype, 3)
    assert_same(op(ndim, "_backward")(grad, indices), naive.max_unpool_backward(grad, indices).astype(dtype))


@pytest.mark.parametrize("kind", ["int8", "uint64"])
def test_unpooling_integers(kind, backend):
    x = np.random.default_rng(1).integers(0, 100, (1, 3, 4, 4)).astype(kind)
    indices = given_places(x.shape, (8, 8))
    assert_same(cnnkit.max_unpool2d(x, indices, 2), naive.max_unpool(x, indices, (1, 3, 8, 8)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_order(layout, dtype, backend):
    shape, size = (3, 5, 4, 6), (8, 12)
    x, grad = (in_memory(normal(each, dtype, 1), layout) for each in (shape, (3, 5, *size)))
    indices = given_places(shape, size)
    for places in (indices, in_memory(indices, layout)):
        y = cnnkit.max_unpool2d(x, places, 2)
        assert_same(y, naive.max_unpool(x, indices, grad.shape))
        gx = cnnkit.max_unpool2d_backward(grad, places)
        assert_same(gx, naive.max_unpool_backward(grad, indices).astype(dtype))
        if layout == "channels last":
            assert y.transpose(0, 2, 3, 1).flags.c_contiguous
            assert gx.transpose(0, 2, 3, 1).flags.c_contiguous


def test_many_planes_at_once(backend):
    """More than are filled with zeros at a time."""
    x, indices = np.ones((3, 700, 1, 1), np.float32), given_places((3, 700, 1, 1), (3, 3))
    assert_same(cnnkit.max_unpool2d(x, indices, 3), naive.max_unpool(x, indices, (3, 700, 3, 3)))


@pytest.mark.parametrize(
    ("window", "default", "smallest", "largest"),
    [
        (((3,), 2, 0), 9, 8, 10),
        ((3, 2, 1), 7, 6, 8),
        ((2, None, 0), 8, 7, 9),
        ((3, 2, ((1, 0),)), 8, 7, 9),
        ((3, 2, "valid"), 9, 8, 10),
        ((3, 2, "same"), 8, 7, 9),
        ((1, 3, "same"), 10, 8, 12),
        ((3, 1, "same_lower"), 4, 4, 4),
    ],
)
def test_sizes(window, default, smallest, largest):
    x, indices = np.ones((1, 4)), np.zeros((1, 4), np.int64)
    assert cnnkit.max_unpool1d(x, indices, *window).shape == (1, default)
    for size in (smallest, largest):
        assert cnnkit.max_unpool1d(x, indices, *window, output_size=(size,)).shape == (1, size)
        assert cnnkit.max_unpool1d(x, indices, *window, output_size=(1, size)).shape == (1, size)
    for size in (smallest - 1, largest + 1):
        with pytest.raises(ValueError, match=f"^output_size is {size} along L, but x has 4 there, "):
            cnnkit.max_unpool1d(x, indices, *window, output_size=(size,))


@pytest.mark.parametrize("padding", ["same", "same_lower", "valid", 1, ((0, 1), (1, 0))])
def test_what_was_pooled_comes_back(padding, backend):
    """Maxima at their places and zeros elsewhere, whatever the size was."""
    for height in range(3, 9):
        x = 1 + np.random.default_rng(height).permutation(2 * height * 7).reshape(1, 2, height, 7).astype(float)
        y, indices = cnnkit.max_pool2d(x, 3, 2, padding, return_indices=True)
        back = cnnkit.max_unpool2d(y, indices, 3, 2, padding, output_size=x.shape)
        assert_same(back, np.where(np.isin(x, y), x, 0))


@st.composite
def unpools(draw):
    """``(shape, kernel, stride, padding, output_size)`` that PyTorch takes."""
    ndim = draw(st.integers(1, 3))
    each = st.integers(1, 4)
    size, kernel, stride = (draw(st.tuples(*[each] * ndim)) for _ in range(3))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    exact = [(n - 1) * s - 2 * p + k for n, k, s, p in zip(size, kernel, stride, padding, strict=True)]
    assume(all(n + s > 1 for n, s in zip(exact, stride, strict=True)))
    wanted = tuple(draw(st.integers(max(1, n - s + 1), n + s - 1)) for n, s in zip(exact, stride, strict=True))
    chosen = None if min(exact) > 0 and draw(st.booleans()) else wanted
    lead = draw(st.sampled_from([(3,), (2, 3), (1, 1)]))
    return (*lead, *size), kernel, stride, padding, chosen, tuple(exact) if chosen is None else wanted


@settings(max_examples=200)
@given(case=unpools(), layout=st.sampled_from(LAYOUTS), dtype=FLOATS, seed=st.integers(0, 9))
def test_pytorch_agrees(case, layout, dtype, seed, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    shape, kernel, stride, padding, chosen, size = case
    rng, ndim, each = np.random.default_rng(seed), len(size), int(np.prod(shape[-len(size) :]))
    x = in_memory(rng.standard_normal(shape).astype(dtype), layout)
    # Each place once: PyTorch says nothing of which value stays where two meet. Which is rarely possible here: else all
    # places are the first, of equal values.
    if each <= np.prod(size):
        planes = [rng.permutation(int(np.prod(size)))[:each] for _ in range(int(np.prod(shape[:-ndim])))]
        indices = np.reshape(planes, shape).astype(np.int64)
    else:
        x, indices = np.ones_like(x), np.zeros(shape, np.int64)
    t = torch.tensor(x.copy(), requires_grad=True)
    y = getattr(torch.nn.functional, f"max_unpool{ndim}d")(
        t, torch.tensor(indices), kernel, stride, padding, None if chosen is None else list(chosen)
    )
    got = op(ndim)(x, indices, kernel, stride, padding, chosen)
    assert_same(got, y.detach().numpy())
    grad = in_memory(rng.standard_normal(y.shape).astype(dtype), layout)
    expected = torch.autograd.grad(y, t, torch.tensor(grad.copy()))[0].numpy()
    assert_same(op(ndim, "_backward")(grad, indices), expected)
