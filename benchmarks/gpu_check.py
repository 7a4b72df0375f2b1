"""``python -m benchmarks.gpu_check``: on a machine with CUDA, are the GPU backends right, and how fast beside cuDNN?

First the correctness cases of tests/, on every GPU backend that runs here; then the named convolutions against
PyTorch's cuDNN in strict float32, tf32 and bfloat16, timed with the device's own events. It writes gpu_check.json and
gpu_check.md under benchmarks/results/. On a machine without CUDA it says so and is content.
"""

import argparse
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import cases, setting

RESULTS = Path(__file__).parent / "results"
TESTS = (
    "test_conv.py",
    "test_conv_transpose.py",
    "test_pool.py",
    "test_dense.py",
    "test_activation.py",
    "test_softmax.py",
    "test_loss.py",
)
TEST_SECONDS, RACE_SECONDS = 240, 240
ROUNDS = 9
DIRECTIONS = ("forward", "backward")
FORMS = ("float32", "tf32", "bfloat16")  # what cuDNN computes in


def main(arguments=None):
    """The exit code: 0 if all is right, or there is no GPU to ask."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, metavar="FOLDER")
    options = parser.parse_args(arguments)
    rooms, reason = available()
    if not rooms:
        print(f"no GPU backend runs here, so nothing was checked: {reason}")
        return 0
    right = {room: correct(room) for room in rooms}
    races = race(rooms, time.monotonic() + RACE_SECONDS)
    report = {"versions": versions(), "device": device(), "tests_passed": right, "races": races}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu_check.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.output / "gpu_check.md").write_text(markdown(report))
    print(markdown(report))
    return 0 if all(right.values()) else 1


def available():
    """The GPU backends that can run here, and the first reason if there is none."""
    found = importlib.import_module("cnnkit").backends()
    reasons = [found[name][1] for name in setting.ON_GPU if not found[name][0]]
    return [name for name in setting.ON_GPU if found[name][0]], "; ".join(reasons)


def correct(room):
    """Run the tests that have this backend's name in their parameters."""
    root = Path(__file__).parents[1]
    tests = [str(root / "tests" / name) for name in TESTS]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-k", room, *tests]
    return subprocess.run(command, cwd=root, timeout=TEST_SECONDS).returncode == 0


def race(rooms, deadline):
    """Milliseconds of each case, direction and contestant, until the time is up."""
    races = []
    for name in cases.CONV:
        for direction in DIRECTIONS:
            if time.monotonic() < deadline:
                races.append(
                    {"case": name, "direction": direction, "milliseconds": milliseconds(name, direction, rooms)}
                )
    return races


def milliseconds(name, direction, rooms):
    """The median of each contestant, turn by turn, between events on the stream that both libraries share."""
    cupy = importlib.import_module("cupy")
    works = {**ours(name, direction, rooms), **cudnn(name, direction)}
    times = {key: [] for key in works}
    for turn in range(ROUNDS + 1):
        for key, work in works.items():
            start, end = cupy.cuda.Event(), cupy.cuda.Event()
            start.record()
            work()
            end.record()
            end.synchronize()
            if turn:  # the first compiles and chooses algorithms
                times[key].append(cupy.cuda.get_elapsed_time(start, end))
    return {key: statistics.median(each) for key, each in times.items()}


def ours(name, direction, rooms):
    """One piece of work for each room that has the op."""
    cnnkit = importlib.import_module("cnnkit")

    def on(room):
        work = setting.conv_work(name, "float32", room, direction)

        def run():
            with cnnkit.use_backend(room):
                work()

        return run

    return {room: on(room) for room in rooms}


def cudnn(name, direction):
    """PyTorch's convolution in each form; on the default stream, which is CuPy's too."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return {}
    return {
        f"PyTorch {form}": _cudnn(torch, cases.CONV[name], cases.arrays(cases.CONV[name]), direction, form)
        for form in FORMS
    }


def _cudnn(torch, case, arrays, direction, form):
    dtype = torch.bfloat16 if form == "bfloat16" else torch.float32
    x, weight, bias = (torch.from_numpy(each).to("cuda", dtype) for each in arrays.values())
    forward = getattr(torch.nn.functional, case.op)
    axes = len(case.weight) - 2
    padding = [case.padding] * axes if isinstance(case.padding, int) else list(case.padding)
    window = ([case.stride] * axes, padding, [case.dilation] * axes, False, [0] * axes, case.groups, [True] * 3)
    grad = forward(x, weight, bias, *case.window)

    def run():
        torch.backends.cudnn.allow_tf32 = form == "tf32"
        with torch.no_grad():
            if direction == "forward":
                return forward(x, weight, bias, *case.window)
            return torch.ops.aten.convolution_backward(grad, x, weight, [case.weight[0]], *window)

    return run


def versions():
    """Of everything that takes part."""
    names = ("cnnkit", "numpy", "numba", "cupy", "torch")
    found = {name: importlib.import_module(name) for name in names if importlib.util.find_spec(name)}
    return {name: str(module.__version__) for name, module in found.items()}


def device():
    """The GPU's own name."""
    cupy = importlib.import_module("cupy")
    return cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()


def markdown(report):
    """The report as a table."""
    contestants = list(dict.fromkeys(key for each in report["races"] for key in each["milliseconds"]))
    passed = ", ".join(f"{room}: {'passed' if fine else 'FAILED'}" for room, fine in report["tests_passed"].items())
    known = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    lines = [f"# {report['device']}", "", f"{known}. Tests: {passed}. Milliseconds, the median of {ROUNDS}.", ""]
    lines += [f"| case | direction | {' | '.join(contestants)} |", f"| --- | --- {'| ---: ' * len(contestants)}|"]
    for each in report["races"]:
        cells = [f"{each['milliseconds'].get(key, np.nan):.3f}" for key in contestants]
        lines.append(f"| {each['case']} | {each['direction']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
