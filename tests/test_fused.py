"""`activation=` of convolutions and dense layers: the bits of the layer without it, and then of the function."""

import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same

import cnnkit

NAMES = ["relu", "leaky_relu", "elu", "gelu", "silu", "sigmoid", "tanh"]
WAYS = {  # x, weight, parameters, channels last: the ways that the CPU room has
    "1x1 in place": ((2, 5, 7, 9), (9, 5, 1, 1), (), False),
    "3x3 in bands": ((2, 3, 8, 9), (7, 3, 3, 3), (2, 1), False),
    "channels last": ((2, 5, 7, 9), (9, 5, 3, 3), (1, 1), True),
    "groups": ((2, 6, 7, 5), (8, 3, 3, 3), (1, 1, 1, 2), False),
    "depthwise": ((2, 20, 7, 9), (20, 1, 3, 3), (1, 1, 1, 20), True),
    "3d": ((1, 2, 4, 5, 6), (3, 2, 3, 3, 3), (), False),
    "1d unbatched": ((3, 19), (4, 3, 3), (), False),
}


def conv(x, weight, *args, **kwargs):
    return getattr(cnnkit, f"conv{weight.ndim - 2}d")(x, weight, *args, **kwargs)


def turned(x):
    """The same numbers with channels last in memory."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_convolution(way, name, dtype, backend):
    shape, weight_shape, parameters, last = WAYS[way]
    x, weight, bias = normal(shape, dtype, 1), normal(weight_shape, dtype, 2), normal(weight_shape[:1], dtype, 3)
    x = turned(x) if last else x
    expected = getattr(cnnkit, name)(conv(x, weight, bias, *parameters))
    got = conv(x, weight, bias, *parameters, activation=name)
    assert_same(got, expected)
    assert got.strides == expected.strides
    out = np.full([2 * n for n in got.shape], 7, dtype)[tuple(slice(None, None, 2) for _ in got.shape)]
    conv(x, weight, bias, *parameters, activation=name, out=out)
    magnitude = conv(*map(np.abs, (x, weight, bias)), *parameters)  # the order of the sum may follow the memory order
    assert_close(out, expected, 2 * magnitude, weight[0].size + 1)  # two sums, and an activation's slope
    assert (out.base[tuple(slice(1, None, 2) for _ in got.shape)] == 7).all()


@pytest.mark.parametrize("name", ["relu", "gelu", "tanh"])
@pytest.mark.parametrize("last", [False, True])
def test_winograd(name, last, monkeypatch):
    """Its tiles that are not finite are summed again, number by number."""
    pytest.importorskip("numba")
    x, weight, bias = (
        normal((1, 18, 13, 70), "float32", 1),
        normal((20, 18, 3, 3), "float32", 2),
        normal(20, "float32", 3),
    )
    x[0, 3, 5, 9] = np.inf
    x = turned(x) if last else x
    with cnnkit.use_backend("numba"), cnnkit.options(algorithm="winograd"):
        expected = getattr(cnnkit, name)(cnnkit.conv2d(x, weight, bias, 1, 1))
        assert_same(cnnkit.conv2d(x, weight, bias, 1, 1, activation=name), expected)
        assert np.isfinite(expected).all() == (name == "tanh")
        assert not np.isnan(expected).any()


@pytest.mark.parametrize("name", NAMES)
def test_weights_in_halves(name, backend):
    x, weight, bias = (
        normal((1, 40, 3, 3), "float32", 1),
        normal((30, 40, 3, 3), "float32", 2),
        normal(30, "float32", 3),
    )
    with cnnkit.options(max_workspace=1 << 14):
        expected = getattr(cnnkit, name)(cnnkit.conv2d(x, weight, bias))
        assert_same(cnnkit.conv2d(x, weight, bias, activation=name), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(9, 20), (20,), (2, 3, 20), (0, 20), (200, 2000)])
def test_dense(shape, name, backend):
    x, weight, bias = normal(shape, "float32", 1), normal((13, shape[-1]), "float32", 2), normal(13, "float32", 3)
    expected = getattr(cnnkit, name)(cnnkit.dense(x, weight, bias))
    assert_same(cnnkit.dense(x, weight, bias, activation=name), expected)
    out = np.full((13, *expected.shape[:-1]), 7, np.float32)
    out = np.moveaxis(out, 0, -1)
    assert_same(cnnkit.dense(x, weight, bias, activation=name, out=out), expected)
