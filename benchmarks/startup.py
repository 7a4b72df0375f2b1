"""What there is to wait for before the first result, and the toll of every call."""

from functools import cache

import numpy as np

from . import setting
from .cases import BACKENDS

# what follows is in one line each, for asv puts it between quotes
CALL = (
    "import os; os.environ['CNNKIT_BACKEND'] = '{backend}'; import numpy, cnnkit; xp = __import__('{library}'); "
    "ones = lambda *shape: xp.ones(shape, 'float32'); {call}"
)
FIRST = {
    "conv2d": "cnnkit.conv2d(ones(1, 3, 32, 32), ones(16, 3, 3, 3))",
    "conv2d_backward": "cnnkit.conv2d_backward(ones(1, 16, 30, 30), ones(1, 3, 32, 32), ones(16, 3, 3, 3))",
    "max_pool2d": "cnnkit.max_pool2d(ones(1, 3, 32, 32), 2)",
    "max_pool2d_backward": "cnnkit.max_pool2d_backward(ones(1, 1, 1), xp.zeros((1, 1, 1), 'int64'), (1, 2, 2))",
    "dense": "cnnkit.dense(ones(8, 64), ones(10, 64))",
    "dense_backward": "cnnkit.dense_backward(ones(8, 10), ones(8, 64), ones(10, 64))",
    "relu": "cnnkit.relu(ones(8, 64))",
    "relu_backward": "cnnkit.relu_backward(ones(8, 64), ones(8, 64))",
}
START = {  # what the libraries take to start, with cnnkit or without
    "numba": (
        "import numba; from numba.core.registry import cpu_target as cpu; "
        "cpu.typing_context.refresh(); cpu.target_context.refresh()"
    )
}
EMPTY_CACHES = (
    "import os, tempfile; os.environ['NUMBA_CACHE_DIR'] = os.environ['CUPY_CACHE_DIR'] = tempfile.mkdtemp(); "
    "import atexit, shutil; atexit.register(shutil.rmtree, os.environ['NUMBA_CACHE_DIR'], True)"
)
CALLS = 100


class Processes:
    """Seconds of a new process; of what it runs, not of its own start."""

    number, repeat, rounds, timeout = 1, 3, 1, 120

    def timeraw_import(self):
        return "import cnnkit"

    def timeraw_import_conv2d(self):
        """With what a function needs before it is called."""
        return "import cnnkit; cnnkit.conv2d"

    def timeraw_start_of_numba(self):
        """What every program that compiles with Numba waits for: `FirstCalls` does not count it."""
        return START["numba"]

    timeraw_import.version = timeraw_import_conv2d.version = timeraw_start_of_numba.version = "1"


class FirstCalls:
    """Seconds of a new process from `import cnnkit` to the first result; the libraries below it have started."""

    params, param_names = (list(FIRST), BACKENDS), ("op", "backend")
    number, repeat, rounds, timeout = 1, 2, 1, 120

    def timeraw_cold(self, op, backend):
        """With no kernel compiled yet."""
        return _first_call(op, backend), f"{EMPTY_CACHES}; {_start(backend)}"

    def timeraw_warm(self, op, backend):
        """With kernels on disk: an untimed process has put them there."""
        code = _first_call(op, backend)
        fill = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
        return code, f"{fill}; {_start(backend)}"

    timeraw_cold.version = timeraw_warm.version = "1"


def _first_call(op, backend):
    return CALL.format(backend=backend, library="cupy" if backend in setting.ON_GPU else "numpy", call=FIRST[op])


def _start(backend):
    return START.get(backend, "import cupy" if backend in setting.ON_GPU else "import numpy")


class Overhead(setting.Timed):
    """A hundred calls on arrays so small that only the way to the kernel counts."""

    ops = ("conv2d", "conv2d_backward", "dense", "max_pool2d", "relu")
    params, param_names, version = (ops, BACKENDS), ("op", "backend"), "1"

    def setup(self, op, backend):
        setting.choose(backend)
        self.run = _work(op, backend)

    def time_100_calls(self, op, backend):
        for _ in range(CALLS):
            self.run()


@cache
def _work(op, backend):
    image, kernel, matrix = (
        setting.there(backend, np.ones(shape, "float32")) for shape in ((1, 1, 8, 8), (1, 1, 3, 3), (4, 4))
    )
    arguments = {
        "conv2d": (image, kernel),
        "conv2d_backward": (image[..., :6, :6].copy(), image, kernel),
        "dense": (matrix, matrix),
        "max_pool2d": (image, 2),
        "relu": (matrix,),
    }[op]
    function = getattr(setting.choose(backend), op)
    return setting.ready(backend, lambda: function(*arguments))
