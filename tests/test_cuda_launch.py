"""How the CUDA room starts its kernels, as a recorder in the place of CuPy's driver sees it."""

import importlib
import math
import struct
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor

import cuda_recorder
import numpy as np
import pytest
import strict_cupy
from cases import CONV, MAX_POOL, POOL
from strict_cupy import COUNTED
from test_architecture import contract
from test_arrays import FORMS, whole

import cnnkit
from cnnkit import dispatch, nn, optim


@pytest.fixture
def clean(monkeypatch):
    yield monkeypatch
    monkeypatch.undo()
    for cached in (dispatch.why_not, dispatch._find):
        cached.cache_clear()


@pytest.fixture
def recorder(clean):
    return cuda_recorder.Recorder(clean)


def there(*shapes, dtype="float32", form=np.copy):
    """Arrays on the stand-in for a GPU."""
    return [strict_cupy.ndarray(form(whole(shape, dtype, seed))) for seed, shape in enumerate(shapes)]


def calls(dtype, form):
    """What runs on kernels of the room: by name, a call and how many arrays it makes."""
    (x, weight, bias, depthwise) = there((2, 4, 9, 8), (6, 4, 3, 3), (6,), (4, 1, 3, 3), dtype=dtype, form=form)
    grad, small = there((2, 6, 9, 8), (2, 4, 4, 4), dtype=dtype, form=form)
    (wide,) = there((2, 16, 9, 8), dtype=dtype, form=form)
    (wide_weight,) = there((16, 16, 3, 3), dtype=dtype, form=form)
    indices = strict_cupy.ndarray(form(np.zeros(small.shape, np.int64)))
    if dtype == "float16":
        (many,) = there((80, 16, 3, 3), dtype=dtype, form=form)
        grads = there((2, 80, 7, 6), (2, 16, 7, 6), dtype=dtype, form=form)
        return {
            "conv2d, halves": lambda: cnnkit.conv2d(wide, many, None, activation="silu"),
            "conv2d_backward, halves": lambda: cnnkit.conv2d_backward(grads[0], wide, many),
            "conv2d_backward, halves, few": lambda: cnnkit.conv2d_backward(grads[1], wide, wide_weight),
            "dense": lambda: cnnkit.dense(wide[0, 0], wide[0, 1]),
        }
    return {
        "conv2d": lambda: cnnkit.conv2d(x, weight, bias, 1, 1, activation="relu"),
        "conv2d_backward, weights": lambda: cnnkit.conv2d_backward(grad, x, weight, 1, 1, needs=("weight",)),
        "conv2d, many channels": lambda: cnnkit.conv2d(wide, wide_weight, None, 2, 1, 2),
        "conv2d, depthwise": lambda: cnnkit.conv2d(x, depthwise, None, 1, 1, 1, 4),
        "conv2d_backward": lambda: cnnkit.conv2d_backward(grad, x, weight, 1, 1, needs=("x",)),
        "conv2d_backward, depthwise": lambda: cnnkit.conv2d_backward(x, x, depthwise, 1, 1, 1, 4, needs=("weight",)),
        "conv_transpose2d": lambda: cnnkit.conv_transpose2d(x, weight.swapaxes(0, 1), bias, 2, 1),
        "max_pool2d": lambda: cnnkit.max_pool2d(x, 3, 2, return_indices=True),
        "max_pool2d_backward": lambda: cnnkit.max_pool2d_backward(small, indices, x.shape),
        "avg_pool2d": lambda: cnnkit.avg_pool2d(x, 2),
        "avg_pool2d_backward": lambda: cnnkit.avg_pool2d_backward(small, x.shape, 2),
        "adaptive_avg_pool2d": lambda: cnnkit.adaptive_avg_pool2d(x, (3, 5)),
    }


@pytest.mark.parametrize("form", ["plain", "channels-last", "negative steps"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_what_is_started_is_what_was_asked_for(dtype, form, recorder, monkeypatch):
    """Every argument, in order and as wide as the kernel reads it; blocks, shared memory, stream."""
    asked = []
    run = recorder.launch.run
    monkeypatch.setattr(recorder.launch, "run", lambda *given: asked.append(given) or run(*given))
    for name, call in calls(dtype, FORMS[form]).items():
        call()
        assert recorder.launched, name
        for launch, (kernel, kind, grid, *args) in zip(recorder.launched, asked, strict=True):
            row = recorder.compiler.KERNELS[kernel]
            flat = [one for each in args for one in (each if isinstance(each, tuple) else (each,))]
            wanted = tuple(one.data.ptr if isinstance(one, strict_cupy.ndarray) else one for one in flat)
            assert launch == (kernel, grid, (row.threads, 1, 1), row.shared, 7, wanted), name
            assert all(0 < n < 2**31 for n in grid[:1])
            assert all(0 < n < 2**16 for n in grid[1:])
            assert (kernel, kind.name, (9, 0)) in recorder.codes
        recorder.launched.clear()
        asked.clear()


def test_every_kernel_is_started_by_these_calls(recorder):
    for call in [*calls("float32", np.copy).values(), *calls("float16", np.copy).values()]:
        call()
    assert {launch.name for launch in recorder.launched} == set(recorder.compiler.KERNELS)


@pytest.mark.parametrize("name", CONV)
def test_threads_cover_every_result(name, recorder):
    case = CONV[name]
    x, weight = there(case.x, case.weight)
    y = getattr(cnnkit, f"conv{case.count}d")(x, weight, None, *case.params)
    if not y.size:
        assert not recorder.launched
        return
    (launch,) = recorder.launched
    convolve = recorder.compiler.convolve
    if launch.name == "direct":
        rows = y.shape[-2] if case.count > 1 else 1
        threads = y.size // rows * -(-rows // convolve.ROWS)
        assert launch.grid[0] * launch.block[0] >= threads > (launch.grid[0] - 1) * launch.block[0]
    else:
        images = case.x[0] if len(case.x) == case.count + 2 else 1
        positions, outputs = images * math.prod(y.shape[-case.count :]), case.weight[0] // case.groups
        rows = convolve.DOWN * recorder.compiler.TALL["float32"]
        assert launch.grid == (-(-positions // convolve.COLUMNS), -(-outputs // rows), case.groups)


@pytest.mark.parametrize("name", [*POOL, *MAX_POOL])
def test_threads_cover_every_window(name, recorder):
    case = (POOL | MAX_POOL)[name]
    (x,) = there(case.x)
    kind = "max" if name in MAX_POOL else "avg"
    y = getattr(cnnkit, f"{kind}_pool{case.count}d")(x, *case[1:4])
    assert [launch.grid[0] * launch.block[0] >= y.size for launch in recorder.launched] == [True] * bool(y.size)


def test_nothing_waits_and_nothing_is_copied_but_tables(recorder):
    every = calls("float32", np.copy)
    for call in every.values():
        call()
    COUNTED.clear()
    for call in every.values():
        call()
    assert not COUNTED  # neither waits nor uploads: tables of windows are there


def test_the_current_stream_is_asked_for_each_time(recorder):
    call = calls("float32", np.copy)["conv2d"]
    for ptr in (0, 1, 140_000_000_000_000):
        recorder.stream = strict_cupy.Stream(ptr)
        call()
    assert [launch.stream for launch in recorder.launched] == [0, 1, 140_000_000_000_000]


def test_another_stream_waits_for_tables_on_their_way_and_the_host_does_not(recorder):
    call = calls("float32", np.copy)["avg_pool2d"]
    call()
    first, recorder.stream = recorder.stream, strict_cupy.Stream(8)
    call()
    assert recorder.stream.waited_for == [first]
    assert COUNTED["waits"] == 0


def test_tables_that_have_arrived_are_waited_for_no_more(recorder):
    event = types.SimpleNamespace(done=False)
    waited = []
    stream = types.SimpleNamespace(record=lambda: event, wait_event=waited.append, is_capturing=True)
    tables = recorder.launch.Tables(("arrays",), stream)
    assert tables.ready(stream) == ("arrays",)
    assert not waited  # nor is the event asked, which would break the graph that is captured
    stream.is_capturing = False
    assert tables.ready(stream) == ("arrays",)
    event.done = True
    assert [tables.ready(stream), tables.ready(stream)] == [("arrays",)] * 2
    assert waited == [event]


def test_each_device_has_its_own_machine_code(recorder):
    call = calls("float32", np.copy)["conv2d"]
    cuda = recorder.cupy.cuda
    for device, digits in enumerate(("80", "90", "120")):
        cuda.runtime.getDevice = lambda device=device: device
        cuda.Device = lambda device=0, digits=digits: types.SimpleNamespace(compute_capability=digits)
        call()
        call()
    assert [capability for *_, capability in recorder.codes] == [(8, 0), (9, 0), (12, 0)]
    assert len(recorder.launched) == 6


def test_shared_memory_beyond_the_usual_is_asked_for_once(recorder, monkeypatch):
    kernels = recorder.compiler.KERNELS
    monkeypatch.setitem(kernels, "direct", kernels["direct"]._replace(shared=100_000))
    call = calls("float32", np.copy)["conv2d, depthwise"]
    call()
    call()
    assert recorder.most_shared == {"direct": 100_000}
    assert [launch.shared for launch in recorder.launched] == [100_000, 100_000]


def test_many_threads_start_kernels_at_once(recorder):
    """Arguments are packed in memory of the thread: nobody reads another's."""
    inputs = [there((1, 4, 5 + i, 6), (6, 4, 3, 3)) for i in range(8)]
    barrier, results = threading.Barrier(8), []

    def work(i):
        barrier.wait(10)
        for _ in range(20):
            results.append((cnnkit.conv2d(*inputs[i], padding=1), i))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    seen = {(one[0], one[1], one[3]): one[4] for one in (launch.arguments for launch in recorder.launched)}
    for y, i in results:
        x, weight = inputs[i]
        rows = recorder.compiler.convolve.ROWS
        count = y.size // y.shape[2] * -(-y.shape[2] // rows)
        assert seen[x.data.ptr, weight.data.ptr, y.data.ptr] == count


def test_a_number_that_does_not_fit_is_an_error_and_not_another_number(recorder):
    with pytest.raises(struct.error):
        recorder.launch.run("direct", np.dtype("float32"), (1, 1, 1), *there((1,)) * 4, 2**31, *(0,) * 43)


def test_the_room_has_the_whole_contract(recorder):
    room = importlib.import_module("cnnkit.rooms.cuda")
    assert set(room.__all__) == set(contract())
    assert all(callable(getattr(room, name)) for name in room.__all__)


def test_a_model_is_fitted_on_this_room_alone(recorder):
    """Under `use_backend("cuda")`, which falls back to nothing; what its steps see are numbers of no kernel's."""
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, rng=0), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2),
        nn.Flatten(), nn.Dropout(0.1), nn.Dense(32, 3, rng=1),
    ).to("cuda")  # fmt: skip
    x, labels = there((6, 1, 8, 8))[0], recorder.cupy.asarray(np.arange(6) % 3)
    with cnnkit.use_backend("cuda"):
        history = nn.fit(model, (x, labels), epochs=1, batch_size=2, optimizer=optim.Adam(), progress=False)
    assert len(history.loss) == 1
    assert {"maxima", "averages", "averages_back"} < {launch.name for launch in recorder.launched}


# ---------------------------------------------------------------- out of memory


class Memory:
    """Room for so many new arrays."""

    class OutOfMemoryError(MemoryError):
        """CuPy's."""

    def __init__(self, monkeypatch, cupy):
        self.left = None
        for name in ("empty", "empty_like", "zeros", "zeros_like", "full", "asarray"):
            monkeypatch.setattr(cupy, name, self._taken(getattr(cupy, name)))

    def _taken(self, make):
        def call(*args, **kwargs):
            if self.left is not None:
                if not self.left:
                    raise self.OutOfMemoryError("Out of memory allocating 512 bytes")
                self.left -= 1
            return make(*args, **kwargs)

        return call


@pytest.mark.parametrize("name", calls("float32", np.copy))
def test_out_of_memory_is_cupys_own_error_and_the_next_call_works(name, recorder, monkeypatch):
    """Whichever new array there is no room for; nothing is started before all of them are there."""
    memory = Memory(monkeypatch, recorder.cupy)
    call = calls("float32", np.copy)[name]
    call()
    expected = [launch[:5] for launch in recorder.launched]
    failed = 0
    while True:
        recorder.launched.clear()
        memory.left = failed
        try:
            call()
        except Memory.OutOfMemoryError:
            failed += 1
            if name != "conv_transpose2d":  # whose phases turn the weight one by one
                assert not recorder.launched
        else:
            break
    assert failed > 0
    assert [launch[:5] for launch in recorder.launched] == expected


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("name", ["conv2d", "conv2d, depthwise", "max_pool2d", "avg_pool2d"])
def test_with_an_array_for_results_a_call_is_one_launch_and_nothing_else(name, activation, recorder, monkeypatch):
    """So that it can be captured in a graph, and cannot be half done: no memory, no copies, no events."""
    memory = Memory(monkeypatch, recorder.cupy)
    op, _, depthwise = name.partition(", ")
    x, weight = there((2, 4, 9, 8), (4, 1, 3, 3) if depthwise else (6, 4, 3, 3))
    given = (x, weight, None, 1, 0, 1, 4 if depthwise else 1) if op == "conv2d" else (x, 2)
    more = {"activation": activation} if op == "conv2d" else {}
    out = getattr(cnnkit, op)(*given, **more)
    recorder.launched.clear()
    recorder.stream.waited_for.clear()
    COUNTED.clear()
    memory.left = 0
    assert getattr(cnnkit, op)(*given, **more, out=out) is out
    assert len(recorder.launched) == 1
    assert not COUNTED


# ---------------------------------------------------------------- the recorder itself


def test_the_recorder_is_called_as_cupys_driver_is(clean):
    """Where CuPy is installed: its functions have these names and so many parameters."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    parameters = cupy.cuda.driver.launchKernel.__doc__.split("(")[1].split(")")[0].split(", ")
    assert [one.split()[-1] for one in parameters] == [
        *("f", "grid_dim_x", "grid_dim_y", "grid_dim_z", "block_dim_x", "block_dim_y", "block_dim_z"),
        *("shared_mem_bytes", "stream", "kernel_params", "extra"),
    ]
    assert cupy.cuda.driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES == cuda_recorder.SHARED
    assert callable(cupy.cuda.driver.funcSetAttribute)
    assert {"load", "get_function"} <= set(dir(cupy.cuda.function.Module))
    assert "ptr" in dir(cupy.cuda.function.Function)
    assert {"record", "wait_event", "ptr", "is_capturing"} <= set(dir(cupy.cuda.Stream.null))
    assert all(hasattr(cupy.cuda.runtime, name) for name in ("getDevice", "memGetInfo", "driverGetVersion"))
    assert "done" in dir(cupy.cuda.Event)
    assert sys.modules["cupy"] is cupy
