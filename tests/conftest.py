"""What several test files share: each test runs on every backend that this machine has."""

import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

import cnnkit
from cnnkit.cli import main

CPU_BACKENDS = ["numba", "numpy"]
GPU_BACKENDS = [name for name in ("cuda", "cupy") if cnnkit.backends()[name][0]]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of what a shell runs in the background, and of its children
    signal.signal(signal.SIGINT, signal.default_int_handler)

# the same examples in every run; a backend stays chosen over all examples of a test
settings.register_profile(
    "cnnkit",
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("cnnkit")


@pytest.fixture(params=CPU_BACKENDS + GPU_BACKENDS)
def backend(request, monkeypatch):
    """Run the test on exactly this backend."""
    name = request.param
    available, why_not = cnnkit.backends()[name]
    if not available:
        pytest.skip(f"{name}: {why_not}")
    if name in GPU_BACKENDS:
        take_along(monkeypatch)
    with cnnkit.use_backend(name):
        yield name


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    """The two dtypes that are computed as they are."""
    return np.dtype(request.param)


@pytest.fixture
def threads():
    """Restore the number of threads after a test that sets it."""
    before = cnnkit.get_num_threads()
    yield cnnkit.set_num_threads
    cnnkit.set_num_threads(before)


# --- cnnkit compare -------------------------------------------------------------------------------


@pytest.fixture
def small_data(tmp_path):
    """A folder in MNIST's form: 40 images of 8 x 8 in 4 classes, bright in one corner each."""
    folder = tmp_path / "data"
    folder.mkdir()
    for stem, n in (("train", 40), ("t10k", 12)):
        labels = np.arange(n, dtype=np.uint8) % 4
        x = np.random.default_rng(n).integers(0, 60, (n, 8, 8), np.uint8)
        for image, label in zip(x, labels, strict=True):
            image[4 * (label // 2) :][:4, 4 * (label % 2) :][:, :4] += 150
        for kind, array in (("images", x), ("labels", labels)):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / f"{stem}-{kind}-idx{array.ndim}-ubyte").write_bytes(header + array.tobytes())
    return folder


@pytest.fixture
def compare(tmp_path, small_data):
    """Run `cnnkit compare` on the small data; the exit code and where the results are."""
    threads = cnnkit.get_num_threads()

    def run(*arguments, output="results"):
        folder = tmp_path / output
        code = main(["compare", "--data", str(small_data), "--output", str(folder), "--quiet", *arguments])
        return code, folder

    yield run
    cnnkit.set_num_threads(threads)


# --- the same tests on a GPU ---------------------------------------------------------------------


def take_along(monkeypatch):
    """Let the public functions take the tests' NumPy arrays to the GPU, and the results back."""
    import cupy

    for name in cnnkit.__all__:
        function = getattr(cnnkit, name)
        if getattr(function, "__module__", "").startswith("cnnkit.ops."):
            monkeypatch.setattr(cnnkit, name, there_and_back(function, cupy))


def there_and_back(function, cupy):
    """`function` of CuPy arrays as one of NumPy arrays."""

    def there(value):
        if not isinstance(value, np.ndarray):
            return value
        return cupy.asarray(value.astype(value.dtype.newbyteorder("="), copy=False))

    def back(value):
        if isinstance(value, tuple):
            return getattr(type(value), "_make", tuple)(map(back, value))
        return cupy.asnumpy(value) if isinstance(value, cupy.ndarray) else value

    def call(*args, out=None, **kwargs):
        arguments = {name: there(value) for name, value in kwargs.items()}
        try:
            result = back(function(*map(there, args), **arguments))
        except NotImplementedError as error:  # the cuda room leaves some ops to CuPy
            pytest.skip(str(error))
        if out is None:
            return result
        out[...] = result
        return out

    return call
