"""What there is to wait for before the first result, and the toll of every call."""

from functools import cache

import numpy as np

from . import setting
from .cases import BACKENDS

FIRST_CALL = (  # in one line, for asv puts it between quotes
    "import os; os.environ['CNNKIT_BACKEND'] = '{backend}'; import numpy, cnnkit; xp = __import__('{library}'); "
    "cnnkit.conv2d(xp.ones((1, 3, 32, 32), 'float32'), xp.ones((16, 3, 3, 3), 'float32'))"
)
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

    timeraw_import.version = timeraw_import_conv2d.version = "1"


class FirstCall:
    params, param_names = (BACKENDS,), ("backend",)
    number, repeat, rounds, timeout = 1, 2, 1, 120

    def timeraw_cold(self, backend):
        """With no kernel compiled yet."""
        return _first_call(backend), EMPTY_CACHES

    def timeraw_warm(self, backend):
        """With kernels on disk: an untimed process has put them there."""
        code = _first_call(backend)
        return code, f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"

    timeraw_cold.version = timeraw_warm.version = "1"


def _first_call(backend):
    return FIRST_CALL.format(backend=backend, library="cupy" if backend in setting.ON_GPU else "numpy")


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
