"""The `cupy` backend without a GPU: the array room on a strict stand-in, which has no more than CuPy has.

What the `numpy` backend gives is held against the definitions elsewhere; here the same source must give the same bits.
"""

import functools
import sys
import types

import conftest
import naive
import numpy as np
import pytest
import strict_cupy
from cases import CONV, MAX_POOL, normal, over
from closeness import assert_same
from strict_cupy import COUNTED
from test_architecture import contract
from test_arrays import EVERY, FORMS, as_list, whole

import cnnkit
from cnnkit import dispatch, nn, optim


@pytest.fixture
def cupy(monkeypatch):
    """The stand-in in CuPy's place; what the tests write for NumPy is taken there and back."""
    yield strict_cupy.install(monkeypatch)
    monkeypatch.undo()
    for cached in (dispatch.why_not, dispatch._find):
        cached.cache_clear()


@pytest.fixture
def counts(cupy, monkeypatch):
    """What was counted inside of the public functions, apart from taking the tests' arrays there and back."""
    found = strict_cupy.Counter()
    for name in cnnkit.__all__:
        function = getattr(cnnkit, name)
        if getattr(function, "__module__", "").startswith("cnnkit.ops."):
            counted = counting(function, found)
            taken = conftest.there_and_back(counted, cupy)
            taken.of_numpy = function
            monkeypatch.setattr(cnnkit, name, taken)
    return found


def counting(function, found):
    @functools.wraps(function)
    def call(*args, **kwargs):
        before = COUNTED.copy()
        result = function(*args, **kwargs)
        found.update(COUNTED - before)
        return result

    return call


@pytest.mark.parametrize("form", ["plain", "negative steps", "channels-last", "every other", "broadcast"])
@pytest.mark.parametrize("name", EVERY)
def test_every_function_is_written_in_words_that_cupy_has(name, form, dtype, counts):
    shapes, call, _ = EVERY[name]
    arrays = [FORMS[form](whole(shape, dtype, seed)) for seed, shape in enumerate(shapes)]
    assert_the_same_on_both(lambda: call(*arrays))
    assert counts["waits"] == 0
    assert bool(counts["uploads"]) == ("avg" in name or "lp" in name or "adaptive" in name)  # their small tables


CONV_NAMES = ("1d causal", "stem", "stride 2, dilation 4", "no image", "unbatched", "2 wide groups", "3d mixed")


@over({name: CONV[name] for name in CONV_NAMES})
def test_awkward_convolutions(case, counts):
    x, weight = normal(case.x, "float32", 1), normal(case.weight, "float32", 2)
    bias = normal(case.weight[:1], "float32", 3)

    def call():
        y = getattr(cnnkit, f"conv{case.count}d")(x, weight, bias, *case.params, activation="gelu")
        return (y, *getattr(cnnkit, f"conv{case.count}d_backward")(y, x, weight, *case.params))

    assert_the_same_on_both(call)
    assert not counts


@over(
    {
        name: MAX_POOL[name]
        for name in ("1d", "ceil, padded", "pairs, ceil", "no image", "unequal dilations", "3d mixed")
    }
)
def test_awkward_maxima(case, counts):
    x = normal(case.x, "float64", 1)
    x.ravel()[::5] = np.nan

    def call():
        y, indices = getattr(cnnkit, f"max_pool{case.count}d")(x, *case[1:-1], return_indices=True)
        return y, indices, getattr(cnnkit, f"max_pool{case.count}d_backward")(y, indices, x.shape)

    assert_the_same_on_both(call)
    assert not counts


def assert_the_same_on_both(call):
    """The functions of `cnnkit` are those of `counts`: with the numpy backend they are given NumPy's arrays."""
    with cnnkit.use_backend("cupy"):
        got = as_list(call())
    with pytest.MonkeyPatch.context() as patch:
        for name in cnnkit.__all__:
            function = getattr(cnnkit, name)
            if hasattr(function, "of_numpy"):
                patch.setattr(cnnkit, name, function.of_numpy)
        with cnnkit.use_backend("numpy"):
            expected = as_list(call())
    for one, other in zip(got, expected, strict=True):
        assert_same(one, other)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_loss_is_a_number_that_stays_where_it_is(reduction, cupy):
    x, labels = normal((5, 4), "float32", 1), np.arange(5) % 4
    there = cupy.asarray(x), cupy.asarray(labels)
    COUNTED.clear()
    losses = (
        cnnkit.cross_entropy(*there, reduction=reduction),
        cnnkit.mse_loss(there[0], there[0] * 2, reduction=reduction),
    )
    gradients = [
        cnnkit.cross_entropy_backward(losses[0], *there, reduction=reduction),
        cnnkit.mse_loss_backward(losses[1], there[0], there[0] * 2, reduction=reduction),
    ]
    assert not COUNTED
    assert all(isinstance(loss, cupy.ndarray) and loss.shape == () for loss in losses)
    expected = naive.cross_entropy_backward(float(losses[0]), x, labels, reduction=reduction)
    np.testing.assert_allclose(gradients[0].get(), expected, rtol=1e-5, atol=1e-6)


def test_nobody_waits_to_look_at_labels_and_indices(cupy):
    x = cupy.asarray(normal((3, 4), "float32", 1))
    loss = cnnkit.cross_entropy(x, cupy.asarray(np.array([0, 4, -1])), reduction="none").get()
    assert np.isnan(loss).tolist() == [False, True, True]
    beyond = cupy.asarray(np.array([[[0, 9]]]))
    grad = cnnkit.max_pool1d_backward(cupy.asarray(np.ones((1, 1, 2))), beyond, (1, 1, 4))
    assert grad.get().sum() == 2  # within the plane, wherever it is


def test_dropout_draws_from_cupys_generator(cupy):
    x = normal((3, 40), "float32", 1)
    COUNTED.clear()
    y, kept = cnnkit.dropout(cupy.array(x), 0.25, rng=cupy.random.default_rng(0))
    assert COUNTED["waits"] == 0
    assert 0.6 < kept.get().mean() < 0.9
    assert_same(y.get(), x * kept.get() * np.float32(1 / 0.75))


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam, optim.AdamW])
def test_a_model_trains_where_its_arrays_are(optimizer, cupy):
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, rng=0), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2),
        nn.Flatten(), nn.Dense(16, 3, rng=1),
    )  # fmt: skip
    x, labels = normal((5, 1, 8, 8), "float32", 1), np.arange(5) % 3
    with cnnkit.use_backend("cupy"):
        there = model.to("cuda")
        arrays = cupy.asarray(x), cupy.asarray(labels)
        COUNTED.clear()
        step(there, optimizer(0.01), *arrays)
        assert COUNTED["waits"] == 0
    with cnnkit.use_backend("numpy"):
        step(model, optimizer(0.01), x, labels)
    for name, value in there.to("cpu").parameters().items():
        assert_same(value, model.parameters()[name])


def step(model, optimizer, x, labels):
    logits, pullback = model.forward(x)
    _, grads = pullback(cnnkit.cross_entropy_backward(1.0, logits, labels))
    optimizer.step(model.parameters(), grads)


@pytest.mark.parametrize(
    ("digits", "why_not"),
    [("75", "the GPU has compute capability 7.5, but the CUDA kernels need 8.0 or later"), ("80", ""), ("120", "")],
)
def test_an_old_card_is_named(digits, why_not, cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba_cuda", sys)
    monkeypatch.setattr(cupy.cuda, "Device", lambda: types.SimpleNamespace(compute_capability=digits))
    assert dispatch.why_not("cuda") == why_not
    assert dispatch.why_not("cupy") == ""


def test_what_is_not_installed_is_named(cupy, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    assert "numba_cuda" in dispatch.why_not("cuda")
    assert dispatch.why_not("cuda").endswith('pip install "cnnkit[cuda13]" or "cnnkit[cuda12]"')
    assert dispatch.current_backend("cupy") == "cupy"


# --- the stand-in itself -------------------------------------------------------------------------


def test_the_stand_in_is_as_strict_as_cupy(cupy):
    x, numpys = cupy.ones((2, 3)), np.ones((2, 3))
    for mixture in (
        *(lambda: x + numpys, lambda: numpys + x, lambda: np.exp(x), lambda: np.sum(x), lambda: np.asarray(x)),
        *(lambda: cupy.exp(numpys), lambda: x[np.array([0])], lambda: x.__setitem__(0, numpys[0])),
    ):
        with pytest.raises(TypeError):
            mixture()
    assert not COUNTED["waits"]
    assert float(x.sum()) == 6
    assert COUNTED["waits"] == 1


def test_the_stand_in_has_nothing_that_cupy_has_not(cupy, monkeypatch):
    names = [name for name in vars(cupy) if not name.startswith("__")]
    own = [name for name in vars(cupy.ndarray) if not name.startswith("_")]
    monkeypatch.undo()
    real = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    assert [name for name in names if not hasattr(real, name)] == []
    assert [name for name in own if not hasattr(real.ndarray, name)] == []
    assert all(hasattr(getattr(real, name), "at") for name in strict_cupy.AT)


def test_every_op_of_the_contract_is_tried_here(counts, monkeypatch):
    asked = set()
    find = dispatch._find

    def noted(op, *how):
        asked.add(op)
        return find(op, *how)

    monkeypatch.setattr(dispatch, "_find", noted)
    with cnnkit.use_backend("cupy"):
        for shapes, call, _ in EVERY.values():
            call(*(whole(shape, "float32", seed) for seed, shape in enumerate(shapes)))
    assert set(contract()) - asked <= {"narrow", "widen"}  # halves are CuPy's to store
