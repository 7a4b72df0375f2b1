"""Cross entropy against its definition, its numerical gradient and PyTorch."""

import naive
import numpy as np
import pytest
from cases import normal
from closeness import assert_close, assert_same
from hypothesis import given
from hypothesis import strategies as st

import cnnkit

SHAPES = [(4, 5), (1, 1), (1, 2), (65, 10), (3, 1000), (3, 4, 2), (2, 3, 4, 5), (1, 2, 2, 3, 2)]
EVERY = [
    pytest.mark.parametrize("shape", SHAPES),
    pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0]),
    pytest.mark.parametrize("reduction", ["none", "sum", "mean"]),
]


def every(test):
    for mark in EVERY:
        test = mark(test)
    return test


def data(shape, dtype, kind="int64"):
    """``(logits, labels)``."""
    labels = np.random.default_rng(1).integers(0, shape[1], (shape[0], *shape[2:]))
    return 4 * normal(shape, dtype, 2), labels.astype(kind)


def drop(logits):
    """How far each logit lies below the largest of its example; this size is rounded."""
    return np.float64(logits).max(axis=1, keepdims=True) - np.float64(logits)


def check_forward(logits, labels, smoothing, reduction):
    loss = cnnkit.cross_entropy(logits, labels, label_smoothing=smoothing, reduction=reduction)
    expected = naive.cross_entropy(logits, labels, smoothing, reduction)
    sizes = 1 + drop(logits) + np.abs(naive.log_softmax(logits, 1))
    each = sizes.max(axis=1)
    magnitude = {"none": each, "sum": each.sum(), "mean": each.sum() / max(1, each.size)}[reduction]
    terms = logits.shape[1] + (0 if reduction == "none" else labels.size)
    assert_close(loss, expected, magnitude, terms, logits.dtype)


def check_backward(logits, labels, smoothing, reduction):
    grad = normal(labels.shape if reduction == "none" else (), logits.dtype, 3)
    gx = cnnkit.cross_entropy_backward(grad, logits, labels, label_smoothing=smoothing, reduction=reduction)
    expected = naive.cross_entropy_backward(grad, logits, labels, smoothing, reduction)
    share = labels.size if reduction == "mean" else 1
    weight = np.broadcast_to(np.abs(np.float64(grad)), labels.shape)[:, None] / share
    magnitude = weight * (2 + naive.softmax(logits, 1) * drop(logits).max(axis=1, keepdims=True))
    assert_close(gx, expected, magnitude, logits.shape[1], logits.dtype)


@every
def test_forward_is_the_definition(shape, smoothing, reduction, dtype, backend):
    check_forward(*data(shape, dtype), smoothing, reduction)


@every
def test_backward_is_the_definition(shape, smoothing, reduction, dtype, backend):
    check_backward(*data(shape, dtype), smoothing, reduction)


@given(
    shape=st.lists(st.integers(1, 6), min_size=2, max_size=4),
    smoothing=st.floats(0, 1, allow_subnormal=False),
    reduction=st.sampled_from(["none", "sum", "mean"]),
    scale=st.sampled_from([0.0, 1.0, 50.0, 1e4]),
)
def test_any_loss(shape, smoothing, reduction, scale, dtype, backend):
    logits, labels = data(tuple(shape), dtype)
    logits = (scale * logits).astype(dtype)
    check_forward(logits, labels, smoothing, reduction)
    check_backward(logits, labels, smoothing, reduction)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("order", [(0, 2, 3, 1), (3, 2, 1, 0), (2, 0, 3, 1)])
def test_logits_in_any_memory_order(order, smoothing, dtype, backend):
    logits, labels = data((3, 5, 4, 18), dtype)
    logits = np.ascontiguousarray(logits.transpose(order)).transpose(np.argsort(order))
    for turned in (logits, logits[:, :, ::-1]):
        check_forward(turned, labels, smoothing, "none")
        check_backward(turned, np.asfortranarray(labels), smoothing, "none")


@pytest.mark.parametrize("classes", range(1, 40))
def test_any_number_of_classes(classes, dtype, backend):
    for shape in ((3, classes), (2, classes, 5), (2, classes, 17)):
        logits, labels = data(shape, dtype)
        check_forward(logits, labels, 0.1, "none")
        check_backward(logits, labels, 0.1, "none")


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_labels_may_be_any_integers(kind, dtype, backend):
    logits, labels = data((9, 5), dtype)
    expected = cnnkit.cross_entropy(logits, labels, reduction="none")
    assert_same(cnnkit.cross_entropy(logits, labels.astype(kind), reduction="none"), expected)
    gx = cnnkit.cross_entropy_backward(1.0, logits, labels)
    assert_same(cnnkit.cross_entropy_backward(1.0, logits, labels.astype(kind)), gx)


def test_the_mean_is_what_one_gets_unless_told(backend):
    logits, labels = data((9, 5), "float64")
    loss = cnnkit.cross_entropy(logits, labels)
    assert loss == cnnkit.cross_entropy(logits, labels, label_smoothing=0.0, reduction="mean")
    assert np.ndim(loss) == 0
    np.testing.assert_allclose(loss, naive.cross_entropy(logits, labels), rtol=1e-14)


def test_a_loss_scale_may_be_a_float_a_numpy_scalar_or_an_array(backend):
    logits, labels = data((9, 5), "float32")
    gx = cnnkit.cross_entropy_backward(2.0, logits, labels)
    assert gx.dtype == np.float32
    for scale in (2, np.float32(2), np.array(2, np.float32), np.float64(2)):
        assert_same(cnnkit.cross_entropy_backward(scale, logits, labels), gx)


def test_sure_and_wrong_is_expensive_and_finite(dtype, backend):
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], dtype)
    losses = cnnkit.cross_entropy(logits, np.array([0, 0]), reduction="none")
    np.testing.assert_array_equal(losses, [0, 2e4])
    gx = cnnkit.cross_entropy_backward(1.0, logits, np.array([0, 0]), reduction="sum")
    np.testing.assert_array_equal(gx, [[0, 0], [-1, 1]])


def test_no_example_costs_nothing(dtype, backend):
    logits, labels = np.zeros((0, 5), dtype), np.zeros(0, np.int64)
    assert_same(cnnkit.cross_entropy(logits, labels, reduction="none"), np.zeros(0, dtype))
    assert cnnkit.cross_entropy(logits, labels, reduction="sum") == 0
    gx = cnnkit.cross_entropy_backward(1.0, logits, labels, reduction="sum")
    assert_same(gx, np.zeros((0, 5), dtype))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_gradient_is_the_numerical_one(smoothing, backend):
    logits, labels = data((3, 4, 2), "float64")
    gx = cnnkit.cross_entropy_backward(1.0, logits, labels, label_smoothing=smoothing)
    for place in np.ndindex(*logits.shape):
        moved = [logits.copy(), logits.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        high, low = (cnnkit.cross_entropy(m, labels, label_smoothing=smoothing) for m in moved)
        assert abs((high - low) / 2e-6 - gx[place]) < 1e-8


@pytest.mark.parametrize("classes", [100, 127, 128, 129, 200, 255, 256, 300])
@pytest.mark.parametrize("kind", ["int8", "uint8", "int64", "uint64"])
def test_a_label_beyond_the_classes_is_found_in_any_integers(kind, classes, backend):
    """Also where fewer of them fit the kind than there are classes."""
    logits, reach = np.zeros((1, classes)), np.iinfo(kind)
    for label in {-1, -2, 0, 1, classes - 1, classes, reach.min, reach.max}:
        if reach.min <= label <= reach.max:
            labels = np.array([label], kind)
            if 0 <= label < classes:
                assert cnnkit.cross_entropy(logits, labels) > 0
            else:
                with pytest.raises(ValueError, match=f"labels reach from {label} to {label}, but logits "):
                    cnnkit.cross_entropy(logits, labels)


@every
def test_pytorch_agrees(shape, smoothing, reduction, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is the second oracle; it is optional")
    logits, labels = data(shape, "float64")
    rule = {"label_smoothing": smoothing, "reduction": reduction}
    t = torch.tensor(logits, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(t, torch.tensor(labels), **rule)
    grad = normal(loss.shape, "float64", 3)
    loss.backward(torch.tensor(grad))
    got = cnnkit.cross_entropy(logits, labels, **rule)
    np.testing.assert_allclose(got, loss.detach(), rtol=1e-12)
    gx = cnnkit.cross_entropy_backward(grad, logits, labels, **rule)
    np.testing.assert_allclose(gx, t.grad, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("level", [1e6, 2e38])
def test_label_smoothing_stands_large_logits(backend, level):
    logits = (level + np.random.default_rng(0).standard_normal((2, 100))).astype(np.float32)
    labels = np.array([0, 1])
    exact = naive.cross_entropy(logits.astype(np.float64), labels, label_smoothing=0.1)
    assert cnnkit.cross_entropy(logits, labels, label_smoothing=0.1) == pytest.approx(float(exact), rel=1e-5)
