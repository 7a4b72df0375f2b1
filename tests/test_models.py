"""Models as wholes: residual blocks, copies, other dtypes and devices, and what they say of wrong arrays."""

import copy
import multiprocessing
import pickle
import re
import sys
import types

import numpy as np
import pytest

import cnnkit
from cnnkit import arrays, dispatch, nn, optim


def make_model(dtype="float32", seed=0):
    settings = {"dtype": dtype, "rng": np.random.default_rng(seed)}
    return nn.Sequential(
        nn.Residual(
            nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1, **settings), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1, **settings)),
            nn.Conv2d(2, 4, 1, 2, bias=False, **settings),
        ),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dense(36, 3, **settings),
    )


X = np.random.default_rng(9).normal(size=(2, 2, 6, 6)).astype("float32")
NAMES = [
    *("0.body.0.weight", "0.body.0.bias", "0.body.2.weight", "0.body.2.bias", "0.shortcut.weight"),
    *("3.weight", "3.bias"),
]


class Counting(nn.Layer):
    """A user's own layer, with a parameter, an array that is none, and layers of its own."""

    def __init__(self, inner):
        self.inner, self.scale, self.calls = inner, np.ones(1, "float32"), np.zeros((), "int64")

    def __call__(self, x):
        return self.inner(x) * self.scale

    def forward(self, x, rng=None):
        self.calls += 1
        y, back = self.inner.forward(x, rng)

        def pullback(grad_y, *, needs_x=True):
            grad_x, grads = back(grad_y * self.scale)
            return grad_x, {"scale": (grad_y * y).sum(keepdims=True).ravel()[:1], **nn.layer.prefixed({"inner": grads})}

        return y * self.scale, pullback

    def children(self):
        return {"inner": self.inner}

    def parameters(self):
        return {"scale": self.scale, **super().parameters()}

    def state_dict(self):
        return super().state_dict() | {"calls": self.calls}


# --- residual blocks -----------------------------------------------------------------------------


def test_residual_is_the_sum():
    body, shortcut = nn.Dense(3, 2, rng=0, dtype="float64"), nn.Dense(3, 2, rng=1, dtype="float64")
    x, grad = np.arange(6.0).reshape(2, 3), np.array([[1.0, -2.0], [0.5, 3.0]])
    y, pullback = nn.Residual(body, shortcut).forward(x)
    np.testing.assert_array_equal(y, body(x) + shortcut(x))
    np.testing.assert_allclose(pullback(grad)[0], grad @ (body.weight + shortcut.weight), rtol=1e-14)


def test_residual_past_a_body_that_does_nothing_doubles():
    x = np.array([[1.0, -2.0]])
    y, pullback = nn.Residual(nn.Sequential()).forward(x)
    np.testing.assert_array_equal(y, [[2.0, -4.0]])
    grad = np.array([[3.0, 4.0]])
    np.testing.assert_array_equal(pullback(grad)[0], [[6.0, 8.0]])
    np.testing.assert_array_equal(x, [[1.0, -2.0]])  # nothing was added in place
    np.testing.assert_array_equal(grad, [[3.0, 4.0]])


def test_residual_leaves_alone_what_the_bodys_pullback_keeps():
    """ReLU goes back by its own result: adding the shortcut to that in place would let negative elements through."""
    x = np.array([[-1.0, 2.0]])
    y, pullback = nn.Residual(nn.ReLU(), nn.Dense(2, 2, rng=0, dtype="float64")).forward(x)
    y += 10
    grad_x, grads = pullback(np.ones((1, 2)), needs_x=True)
    weight = nn.Dense(2, 2, rng=0, dtype="float64").weight
    np.testing.assert_allclose(grad_x, [[0, 1]] + np.ones((1, 2)) @ weight, rtol=1e-14)
    assert list(grads) == ["shortcut.weight", "shortcut.bias"]


def test_names_are_paths():
    model = make_model()
    assert list(model.parameters()) == list(model.state_dict()) == NAMES
    assert model.parameters()["0.body.2.bias"] is model[0].body[2].bias
    _, pullback = model.forward(X)
    assert list(pullback(np.ones((2, 3), "float32"))[1]) == NAMES


@pytest.mark.parametrize("run", [lambda layer, x: layer(x), lambda layer, x: layer.forward(x)], ids=["call", "forward"])
@pytest.mark.parametrize(
    ("shortcut", "sentence"),
    [
        (None, r"x has shape \(2, 2, 6, 6\): a shortcut that makes the same shape is needed"),
        (nn.Conv2d(2, 4, 1), r"shortcut makes \(2, 4, 6, 6\): the same shape is needed"),
        (nn.Conv2d(2, 1, 1, 2), r"shortcut makes \(2, 1, 3, 3\): the same shape is needed"),  # NumPy would broadcast it
    ],
)
def test_what_is_added_must_have_one_shape(run, shortcut, sentence):
    layer = nn.Residual(nn.Conv2d(2, 4, 3, 2, 1), shortcut)
    with pytest.raises(ValueError, match=rf"^body makes y of shape \(2, 4, 3, 3\), but {sentence}$"):
        run(layer, X)


def test_a_layer_with_parameters_is_not_its_own_shortcut():
    dense = nn.Dense(2, 2)
    with pytest.raises(ValueError, match=r"^shortcut is body, but Dense\(2, 2\) has parameters of its own"):
        nn.Residual(dense, dense)
    relu = nn.ReLU()
    assert nn.Residual(relu, relu)(np.ones(1)) == 2


@pytest.mark.parametrize("run", [lambda model, x: model(x), lambda model, x: model.forward(x)], ids=["call", "forward"])
def test_an_error_says_on_which_way(run):
    block = nn.Residual(nn.Sequential(nn.ReLU(), nn.Dense(3, 2)), nn.Dense(4, 2))
    with pytest.raises(ValueError, match="features") as caught:
        run(block, np.zeros((5, 3), "float32"))
    assert caught.value.__notes__ == ["in shortcut, Dense(4, 2), given x of shape (5, 3)"]
    with pytest.raises(ValueError, match="features") as caught:
        run(nn.Sequential(block), np.zeros((5, 4), "float32"))
    assert caught.value.__notes__ == [
        "in layer 1, Dense(3, 2), given x of shape (5, 4)",
        "in body, Sequential(ReLU(), Dense(3, 2)), given x of shape (5, 4)",
        "in layer 0, Residual(Sequential(ReLU(), Dense(3, 2)), shortcut=Dense(4, 2)), given x of shape (5, 4)",
    ]


def test_a_residual_network_learns(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 2, 6, 6)).astype("float32")
    labels = (x.mean((1, 2, 3)) > 0).astype(int)
    settings = {"batch_size": 16, "progress": False, "seed": 1}
    model, path = make_model(), tmp_path / "checkpoint"
    history = nn.fit(model, (x, labels), epochs=6, optimizer=optim.Adam(0.01), **settings)
    assert history.loss[-1] < history.loss[0] / 2

    again = make_model()
    save = nn.Checkpoint(path)
    nn.fit(again, (x, labels), epochs=3, optimizer=optim.Adam(0.01), callbacks=[save], **settings)
    resumed = make_model(seed=5)
    nn.fit(resumed, (x, labels), epochs=6, optimizer=optim.Adam(0.01), resume=path, **settings)
    for name, array in resumed.state_dict().items():
        np.testing.assert_array_equal(array, model.state_dict()[name])


def test_layers_of_ones_own_may_hold_layers():
    model = nn.Sequential(Counting(make_model()))
    assert list(model.parameters()) == ["0.scale", *(f"0.inner.{name}" for name in NAMES)]
    assert list(model.state_dict()) == [*(f"0.inner.{name}" for name in NAMES), "0.scale", "0.calls"]
    y, pullback = model.forward(X)
    assert list(pullback(np.ones_like(y))[1]) == list(model.parameters())
    other = nn.Sequential(Counting(make_model(seed=1)))
    other.load_state_dict(model.state_dict())
    assert other[0].calls == 1


# --- copies --------------------------------------------------------------------------------------

COPIES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "astype": lambda model: model.astype("float32"),
    "to": lambda model: model.to("cpu"),
}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_copies_are_equal_and_apart(duplicate):
    model = nn.Sequential(Counting(make_model()))
    twin = duplicate(model)
    assert repr(twin[0].inner) == repr(model[0].inner)
    ours, theirs = model.state_dict(), twin.state_dict()
    assert list(ours) == list(theirs)
    for name, array in ours.items():
        assert theirs[name].dtype == array.dtype
        np.testing.assert_array_equal(theirs[name], array)
        assert not np.shares_memory(theirs[name], array)
    np.testing.assert_array_equal(twin(X), model(X))
    theirs["0.inner.3.bias"][...] += 1  # the live array of the copy
    assert (twin(X) != model(X)).all()


def _infer(model, x):
    return model(x)


def test_a_model_goes_to_another_process():
    model = make_model()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        np.testing.assert_array_equal(pool.apply(_infer, (model, X)), model(X))


def test_an_array_that_two_layers_share_stays_shared():
    first, second = nn.Dense(3, 3), nn.Dense(3, 3)
    second.weight = first.weight
    for twin in (nn.Sequential(first, second).astype("float64"), nn.Sequential(first, second).to("cpu")):
        assert twin[0].weight is twin[1].weight
        assert twin[0].weight is not first.weight


# --- dtypes --------------------------------------------------------------------------------------


def test_astype():
    model = nn.Sequential(Counting(make_model()))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    text = repr(model[0].inner)
    double = model.astype(np.float64)
    assert repr(double[0].inner) == repr(make_model("float64")) != text
    for name, array in double.state_dict().items():
        assert array.dtype == ("int64" if name == "0.calls" else "float64"), name
        np.testing.assert_array_equal(array, before[name])
    assert double(X.astype("float64")).dtype == np.float64
    assert repr(model[0].inner) == text
    for name, array in model.state_dict().items():
        assert array.dtype == before[name].dtype
        np.testing.assert_array_equal(array, before[name])


def test_astype_is_saved(tmp_path):
    double = make_model().astype("float64")
    double.save(tmp_path / "model")
    again = nn.load(tmp_path / "model")
    np.testing.assert_array_equal(again(np.float64(X)), double(np.float64(X)))


def test_a_layer_of_another_dtype_is_refused():
    with pytest.raises(TypeError, match=r"^dtype is int64, but a layer needs float32 or float64$"):
        make_model().astype("int64")


OTHERS = {"float16": np.float16, "float64": np.float64, "int64": np.int64, "complex64": np.complex64, "bool": bool}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("run", [lambda model, x: model(x), lambda model, x: model.forward(x)], ids=["call", "forward"])
def test_x_of_another_dtype_is_refused_in_one_sentence(kind, run):
    """The sentence names both dtypes, or the one that no layer takes; the notes say in which layer."""
    x = X.real.astype(OTHERS[kind])
    plain = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Dense(18, 3))
    for model, place in ((make_model(), "layer 0"), (plain, "layer")):
        with pytest.raises(TypeError) as caught:
            run(model, x)
        one, other = rf"weight is float32, but x is {kind}: one dtype a call", rf"x is {kind}, but [^.]* is needed"
        assert re.fullmatch(f"{one}|{other}", str(caught.value))
        assert caught.value.__notes__[-1].startswith(f"in {place}")


# --- devices -------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", None, 0, ["cpu"]])
def test_devices_are_two(device):
    with pytest.raises(ValueError, match=r"^device is .*, but the devices are 'cpu', 'cuda'$"):
        make_model().to(device)


def test_without_cupy_the_remedy_is_told():
    available, why_not = cnnkit.backends()["cupy"]
    if available:
        pytest.skip("CuPy runs here")
    with pytest.raises(ImportError) as caught:
        make_model().to("cuda")
    assert str(caught.value) == f"backend 'cupy' is not available: {why_not}"


def test_on_a_gpu():
    available, why_not = cnnkit.backends()["cupy"]
    if not available:
        pytest.skip(why_not)
    model = make_model()
    there = model.to("cuda")
    assert {arrays.family(array) for array in there.state_dict().values()} == {"cupy"}
    import cupy

    x = cupy.asarray(X)
    np.testing.assert_allclose(cupy.asnumpy(there(x)), model(X), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(there.to("cpu")(X), model(X))


@pytest.fixture
def pretended(monkeypatch):
    """A module in CuPy's place whose arrays only hold NumPy's: who asks for them is seen, nothing runs on a GPU."""
    cupy = types.ModuleType("cupy")

    class ndarray:  # noqa: N801
        def __init__(self, array):
            self.array = np.array(array)
            self.shape, self.dtype, self.strides = self.array.shape, self.array.dtype, self.array.strides

        def get(self):
            return self.array.copy()

        def copy(self):
            return ndarray(self.array)

        def astype(self, dtype):
            return ndarray(self.array.astype(dtype))

        def __setitem__(self, place, value):
            assert isinstance(value, ndarray)  # as CuPy, which takes no NumPy array here
            self.array[place] = value.array

        def __array__(self, *_, **__):
            raise TypeError("Implicit conversion to a NumPy array is not allowed")

    ndarray.__module__ = "cupy"
    cupy.ndarray = ndarray
    cupy.array = lambda array: ndarray(array.array if isinstance(array, ndarray) else array)
    cupy.asarray = lambda array: array if isinstance(array, ndarray) else ndarray(array)
    runtime = types.SimpleNamespace(driverGetVersion=lambda: 13000, runtimeGetVersion=lambda: 13000)
    cupy.cuda = types.SimpleNamespace(is_available=lambda: True, runtime=runtime)
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    dispatch.why_not.cache_clear()
    yield ndarray
    monkeypatch.undo()
    dispatch.why_not.cache_clear()


def test_all_arrays_move(pretended, tmp_path):
    model = nn.Sequential(Counting(make_model()))
    there = model.to("cuda")
    assert all(type(array) is pretended for array in there.state_dict().values())
    assert all(type(array) is np.ndarray for array in model.state_dict().values())
    twins = [there.to("cpu"), there.to("cuda").to("cpu"), there.astype("float64").to("cpu").astype("float32")]
    there[0].inner.save(tmp_path / "model")
    twins.append(nn.Sequential(Counting(nn.load(tmp_path / "model"))))
    for twin in twins:
        for name, array in twin.state_dict().items():
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, model.state_dict()[name])


def test_states_move_to_where_the_model_is(pretended):
    model, other = make_model(), make_model(seed=1)
    there = other.to("cuda")
    there.load_state_dict(model.state_dict())
    other.load_state_dict(there.state_dict())
    for name, array in model.state_dict().items():
        assert type(there.state_dict()[name]) is pretended
        np.testing.assert_array_equal(there.state_dict()[name].array, array)
        np.testing.assert_array_equal(other.state_dict()[name], array)
