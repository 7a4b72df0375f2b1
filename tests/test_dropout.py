"""Dropout: what is kept and how often, its gradient, its reproducibility."""

import numpy as np
import pytest
from cases import normal
from closeness import assert_same
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import cnnkit


@settings(max_examples=200)
@given(
    shape=arrays.array_shapes(min_dims=0, max_dims=4, max_side=7),
    kind=st.sampled_from(["float32", "float64"]),
    rate=st.floats(0, 0.99, allow_subnormal=False),
    turned=st.booleans(),
    seed=st.integers(0, 99),
)
def test_it_is_the_definition(shape, kind, rate, turned, seed, backend):
    x, grad = np.asarray(normal(shape, kind, 1)), np.asarray(normal(shape, kind, 2))
    if turned and shape:
        x, grad = np.ascontiguousarray(x.T).T, grad[..., ::-1]
    y, kept = cnnkit.dropout(x, rate, rng=np.random.default_rng(seed))
    assert kept.dtype == bool
    np.testing.assert_array_equal(kept, np.random.default_rng(seed).random(shape, dtype=np.float32) >= rate)
    scale = x.dtype.type(1 / (1 - rate))
    assert_same(np.abs(y), np.abs(np.where(kept, x * scale, x.dtype.type(0))))
    gx = cnnkit.dropout_backward(grad, kept, rate)
    assert_same(np.abs(gx), np.abs(np.where(kept, grad * scale, x.dtype.type(0))))


def test_the_share_that_is_kept_and_the_mean_are_what_they_should_be(backend):
    x = np.ones((300, 1000), np.float32)
    y, kept = cnnkit.dropout(x, 0.3, rng=np.random.default_rng(0))
    deviation = np.sqrt(0.3 * 0.7 / x.size)
    assert abs(kept.mean() - 0.7) < 4 * deviation
    assert abs(y.mean() - 1) < 4 * deviation / 0.7


def test_a_rate_of_zero_keeps_everything(dtype, backend):
    x = normal((3, 5), dtype, 1)
    y, kept = cnnkit.dropout(x, 0, rng=np.random.default_rng(0))
    assert_same(y, x)
    assert kept.all()


def test_channels_last_keeps_its_order_and_the_same_numbers(backend):
    x = normal((2, 5, 4, 3), "float32", 1)
    last = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    y, kept = cnnkit.dropout(last, 0.5, rng=np.random.default_rng(0))
    assert y.strides == last.strides
    assert_same(y, cnnkit.dropout(x, 0.5, rng=np.random.default_rng(0))[0])
    assert_same(cnnkit.dropout_backward(last, kept, 0.5), y)


def test_pytorch_scales_alike(backend):
    """Its generator is another: the mask is ours."""
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    x = normal((40, 50), "float64", 1)
    y, kept = cnnkit.dropout(x, 0.4, rng=np.random.default_rng(0))
    gx = torch.ops.aten.native_dropout_backward(torch.tensor(x), torch.tensor(kept), 1 / 0.6).numpy()
    np.testing.assert_allclose(cnnkit.dropout_backward(x, kept, 0.4), gx, rtol=1e-15)
    np.testing.assert_allclose(y, gx, rtol=1e-15)
