"""The part of the GPU check that touches the GPU: ``python -m benchmarks.gpu_race`` is given jobs and tells results.

It reads a list of jobs as JSON from its input, and writes one line of JSON when it begins a job and one when it has
done it, so that whoever started it knows which job a crash belongs to. A job that fails is a row with an error. After a
failure that leaves the GPU unusable to this process it ends, and is to be started anew for the rest.

With ``--subset`` it instead runs every kind of kernel once on small odd shapes, for compute-sanitizer to watch; with
``--dry-run`` a stand-in takes CuPy's place, whose CUDA kernels compute nothing, and PyTorch stays on the processor.
"""

import argparse
import importlib
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, CALLS = 9, 300
LARGE = 128 << 20  # bytes of x from which on no cache holds it
MANY = 4e11  # floating-point operations that are enough to be timed
SAMPLE = 1 << 18  # numbers of a result that are compared
DTYPES = {"float32": "float32", "tf32": "float32", "bfloat16": "bfloat16", "float16": "float16"}
BROKEN = 3  # the exit code after which another process must go on


def of_bench(name: str) -> Any:
    """A module of `cnnkit bench`; not imported above, for asv imports this file beside versions that lack some."""
    return importlib.import_module(f"cnnkit.cli.bench.{name}")


class Gpu:
    """CuPy and PyTorch on the GPU, on the stream that both begin with."""

    device = "cuda"

    def __init__(self) -> None:
        self.cupy: Any = importlib.import_module("cupy")

    def array(self, values: np.ndarray, dtype: str, last: bool) -> Any:
        """An array for cnnkit, with its channels last in memory if they shall be."""
        values = _channels_last(values) if last else values
        there = self.cupy.asarray(values.astype(numpy_dtype(dtype), copy=False))
        return there.transpose(0, there.ndim - 1, *range(1, there.ndim - 1)) if last else there

    def milliseconds(self, work: Callable[[], Any]) -> float:
        start, end = self.cupy.cuda.Event(), self.cupy.cuda.Event()
        start.record()
        work()
        end.record()
        end.synchronize()
        return float(self.cupy.cuda.get_elapsed_time(start, end))

    def wait(self) -> None:
        self.cupy.cuda.runtime.deviceSynchronize()

    def free(self) -> None:
        """Give back what the libraries keep, between jobs."""
        self.cupy.get_default_memory_pool().free_all_blocks()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()


class DryRun(Gpu):
    """The same without a GPU: a stand-in for CuPy, kernels that are noted and not run, small shapes."""

    device = "cpu"

    def __init__(self, stack: ExitStack) -> None:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
        pytest, dispatch = importlib.import_module("pytest"), importlib.import_module("cnnkit.dispatch")
        for cached in (dispatch.why_not, dispatch._find):
            stack.callback(cached.cache_clear)  # when CuPy is what it was again
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        self.cupy = importlib.import_module("cuda_recorder").Recorder(patch).cupy

    def milliseconds(self, work: Callable[[], Any]) -> float:
        started = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - started)

    def wait(self) -> None:
        pass

    def free(self) -> None:
        pass


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_race", description=__doc__.split("\n")[0])
    parser.add_argument("--subset", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        gpu = DryRun(stack) if options.dry_run else Gpu()
        if options.subset:
            return subset(gpu)
        for number, job in enumerate(json.load(sys.stdin)):
            _tell({"begin": number})
            row, usable = done(gpu, job)
            _tell({"row": row})
            if not usable:
                return BROKEN
    return 0


def _tell(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


def done(gpu: Gpu, job: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """What came of a job, and whether the GPU can still be used."""
    row = dict(job)
    try:
        row |= JOBS[job["kind"]](gpu, job)
    except Exception as error:
        row["error"] = _said(error)
    try:
        gpu.free()
        gpu.wait()
    except Exception as error:
        row.setdefault("error", _said(error))
        return row, False
    return row, True


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0][:200]


# ---------------------------------------------------------------- the jobs


def kernels(gpu: Gpu, job: dict[str, Any]) -> dict[str, Any]:
    """Load every CUDA kernel: how long it took, and which could not be."""
    launch = importlib.import_module("cnnkit.rooms.cuda.launch")
    started, refused, loaded = time.perf_counter(), {}, 0
    for name, kernel in launch.compiler.KERNELS.items():
        for dtype in kernel.dtypes:
            try:
                launch._function(name, dtype, gpu.cupy.cuda.runtime.getDevice())
                loaded += 1
            except Exception as error:
                refused[f"{name}, {dtype}"] = _said(error)
    return {"loaded": loaded, "refused": refused, "seconds": time.perf_counter() - started}


def roofs(gpu: Gpu, job: dict[str, Any]) -> dict[str, Any]:
    """Bytes a second of a copy, read and written; operations a second of PyTorch's matrix products."""
    found: dict[str, Any] = {}
    source = gpu.array(np.zeros(1 << (14 if gpu.device == "cpu" else 28), np.float32), "float32", False)
    target = gpu.cupy.empty_like(source)

    def copy() -> None:
        target[...] = source

    found["bandwidth"] = 2 * source.nbytes / (1e-3 * _median(gpu, {"copy": copy})["copy"])
    torch: Any = importlib.import_module("torch")
    n = 64 if gpu.device == "cpu" else 8192
    for form in ("float32", "tf32", "bfloat16"):
        a, b = (torch.randn(n, n, device=gpu.device).to(getattr(torch, DTYPES[form])) for _ in range(2))
        torch.backends.cuda.matmul.allow_tf32 = form == "tf32"
        found[form] = 2 * n**3 / (1e-3 * _median(gpu, {"product": lambda a=a, b=b: a @ b})["product"])
    return found


def host(gpu: Gpu, job: dict[str, Any]) -> dict[str, Any]:
    """Microseconds that the processor needs for a call, on arrays so small that the GPU is ahead of it."""
    x, weight = (np.random.default_rng(0).standard_normal(shape) for shape in ((1, 8, 8, 8), (8, 8, 3, 3)))
    case = of_bench("cases").Conv((1, 8, 8, 8), (8, 8, 3, 3), 1, 1)
    arrays = {name: each.astype("float32") for name, each in (("x", x), ("weight", weight), ("bias", x[0, :, 0, 0]))}
    works, refused = contestants(gpu, case, arrays, "forward", "float32", False)
    found = {}
    for name, work in works.items():
        for calls in (3, 20 if gpu.device == "cpu" else CALLS):  # the first ones compile
            gpu.wait()
            started = time.perf_counter()
            for _ in range(calls):
                work()
            found[name] = 1e6 * (time.perf_counter() - started) / calls
    gpu.wait()
    return {"microseconds": found, "refused": refused}


def race(gpu: Gpu, job: dict[str, Any]) -> dict[str, Any]:
    """One case in one direction, form and layout: milliseconds and errors of all who take part."""
    cases = of_bench("cases")
    case = sized(cases.CASES[job["case"]], gpu.device == "cpu")
    direction, form, last = job["direction"], job["form"], job["layout"] == "channels last"
    arrays = cases.arrays(case)
    arrays = {name: rounded(each, form) if each.dtype.kind == "f" else each for name, each in arrays.items()}
    shape = _shape(case, arrays)
    arrays["grad"] = rounded(np.random.default_rng(1).standard_normal(shape).astype("float32"), form)
    works, refused = contestants(gpu, case, arrays, direction, form, last)
    answers = {}
    for name, work in [*works.items()]:
        try:
            answers[name] = samples(work())
        except Exception as error:
            refused[name] = _said(error)
            del works[name]
            gpu.wait()
    truth = _truth(gpu, case, arrays, direction)
    y = np.empty(shape, np.float16 if DTYPES[form] in ("bfloat16", "float16") else np.float32)
    results = sum(_size(case, name) for name in ("x", "weight")) if direction == "backward" else y.size
    return {
        "x": case.x,
        "milliseconds": _median(gpu, works),
        "errors": {name: deviation(answer, truth) for name, answer in answers.items()} if truth else {},
        "refused": refused,
        "flops": cases.flops(case, shape, direction),
        "bytes": of_bench("race").moved_bytes(case, arrays, direction, y) // (4 // y.itemsize) + results * y.itemsize,
    }


JOBS = {"kernels": kernels, "roofs": roofs, "host": host, "race": race}


# ---------------------------------------------------------------- what they are made of


def contestants(
    gpu: Gpu, case: Any, arrays: dict[str, np.ndarray], direction: str, form: str, last: bool
) -> tuple[dict[str, Callable[[], Any]], dict[str, str]]:
    """The work of each, by name, and why others do not take part: our rooms (CuPy's in plain float32), PyTorch."""
    works: dict[str, Callable[[], Any]] = {}
    refused: dict[str, str] = {}
    for name in ("cuda", "cupy", "PyTorch") if form == "float32" and not last else ("cuda", "PyTorch"):
        make = theirs if name == "PyTorch" else partial(ours, name)
        try:
            works[name] = make(gpu, case, arrays, direction, form, last)
        except Exception as error:
            refused[name] = _said(error)
    return works, refused


def ours(
    room: str, gpu: Gpu, case: Any, arrays: dict[str, np.ndarray], direction: str, form: str, last: bool
) -> Callable[[], Any]:
    cnnkit = importlib.import_module("cnnkit")
    there = {name: gpu.array(each, DTYPES[form], _has_channels(name, each, last)) for name, each in arrays.items()}
    if "indices" in there:
        there["indices"] = gpu.cupy.asarray(arrays["indices"])
    chosen = {"tf32": True} if form == "tf32" else {}

    def run() -> Any:
        with cnnkit.use_backend(room), cnnkit.options(**chosen):
            return work[0]()

    work = []
    with cnnkit.use_backend(room), cnnkit.options(**chosen):
        peer = of_bench("peers.ours")
        work.append(getattr(peer, type(case).__name__.lower())(case, there, direction))
    return run


def theirs(
    gpu: Gpu, case: Any, arrays: dict[str, np.ndarray], direction: str, form: str, last: bool
) -> Callable[[], Any]:
    peer = of_bench("peers.pytorch")
    torch: Any = peer.torch
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    there = {}
    for name, each in arrays.items():
        tensor = torch.from_numpy(each).to(gpu.device)
        tensor = tensor.to(getattr(torch, DTYPES[form])) if each.dtype.kind == "f" else tensor
        four = last and each.ndim == 4  # PyTorch wants the weight so, too
        there[name] = tensor.contiguous(memory_format=torch.channels_last) if four else tensor
    work = getattr(peer, type(case).__name__.lower())(case, there, direction)

    def run() -> Any:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = form == "tf32"
        return work()

    return run


def _truth(gpu: Gpu, case: Any, arrays: dict[str, np.ndarray], direction: str) -> list[np.ndarray]:
    """What PyTorch computes in float64 on the same numbers; nothing where it cannot."""
    try:
        peer = of_bench("peers.pytorch")
        there = {
            name: peer.torch.from_numpy(each.astype("float64") if each.dtype.kind == "f" else each).to(gpu.device)
            for name, each in arrays.items()
        }
        return samples(getattr(peer, type(case).__name__.lower())(case, there, direction)())
    except Exception:
        return []


def samples(results: tuple[Any, ...]) -> list[np.ndarray]:
    """Numbers of each result, from all over it, in float64."""
    found = []
    for each in results:
        flat = each.reshape(-1)
        some = flat[:: max(1, math.prod(each.shape) // SAMPLE)]
        if hasattr(some, "cpu"):
            found.append(some.cpu().double().numpy())
        else:
            found.append(some.astype("float32" if some.itemsize == 2 else some.dtype).get().astype("float64"))
    return found


def deviation(answer: list[np.ndarray], truth: list[np.ndarray]) -> float | str:
    """The largest root mean square error of the results, by that of the true ones."""
    if [each.shape for each in answer] != [each.shape for each in truth]:
        return "another shape"
    pairs = zip(answer, truth, strict=True)
    worst = max(float(np.sqrt(np.mean((a - t) ** 2) / max(float(np.mean(t**2)), 1e-300))) for a, t in pairs)
    return worst if math.isfinite(worst) else "not finite"


def _median(gpu: Gpu, works: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Milliseconds of each, turn by turn."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(1 + (2 if gpu.device == "cpu" else ROUNDS)):
        for name, work in works.items():
            took = gpu.milliseconds(work)
            if turn:  # the first chooses algorithms
                times[name].append(took)
    return {name: statistics.median(each) for name, each in times.items()}


def sized(case: Any, small: bool) -> Any:
    """The case with a batch for a GPU, that is, for nobody's cache; or with the least images, for a dry run."""
    if small:
        size = min(case.x[0], 2), case.x[1], *(min(n, 13) for n in case.x[2:])
        return case._replace(x=size[: len(case.x)])
    batch, each = case.x[0], math.prod(case.x[1:]) * 4
    terms = math.prod(case.weight[1:]) if hasattr(case, "weight") else 1
    while batch * each < LARGE and 2 * batch * each / 4 * terms < MANY:
        batch *= 2
    return case._replace(x=(batch, *case.x[1:]))


def _shape(case: Any, arrays: dict[str, np.ndarray]) -> tuple[int, ...]:
    """The shape of the result, from one image of it."""
    one = case._replace(x=(1, *case.x[1:]))
    few = arrays | {name: arrays[name][:1] for name in ("x", "indices") if name in arrays}
    cnnkit = importlib.import_module("cnnkit")
    with cnnkit.use_backend("numpy"):
        peer = of_bench("peers.ours")
        y = getattr(peer, type(case).__name__.lower())(one, few, "forward")()[0]
    return case.x[0], *y.shape[1:]


def rounded(values: np.ndarray, form: str) -> np.ndarray:
    """The numbers as the dtype of the form has them, in float32."""
    return values.astype(numpy_dtype(DTYPES[form])).astype("float32")


def numpy_dtype(name: str) -> Any:
    return importlib.import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name


def _size(case: Any, name: str) -> int:
    return math.prod(getattr(case, name, (0,)))


def _has_channels(name: str, values: np.ndarray, last: bool) -> bool:
    return last and name in ("x", "grad") and values.ndim == 4


def _channels_last(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, 1, -1))


# ---------------------------------------------------------------- for compute-sanitizer


def subset(gpu: Gpu) -> int:
    """Each kind of kernel once, on sizes that no tile divides; every array has its own memory."""
    if gpu.device == "cuda":
        gpu.cupy.cuda.set_allocator(None)
    cnnkit = importlib.import_module("cnnkit")
    with cnnkit.use_backend("cuda" if cnnkit.backends()["cuda"][0] else "cupy"):
        for tf32 in (False, True):
            with cnnkit.options(tf32=tf32):
                for name, call in calls(cnnkit, gpu):
                    if not tf32 or "float32" in name:
                        print(f"{name}{', tf32' * tf32}", flush=True)
                        call()
    gpu.wait()
    return 0


def calls(cnnkit: Any, gpu: Gpu) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Small calls by name."""
    rng = np.random.default_rng(0)

    def made(*shape: int, dtype: str = "float32", last: bool = False) -> Any:
        return gpu.array(rng.standard_normal(shape).astype("float32"), dtype, last)

    for dtype, last in (("float32", False), ("float32", True), ("float64", False), ("float16", True)):
        x, wide = (made(2, n, 13, 11, dtype=dtype, last=last) for n in (5, 36))
        for what, given, weight, groups in (
            ("few channels", x, made(7, 5, 3, 3, dtype=dtype), 1),
            ("many channels", wide, made(70, 36, 3, 3, dtype=dtype), 1),
            ("depthwise", wide, made(36, 1, 3, 3, dtype=dtype), 36),
            ("groups", wide, made(24, 12, 3, 3, dtype=dtype), 3),
        ):
            window = 2, 1, 1, groups

            def conv(given: Any = given, weight: Any = weight, window: Any = window) -> None:
                y = cnnkit.conv2d(given, weight, None, *window, activation="relu")
                cnnkit.conv2d_backward(y, given, weight, *window)

            yield f"convolution, {what}, {dtype}, channels last: {last}", conv

        def pool(x: Any = x) -> None:
            y, indices = cnnkit.max_pool2d(x, 3, 2, 1, return_indices=True)
            cnnkit.max_pool2d_backward(y, indices, x.shape)
            cnnkit.avg_pool2d_backward(cnnkit.avg_pool2d(x, 3, 2, 1), x.shape, 3, 2, 1)

        yield f"pooling, {dtype}, channels last: {last}", pool

        def dense(dtype: str = dtype) -> None:
            x, weight = made(9, 37, dtype=dtype), made(21, 37, dtype=dtype)
            cnnkit.dense_backward(cnnkit.dense(x, weight), x, weight)

        yield f"dense, {dtype}", dense


if __name__ == "__main__":
    sys.exit(main())
