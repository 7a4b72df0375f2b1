"""The `cupy` backend without a GPU: the array room on a strict stand-in, which has no more than CuPy has.

What the `numpy` backend gives is held against the definitions elsewhere; here the same source must give the same bits.
"""

import contextlib
import functools
import importlib
import json
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
from cnnkit import datasets, dispatch, nn, optim
from cnnkit.cli import main
from cnnkit.cli.compare import training


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


def small_network(dropout=0.0):
    generator = np.random.default_rng(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, rng=generator), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(dropout),
        nn.Dense(16, 3, rng=generator),
    )  # fmt: skip


IMAGES, CLASSES = normal((11, 1, 4, 4), "float32", 1), np.arange(11) % 3


def test_a_fit_sees_the_gpu_once_an_epoch(cupy):
    """Its steps wait for nothing: the means of an epoch are asked for at its end."""
    fitted = {}
    for device, data in (("cpu", (IMAGES, CLASSES)), ("cuda", (cupy.asarray(IMAGES), cupy.asarray(CLASSES)))):
        model, optimizer = small_network().to(device), optim.Adam(0.01)
        settings = {"batch_size": 3, "optimizer": optimizer, "validation": data, "progress": False}
        with cnnkit.use_backend("numpy" if device == "cpu" else "cupy"):
            COUNTED.clear()
            history = nn.fit(model, data, epochs=2, **settings)
        waits = COUNTED["waits"]
        fitted[device] = model.to("cpu").parameters(), history.loss, history.accuracy, history.val_loss
    labels_checked, figures = 2 * 2, 6  # loss, accuracy, both again for the bar, and those of the validation
    assert waits <= labels_checked + 2 * figures
    for name, value in fitted["cuda"][0].items():
        assert_same(value, fitted["cpu"][0][name])
    assert fitted["cuda"][1:] == fitted["cpu"][1:]


def test_dropout_in_a_fit_draws_where_the_arrays_are(cupy):
    drawn = []
    for _ in range(2):
        model = small_network(0.5).to("cuda")
        data = cupy.asarray(IMAGES), cupy.asarray(CLASSES)
        with cnnkit.use_backend("cupy"):
            nn.fit(model, data, epochs=1, batch_size=4, optimizer=optim.SGD(0.1), progress=True)
        drawn.append(model.to("cpu").parameters())
    for name, value in drawn[0].items():
        assert_same(value, drawn[1][name])
        assert np.isfinite(value).all()


def test_labels_on_the_host_are_named(cupy):
    model = small_network().to("cuda")
    with pytest.raises(TypeError, match=r"^labels is a numpy array, but x is a cupy array: one library a call$"):
        nn.fit(model, (cupy.asarray(IMAGES), CLASSES), epochs=1, batch_size=4, optimizer=optim.SGD(0.1))


def test_a_checkpoint_goes_on_where_the_arrays_are(cupy, tmp_path):
    data, whole_run = (cupy.asarray(IMAGES), cupy.asarray(CLASSES)), small_network().to("cuda")
    settings = {"batch_size": 4, "progress": False}
    with cnnkit.use_backend("cupy"):
        nn.fit(whole_run, data, epochs=2, optimizer=optim.Adam(0.01), **settings)
        first, again = small_network().to("cuda"), small_network().to("cuda")
        save = [nn.Checkpoint(tmp_path / "half")]
        nn.fit(first, data, epochs=1, optimizer=optim.Adam(0.01), callbacks=save, **settings)
        nn.fit(again, data, epochs=2, optimizer=optim.Adam(0.01), resume=tmp_path / "half", **settings)
    for name, value in again.to("cpu").parameters().items():
        assert_same(value, whole_run.to("cpu").parameters()[name])


def test_compare_trains_there(cupy, tmp_path, monkeypatch, capsys):
    few = datasets.split(datasets.digits(16), 0.98)[0]
    monkeypatch.setattr(training, "split", lambda images, part, seed: (few, few))
    moved = []
    place = cupy.asarray
    monkeypatch.setattr(cupy, "asarray", lambda *array: moved.append(array) or place(*array))
    options = ["--epochs", "1", "--backend", "cupy", "--quiet", "--output", str(tmp_path)]
    assert main(["compare", *options]) == 0
    assert moved
    networks = json.loads((tmp_path / "comparison.json").read_text())["networks"]
    assert {network["backend"] for network in networks} == {"cupy"}
    assert (tmp_path / "comparison.png").exists()


@pytest.mark.parametrize("half", ["float16"])
@pytest.mark.parametrize("name", ["conv2d", "dense", "relu", "max_pool2d", "softmax", "layer_norm"])
def test_halves_are_widened_there(name, half, counts):
    """The same bits as on the host, and nothing to wait for."""
    x, weight = normal((2, 3, 5, 6), half, 1), normal((4, 3, 3, 3), half, 2)
    arguments = {"conv2d": (x, weight), "dense": (x, normal((4, 6), half, 3)), "max_pool2d": (x, 2), "softmax": (x, 1)}
    arguments["layer_norm"] = x, 6
    assert_the_same_on_both(lambda: getattr(cnnkit, name)(*arguments.get(name, (x,))))
    assert counts["waits"] == 0


@pytest.mark.parametrize(
    ("digits", "why_not"),
    [("75", "the GPU has compute capability 7.5, but the CUDA kernels need 8.0 or later"), ("80", ""), ("120", "")],
)
def test_an_old_card_is_named(digits, why_not, cupy, monkeypatch):
    compiler = compiler_that(monkeypatch, lambda *how: b"\x7fELF")
    monkeypatch.setattr(compiler, "linker", lambda: None)
    monkeypatch.setattr(cupy.cuda, "Device", lambda: types.SimpleNamespace(compute_capability=digits))
    assert dispatch.why_not("cuda") == why_not
    assert dispatch.why_not("cupy") == ""


def compiler_that(monkeypatch, code):
    """The compiler of CUDA kernels, with another way to come to machine code."""
    pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
    compiler = importlib.import_module("cnnkit.rooms.cuda.compiler")
    monkeypatch.setattr(compiler, "code", code)
    return compiler


def failing(error):
    def call(*how):
        raise error

    return call


REMEDY = 'pip install "cnnkit[cuda13]" or "cnnkit[cuda12]"'
CUPYS_PAGE = """
================================================================
Failed to import CuPy.

If you installed CuPy via wheels, make sure that the package matches with the version of CUDA installed.

Original error:
  ImportError: libnvrtc.so.13: cannot open shared object file
================================================================
"""


def test_what_is_not_installed_is_named(cupy, monkeypatch, tmp_path):
    pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    assert dispatch.why_not("cuda") == f"import of numba_cuda halted; None in sys.modules: {REMEDY}"
    assert dispatch.current_backend("cupy") == "cupy"


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("No module named 'cupy'", "No module named 'cupy'"),
        (CUPYS_PAGE, "Failed to import CuPy (ImportError: libnvrtc.so.13: cannot open shared object file)"),
        ("", "ImportError"),
    ],
)
def test_a_cupy_that_cannot_be_imported_is_one_sentence(page, sentence, cupy, monkeypatch):
    monkeypatch.setattr(dispatch.importlib, "import_module", failing(ImportError(page)))
    assert dispatch.why_not("cupy") == f"{sentence}: {REMEDY}"


def version(number):
    return lambda: number


@pytest.mark.parametrize(
    ("driver", "own", "available", "visible", "sentence"),
    [
        (0, 13000, False, None, "CuPy finds no NVIDIA driver"),
        (13000, 13000, False, None, "the driver shows no GPU"),
        (13000, 13000, False, "", "the driver shows no GPU, for CUDA_VISIBLE_DEVICES is ''"),
        (13000, 13010, True, None, ""),  # minor versions go together
        (
            *(12080, 13010, False, None),
            "the driver is for CUDA 12.8, but CuPy is for CUDA 13.0: update the driver, or "
            'pip install "cnnkit[cuda12]"',
        ),
    ],
)
def test_why_there_is_no_gpu(driver, own, available, visible, sentence, cupy, monkeypatch):
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", version(driver))
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", version(own))
    monkeypatch.setattr(cupy.cuda, "is_available", lambda: available)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert cnnkit.backends()["cupy"] == (not sentence, sentence)
    if sentence:
        assert cnnkit.backends()["cuda"] == (False, sentence)


PTX = b"//\n// Generated by NVIDIA NVVM Compiler\n.version %s\n.target sm_80\n"


@pytest.mark.parametrize(
    ("code", "linker", "driver", "sentence"),
    [
        (b"\x7fELF", (13, 4), 13000, ""),
        (b"\x7fELF", None, 12040, ""),  # built beforehand
        (PTX % b"9.0", None, 13000, ""),
        (PTX % b"8.5", None, 12050, ""),
        (PTX % b"8.8", None, 12090, ""),
        (
            *(b"\x7fELF", (13, 0), 12090),
            "the driver is for CUDA 12.9, but the compiler of kernels is for CUDA 13.0: update the driver, or "
            'pip install "cnnkit[cuda12]"',
        ),
        (
            *(PTX % b"9.4", None, 13000),
            "the driver is for CUDA 13.0, but the compiler of kernels is for CUDA 13.4: update the driver, or "
            "pip install nvidia-nvjitlink",
        ),
    ],
)
def test_why_a_driver_takes_no_kernels(code, linker, driver, sentence, cupy, monkeypatch):
    compiler = compiler_that(monkeypatch, lambda *how: code)
    monkeypatch.setattr(compiler, "linker", lambda: linker and types.SimpleNamespace(version=lambda: linker))
    monkeypatch.setattr(cupy.cuda.runtime, "driverGetVersion", version(driver))
    monkeypatch.setattr(cupy.cuda.runtime, "runtimeGetVersion", version(driver))
    assert cnnkit.backends()["cuda"] == (not sentence, sentence)
    assert cnnkit.backends()["cupy"] == (True, "")


def test_versions_that_do_not_go_together_are_named(cupy, monkeypatch):
    mismatch = AttributeError("module 'numpy' has no attribute 'row_stack'")
    compiler = compiler_that(monkeypatch, failing(mismatch))
    monkeypatch.setattr(compiler, "versions", lambda: {"numba-cuda": "0.30.4"})
    assert (
        dispatch.why_not("cuda")
        == f"kernels do not compile here (numba-cuda 0.30.4, NumPy {np.__version__}): {mismatch}"
    )


class OutOfMemoryError(MemoryError):
    """CuPy's."""


@pytest.mark.parametrize("name", EVERY)
def test_out_of_memory_is_cupys_own_error_and_the_next_call_works(name, cupy, counts, monkeypatch):
    """Wherever new memory is asked for: inputs stay as they are, and nothing is remembered of it."""
    shapes, call, _ = EVERY[name]
    arrays = [whole(shape, "float32", seed) for seed, shape in enumerate(shapes)]
    with cnnkit.use_backend("cupy"):
        expected = as_list(call(*arrays))
        for make in ("empty", "zeros", "ones", "full", "empty_like", "zeros_like"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(cupy, make, failing(OutOfMemoryError("Out of memory allocating 512 bytes")))
                with contextlib.suppress(OutOfMemoryError):  # another error would be somebody's own
                    call(*arrays)
        for got, want in zip(as_list(call(*arrays)), expected, strict=True):
            assert_same(got, want)


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
