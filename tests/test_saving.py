"""Models in files: what was saved comes back, and whatever goes wrong leaves the old file whole."""

import errno
import json
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from cnnkit import nn, optim


def make_model(seed=0, dtype="float32"):
    settings = {"dtype": dtype, "rng": np.random.default_rng(seed)}
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, (1, 2), ((1, 0), (0, 1)), bias=False, **settings),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)),
        nn.AvgPool2d((1, 2), padding="same", divisor_override=3),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Dense(6, 3, **settings),
    )


X = np.random.default_rng(9).normal(size=(2, 1, 6, 6)).astype("float32")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def assert_same_model(model, expected):
    assert repr(model) == repr(expected)
    assert list(model.state_dict()) == list(expected.state_dict())
    for name, array in model.state_dict().items():
        assert array.dtype == expected.state_dict()[name].dtype
        np.testing.assert_array_equal(array, expected.state_dict()[name])


def write_foreign(path, tensors=None, **metadata):
    from safetensors.numpy import save_file

    save_file(tensors or {"weight": np.zeros((3, 2), "f4"), "bias": np.zeros(3, "f4")}, path, metadata)


def rewrite(path, change):
    """Change what a saved file says, checksum included, as only somebody who knows the format would."""
    from cnnkit.files import read_tensors, write_tensors

    tensors, metadata = read_tensors(path, "a cnnkit model")
    change(tensors, metadata)
    kind = metadata.pop("cnnkit.kind")
    write_tensors(path, kind, tensors, metadata)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_round_trip(path, dtype):
    model = make_model(dtype=dtype)
    model.save(path)
    again = nn.load(path)
    assert_same_model(again, model)
    np.testing.assert_array_equal(again(X.astype(dtype)), model(X.astype(dtype)))


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 4, 3, padding=((2, 1),), groups=2),
        nn.Conv3d(1, 2, (1, 2, 3), dtype="float64"),
        nn.ConvTranspose2d(4, 6, 3, 2, ((1, 0), (0, 1)), (0, 1), 2, False, (1, 2)),
        nn.ConvTranspose3d(1, 2, 3, 2, "same", dtype="float64"),
        nn.Dense(2, 3, bias=False),
        nn.MaxPool1d(3, 2, 1, 2),
        nn.MaxPool3d(2),
        nn.AvgPool1d(3, count_include_pad=False),
        nn.AvgPool3d((1, 2, 2), 1),
        nn.AdaptiveAvgPool1d(3),
        nn.AdaptiveAvgPool3d((None, 2, 1)),
        nn.AdaptiveMaxPool2d((2, None)),
        nn.LPPool2d(2.5, (2, 1), padding="same"),
        nn.LPPool1d(float("inf"), 2),
        nn.GlobalAvgPool2d(),
        nn.GlobalMaxPool2d(),
        nn.Sequential(),
        nn.Residual(nn.ReLU()),
        nn.Sequential(nn.Residual(nn.Residual(nn.Dense(2, 2)), nn.Sequential(nn.Dense(2, 2)))),
    ],
    ids=repr,
)
def test_every_layer_comes_back(layer, path):
    layer.save(str(path))
    assert_same_model(nn.load(str(path)), layer)


def test_loaded_models_can_learn(path):
    make_model().save(path)
    model = nn.load(path)
    labels = np.array([0, 2])
    before = model(X)
    nn.fit(model, (X, labels), epochs=1, batch_size=2, optimizer=optim.SGD(lr=0.1), progress=False)
    assert (model(X) != before).any()


def test_the_file_is_plain_safetensors(path):
    from safetensors.numpy import load_file

    model = make_model()
    model.save(path)
    tensors = load_file(path)
    assert sorted(tensors) == sorted(model.parameters())
    np.testing.assert_array_equal(tensors["5.weight"], model.parameters()["5.weight"])


@pytest.mark.parametrize(
    "change", [np.asfortranarray, lambda w: np.repeat(w, 2, axis=1)[:, ::2], lambda w: w.astype(">f4")]
)
def test_any_memory_order_is_saved_right(path, change):
    layer = nn.Dense(6, 3)
    expected = layer.weight.copy()
    layer.weight = change(expected)
    layer.save(path)
    np.testing.assert_array_equal(nn.load(path).weight, expected)


def test_a_file_cut_off_anywhere_is_refused(path):
    make_model().save(path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged or no safetensors file"):
            nn.load(path)


def test_a_byte_changed_anywhere_is_noticed(path):
    make_model().save(path)
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        with pytest.raises(ValueError, match=r"model\.safetensors (is damaged|holds .*, but a cnnkit model is needed)"):
            nn.load(path)


def test_other_files_are_refused(path):
    path.write_text("no model, but a text that somebody wrote")
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or no safetensors file"):
        nn.load(path)
    write_foreign(path)
    with pytest.raises(ValueError, match="holds tensors of another program, but a cnnkit model is needed"):
        nn.load(path)
    write_foreign(path, **{"cnnkit.kind": "a cnnkit model"})
    with pytest.raises(ValueError, match="does not match its checksum"):
        nn.load(path)
    with pytest.raises(FileNotFoundError):
        nn.load(path.with_name("nothing"))


def test_dtypes_that_numpy_lacks_are_refused(path):
    torch = pytest.importorskip("torch", reason="NumPy alone cannot write such a file")
    from safetensors.torch import save_file

    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        save_file({"weight": torch.zeros(3, dtype=dtype)}, path, {"cnnkit.kind": "a cnnkit model"})
        with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
            nn.load(path)


@pytest.mark.parametrize(
    ("architecture", "sentence"),
    [
        ("", "Expecting value"),
        ("[1, 2]", r"the architecture has \[1, 2\] where a layer of cnnkit's is needed"),
        ('{"layer": "os.system"}', r"the architecture has {'layer': 'os\.system'} where a layer"),
        ('{"layer": "Layer"}', "where a layer of cnnkit's is needed"),
        ('{"layer": ["Dense"]}', "unhashable"),
        ('{"layer": "Sequential"}', r"must have the same names, but differ in 0\.weight"),
        ('{"layer": "Sequential", "layers": 3}', "not iterable"),
        ('{"layer": "Sequential", "layers": [3]}', "layer 0 is 3, but Sequential needs layers"),
        ('{"layer": "Sequential", "layers": {"layer": "ReLU"}}', "not iterable"),
        ('{"layer": "Sequential", "more": 1}', "unexpected keyword argument 'more'"),
        ('{"layer": "Residual", "shortcut": null}', "missing 1 required positional argument: 'body'"),
        ('{"layer": "Residual", "body": "x"}', "body is 'x', but a layer is needed"),
        ('{"layer": "Residual", "body": {"layer": "os.system"}}', "where a layer of cnnkit's is needed"),
        (
            '{"layer": "Dense", "in_features": {"layer": "ReLU"}, "out_features": 3}',
            r"in_features is ReLU\(\), but an int",
        ),
        ('{"layer": "Dense", "in_features": 2}', "missing 1 required positional argument: 'out_features'"),
        ('{"layer": "Dense", "in_features": 2, "out_features": 3, "more": 1}', "unexpected keyword argument 'more'"),
        ('{"layer": "Dense", "in_features": 1e999, "out_features": 3}', "in_features is inf, but an int is needed"),
        ('{"layer": "Dense", "in_features": 2, "out_features": 1000000000000000000}', "at most"),
        ('{"layer": "Sequential", "layers": [' * 20000, "nested too deeply"),
    ],
)
def test_architectures_that_are_none(path, architecture, sentence):
    make_model().save(path)
    rewrite(path, lambda _, metadata: metadata.update(architecture=architecture))
    with pytest.raises(ValueError, match=r"model\.safetensors holds no model that fits together: .*" + f"({sentence})"):
        nn.load(path)


@pytest.mark.parametrize(
    ("array", "sentence"),
    [
        (np.zeros((3, 7), "f4"), r"'5\.weight' has shape \(3, 7\) in state, but \(3, 6\) in the model"),
        (np.zeros((3, 6), "f8"), r"'5\.weight' is float64 in state, but float32 in the model"),
    ],
)
def test_tensors_that_do_not_fit(path, array, sentence):
    make_model().save(path)
    rewrite(path, lambda tensors, _: tensors.update({"5.weight": array}))
    with pytest.raises(ValueError, match=sentence):
        nn.load(path)


def fail(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_a_failure_leaves_the_old_file_and_no_other(path, monkeypatch, call):
    old = make_model(seed=0)
    old.save(path)
    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        make_model(seed=1).save(path)
    assert os.listdir(path.parent) == [path.name]
    assert_same_model(nn.load(path), old)


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    old = make_model(seed=0)
    old.save(path)
    resource = pytest.importorskip("resource", reason="a limit on file sizes stands for a full disk")
    import signal

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            make_model(seed=1).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert os.listdir(path.parent) == [path.name]
    assert_same_model(nn.load(path), old)


def test_a_kill_leaves_the_old_file(path):
    old = make_model(seed=0)
    old.save(path)
    program = "import os, sys; from cnnkit import nn; os.fsync = lambda file: os._exit(9); nn.ReLU().save(sys.argv[1])"
    ended = subprocess.run([sys.executable, "-c", program, path], check=False)
    assert ended.returncode == 9
    assert_same_model(nn.load(path), old)


@pytest.mark.skipif(os.name != "posix", reason="elsewhere, making a link takes a right of its own")
def test_a_link_stays_a_link(path):
    link = path.with_name("link")
    path.write_text("old")
    link.symlink_to(path)
    make_model().save(link)
    assert link.is_symlink()
    assert_same_model(nn.load(path), make_model())


@pytest.mark.skipif(os.name != "posix", reason="permission bits are a POSIX matter")
def test_permissions_are_those_of_any_new_file(path):
    make_model().save(path)
    other = path.with_name("other")
    other.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


class Double(nn.Layer):
    def __call__(self, x):
        return 2 * x

    def forward(self, x, rng=None):
        return 2 * x, lambda grad_y, needs_x=True: (2 * grad_y, {})


def test_own_layers_cannot_be_saved(path):
    class ReLU(Double):
        """Has the name of a layer of cnnkit's, and is none."""

    for layer in (Double(), ReLU()):
        with pytest.raises(TypeError, match="is no layer of cnnkit's own, but only those can be saved"):
            nn.Sequential(layer).save(path)
    assert not path.exists()


def test_the_architecture_is_names_and_arguments(path):
    from safetensors import safe_open

    nn.Sequential(nn.Flatten(), nn.Dense(4, 3, bias=False)).save(path)
    with safe_open(path, framework="numpy") as file:
        architecture = json.loads(file.metadata()["architecture"])
    dense = {"layer": "Dense", "in_features": 4, "out_features": 3, "bias": False, "dtype": "float32"}
    assert architecture == {"layer": "Sequential", "layers": [{"layer": "Flatten"}, dense]}
