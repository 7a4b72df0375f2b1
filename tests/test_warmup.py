"""Kernels compiled ahead: after a warm-up the first calls find all that they need, and it changes nothing."""

import importlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import cnnkit
from cnnkit import nn, warming
from cnnkit.cli import main

NEEDS_NUMBA = pytest.mark.skipif(not cnnkit.backends()["numba"][0], reason=cnnkit.backends()["numba"][1])

# what counts as usual: no kernel is compiled, or even read from the disk, for any of these after `warmup()`
USUAL = """
import numpy as np
import cnnkit
from cnnkit import nn
from cnnkit.rooms.numba import machine

cnnkit.warmup()
fetched = []
load = machine._Cache.load_overload


def noted(self, sig, target):
    fetched.append(self._impl.filename_base)
    return load(self, sig, target)


machine._Cache.load_overload = noted

for layer, shape in [
    (nn.Conv2d(3, 8, 3), (1, 3, 9, 9)),
    (nn.Conv2d(64, 64, 3, 2, 1), (1, 64, 28, 28)),
    (nn.Conv2d(64, 64, 3, padding=1), (1, 64, 56, 56)),
    (nn.Conv2d(512, 512, 3, padding=1), (1, 512, 7, 7)),
    (nn.Conv2d(16, 96, 1), (4, 16, 14, 14)),
    (nn.Conv2d(3, 64, 7, 2, 3), (1, 3, 64, 64)),
    (nn.Conv2d(96, 96, 3, 2, 1, groups=96), (1, 96, 28, 28)),
    (nn.Conv2d(8, 16, 3, groups=2, dilation=2), (1, 8, 19, 19)),
    (nn.Conv1d(4, 8, 5), (2, 4, 50)),
    (nn.Conv3d(4, 8, 3), (1, 4, 8, 8, 8)),
    (nn.Dense(512, 10), (32, 512)),
    (nn.Dense(2048, 300), (128, 2048)),
    (nn.ReLU(), (2, 8, 14, 14)),
    (nn.MaxPool2d(2), (2, 8, 14, 14)),
    (nn.MaxPool2d(3, 2, 1), (2, 8, 14, 14)),
    (nn.AvgPool2d(2), (2, 8, 14, 14)),
    (nn.GlobalAvgPool2d(), (2, 8, 7, 7)),
]:
    x = np.ones(shape, "float32")
    orders = [x, np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)] if x.ndim == 4 else [x]
    for x in orders:
        layer(x)
        y, pullback = layer.forward(x)
        pullback(y)
    if fetched:
        print(layer, fetched)
        fetched.clear()
logits, labels = np.ones((8, 10), "float32"), np.zeros(8, int)
cnnkit.cross_entropy_backward(cnnkit.cross_entropy(logits, labels), logits, labels)
cnnkit.log_softmax_backward(cnnkit.log_softmax(cnnkit.softmax(logits)), logits)
print("fetched afterwards:", fetched)
"""


def run_python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@NEEDS_NUMBA
def test_after_a_warmup_nothing_usual_is_left_to_compile():
    assert run_python(USUAL) == ["fetched afterwards: []"]


@NEEDS_NUMBA
def test_a_model_is_compiled_once_and_for_later_processes(tmp_path):
    code = (
        "import cnnkit; from cnnkit import nn, warming; model = nn.Dense(4, 3);"
        "print(cnnkit.warmup(model, (8, 4)), cnnkit.warmup(model, [8, 4]), end=' ');"
        "import numpy; model(numpy.ones((8, 4), 'f')); print(warming.compiled())"
    )
    first, again, all_ = map(int, run_python(code, NUMBA_CACHE_DIR=str(tmp_path))[-1].split())
    assert first == all_ > 0
    assert again == 0
    assert run_python(code, NUMBA_CACHE_DIR=str(tmp_path)) == ["0 0 0"]


seen = []


class Watching(nn.Layer):
    """What a warm-up lets a layer see."""

    def __init__(self):
        self.weight = np.ones(2, "float64")

    def __call__(self, x):
        seen.append(("infer", x.shape, x.dtype))
        return x

    def forward(self, x, rng=None):
        self.weight += 1
        seen.append(("train", x.shape, x.dtype))
        assert isinstance(rng, np.random.Generator)
        return x, lambda grad_y, needs_x=True: (seen.append(("back", grad_y.shape, grad_y.dtype)), {})

    def parameters(self):
        return {"weight": self.weight}


def test_a_model_is_run_as_it_will_be_and_stays_as_it_is():
    seen.clear()
    model = Watching()
    cnnkit.warmup(model, (2, 3))
    cnnkit.warmup(model, (np.int64(4),), dtype="float32")
    cnnkit.warmup(model, (5,), training=True)
    kind = np.dtype("float64")
    single = np.dtype("float32")
    assert seen == [("infer", (2, 3), kind), ("infer", (4,), single), ("train", (5,), kind), ("back", (5,), kind)]
    np.testing.assert_array_equal(model.weight, [1, 1])


def test_where_nothing_is_compiled_it_is_0():
    with cnnkit.use_backend("numpy"):
        assert cnnkit.warmup(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout(0.5)), (1, 1, 5, 5), training=True) == 0


@pytest.mark.parametrize(
    ("arguments", "named", "error", "sentence"),
    [
        ((nn.ReLU(),), {}, TypeError, r"input_shape is None, but the shape of x is needed, such as \(32, 3, 28, 28\)"),
        ((nn.ReLU(), 3), {}, TypeError, r"input_shape is 3, but the shape of x is needed"),
        ((nn.ReLU(), (2, 2.5)), {}, TypeError, r"a size in input_shape is 2\.5, but an int is needed"),
        ((nn.ReLU(), (2, -1)), {}, ValueError, r"a size in input_shape is -1, but must be at least 0"),
        ((None, (2, 3)), {}, TypeError, r"input_shape is \(2, 3\), but there is no model"),
        (((2, 3), nn.ReLU()), {}, TypeError, r"model is \(2, 3\), but a layer is needed"),
        ((nn.ReLU(), (2, 3)), {"training": 1}, TypeError, r"training is 1, but True or False is needed"),
        ((nn.ReLU(), (2, 3)), {"dtype": "int64"}, TypeError, r"dtype is int64, but a layer needs float32 or float64"),
        ((), {"dtype": "int64"}, TypeError, r"dtype is int64, but a layer needs float32 or float64"),
        ((nn.Dense(4, 3), (8, 5)), {}, ValueError, r"x of shape \(8, 5\) has 5 features"),
    ],
)
def test_mistakes(arguments, named, error, sentence):
    with pytest.raises(error, match=f"^{sentence}"):
        cnnkit.warmup(*arguments, **named)


@NEEDS_NUMBA
def test_the_command_says_how_many_and_where(capsys):
    assert main(["warmup"]) == 0
    shown, bar = capsys.readouterr()
    count, folder = re.fullmatch(r"(\d+) functions compiled in [\d.]+ s, kept in:\n(.*)\n", shown).groups()
    assert int(count) <= warming.compiled()
    assert os.path.isdir(folder)
    assert f"{len(warming.common('float32'))}/{len(warming.common('float32'))}" in bar


def test_the_command_knows_its_dtypes(capsys):
    with pytest.raises(SystemExit):
        main(["warmup", "--dtype", "int8"])
    assert "invalid choice: 'int8'" in capsys.readouterr().err


# ---------------------------------------------------------------- CUDA kernels, built for GPUs elsewhere


@pytest.fixture
def compiler(monkeypatch):
    """A compiler of CUDA kernels that need not be there."""
    pytest.importorskip("numba.cuda", reason="this Numba has no cuda module", exc_type=ImportError)
    found = importlib.import_module("cnnkit.rooms.cuda.compiler")
    monkeypatch.setattr(found, "compile_ptx", lambda *kernel: str(kernel).encode())
    monkeypatch.setattr(found, "link", lambda ptx, capability: (b"\x7fELF" + ptx, ""))
    return found


def test_cuda_kernels_are_built_into_a_folder_and_found_there(compiler, tmp_path, monkeypatch, capsys):
    command = ["warmup", "--backend", "cuda", "--compute-capability", "8.0", "9.0", "--output", str(tmp_path)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    kernels = [(name, dtype) for name, kernel in compiler.KERNELS.items() for dtype in kernel.dtypes]
    assert re.search(rf"^{2 * len(kernels)} kernels built in .* KiB", shown)
    assert shown.endswith(f"CNNKIT_CUBINS={tmp_path}\n")
    monkeypatch.setenv("CNNKIT_CUBINS", str(tmp_path))
    monkeypatch.setattr(compiler, "machine_code", None)  # nothing is made
    for name, dtype in kernels:
        assert compiler.code(name, dtype, (8, 6)) == b"\x7fELF" + str((name, dtype, (8, 0))).encode()
        assert compiler.code(name, dtype, (9, 0)) == b"\x7fELF" + str((name, dtype, (9, 0))).encode()


def test_a_compiler_that_is_not_there_is_named(compiler, monkeypatch, tmp_path, capsys):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "numba_cuda", None)
    assert main(["warmup", "--backend", "cuda", "--output", str(tmp_path)]) == 2
    assert 'None in sys.modules: pip install "cnnkit[cuda13]" or "cnnkit[cuda12]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["9", "sm_90", "9.00", ""])
def test_a_compute_capability_has_a_point(text, capsys):
    with pytest.raises(SystemExit):
        main(["warmup", "--backend", "cuda", "--compute-capability", text])
    assert f"{text!r} is given, but a compute capability is needed, such as 9.0" in capsys.readouterr().err


def test_the_package_is_the_command():
    done = subprocess.run([sys.executable, "-m", "cnnkit", "--version"], capture_output=True, text=True)
    assert done.stdout == f"cnnkit {cnnkit.__version__}\n"
