"""Convolution: time, memory and accuracy of real layers."""

import ctypes
from pathlib import Path

import numpy as np

from . import cases, setting
from .cases import BACKENDS, FOLLOWED

LAYERS = (FOLLOWED, ["float32"], BACKENDS)
NAMES = ("case", "dtype", "backend")


class Forward(setting.Timed):
    params, param_names, version = LAYERS, NAMES, "1"

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.run = setting.conv(case, dtype, backend, "forward")

    def time_forward(self, case, dtype, backend):
        self.run()


class BackwardX(setting.Timed):
    params, param_names, version = LAYERS, NAMES, "1"

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.run = setting.conv(case, dtype, backend, "backward_x")

    def time_backward_x(self, case, dtype, backend):
        self.run()


class BackwardWeight(setting.Timed):
    params, param_names, version = LAYERS, NAMES, "1"

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.run = setting.conv(case, dtype, backend, "backward_weight")

    def time_backward_weight(self, case, dtype, backend):
        self.run()


class Float64(setting.Timed):
    params = (["resnet_3x3_64", "resnet_1x1_256"], ["float64"], BACKENDS)
    param_names, version = NAMES, "1"

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.run = setting.conv(case, dtype, backend, "forward")

    def time_forward(self, case, dtype, backend):
        self.run()


class Threads(setting.Timed):
    """Forward on some threads; the number concerns the CPU rooms alone."""

    params = (["resnet_3x3_64", "resnet_1x1_256", "mobilenet_depthwise_144"], ["numba"], [1, 2])
    param_names, version = ("case", "backend", "threads"), "1"

    def setup(self, case, backend, threads):
        setting.choose(backend).set_num_threads(threads)
        self.run = setting.conv(case, "float32", backend, "forward")

    def time_forward(self, case, backend, threads):
        self.run()


class Memory:
    """Bytes: the process at its largest, and what a call takes besides its arguments and results."""

    params, param_names, timeout = LAYERS, NAMES, 60

    def setup_cache(self):
        """Compile once in a process of its own: the compiler takes more memory than any layer."""
        if setting.choose("numpy").backends()["numba"][0]:
            for case in FOLLOWED:
                setting.choose("numba")
                setting.conv(case, "float32", "numba", "forward")
                setting.conv(case, "float32", "numba", "backward")

    def setup(self, case, dtype, backend):
        setting.choose(backend)
        self.forward = setting.conv(case, dtype, backend, "forward")
        self.backward = setting.conv(case, dtype, backend, "backward")

    def peakmem_forward_backward(self, case, dtype, backend):
        self.forward()
        self.backward()

    peakmem_forward_backward.version = "1"

    def track_workspace(self, case, dtype, backend):
        """The larger of forward and backward."""
        return max(_scratch(backend, self.forward), _scratch(backend, self.backward))

    track_workspace.unit, track_workspace.version = "bytes", "2"


def _scratch(backend, work):
    """How much the process grows during the work, but for its results (Linux tells); on a GPU, its memory pool."""
    work()  # loads the kernels
    if backend in setting.ON_GPU:
        import cupy

        pool = cupy.get_default_memory_pool()
        pool.free_all_blocks()
        before = pool.used_bytes()
        results = work()
        return pool.total_bytes() - before - _bytes(results)
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
    REFERENCES.write_text("5")  # the highest mark falls to what is taken now
    before = _highest()
    results = work()
    return max(0, _highest() - before - _bytes(results))


REFERENCES = Path("/proc/self/clear_refs")


def _highest():
    """The most memory that the process has had since the mark was reset, in bytes."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) << 10


def _bytes(results):
    return sum(each.nbytes for each in (results if isinstance(results, tuple) else (results,)))


class Accuracy:
    params, param_names, timeout = LAYERS, NAMES, 60

    def track_error(self, case, dtype, backend):
        """Of one image: the largest error of results and gradients, in parts of the largest value, against float64."""
        layer = cases.CONV[case]
        layer = layer._replace(x=(1, *layer.x[1:]))
        given = cases.arrays(layer, dtype)
        found = _results(layer, backend, given)
        exact = _results(layer, "numpy", {name: array.astype("float64") for name, array in given.items()})
        return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, exact, strict=True))

    track_error.unit, track_error.version = "of the largest", "1"


def _results(layer, backend, given):
    """The result and the gradients of half the sum of its squares."""
    cnnkit = setting.choose(backend)
    x, weight, bias = (setting.there(backend, each) for each in given.values())
    y = getattr(cnnkit, layer.op)(x, weight, bias, *layer.window)
    return [setting.here(each) for each in (y, *getattr(cnnkit, f"{layer.op}_backward")(y, x, weight, *layer.window))]
